"""Merges the records of all partitions into one order that does not depend on how they were read.

A partition's clock is the latest time of its records so far; a record is stamped with the clock of its partition and
ordered by (stamp, partition). The merge keeps these invariants:

- Within a partition the order is that of the stream, because its clock never goes back.
- A record is taken only when every partition that may still hold an earlier one has been read beyond it. A partition
  that answered with as many entries as were asked for may hold more, so it bounds what can be taken.
- `Taken.progress` covers exactly the taken records, so a learner that is killed reads the others again.

A learner that catches up after an outage therefore takes its records in the same order as one that never stopped.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice, repeat
from operator import itemgetter
from typing import NamedTuple

import msgspec
import structlog

from engine.hashing import identifier_digest
from engine.journal import stream
from engine.journal.records import EventRecord, ExposureRecord, LearnerRecord, UntracedDecision, decode_for_learner

_AT = itemgetter(0)
_log = structlog.get_logger(__name__)

Stamped = tuple[float, int, LearnerRecord]
"""The clock of a partition (s since 1970) when a record of it was read, the partition, and the record."""


class _StreamEntry:
    """An entry of a stream: its records with clocks and sequence numbers; the first `taken` were taken.

    A record that does not decode is None. The entry counts as read only when all of its records are taken.
    """

    __slots__ = ("clock", "clocks", "delivery", "records", "seen", "taken")

    def __init__(self, delivery: stream.Delivery, clock: float) -> None:
        """Decode a delivery; `clock` is that of the partition before it."""
        self.delivery = delivery
        self.seen = stream.position_key(delivery.position)[0]
        self.records = _decode_all([payload for _, payload in delivery.frames])
        self.clocks: list[float] = []
        for record in self.records:
            if record is not None:
                time = record.received if isinstance(record, EventRecord) else record.time
                clock = time if time > clock else clock  # noqa: FURB136 - max() takes three times as long
            self.clocks.append(clock)
        self.clock = clock
        self.taken = 0

    def due(self, until: float, *, inclusive: bool) -> int:
        """The number of records whose clock is before `until`, or equal to it if `inclusive`."""
        if self.clock < until:
            return len(self.clocks)
        return (bisect_right if inclusive else bisect_left)(self.clocks, until)

    def is_due(self, until: float, *, inclusive: bool) -> bool:
        """Whether the whole entry may be taken."""
        return self.clock < until or (inclusive and self.clock == until)


class Taken(NamedTuple):
    """Records in their order, the number of frames that did not decode, and the progress after both."""

    records: list[Stamped]
    unreadable: int
    progress: stream.Progress


def time_of(record: LearnerRecord) -> float:
    """The time at which the engine received a record (s since 1970); it moves the clock of its partition."""
    return record.received if isinstance(record, EventRecord) else record.time


def drop_erased(records: Sequence[Stamped], erased: Mapping[str, float]) -> Sequence[Stamped]:
    """The records without those that an erased customer made before the erasure.

    `erased` maps the digest of an id to the time of its erasure (s since 1970). A record made after that stays: the
    customer came back and is new.
    """
    if not erased:
        return records
    return [stamped for stamped in records if not _is_erased(stamped[2], erased)]


class StreamMerger:
    """The records that were read and not taken yet, from `progress` and the partitions' `clocks` on."""

    def __init__(self, progress: stream.Progress, clocks: Mapping[int, float]) -> None:
        self._progress = progress
        self._clocks = dict(clocks)
        self._waiting: dict[int, deque[_StreamEntry]] = {}
        self._may_hold_more: set[int] = set()

    @property
    def waiting(self) -> Collection[int]:
        """The partitions with records that wait to be taken; they need not be read now."""
        return [partition for partition, entries in self._waiting.items() if entries]

    def add(self, deliveries: Iterable[stream.Delivery], count: int) -> None:
        """Add what was read with at most `count` entries of each partition."""
        read: Counter[int] = Counter()
        waiting = self.waiting
        for delivery in deliveries:
            partition = delivery.partition
            read[partition] += 1
            entry = _StreamEntry(delivery, self._clocks.get(partition, 0.0))
            self._clocks[partition] = entry.clock
            self._waiting.setdefault(partition, deque()).append(entry)
        # A partition that was not read because its records wait keeps its mark.
        still = {partition for partition in self._may_hold_more if partition in waiting}
        self._may_hold_more = still | {partition for partition, number in read.items() if number >= count}

    def take(self) -> Taken:
        """Take all records that are older than any that may still be unread."""
        until, bound = math.inf, -1
        for partition in self._may_hold_more:
            entries = self._waiting.get(partition)
            until, bound = min((until, bound), (entries[-1].clock if entries else self._clock(partition), partition))
        records: list[Stamped] = []
        unreadable = 0
        positions = dict(self._progress.positions)
        marks = {partition: dict(of_spools) for partition, of_spools in self._progress.marks.items()}
        for partition, entries in sorted(self._waiting.items()):
            inclusive = partition <= bound
            while entries:
                entry, before = entries[0], entries[0].taken
                delivery = entry.delivery
                entry.taken = max(entry.due(until, inclusive=inclusive), before)
                if entry.taken > before:
                    found = zip(entry.clocks, repeat(partition), entry.records)
                    readable = [one for one in islice(found, before, entry.taken) if one[2] is not None]
                    unreadable += entry.taken - before - len(readable)
                    records += readable  # type: ignore[arg-type] # None is left out
                    mark = stream.Mark(delivery.frames[entry.taken - 1][0], entry.seen)
                    marks.setdefault(partition, {})[delivery.spool] = mark
                if not entry.is_due(until, inclusive=inclusive):
                    break
                positions[partition] = delivery.position
                entries.popleft()
        records.sort(key=_AT)  # stable: at one time the lower partition is first, and its records keep their order
        self._progress = stream.Progress(positions, marks)
        return Taken(records, unreadable, self._progress)

    def _clock(self, partition: int) -> float:
        return self._clocks.get(partition, 0.0)


