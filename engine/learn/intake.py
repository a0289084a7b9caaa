"""The records of all partitions in the order of their time, whatever pieces they were read in.

A partition's clock is the latest time that it said; its records are taken by that clock. Where one partition is read
only up to some time, what others have beyond it waits, so that a learner that catches up takes what it reads in the
order in which one that never stopped did.
"""

import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import NamedTuple

import msgspec

from engine.journal import stream
from engine.journal.records import AnyRecord, EventRecord, decode

Due = tuple[float, int]  # by the partition's clock (s since 1970), then by partition


class Stamped(NamedTuple):
    """A record and the clock of its partition when it came."""

    at: float
    partition: int
    record: AnyRecord


class _Read(NamedTuple):
    """One frame, its record None where it cannot be read; `position` is that of its entry, if it is the last in it."""

    at: float
    partition: int
    record: AnyRecord | None
    spool: str
    mark: stream.Mark | None
    position: stream.Position | None


class Taken(NamedTuple):
    """Records in their order, how many could not be read, and how far that is."""

    records: list[Stamped]
    unreadable: int
    progress: stream.Progress


def time_of(record: AnyRecord) -> float:
    """When a record came in, which is what moves the clock of its partition."""
    return record.received if isinstance(record, EventRecord) else record.time


class Intake:
    """What was read and not taken yet, from `progress` and the partitions' `clocks` on."""

    def __init__(self, progress: stream.Progress, clocks: Mapping[int, float]) -> None:
        self._progress = progress
        self._clocks = dict(clocks)
        self._waiting: dict[int, deque[_Read]] = {}
        self._more: set[int] = set()

    @property
    def waiting(self) -> Collection[int]:
        """The partitions that need not be read: some of what was read of them is not taken yet."""
        return [partition for partition, reads in self._waiting.items() if reads]

    def add(self, deliveries: Iterable[stream.Delivery], count: int) -> None:
        """Put in what was read, up to `count` entries of each partition: of one that had so many there may be more."""
        entries: Counter[int] = Counter()
        waiting = self.waiting
        for delivery in deliveries:
            entries[delivery.partition] += 1
            self._waiting.setdefault(delivery.partition, deque()).extend(self._reads(delivery))
        self._more = {p for p in self._more if p in waiting} | {p for p, number in entries.items() if number >= count}

    def take(self) -> Taken:
        """What can be taken now: all that is older than what may still come of any partition."""
        until: Due = (float("inf"), -1)
        for partition in self._more:
            reads = self._waiting.get(partition)
            until = min(until, (reads[-1].at if reads else self._clocks.get(partition, 0.0), partition))
        ready = [takewhile(lambda read: read[:2] <= until, tuple(reads)) for reads in self._waiting.values()]
        records: list[Stamped] = []
        unreadable = 0
        positions, marks = dict(self._progress.positions), {p: dict(m) for p, m in self._progress.marks.items()}
        for read in heapq.merge(*ready, key=lambda read: read[:2]):
            self._waiting[read.partition].popleft()
            if read.mark is not None:
                marks.setdefault(read.partition, {})[read.spool] = read.mark
                if read.record is None:
                    unreadable += 1
                else:
                    records.append(Stamped(read.at, read.partition, read.record))
            if read.position is not None:
                positions[read.partition] = read.position
        self._progress = stream.Progress(positions, marks)
        return Taken(records, unreadable, self._progress)

    def _reads(self, delivery: stream.Delivery) -> Iterator[_Read]:
        partition, last = delivery.partition, len(delivery.frames) - 1
        seen = stream.order(delivery.position)[0]
        for index, (seq, payload) in enumerate(delivery.frames):
            record = _decoded(payload)
            clock = self._clocks.get(partition, 0.0)
            if record is not None:
                clock = self._clocks[partition] = max(clock, time_of(record))
            position = delivery.position if index == last else None
            yield _Read(clock, partition, record, delivery.spool, stream.Mark(seq, seen), position)
        if last < 0:
            clock = self._clocks.get(partition, 0.0)
            yield _Read(clock, partition, None, delivery.spool, None, delivery.position)


def _decoded(payload: bytes) -> AnyRecord | None:
    try:
        return decode(payload)
    except (msgspec.MsgspecError, ValueError):  # the collector keeps it aside with its bytes
        return None
