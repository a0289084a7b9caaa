"""Drops records that reach the log twice under different sequence numbers.

The streams deliver a spooled record once. Three kinds of records may still be spooled twice:

| record | spooled twice when | key |
|---|---|---|
| event | a client repeats a batch whose answer it did not get | (customer, message id), over merged customers |
| decision with an idempotency key (`r` in its id) | its worker died before it spooled the answer | decision id |
| exposure of such a decision, or of one made ahead (`p`) | the exposure is sent again | (decision id, key, position) |

Hashes of the last days' keys are in memory; a late record loads its own day and the next.
"""

import datetime as dt
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.journal.log import parquet
from engine.journal.records import AnyRecord, DecisionRecord, EventRecord, ExposureRecord, LoggedDecision, LoggedRecord
from engine.vocabulary import MERGED, split_item

_COLUMNS: dict[parquet.LogTable, list[str]] = {
    "events": ["customer", "message_id"],
    "decisions": ["decision_id"],
    "exposures": ["decision_id", "key", "position"],
}
_MARKS: dict[parquet.LogTable, frozenset[str]] = {"decisions": frozenset("r"), "exposures": frozenset("rp")}
"""The 13th character of a decision's id: `r` for an idempotency key, `p` for a decision made ahead of exposure."""


class _MergeProperties(msgspec.Struct):
    """The properties of a merge event: customer `before` became part of customer `after`."""

    before: str = msgspec.field(name="from")
    after: str = msgspec.field(name="into")


_merge = msgspec.json.Decoder(_MergeProperties)


class HashSet:
    """A set of 64-bit hashes at 8 bytes each; only the last `loose` additions take ten times as much."""

    def __init__(self, loose: int = 1 << 18) -> None:
        self._most = loose
        self._loose: set[int] = set()
        self._packed = np.empty(0, np.int64)

    def add(self, key: int) -> None:
        """Add a hash."""
        self._loose.add(key)
        if len(self._loose) >= self._most:
            fresh = np.fromiter(self._loose, np.int64, len(self._loose))
            self._packed = np.sort(np.concatenate((self._packed, np.sort(fresh))), kind="stable")
            self._loose.clear()

    def __contains__(self, key: int) -> bool:
        if key in self._loose:
            return True
        if not len(self._packed):
            return False
        place = int(self._packed.searchsorted(key))
        return place < len(self._packed) and int(self._packed[place]) == key


class Deduplicator:
    """Stores the keys of records that were collected in the last `days` days.

    An event that is sent again under another identifier of its customer is normally refused at the API. One case
    reaches the log twice: the event was spooled, the profile was not written, and the visitor logged in before the
    repeat. Customers that merged are therefore compared as one.
    """

    def __init__(self, log: Path, days: int = 2) -> None:
        self._log = log
        self._days = days
        self._seen: dict[str, HashSet] = {}
        # Day -> customer -> the customers merged with it. All of them: an event is a repeat of any
        # one's, and a repeat that is not found counts twice in every report.
        self._merged: dict[str, dict[int, dict[int, None]]] = {}
        for day in sorted({found.name.removeprefix("day=") for found in log.glob("*/day=*")})[-days:]:
            self._load(day)

    def new_rows(self, record: AnyRecord | LoggedRecord, day: str, rows: list[parquet.Row]) -> list[parquet.Row]:
        """A record's rows that are not in the log yet."""
        if isinstance(record, EventRecord):
            self._load_late(day)
            if record.event == MERGED:
                self._merge(day, record.properties)
            customer = hash(record.customer)
            aliases = [one for merged in self._merged.values() for one in merged.get(customer, ())]
            others = [hash(("events", one, record.message_id)) for one in aliases]
            return rows if self._add_if_new(day, hash(("events", customer, record.message_id)), *others) else []
        if isinstance(record, DecisionRecord | LoggedDecision) and _may_repeat("decisions", record.decision_id):
            return rows if self._add_if_new(day, hash(("decisions", record.decision_id))) else []
        if isinstance(record, ExposureRecord) and _may_repeat("exposures", record.decision_id):
            names = map(split_item, record.keys)
            keys = [hash(("exposures", record.decision_id, key, at or None)) for key, at in names]
            return [row for key, row in zip(keys, rows, strict=True) if self._add_if_new(day, key)]
        return rows

    def drop_old_days(self) -> None:
        """Drop all but the last days."""
        for day in sorted(self._seen)[: -self._days]:
            del self._seen[day]
            self._merged.pop(day, None)

    def _add_if_new(self, day: str, key: int, *others: int) -> bool:
        """Add `key`; returns False if it, or one of `others`, is there already."""
        self._load_late(day)
        for ids in self._seen.values():
            if key in ids or (others and any(one in ids for one in others)):
                return False
        self._seen[day].add(key)
        return True

    def _load_late(self, day: str) -> None:
        """Load the keys of a late record's day and the next one: its first copy may be in either."""
        if day in self._seen:
            return
        last = max(self._seen, default="")
        self._load(day)
        after = (dt.date.fromisoformat(day) + dt.timedelta(days=1)).isoformat()
        if after < last and after not in self._seen:
            self._load(after)

    def _load(self, day: str) -> None:
        """Read a day's keys from the log."""
        ids = self._seen.setdefault(day, HashSet())
        for table, columns in _COLUMNS.items():
            for file in (self._log / table / f"day={day}").glob("*.parquet"):
                rows = parquet.read_table(file, columns)
                if table in _MARKS:
                    marks = pc.utf8_slice_codeunits(rows["decision_id"], 12, 13)
                    rows = rows.filter(pc.is_in(marks, pa.array(sorted(_MARKS[table]))))
                found = zip(*(rows[c].to_pylist() for c in columns), strict=True)
                if table == "events":
                    for customer, message in found:
                        ids.add(hash((table, hash(customer), message)))
                    merges = parquet.read_table(file, ["properties"], pc.field("event") == MERGED)
                    for properties in merges["properties"].to_pylist():
                        self._merge(day, properties)
                else:
                    for row in found:
                        ids.add(hash((table, *row)))

    def _merge(self, day: str, properties: bytes | str) -> None:
        """Treat two merged customers as one from now on."""
        try:
            merge = _merge.decode(properties)
        except msgspec.MsgspecError:
            return
        merged = self._merged.setdefault(day, {})
        before, after = hash(merge.before), hash(merge.after)
        for customer, alias in ((before, after), (after, before)):
            merged.setdefault(customer, {})[alias] = None


def _may_repeat(table: parquet.LogTable, decision_id: str) -> bool:
    """Whether the mark in a decision id says that its records may be spooled twice."""
    return decision_id[12:13] in _MARKS[table]
