PRAGMA journal_mode = wal;
PRAGMA synchronous = full;
PRAGMA busy_timeout = 10000;
PRAGMA cache_size = -65536;
PRAGMA secure_delete = on;

-- One row per offer that a policy chose, from the decision until no event can change what was learnt of it.
CREATE TABLE IF NOT EXISTS pending (
  decision_id TEXT NOT NULL,
  key TEXT NOT NULL,
  selection TEXT NOT NULL,
  customer TEXT NOT NULL,
  partition INTEGER NOT NULL,
  arm TEXT NOT NULL,
  propensity REAL NOT NULL,
  context BLOB NOT NULL,
  time REAL NOT NULL,
  status INTEGER NOT NULL,
  due REAL NOT NULL,
  exposed REAL NOT NULL,
  reward REAL NOT NULL,
  learnt REAL NOT NULL,
  rewarded REAL NOT NULL,
  cause TEXT NOT NULL,
  purchase TEXT NOT NULL,
  PRIMARY KEY (decision_id, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending_by_due ON pending (due);
CREATE INDEX IF NOT EXISTS pending_of_customer ON pending (customer) WHERE status BETWEEN 0 AND 4;

-- Exposures and events that came before what they belong to.
CREATE TABLE IF NOT EXISTS early (
  id INTEGER PRIMARY KEY,
  waits_for TEXT NOT NULL,
  partition INTEGER NOT NULL,
  due REAL NOT NULL,
  record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS early_waits_for ON early (waits_for);
CREATE INDEX IF NOT EXISTS early_by_due ON early (due);

-- Customers who turned out to be another, and since when (s since 1970), so that late records of them are theirs.
CREATE TABLE IF NOT EXISTS merged (customer TEXT PRIMARY KEY, into_ TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS merged_into ON merged (into_);

CREATE TABLE IF NOT EXISTS policies (
  key TEXT PRIMARY KEY,
  meaning TEXT NOT NULL,
  version INTEGER NOT NULL,
  learnt REAL NOT NULL,
  forgotten BLOB NOT NULL,
  policy BLOB NOT NULL
);

-- Records that the learner adds to the log, kept until they are in Parquet.
CREATE TABLE IF NOT EXISTS outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  partition INTEGER NOT NULL,
  record BLOB NOT NULL
);

-- The shadow price of each stock and budget that must last, and what was known when it was moved.
CREATE TABLE IF NOT EXISTS prices (pool TEXT PRIMARY KEY, pacing BLOB NOT NULL) WITHOUT ROWID;

-- What each arm earned over time, in which changes are looked for.
CREATE TABLE IF NOT EXISTS histories (
  selection TEXT NOT NULL, arm TEXT NOT NULL, history BLOB NOT NULL, PRIMARY KEY (selection, arm)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS aside (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clocks (partition INTEGER PRIMARY KEY, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- The circuit breaker: one row per customer in a guarded experiment, the evidence so far, and what it led to.
CREATE TABLE IF NOT EXISTS under_guard (
  experiment TEXT NOT NULL,
  metric TEXT NOT NULL,
  customer TEXT NOT NULL,
  variant TEXT NOT NULL,
  begun REAL NOT NULL,
  ended REAL NOT NULL,
  value REAL NOT NULL,
  known INTEGER NOT NULL,
  PRIMARY KEY (experiment, metric, customer)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS under_guard_ended ON under_guard (ended) WHERE NOT known;
-- What counted of those whose time is not over, so that a message that comes again does not: a customer is told by begun.
CREATE TABLE IF NOT EXISTS guard_heard (
  experiment TEXT NOT NULL,
  metric TEXT NOT NULL,
  begun REAL NOT NULL,
  message BLOB NOT NULL,
  ended REAL NOT NULL,
  PRIMARY KEY (experiment, metric, begun, message)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS guard_heard_ended ON guard_heard (ended);
CREATE TABLE IF NOT EXISTS evidence (
  experiment TEXT NOT NULL,
  metric TEXT NOT NULL,
  variant TEXT NOT NULL,
  evidence BLOB NOT NULL,
  PRIMARY KEY (experiment, metric, variant)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trips (
  selection TEXT PRIMARY KEY,
  reason TEXT NOT NULL,
  told INTEGER NOT NULL
) WITHOUT ROWID;

-- Digests of erased customers: what of them is still on its way is dropped.
CREATE TABLE IF NOT EXISTS erased (digest TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