def starting_progress(stored: stream.Progress | None, committed: Mapping[int, str]) -> stream.Progress:
    """The stored progress; for a partition that another learner read further, that learner's position.

    What the other one learnt from it is in the published snapshots, which this learner adopts.
    """
    if stored is None:
        return stream.Progress(dict(committed))
    beyond = {
        p: at
        for p, at in committed.items()
        if stream.position_key(at) > stream.position_key(stored.positions.get(p, stream.BEGINNING))
    }
    if beyond:
        _log.info("another learner read further; continuing from its policies", partitions=sorted(beyond))
    marks = {p: of_spools for p, of_spools in stored.marks.items() if p not in beyond}
    return stream.Progress(stored.positions | beyond, marks)


def report_lost(reader: stream.Reader) -> Counter[str]:
    """Log and count the records that the store lost before they were read."""
    aside: Counter[str] = Counter()
    if reader.lost:
        _log.error(
            "the store lost records before they were read; check its memory limit and its persistence",
            lost=[span._asdict() for span in reader.lost],
        )
        aside["lost by the store"] = sum(span.last - span.first + 1 for span in reader.lost)
        reader.lost.clear()
    return aside


def _decode_all(payloads: Sequence[bytes]) -> Sequence[LearnerRecord | None]:
    """The records, with None for bytes that are not a record that this version knows."""
    try:
        return [decode_for_learner(payload) for payload in payloads]
    except (msgspec.MsgspecError, ValueError):
        return [_decode_or_none(payload) for payload in payloads]


def _decode_or_none(payload: bytes) -> LearnerRecord | None:
    """The record, or None for bytes that are not a record that this version knows."""
    try:
        return decode_for_learner(payload)
    except (msgspec.MsgspecError, ValueError):  # counted here; the collector quarantines it with its bytes
        return None


def _is_erased(record: LearnerRecord, erased: Mapping[str, float]) -> bool:
    """Whether the record's customer was erased after it was made."""
    if not isinstance(record, UntracedDecision | ExposureRecord | EventRecord):
        return False
    return time_of(record) <= erased.get(identifier_digest(record.customer), float("-inf"))
