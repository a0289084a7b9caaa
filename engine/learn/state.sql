-- The learner's file; see state.py for what it guarantees. Times are seconds since 1970. Columns are read and written by
-- position: add one only at the end of a table, and to state.py's list of added columns.
PRAGMA journal_mode = wal;
PRAGMA synchronous = full;  -- the stream is trimmed up to a position only after it is on the disk
PRAGMA busy_timeout = 10000;
PRAGMA cache_size = -16384;  -- KiB. It fills as customers come: at 64 MB the learner grew for an hour, and was no faster
PRAGMA secure_delete = on;  -- an erased customer leaves no bytes in free pages

-- One row per offer that a policy chose, until no event can change its reward; status as in pending.py. With row numbers:
-- rows are appended, changed by number, and small in the indexes.
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
  amount REAL NOT NULL DEFAULT 0,
  revenue REAL NOT NULL DEFAULT 0,
  refunded REAL NOT NULL DEFAULT 0,
  refunded_whole INTEGER NOT NULL DEFAULT 0,
  logged REAL NOT NULL DEFAULT 0,
  weight REAL NOT NULL DEFAULT 1,
  creative TEXT NOT NULL DEFAULT '',
  creative_propensity REAL NOT NULL DEFAULT 1,
  creative_learnt REAL NOT NULL DEFAULT 0,
  creative_weight REAL NOT NULL DEFAULT 1
);
-- Not unique, which costs: `PendingStore` adds a decision only where there is none.
CREATE INDEX IF NOT EXISTS pending_by_decision ON pending (decision_id);
CREATE INDEX IF NOT EXISTS pending_by_due ON pending (due);
-- The condition names no column that changes: SQLite would rewrite the entry with every change of a row's state. Files of
-- earlier releases have such an index.
DROP INDEX IF EXISTS pending_of_customer;
CREATE INDEX IF NOT EXISTS pending_by_customer ON pending (customer) WHERE key <> '';

-- Exposures and events that arrived before the decision or exposure that they belong to: see early_arrivals.py.
CREATE TABLE IF NOT EXISTS early (
  id INTEGER PRIMARY KEY,
  waits_for TEXT NOT NULL,
  partition INTEGER NOT NULL,
  due REAL NOT NULL,
  record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS early_waits_for ON early (waits_for);
CREATE INDEX IF NOT EXISTS early_by_due ON early (due);

-- Customers who were merged into another, and when, so that late records under the old id count for the new one.
CREATE TABLE IF NOT EXISTS merged (customer TEXT PRIMARY KEY, into_ TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS merged_into ON merged (into_);

-- The policies by selection: `learnt` is the policy's clock, `forgotten` JSON spans of it that a rollback removed,
-- `examined` JSON of examination.PositionSums for the positions of a list.
CREATE TABLE IF NOT EXISTS policies (
  key TEXT PRIMARY KEY,
  meaning TEXT NOT NULL,
  version INTEGER NOT NULL,
  learnt REAL NOT NULL,
  forgotten BLOB NOT NULL,
  policy BLOB NOT NULL,
  examined BLOB NOT NULL DEFAULT '[]'
);

-- Records that the learner adds to the log, until they are in Parquet: see outbox.py.
CREATE TABLE IF NOT EXISTS outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  partition INTEGER NOT NULL,
  record BLOB NOT NULL
);

-- The shadow price of each stock and budget that must last, as JSON of policies.Pacing.
CREATE TABLE IF NOT EXISTS prices (pool TEXT PRIMARY KEY, pacing BLOB NOT NULL) WITHOUT ROWID;

-- What each arm earned over time, as MessagePack of change_detection.RewardHistory.
CREATE TABLE IF NOT EXISTS histories (
  selection TEXT NOT NULL, arm TEXT NOT NULL, history BLOB NOT NULL, PRIMARY KEY (selection, arm)
) WITHOUT ROWID;

-- How many records could not be learnt, the clock of each partition, and single values: id, progress, time.
CREATE TABLE IF NOT EXISTS aside (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clocks (partition INTEGER PRIMARY KEY, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- The circuit breaker (breaker.py): one row per customer in a guarded experiment; `known` once it entered its test.
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
-- Messages that counted within open windows, so that a repeated one does not; `begun` stands for the customer.
CREATE TABLE IF NOT EXISTS guard_messages (
  experiment TEXT NOT NULL,
  metric TEXT NOT NULL,
  begun REAL NOT NULL,
  message BLOB NOT NULL,
  ended REAL NOT NULL,
  PRIMARY KEY (experiment, metric, begun, message)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS guard_messages_ended ON guard_messages (ended);
-- The sequential tests, as JSON.
CREATE TABLE IF NOT EXISTS evidence (
  experiment TEXT NOT NULL,
  metric TEXT NOT NULL,
  variant TEXT NOT NULL,
  evidence BLOB NOT NULL,
  PRIMARY KEY (experiment, metric, variant)
) WITHOUT ROWID;
-- Tripped selections; `published` once the decision servers know. Queries use the views.
CREATE TABLE IF NOT EXISTS trips (
  selection TEXT PRIMARY KEY,
  reason TEXT NOT NULL,
  published INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TEMP VIEW IF NOT EXISTS unpublished_trips AS SELECT selection, reason FROM trips WHERE NOT published;
CREATE TEMP VIEW IF NOT EXISTS published_trips AS SELECT selection FROM trips WHERE published;

-- Digests of the ids of erased customers: their records that are still in flight are dropped.
CREATE TABLE IF NOT EXISTS erased (digest TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
