"""Exposures and events that came before the decision or the exposure that they belong to: kept until it comes."""

import sqlite3
from collections.abc import Iterable

import msgspec

from engine.journal.records import EventRecord, ExposureRecord, decode, encode

EarlyRecord = ExposureRecord | EventRecord
_LOAD = "SELECT id, waits_for, partition, due, record FROM early"
_LOAD_WAITING = "SELECT early.* FROM early JOIN json_each(?) asked ON early.waits_for = asked.value"


class EarlyArrival(msgspec.Struct, frozen=True):
    """A record and what it waits for, until the partition's clock reaches `due`."""

    id: int
    waits_for: str
    partition: int
    due: float
    record: EarlyRecord


class EarlyArrivals:
    """The waiting records that a batch may touch; `write` puts back what changed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        (last,) = db.execute("SELECT max(id) FROM early").fetchone()
        self._next = (last or 0) + 1
        self._any = last is not None
        self._by_key: dict[str, dict[int, EarlyArrival]] = {}
        self._stored: set[int] = set()
        self._gone: list[int] = []

    def load(self, ids: Iterable[str], customers: Iterable[str]) -> list[EarlyArrival]:
        """Bring in, and answer, what waits for these decisions or these customers."""
        if not self._any:
            return []
        keys = [*(f"d{id_}" for id_ in ids), *(f"c{customer}" for customer in customers)]
        return self._bring(self._db.execute(_LOAD_WAITING, [msgspec.json.encode(keys).decode()]))

    def load_due(self, until: float) -> list[EarlyArrival]:
        """Bring in, and answer, what has waited long enough, the earliest first."""
        if not self._any:
            return []
        return self._bring(self._db.execute(f"{_LOAD} WHERE due <= ? ORDER BY due, id", (until,)))

    def hold(self, waits_for: str, partition: int, due: float, record: EarlyRecord) -> EarlyArrival:
        """Keep a record until `release` of what it waits for."""
        waiting = EarlyArrival(self._next, waits_for, partition, due, record)
        self._next += 1
        self._by_key.setdefault(waits_for, {})[waiting.id] = waiting
        return waiting

    @property
    def empty(self) -> bool:
        """Whether nothing waits that was loaded or held."""
        return not self._by_key

    def release(self, key: str) -> list[EarlyArrival]:
        """What waited for `key`, in the order it came; it waits no longer."""
        found = self._by_key.pop(key, None)
        if not found:
            return []
        self._gone += self._stored.intersection(found)
        return [found[id_] for id_ in sorted(found)]

    def expire(self, waiting: EarlyArrival) -> bool:
        """Let go of one; False if it was released before."""
        if self._by_key.get(waiting.waits_for, {}).pop(waiting.id, None) is None:
            return False
        if waiting.id in self._stored:
            self._gone.append(waiting.id)
        return True

    def write(self) -> None:
        """Put back what changed, within the caller's transaction."""
        self._db.executemany("DELETE FROM early WHERE id = ?", [(id_,) for id_ in self._gone])
        fresh = [w for of_key in self._by_key.values() for w in of_key.values() if w.id not in self._stored]
        rows = [(w.id, w.waits_for, w.partition, w.due, encode(w.record)) for w in fresh]
        self._db.executemany("INSERT INTO early VALUES (?, ?, ?, ?, ?)", rows)

    def _bring(self, found: Iterable[tuple[int, str, int, float, bytes]]) -> list[EarlyArrival]:
        brought = []
        for id_, waits_for, partition, due, payload in found:
            of_key = self._by_key.setdefault(waits_for, {})
            if id_ not in of_key:
                record = decode(payload)
                if not isinstance(record, ExposureRecord | EventRecord):
                    raise TypeError(f"early {id_} is a {type(record).__name__}; only exposures and events wait")
                of_key[id_] = EarlyArrival(id_, waits_for, partition, due, record)
                self._stored.add(id_)
            brought.append(of_key[id_])
        return brought
