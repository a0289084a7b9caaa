"""Decisions whose reward is still open, and the customers that they belong to.

Both are tables of the learner's file (`state.sql`: `pending`, `merged`). A batch loads the rows that it may touch,
changes them in memory, and writes the changed ones back in the learner's transaction:

    load, load_due  ->  add, move_customer, remove, or assignments to a row that set `dirty`  ->  write

A row that was not loaded is invisible to the batch, so `load_batch` loads everything that its records can reach.
States and transitions of a row: see `join`.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Self

import msgspec

UNSEEN, OPEN, ZERO, REWARDED, REFUNDED, CLOSED, NO_OFFER = 0, 1, 2, 3, 4, 5, 6
"""States of a row, stored as numbers; `_BY_CUSTOMER` relies on `UNSEEN` to `REFUNDED` being 0 to 4."""

_LIVE = frozenset({OPEN, ZERO, REWARDED, REFUNDED})
_MOVABLE = _LIVE | {UNSEEN}
_PUT = (
    "INSERT OR REPLACE INTO pending VALUES "
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADVANCE = (
    "UPDATE pending SET context = ?, status = ?, due = ?, exposed = ?, learnt = ? WHERE decision_id = ? AND key = ?"
)
"""Of the changes of a row's life all but a few are of these columns; the others stay as they are in the file."""
_BY_DECISION = "SELECT pending.* FROM json_each(?) asked JOIN pending ON decision_id = asked.value"
_BY_CUSTOMER = """
SELECT pending.* FROM json_each(?) asked
JOIN pending ON customer = asked.value AND pending.key <> '' AND status BETWEEN 0 AND 4
"""
_DUE = "SELECT * FROM pending WHERE due <= ? ORDER BY due"
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
    is_removed: bool = False
    dirty: bool = False

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
    """The pending rows that a batch may touch; `write` stores what changed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._rows: dict[tuple[str, str], Pending] = {}
        self._by_decision: dict[str, list[Pending]] = {}
        self._by_customer: dict[str, list[Pending]] = {}
        self._stored: dict[tuple[str, str], tuple[object, ...]] = {}

    def load(self, decisions: Collection[str], customers: Collection[str]) -> None:
        """Load all rows of these decisions, and the rows of these customers that an event can still change."""
        if decisions:
            self._load(self._db.execute(_BY_DECISION, [_json_list(decisions)]))
        if customers:
            self._load(self._db.execute(_BY_CUSTOMER, [_json_list(customers)]))

    def load_due(self, until: float) -> list[Pending]:
        """Load and return the rows that are due by `until` (s since 1970), the earliest first."""
        return self._load(self._db.execute(_DUE, (until,)))

    @property
    def customers(self) -> set[str]:
        """The customers of the loaded rows."""
        return set(self._by_customer)

    def add(self, row: Pending) -> None:
        """Add the row of a new decision."""
        row.dirty = True
        self._index(row)

    def of_decision(self, decision_id: str) -> Sequence[Pending]:
        """The loaded rows of a decision."""
        return self._by_decision.get(decision_id, ())

    def of_customer(self, customer: str) -> list[Pending]:
        """The loaded rows that a customer was exposed to and whose reward may still change."""
        return [row for row in self._by_customer.get(customer, ()) if row.is_live and not row.is_removed]

    def move_customer(self, before: str, after: str) -> None:
        """Give the rows of a merged customer to the customer they were merged into."""
        moved = [row for row in self._by_customer.pop(before, []) if row.status in _MOVABLE and not row.is_removed]
        for row in moved:
            row.customer, row.dirty = after, True
        self._by_customer.setdefault(after, []).extend(moved)

    def remove(self, row: Pending) -> None:
        """Drop a row that no event and no time can change any more."""
        row.is_removed = row.dirty = True
        self._by_decision[row.decision_id].remove(row)

    def write(self) -> None:
        """Store the changes, within the caller's transaction."""
        whole: list[tuple[object, ...]] = []
        advanced: list[tuple[object, ...]] = []
        for place, row in self._rows.items():
            if row.dirty and not row.is_removed:
                columns, stored = _columns(row), self._stored.get(place)
                if stored is not None and _is_same_but_advanced(stored, columns):
                    advanced.append((columns[7], columns[9], columns[10], columns[11], columns[13], *place))
                else:
                    whole.append(columns)
        self._db.executemany(_PUT, whole)
        self._db.executemany(_ADVANCE, advanced)
        removed = [place for place, row in self._rows.items() if row.is_removed and place in self._stored]
        self._db.executemany("DELETE FROM pending WHERE decision_id = ? AND key = ?", removed)

    def _load(self, found: Iterable[tuple[object, ...]]) -> list[Pending]:
        """Index rows of the table; one that is loaded already is returned as this batch changed it."""
        rows = []
        for values in found:
            row = Pending(*values)  # type: ignore[arg-type] # the columns have the fields' types
            place = row.decision_id, row.key
            loaded = self._rows.get(place)
            if loaded is None:
                self._stored[place] = values
                self._index(row)
                loaded = row
            rows.append(loaded)
        return rows

    def _index(self, row: Pending) -> None:
        self._rows[row.decision_id, row.key] = row
        self._by_decision.setdefault(row.decision_id, []).append(row)
        self._by_customer.setdefault(row.customer, []).append(row)


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
        """Map `before`, and all that was merged into it, to `after` from `at` (s since 1970) on.

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


def _is_same_but_advanced(stored: tuple[object, ...], columns: tuple[object, ...]) -> bool:
    """Whether two rows differ at most in the columns that `_ADVANCE` writes."""
    return stored[:7] == columns[:7] and (stored[8], stored[12], stored[14:]) == (columns[8], columns[12], columns[14:])


def _json_list(values: Collection[str]) -> str:
    """A JSON array, which SQLite's json_each reads as a table: one parameter for any number of values."""
    return msgspec.json.encode(list(values)).decode()
