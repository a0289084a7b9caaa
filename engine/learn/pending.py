"""Pending decisions, whose reward is not final yet, and their customers.

Both are tables of the learner's file (`state.sql`: `pending`, `merged`). A batch loads the rows that it may touch,
changes them in memory, and writes the changed ones back in the learner's transaction:

    begin  ->  load, load_due  ->  add, move_customer, remove, or assignments to a row that set `dirty` or `advanced`
           ->  write

A row that was not loaded is invisible to the batch, so `load_batch` loads everything that its records can reach.
States and transitions of a row: see `join`.

The store keeps up to `MOST_HOT` rows in memory from batch to batch, the newest, since most rows change soon after they
were added. Invariants:

- A decision is kept with all of its rows or with none; after `write` they are what the file has.
- Another process that writes to the file (an erasure) changes its `data_version`; then, and after a batch that failed
  (`clear`), nothing is kept. A row's `rowid` may have changed too.
"""

import itertools
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Self

import msgspec

UNSEEN, OPEN, ZERO, REWARDED, REFUNDED, CLOSED, NO_OFFER = 0, 1, 2, 3, 4, 5, 6
"""States of a row, stored as numbers; `_BY_CUSTOMER` relies on `UNSEEN` to `REFUNDED` being 0 to 4."""

_LIVE = frozenset({OPEN, ZERO, REWARDED, REFUNDED})
_MOVABLE = _LIVE | {UNSEEN}
MOST_HOT = 32_768
"""Rows that stay in memory between batches, 0.6 kB each."""
_COLUMNS = (
    "decision_id, key, selection, customer, partition, arm, propensity, context, time, status, due, exposed, reward, "
    "learnt, rewarded, cause, purchase, amount, revenue, refunded, refunded_whole, logged, weight, creative, "
    "creative_propensity, creative_learnt, creative_weight"
)
_MARKS = ", ".join("?" * 27)
# SQLite binds no names; these are the constants above.
_INSERT = f"INSERT INTO pending ({_COLUMNS}, rowid) VALUES ({_MARKS}, ?)"  # noqa: S608 # nosec B608
_INSERT_UNREWARDED = (
    f"INSERT INTO pending ({_COLUMNS}, rowid) "  # noqa: S608 # nosec B608
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0.0, ?, 0.0, '', '', 0.0, 0.0, 0.0, 0, 0.0, 1.0, '', 1.0, 0.0, 1.0, ?)"
)
_UPDATE = f"UPDATE pending SET ({_COLUMNS}) = ({_MARKS}) WHERE rowid = ?"  # noqa: S608 # nosec B608
_ADVANCE = "UPDATE pending SET status = ?, due = ?, exposed = ?, learnt = ? WHERE rowid = ?"
"""The columns that almost all changes of a row's life are of; the others stay as they are in the file."""
_CLOSE = "UPDATE pending SET status = ?, due = ?, exposed = ?, learnt = ?, context = x'' WHERE rowid = ?"
_BY_DECISION = "SELECT pending.*, pending.rowid FROM json_each(?) asked JOIN pending ON decision_id = asked.value"
_BY_ROWID = "SELECT pending.*, pending.rowid FROM json_each(?) asked JOIN pending ON pending.rowid = asked.value"
_BY_CUSTOMER = """
SELECT pending.*, pending.rowid FROM json_each(?) asked
JOIN pending ON customer = asked.value AND pending.key <> '' AND status BETWEEN 0 AND 4
"""
_LAST = "SELECT (SELECT max(rowid) FROM pending), (SELECT max(decision_id) FROM pending)"
"""Two selections: of one with both SQLite would read every row."""
_DUE = "SELECT rowid FROM pending WHERE due <= ? ORDER BY due"
_MERGED_FROM = "SELECT customer, into_, at FROM json_each(?) asked JOIN merged ON customer = asked.value"
_MERGED_INTO = "SELECT customer, into_, at FROM json_each(?) asked JOIN merged ON into_ = asked.value"


