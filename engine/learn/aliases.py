"""Customers who turned out to be another: records that still carry their old id are taken for the one they are."""

import sqlite3
from collections.abc import Iterable

import msgspec

_OF = "SELECT customer, into_, at FROM json_each(?) asked JOIN merged ON customer = asked.value"
_INTO = "SELECT customer, into_, at FROM json_each(?) asked JOIN merged ON into_ = asked.value"


class Aliases:
    """The merges that a batch may touch; `write` puts back what changed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._any = bool(db.execute("SELECT EXISTS (SELECT 1 FROM merged)").fetchone()[0])
        self._into: dict[str, tuple[str, float]] = {}
        self._changed: set[str] = set()

    def load(self, customers: Iterable[str], merging: Iterable[str]) -> None:
        """Bring in who these customers are; of those that merge in this batch also who became them."""
        if not self._any:
            return
        both = [*customers, *merging]
        self._bring(_OF, both)
        self._bring(_INTO, [*merging, *(self.of(customer) for customer in merging)])

    def of(self, customer: str) -> str:
        """Who a customer is."""
        found = self._into.get(customer)
        return found[0] if found else customer

    def merge(self, before: str, after: str, at: float) -> tuple[str, str] | None:
        """Let `before` be `after` from now on: who was moved to whom; None if they were one already."""
        before, after = self.of(before), self.of(after)
        if before == after:
            return None
        for customer in [before, *(one for one, (into, _) in self._into.items() if into == before)]:
            self._into[customer] = after, at
            self._changed.add(customer)
        return before, after

    def write(self) -> None:
        """Put back what changed, within the caller's transaction."""
        rows = [(customer, *self._into[customer]) for customer in sorted(self._changed)]
        self._db.executemany("INSERT OR REPLACE INTO merged VALUES (?, ?, ?)", rows)

    def _bring(self, query: str, asked: list[str]) -> None:
        for customer, into, at in self._db.execute(query, [msgspec.json.encode(asked).decode()]):
            self._into.setdefault(customer, (into, at))
