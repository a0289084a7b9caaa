"""Tables that depend on the order of a customer's events, by the events' day and with merges applied.

The log's folders hold events by the day on which they were received, under the identifier of that moment. What a table
of order says of a day needs every event that happened on it, and perhaps on the `ahead` days after it, of one person
together. So its digest of a day covers:

| part | changes with |
|---|---|
| the files of each folder that has events of these days | new rows, late ones too, compaction, erasure |
| the merges of identifiers that were seen on these days | a login, or a chain of logins, whenever it comes |

Which days a folder has events of, and who was seen on them, are daily tables themselves (`spans`, `presence`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.daily.blocks import DailyStore, DailyTable
from engine.analysis.sources.duckdb_expressions import identifier

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.analysis.sources.engines import Cell, DuckDB

_DAY: Final = "86400000000"
_NAMED: Final = "customer <> ''"
SPANS: Final = DailyTable(
    name="spans",
    reads=("events",),
    sql=lambda sources: (
        f"SELECT day, time // {_DAY} AS happened, max(time) AS last FROM {sources['events']} "
        f"WHERE {_NAMED} GROUP BY ALL"
    ),  # nosec B608
)
PRESENCE: Final = DailyTable(
    name="presence",
    reads=("events",),
    sql=lambda sources: (
        f"SELECT DISTINCT day, time // {_DAY} AS happened, customer FROM {sources['events']} WHERE {_NAMED}"
    ),  # nosec B608
)
_MERGES_SEEN = """
SELECT happened, md5(string_agg(old || chr(0) || became.customer || chr(0) || epoch_us(until), chr(1) ORDER BY old))
FROM (SELECT DISTINCT happened, customer FROM {seen}) AS seen JOIN {merges} AS became ON seen.customer = became.old
GROUP BY happened
"""


def find_last_event(engine: DuckDB, store: DailyStore) -> Cell:
    """The time (µs) of a log's last customer event; visits have it too, but in many more rows."""
    return engine.run(f"SELECT max(last) FROM ({store.read(SPANS)})")[0][0]  # nosec B608


class OrderedDays:
    """The days of a log's events: the folders and the merges of each."""

    def __init__(self, engine: DuckDB, store: DailyStore, merges: str | None) -> None:
        self._store = store
        self._merges = merges
        self._folders: dict[int, set[str]] = {}
        for at, folder in engine.run(f"SELECT DISTINCT happened, day FROM ({store.read(SPANS)})"):  # nosec B608
            self._folders.setdefault(int(str(at)), set()).add(str(folder))
        folders = sorted({one for every in self._folders.values() for one in every})
        self._files = {folder: store.states("events", folder) for folder in folders}
        self._merged: dict[int, str] = {}
        if merges is not None:
            seen = f"({store.read(PRESENCE)})"
            rows = engine.run(_MERGES_SEEN.format(seen=seen, merges=identifier(merges)))
            self._merged = {int(str(at)): str(digest) for at, digest in rows}

    def digests(self, ahead: int = 0) -> dict[str, str]:
        """The digest of each day for a table that reads so many days `ahead`."""
        wanted = {}
        for at in sorted(self._folders):
            days = [at + later for later in range(ahead + 1)]
            states = [self._files[folder] for folder in self._folders_of(days)]
            merged = [self._merged.get(day, "") for day in days]
            wanted[str(at)] = hashlib.sha256(msgspec.json.encode((states, merged))).hexdigest()[:24]
        return wanted

    def read(self, table: DailyTable) -> str:
        """SQL of a table's rows of all days, after computing the missing days."""
        ahead = range(table.ahead + 1)

        def make(missing: list[str]) -> str:
            needed = sorted({int(at) + later for at in missing for later in ahead} & self._folders.keys())
            rows = self._rows(needed)
            starts = f"(SELECT unnest([{', '.join(missing)}]) AS happened)"
            return table.sql({"events": rows, "days": starts})

        return self._store.read_days(table.name, self.digests(table.ahead), make)

    def _folders_of(self, days: Iterable[int]) -> list[str]:
        return sorted({folder for day in days for folder in self._folders.get(day, ())})

    def _rows(self, days: list[int]) -> str:
        """SQL of these days' events, under their present customers."""
        rows = self._store.source("events", self._folders_of(days))
        customer, joined = "found.customer", ""
        if self._merges is not None:
            customer = "coalesce(became.customer, found.customer)"
            joined = (
                f"LEFT JOIN {identifier(self._merges)} AS became "
                "ON found.customer = became.old AND found.time <= epoch_us(became.until)"
            )
        return (
            f"(SELECT found.* REPLACE ({customer} AS customer, CAST(found.time // {_DAY} AS VARCHAR) AS day) "
            f"FROM {rows} AS found {joined} WHERE found.customer <> '' "
            f"AND found.time // {_DAY} IN ({', '.join(map(str, days))}))"  # nosec B608
        )
