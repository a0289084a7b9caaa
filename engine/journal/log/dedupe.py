"""Which records may come again, and whether they came before: each counts once."""

import datetime as dt
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.journal.log import parquet
from engine.journal.records import AnyRecord, DecisionRecord, EventRecord, ExposureRecord
from engine.vocabulary import MERGED

_COLUMNS: dict[parquet.Table, list[str]] = {
    "events": ["customer", "message_id"],
    "decisions": ["decision_id"],
    "exposures": ["decision_id", "key"],
}
_MARKS: dict[parquet.Table, str] = {"decisions": "r", "exposures": "rp"}
"""The 13th characters of the ids of decisions that were asked for with an idempotency key (r), or ahead (p)."""
_SAME = 16


class _Merge(msgspec.Struct):
    """Who became part of whom, as the event of it says."""

    before: str = msgspec.field(name="from")
    after: str = msgspec.field(name="into")


_merge = msgspec.json.Decoder(_Merge)


class Ids:
    """A set of 64-bit hashes that takes 8 bytes for each; only the last `loose` take ten times as much."""

    def __init__(self, loose: int = 1 << 18) -> None:
        self._most = loose
        self._loose: set[int] = set()
        self._packed = np.empty(0, np.int64)

    def add(self, key: int) -> None:
        """Put a hash in."""
        self._loose.add(key)
        if len(self._loose) >= self._most:
            fresh = np.fromiter(self._loose, np.int64, len(self._loose))
            self._packed = np.sort(np.concatenate((self._packed, np.sort(fresh))), kind="stable")
            self._loose.clear()

    def __contains__(self, key: int) -> bool:
        if key in self._loose:
            return True
        place = int(self._packed.searchsorted(key))
        return place < len(self._packed) and int(self._packed[place]) == key


class Again:
    """What may come again of the log's last days, and of earlier ones where something is late.

    An event counts once by its customer and message id, however often it is sent; sent again under another of the
    customer's ids it is told at the door. It is spooled before it counts there: where that fails and the visitor is
    known when it is sent again, it comes once of each of the two. A decision that was asked for with an idempotency
    key, and its exposure, may be in two workers' spools. What was decided ahead may be told to be seen more than once.
    """

    def __init__(self, log: Path, days: int = 2) -> None:
        self._log = log
        self._days = days
        self._seen: dict[str, Ids] = {}
        self._same: dict[str, dict[int, tuple[int, ...]]] = {}  # by day: visitors and who they became
        for day in sorted({found.name.removeprefix("day=") for found in log.glob("*/day=*")})[-days:]:
            self._load(day)

    def fresh(self, record: AnyRecord, day: str, rows: list[parquet.Row]) -> list[parquet.Row]:
        """Those of the rows of a record that did not come before."""
        if isinstance(record, EventRecord):
            self._recall(day)
            if record.event == MERGED:
                self._join(day, record.properties)
            who = hash(record.customer)
            others = [one for same in self._same.values() for one in same.get(who, ())]
            keys = [hash(("events", one, record.message_id)) for one in (who, *others)]
            return rows if self._first(day, *keys) else []
        if isinstance(record, DecisionRecord) and _marked("decisions", record.decision_id):
            return rows if self._first(day, hash(("decisions", record.decision_id))) else []
        if isinstance(record, ExposureRecord) and _marked("exposures", record.decision_id):
            keys = [hash(("exposures", record.decision_id, key)) for key in record.keys]
            return [row for key, row in zip(keys, rows, strict=True) if self._first(day, key)]
        return rows

    def forget(self) -> None:
        """Let go of all but the last days."""
        for day in sorted(self._seen)[: -self._days]:
            del self._seen[day]
            self._same.pop(day, None)

    def _first(self, day: str, key: int, *others: int) -> bool:
        self._recall(day)
        if any(one in ids for ids in self._seen.values() for one in (key, *others)):
            return False
        self._seen[day].add(key)
        return True

    def _recall(self, day: str) -> None:
        """What is late may have come again on its day or the next, which may not be kept any more."""
        if day in self._seen:
            return
        last = max(self._seen, default="")
        self._load(day)
        after = (dt.date.fromisoformat(day) + dt.timedelta(days=1)).isoformat()
        if after < last and after not in self._seen:
            self._load(after)

    def _load(self, day: str) -> None:
        ids = self._seen.setdefault(day, Ids())
        for table, columns in _COLUMNS.items():
            for file in (self._log / table / f"day={day}").glob("*.parquet"):
                kept = parquet.read(file, columns)
                if table in _MARKS:
                    marks = pc.utf8_slice_codeunits(kept["decision_id"], 12, 13)
                    kept = kept.filter(pc.is_in(marks, pa.array(_MARKS[table])))
                found = zip(*(kept[c].to_pylist() for c in columns), strict=True)
                if table == "events":
                    for who, message in found:
                        ids.add(hash((table, hash(who), message)))
                    merges = parquet.read(file, ["properties"], pc.field("event") == MERGED)
                    for told in merges["properties"].to_pylist():
                        self._join(day, told)
                else:
                    for row in found:
                        ids.add(hash((table, *row)))

    def _join(self, day: str, told: bytes | str) -> None:
        try:
            merge = _merge.decode(told)
        except msgspec.MsgspecError:
            return
        same = self._same.setdefault(day, {})
        one, other = hash(merge.before), hash(merge.after)
        for who, also in ((one, other), (other, one)):
            known = same.get(who, ())
            if also not in known:
                same[who] = (*known, also)[-_SAME:]


def _marked(table: parquet.Table, decision_id: str) -> bool:
    return decision_id[12:13] in tuple(_MARKS[table])