class Pending(msgspec.Struct, gc=False):
    """One offer that a policy chose, or a decision without any (`NO_OFFER`); its fields are the columns in order.

    `key` is the placement or the item of a list, `selection` the policy's. Times are seconds since 1970: `time` of the
    decision, `due` when time alone changes the state, `exposed`, and `rewarded` of the event with message id `cause`
    and order `purchase`.
    `amount` is the reward before refunds, `revenue` that of the order, of which `refunded` (or all) was taken back.
    `logged` is the time of the newest reward record. `learnt` is the policy's clock (see `teach.Learnt`) when it learnt
    this row, 0 before, and `weight` that of the lesson. `creative` is the arm of the selection of creatives, empty
    where the offer has none; `propensity` is then that of the offer, and the fields of the creative are those of its
    own policy.

    `rowid` is its number in the file, 0 before it is written. Whoever changes the row sets `advanced`, or `dirty` if
    more than `status`, `due`, `exposed` and `learnt` changed.
    """

    decision_id: str
    key: str
    selection: str
    customer: str
    partition: int
    arm: str
    propensity: float
    context: bytes
    time: float
    status: int
    due: float
    exposed: float = 0.0
    reward: float = 0.0
    learnt: float = 0.0
    rewarded: float = 0.0
    cause: str = ""
    purchase: str = ""
    amount: float = 0.0
    revenue: float = 0.0
    refunded: float = 0.0
    refunded_whole: bool = False
    logged: float = 0.0
    weight: float = 1.0
    creative: str = ""
    creative_propensity: float = 1.0
    creative_learnt: float = 0.0
    creative_weight: float = 1.0
    rowid: int = 0
    is_removed: bool = False
    dirty: bool = False
    advanced: bool = False

    @classmethod
    def without_offer(cls, decision_id: str, customer: str, partition: int, *, time: float, due: float) -> Self:
        """The row of a decision in which no policy chose an offer."""
        return cls(
            decision_id=decision_id,
            key="",
            selection="",
            customer=customer,
            partition=partition,
            arm="",
            propensity=1.0,
            context=b"",
            time=time,
            status=NO_OFFER,
            due=due,
        )

    @property
    def is_live(self) -> bool:
        """Whether it was exposed and its reward may still change."""
        return self.status in _LIVE


