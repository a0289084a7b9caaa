"""Decisions whose reward is still open: the rows of one batch in memory, everything else in SQLite."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence

import msgspec

# What became of a decision so far.
BARE, WAITING, OPEN, ZERO, PAID, REVERSED, CLOSED = 6, 0, 1, 2, 3, 4, 5
_LIVE = frozenset({OPEN, ZERO, PAID, REVERSED})
_THEIRS = _LIVE | {WAITING}
_PUT = "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OF_IDS = "SELECT pending.* FROM json_each(?) asked JOIN pending ON decision_id = asked.value"
_THEIR_OWN = """
SELECT pending.* FROM json_each(?) asked JOIN pending ON customer = asked.value AND status BETWEEN 0 AND 4
"""
_DUE = "SELECT * FROM pending WHERE due <= ? ORDER BY due"


class Pending(msgspec.Struct, gc=False):
    """One offer that a policy chose.

    Status: WAITING to be seen, OPEN since it was, ZERO learnt for the time being, PAID a reward, REVERSED after one,
    CLOSED as a zero; BARE stands for a decision without any such offer. `due` is when time alone changes it; `learnt`
    the policy's clock when it was learnt; `cause` the message that rewarded it, at `rewarded`; `purchase` its order.
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
    gone: bool = False
    dirty: bool = False

    @property
    def live(self) -> bool:
        """Seen, and its reward may still change."""
        return self.status in _LIVE


class Board:
    """The pending decisions that a batch may touch; `write` puts back what changed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._rows: dict[tuple[str, str], Pending] = {}
        self._by_id: dict[str, list[Pending]] = {}
        self._by_customer: dict[str, list[Pending]] = {}
        self._known: set[tuple[str, str]] = set()

    def load(self, ids: Collection[str], customers: Collection[str]) -> None:
        """Bring in what is pending of these decisions, and what these customers have seen or wait to see."""
        if ids:
            self._bring(self._db.execute(_OF_IDS, [_json(ids)]))
        if customers:
            self._bring(self._db.execute(_THEIR_OWN, [_json(customers)]))

    def load_due(self, until: float) -> list[Pending]:
        """Bring in, and answer, what is due, the earliest first."""
        return self._bring(self._db.execute(_DUE, (until,)))

    @property
    def customers(self) -> set[str]:
        """Whose rows were brought in."""
        return set(self._by_customer)

    def add(self, row: Pending) -> None:
        """A new one."""
        row.dirty = True
        self._place(row)

    def of(self, decision_id: str) -> Sequence[Pending]:
        """The rows of a decision."""
        return self._by_id.get(decision_id, ())

    def seen_by(self, customer: str) -> list[Pending]:
        """What a customer has seen and may still be rewarded, or taken back."""
        return [row for row in self._by_customer.get(customer, ()) if row.live and not row.gone]

    def rename(self, before: str, after: str) -> None:
        """Two customers turned out to be one: what is still open of one is the other's."""
        moved = [row for row in self._by_customer.pop(before, []) if row.status in _THEIRS and not row.gone]
        for row in moved:
            row.customer, row.dirty = after, True
        self._by_customer.setdefault(after, []).extend(moved)

    def remove(self, row: Pending) -> None:
        """Nothing can change it any more."""
        row.gone = row.dirty = True
        self._by_id[row.decision_id].remove(row)

    def write(self) -> None:
        """Put back what changed, within the caller's transaction."""
        changed = [row for row in self._rows.values() if row.dirty]
        self._db.executemany(_PUT, [_values(row) for row in changed if not row.gone])
        gone = [place for place, row in self._rows.items() if row.gone and place in self._known]
        self._db.executemany("DELETE FROM pending WHERE decision_id = ? AND key = ?", gone)

    def _bring(self, found: Iterable[tuple[object, ...]]) -> list[Pending]:
        rows = []
        for values in found:
            row = Pending(*values)  # type: ignore[arg-type] # the columns have the fields' types
            place = row.decision_id, row.key
            mine = self._rows.get(place)
            if mine is None:
                self._known.add(place)
                self._place(row)
                mine = row
            rows.append(mine)
        return rows

    def _place(self, row: Pending) -> None:
        self._rows[row.decision_id, row.key] = row
        self._by_id.setdefault(row.decision_id, []).append(row)
        self._by_customer.setdefault(row.customer, []).append(row)


def _values(row: Pending) -> tuple[object, ...]:
    return (
        row.decision_id,
        row.key,
        row.selection,
        row.customer,
        row.partition,
        row.arm,
        row.propensity,
        # Only now: a decision that became a zero and was closed in one batch is taught with its context after both.
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
    )


def _json(values: Collection[str]) -> str:
    return msgspec.json.encode(list(values)).decode()
