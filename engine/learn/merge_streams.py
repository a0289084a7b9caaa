"""The records of all partitions in the order of their time, whatever pieces they were read in.

A partition's clock is the latest time that it said; its records are taken by that clock. Where one partition is read
only up to some time, what others have beyond it waits, so that a learner that catches up takes what it reads in the
order in which one that never stopped did.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import NamedTuple

import msgspec

from engine.journal import stream
from engine.journal.records import AnyRecord, EventRecord, decode

Due = tuple[float, int]  # by the partition's clock (s since 1970), then by partition
_DUE = itemgetter(0, 1)


class Stamped(NamedTuple):
    """A record and the clock of its partition when it came."""

    at: float
    partition: int
    record: AnyRecord


class _Frame(NamedTuple):
    """One frame of an entry that was added at `seen` (ms since 1970), its record None where it cannot be read.

    After the frames of an entry comes its position as `last`, without a frame: its number is 0.
    """

    at: float
    partition: int
    record: AnyRecord | None
    spool: str
    seq: int
    seen: int
    last: stream.Position | None


class Taken(NamedTuple):
    """Records in their order, how many could not be read, and how far that is."""

    records: list[Stamped]
    unreadable: int
    progress: stream.Progress


def time_of(record: AnyRecord) -> float:
    """When a record came in, which is what moves the clock of its partition."""
    return record.received if isinstance(record, EventRecord) else record.time


class StreamMerger:
    """What was read and not taken yet, from `progress` and the partitions' `clocks` on."""

    def __init__(self, progress: stream.Progress, clocks: Mapping[int, float]) -> None:
        self._progress = progress
        self._clocks = dict(clocks)
        self._waiting: dict[int, deque[_Frame]] = {}
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
        ready: list[_Frame] = []
        for reads in self._waiting.values():
            while reads and reads[0][:2] <= until:
                ready.append(reads.popleft())
        ready.sort(key=_DUE)
        unreadable = sum(read.record is None and read.seq > 0 for read in ready)
        records = [Stamped(read.at, read.partition, read.record) for read in ready if read.record is not None]
        self._progress = _after(self._progress, ready)
        return Taken(records, unreadable, self._progress)

    def _reads(self, delivery: stream.Delivery) -> Iterator[_Frame]:
        partition, spool = delivery.partition, delivery.spool
        clock, seen = self._clocks.get(partition, 0.0), stream.position_key(delivery.position)[0]
        for seq, payload in delivery.frames:
            record = _decoded(payload)
            if record is not None:
                at = time_of(record)
                clock = max(clock, at)
            yield _Frame(clock, partition, record, spool, seq, seen, None)
        yield _Frame(clock, partition, None, spool, 0, seen, delivery.position)
        self._clocks[partition] = clock


def _after(progress: stream.Progress, reads: Iterable[_Frame]) -> stream.Progress:
    """The progress of whoever took these as well."""
    positions, marks = dict(progress.positions), {p: dict(of_spools) for p, of_spools in progress.marks.items()}
    newest: dict[tuple[int, str], stream.Mark] = {}
    for read in reads:
        if read.seq:
            newest[read.partition, read.spool] = stream.Mark(read.seq, read.seen)
        if read.last is not None:
            positions[read.partition] = read.last
    for (partition, spool), mark in newest.items():
        marks.setdefault(partition, {})[spool] = mark
    return stream.Progress(positions, marks)


def _decoded(payload: bytes) -> AnyRecord | None:
    try:
        return decode(payload)
    except (msgspec.MsgspecError, ValueError):  # the collector keeps it aside with its bytes
        return None
