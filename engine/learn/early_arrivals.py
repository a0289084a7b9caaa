"""Stores exposures and events that arrive before their decision or exposure, until it arrives.

Table `early` of the learner's file (`state.sql`). An arrival waits for `d` + decision id, `c` + customer, or `s` +
customer if it is a second order; it leaves

    by `release`, when that decision or an exposure of that customer arrives, or the decision that earned the first
        order turns out to be another: the join processes it again
    by `expire`, when the clock reaches its `due`: the join logs why it belongs to nothing

Ids ascend in the order of arrival, and released records are processed in that order. A batch loads what it may touch
and `write`s the changes in the learner's transaction. `load_batch` loads all that a batch can reach, pending rows
too: what waits decides which of those are needed.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from engine.journal.records import EventRecord, ExposureRecord, UntracedDecision, decode, encode
from engine.learn.merge_streams import Stamped
from engine.learn.pending import Aliases, PendingStore
from engine.learn.reward_rules import RewardRules, decode_properties
from engine.vocabulary import MERGED, PURCHASES, REFUNDS

ORDERS = PURCHASES | REFUNDS
"""Events that can change what another decision of their customer earned by the same order."""

EarlyRecord = ExposureRecord | EventRecord
_LOAD = "SELECT id, waits_for, partition, due, record FROM early"
_LOAD_WAITING = "SELECT early.* FROM early JOIN json_each(?) asked ON early.waits_for = asked.value"


class EarlyArrival(msgspec.Struct, frozen=True):
    """A record that waits for `waits_for` until the clock reaches `due` (s since 1970)."""

    id: int
    waits_for: str
    partition: int
    due: float
    record: EarlyRecord


class EarlyArrivals:
    """The early arrivals that a batch may touch; `write` stores what changed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        (last,) = db.execute("SELECT max(id) FROM early").fetchone()
        self._next_id = (last or 0) + 1
        self.any_stored = last is not None
        """Whether anything waits in the file."""
        self._by_key: dict[str, dict[int, EarlyArrival]] = {}
        self._stored: set[int] = set()
        self._removed: list[int] = []

    def load(self, decisions: Iterable[str], customers: Iterable[str]) -> list[EarlyArrival]:
        """Load and return the records that wait for these decisions or customers."""
        if not self.any_stored:
            return []
        keys = [*(f"d{id_}" for id_ in decisions), *(f"{kind}{customer}" for customer in customers for kind in "cs")]
        return self._load(self._db.execute(_LOAD_WAITING, [msgspec.json.encode(keys).decode()]))

    def load_due(self, until: float) -> list[EarlyArrival]:
        """Load and return the records due by `until` (s since 1970), the earliest first."""
        if not self.any_stored:
            return []
        return self._load(self._db.execute(f"{_LOAD} WHERE due <= ? ORDER BY due, id", (until,)))

    def add(self, waits_for: str, partition: int, due: float, record: EarlyRecord) -> EarlyArrival:
        """Store a record until `waits_for` is released or the clock reaches `due`."""
        arrival = EarlyArrival(self._next_id, waits_for, partition, due, record)
        self._next_id += 1
        self._by_key.setdefault(waits_for, {})[arrival.id] = arrival
        return arrival

    @property
    def is_empty(self) -> bool:
        """Whether no record is waiting among those loaded or added."""
        return not self._by_key

    def release(self, waits_for: str) -> list[EarlyArrival]:
        """Remove and return the records that wait for this key, in order of arrival."""
        released = self._by_key.pop(waits_for, None)
        if not released:
            return []
        self._removed += self._stored.intersection(released)
        return [released[id_] for id_ in sorted(released)]

    def expire(self, arrival: EarlyArrival) -> bool:
        """Remove an arrival that is due; False if it was released before."""
        if self._by_key.get(arrival.waits_for, {}).pop(arrival.id, None) is None:
            return False
        if arrival.id in self._stored:
            self._removed.append(arrival.id)
        return True

    def write(self) -> None:
        """Store the changes, within the caller's transaction."""
        self._db.executemany("DELETE FROM early WHERE id = ?", [(id_,) for id_ in self._removed])
        waiting = [arrival for of_key in self._by_key.values() for arrival in of_key.values()]
        rows = [(a.id, a.waits_for, a.partition, a.due, encode(a.record)) for a in waiting if a.id not in self._stored]
        self._db.executemany("INSERT INTO early VALUES (?, ?, ?, ?, ?)", rows)

    def _load(self, found: Iterable[tuple[int, str, int, float, bytes]]) -> list[EarlyArrival]:
        """Index stored arrivals; one that is already loaded stays the same object."""
        loaded = []
        for id_, waits_for, partition, due, payload in found:
            of_key = self._by_key.setdefault(waits_for, {})
            if id_ not in of_key:
                record = decode(payload)
                if not isinstance(record, ExposureRecord | EventRecord):
                    raise TypeError(f"early {id_} is a {type(record).__name__}; only exposures and events wait")
                of_key[id_] = EarlyArrival(id_, waits_for, partition, due, record)
                self._stored.add(id_)
            loaded.append(of_key[id_])
        return loaded


def load_batch(
    records: Sequence[Stamped], rules: RewardRules, pending: PendingStore, early: EarlyArrivals, aliases: Aliases
) -> None:
    """Load all rows that a batch of records can reach; `Join` sees no others."""
    decisions: set[str] = set()
    customers: set[str] = set()
    earning: set[str] = set()
    merging: set[str] = set()
    for _, _, record in records:
        if isinstance(record, EventRecord):
            if not rules.uses(record.event):
                continue
            if record.event == MERGED:
                merging |= _merged_ids(record)
            else:
                if record.decision_id:
                    decisions.add(record.decision_id)
                if not record.decision_id or record.event in ORDERS:
                    earning.add(record.customer)
        elif isinstance(record, UntracedDecision | ExposureRecord):
            decisions.add(record.decision_id)
        else:
            continue
        customers.add(record.customer)
    aliases.load(customers, merging)
    pending.load(decisions, {aliases.current_id(customer) for customer in earning | merging})
    if not early.any_stored:
        return
    everyone = {aliases.current_id(customer) for customer in customers | merging} | pending.customers_of(decisions)
    # A released early event may reward anything that its customer was exposed to.
    own = {row.decision_id for customer in everyone for row in pending.of_customer(customer)}
    arrivals = early.load(decisions | own, everyone)
    waiting = {arrival.record.customer for arrival in arrivals}
    aliases.load(waiting, ())
    named = {arrival.record.decision_id for arrival in arrivals if arrival.record.decision_id}
    pending.load(named, {aliases.current_id(customer) for customer in waiting})


def _merged_ids(record: EventRecord) -> set[str]:
    """The two customers that a merge event names; none if its properties cannot be read."""
    try:
        properties = decode_properties(record)
    except ValueError:
        return set()
    return {str(properties.get("from")), str(properties.get("into"))}