class PendingStore:
    """The pending rows that a batch may touch; `write` stores what changed, in the learner's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._rows: dict[int, Pending] = {}
        self._by_decision: dict[str, list[Pending]] = {}
        self._partial: set[str] = set()
        """Decisions of which a row was loaded without the others."""
        self._by_customer: dict[str, list[Pending]] = {}
        """The rows of the customers that were asked for; of others none is looked up."""
        self._touched: list[Pending] = []
        self._version = -1
        self.begin()

    def begin(self) -> None:
        """Begin a batch; drops the rows of earlier ones if another process has written to the file since."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.clear()
            self._version = version
        self._by_customer.clear()
        self._touched.clear()
        last, self._newest = self._db.execute(_LAST).fetchone()
        self._next = (last or 0) + 1

    def clear(self) -> None:
        """Drop the rows of earlier batches, also after a batch that was rolled back."""
        self._rows.clear()
        self._by_decision.clear()
        self._partial.clear()

    def load(self, decisions: Collection[str], customers: Collection[str]) -> None:
        """Load all rows of these decisions, and those rows of these customers that an event can still change."""
        unknown, newest, kept = [], self._newest or "", self._by_decision
        for decision_id in decisions:
            if decision_id in kept and decision_id not in self._partial:
                self._touched += kept[decision_id]
            elif decision_id <= newest:  # one beyond the highest of the file is not in it
                unknown.append(decision_id)
        if unknown:
            self._load(self._db.execute(_BY_DECISION, [_json_list(unknown)]))
            self._partial.difference_update(unknown)
        asked = [customer for customer in customers if customer not in self._by_customer]
        if asked:
            for customer in asked:
                self._by_customer[customer] = []
            rows = self._load(self._db.execute(_BY_CUSTOMER, [_json_list(asked)]), partial=True)
            for row in rows:
                self._by_customer[row.customer].append(row)

    def load_due(self, until: float) -> list[Pending]:
        """Load and return the rows that are due by `until` (s since 1970), first those in memory."""
        known = self._rows
        ids = [id_ for (id_,) in self._db.execute(_DUE, (until,))]
        due = [known[id_] for id_ in ids if id_ in known]
        self._touched += due
        if len(due) < len(ids):
            asked = msgspec.json.encode([id_ for id_ in ids if id_ not in known]).decode()
            due += self._load(self._db.execute(_BY_ROWID, [asked]), partial=True)
        return due

    def customers_of(self, decisions: Iterable[str]) -> set[str]:
        """The customers of the loaded rows of these decisions, and of the customers loaded with them."""
        of_decisions = {row.customer for id_ in decisions for row in self._by_decision.get(id_, ())}
        return of_decisions | {customer for customer, rows in self._by_customer.items() if rows}

    def add(self, row: Pending) -> None:
        """Add the row of a new decision."""
        of_decision = self._by_decision.get(row.decision_id)
        if of_decision is None:
            self._by_decision[row.decision_id] = [row]
        else:
            of_decision.append(row)
        self._touched.append(row)
        if row.customer in self._by_customer:
            self._by_customer[row.customer].append(row)

    def of_decision(self, decision_id: str) -> Sequence[Pending]:
        """The loaded rows of a decision."""
        return self._by_decision.get(decision_id, ())

    def of_customer(self, customer: str) -> list[Pending]:
        """The customer's loaded rows that were exposed and whose reward may still change."""
        return [row for row in self._by_customer.get(customer, ()) if row.is_live and not row.is_removed]

    def move_customer(self, before: str, after: str) -> None:
        """Give a merged customer's rows to the customer that they were merged into."""
        moved = [row for row in self._by_customer.pop(before, []) if row.status in _MOVABLE and not row.is_removed]
        for row in moved:
            row.customer, row.dirty = after, True
        self._by_customer.setdefault(after, []).extend(moved)

    def remove(self, row: Pending) -> None:
        """Drop a row that neither an event nor time can change any more."""
        row.is_removed = True
        of_decision = self._by_decision[row.decision_id]
        of_decision.remove(row)
        if not of_decision:
            del self._by_decision[row.decision_id]

    def write(self) -> None:
        """Store the changes, within the caller's transaction, and keep the newest rows for the next batch."""
        removed: list[tuple[int]] = []
        statements: dict[str, list[tuple[object, ...]]] = {_UPDATE: [], _ADVANCE: [], _CLOSE: []}
        statements |= {_INSERT: [], _INSERT_UNREWARDED: []}
        updated, advanced, closed, inserted, unrewarded = statements.values()
        for row in self._touched:
            if row.is_removed:
                if row.rowid and self._rows.pop(row.rowid, None) is not None:
                    removed.append((row.rowid,))
            elif not row.rowid:
                row.rowid = self._next
                self._next += 1
                self._rows[row.rowid] = row
                if row.dirty or row.logged or row.creative:
                    inserted.append((*_columns(row), row.rowid))
                else:
                    unrewarded.append(_unrewarded_columns(row))
            elif row.dirty:
                updated.append((*_columns(row), row.rowid))
            elif row.advanced:
                change = row.status, row.due, row.exposed, row.learnt, row.rowid
                (closed if row.status == CLOSED else advanced).append(change)
            row.dirty = row.advanced = False
        self._db.executemany("DELETE FROM pending WHERE rowid = ?", removed)
        for statement, rows in statements.items():
            self._db.executemany(statement, rows)
        self._drop_cold()

    def _drop_cold(self) -> None:
        """Drop decisions that are only partly in memory, and the oldest beyond `MOST_HOT`."""
        cold = [id_ for id_ in self._partial if id_ in self._by_decision]
        if len(self._rows) > MOST_HOT:
            cold += itertools.islice(self._by_decision, len(self._by_decision) // 2)
        for id_ in cold:
            for row in self._by_decision.pop(id_, ()):
                del self._rows[row.rowid]
        self._partial.clear()

    def _load(self, found: Iterable[tuple[object, ...]], *, partial: bool = False) -> list[Pending]:
        """Index rows of the table; a row that is already in memory is returned with this batch's changes.

        With `partial` the other rows of their decisions may be missing.
        """
        rows = []
        for values in found:
            row = self._rows.get(values[-1])  # type: ignore[call-overload] # the number of the row
            if row is None:
                row = Pending(*values)  # type: ignore[arg-type] # the columns have the fields' types
                self._rows[row.rowid] = row
                if partial and row.decision_id not in self._by_decision:
                    self._partial.add(row.decision_id)
                self._by_decision.setdefault(row.decision_id, []).append(row)
            rows.append(row)
        self._touched += rows
        return rows


class Aliases:
    """The merges of customers that a batch may touch; `write` stores what changed.

    Every merged id maps to the final customer in one step, so a record that still carries an old id is a record of
    that customer.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._any_stored = bool(db.execute("SELECT EXISTS (SELECT 1 FROM merged)").fetchone()[0])
        self._into: dict[str, tuple[str, float]] = {}
        self._changed: set[str] = set()

    def load(self, customers: Iterable[str], merging: Iterable[str]) -> None:
        """Load the final ids of `customers` and `merging`; of the latter also every id that was merged into them."""
        if not self._any_stored:
            return
        self._load(_MERGED_FROM, [*customers, *merging])
        # A merge moves these as well: `merge` keeps the map one step deep.
        self._load(_MERGED_INTO, [*merging, *(self.current_id(customer) for customer in merging)])

    def current_id(self, customer: str) -> str:
        """The id of the customer that `customer` was merged into, or `customer` itself."""
        entry = self._into.get(customer)
        return entry[0] if entry else customer

    def merge(self, before: str, after: str, at: float) -> tuple[str, str] | None:
        """Map `before`, and all customers merged into it, to `after` from `at` (s since 1970) on.

        Returns:
            The ids between which pending rows must move; None if both were one customer already.
        """
        before, after = self.current_id(before), self.current_id(after)
        if before == after:
            return None
        for customer in [before, *(id_ for id_, (into, _) in self._into.items() if into == before)]:
            self._into[customer] = after, at
            self._changed.add(customer)
        return before, after

    def write(self) -> None:
        """Store the changes, within the caller's transaction."""
        rows = [(customer, *self._into[customer]) for customer in sorted(self._changed)]
        self._db.executemany("INSERT OR REPLACE INTO merged VALUES (?, ?, ?)", rows)

    def _load(self, query: str, asked: list[str]) -> None:
        for customer, into, at in self._db.execute(query, [_json_list(asked)]):
            self._into.setdefault(customer, (into, at))


def _columns(row: Pending) -> tuple[object, ...]:
    """A row's values in the order of the table's columns."""
    return (
        row.decision_id,
        row.key,
        row.selection,
        row.customer,
        row.partition,
        row.arm,
        row.propensity,
        # Dropped here and not in `join`: a row may become ZERO and CLOSED in one batch, and is taught with its context
        # after both.
        b"" if row.status == CLOSED else row.context,
        row.time,
        row.status,
        row.due,
        row.exposed,
        row.reward,
        row.learnt,
        row.rewarded,
        row.cause,
        row.purchase,
        row.amount,
        row.revenue,
        row.refunded,
        row.refunded_whole,
        row.logged,
        row.weight,
        row.creative,
        row.creative_propensity,
        row.creative_learnt,
        row.creative_weight,
    )


def _unrewarded_columns(row: Pending) -> tuple[object, ...]:
    """The values of a row without reward and creative, in the order of `_INSERT_UNREWARDED`."""
    return (
        row.decision_id,
        row.key,
        row.selection,
        row.customer,
        row.partition,
        row.arm,
        row.propensity,
        b"" if row.status == CLOSED else row.context,
        row.time,
        row.status,
        row.due,
        row.exposed,
        row.learnt,
        row.rowid,
    )


def _json_list(values: Collection[str]) -> str:
    """A JSON array, which SQLite's json_each reads as a table: one parameter for any number of values."""
    return msgspec.json.encode(list(values)).decode()
