"""The records of all partitions merged into one order that does not depend on how they were read.

A partition's clock is the latest time of its records so far; a record is stamped with the clock of its partition and
ordered by (stamp, partition). The merge keeps these invariants:

- Within a partition the order is that of the stream, because its clock never goes back.
- A record is taken only when every partition that may still hold an earlier one has been read beyond it. A partition
  that answered with as many entries as were asked for may hold more, so it bounds what can be taken.
- `Taken.progress` covers exactly the taken records, so a learner that is killed reads the others again.

A learner that catches up after an outage therefore takes its records in the same order as one that never stopped.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import msgspec
import structlog

from engine import keyspace
from engine.hashing import identifier_digest
from engine.journal import stream
from engine.journal.records import AnyRecord, DecisionRecord, EventRecord, ExposureRecord, decode

Due = tuple[float, int]  # the partition's clock (s since 1970), then the partition
_DUE = itemgetter(0, 1)
_log = structlog.get_logger(__name__)


class Stamped(NamedTuple):
    """A record and the clock of its partition (s since 1970) when it was read."""

    at: float
    partition: int
    record: AnyRecord


class _StreamFrame(NamedTuple):
    """One frame of an entry that the store added at `seen` (ms since 1970); `record` is None if it does not decode.

    The frames of an entry are followed by one with `seq` 0 and the entry's position as `last`, so that an entry counts
    as read only when all of its frames are taken.
    """

    at: float
    partition: int
    record: AnyRecord | None
    spool: str
    seq: int
    seen: int
    last: stream.Position | None


class Taken(NamedTuple):
    """Records in their order, the number of frames that did not decode, and the progress after both."""

    records: list[Stamped]
    unreadable: int
    progress: stream.Progress


def time_of(record: AnyRecord) -> float:
    """The time at which the engine received a record (s since 1970); it moves the clock of its partition."""
    return record.received if isinstance(record, EventRecord) else record.time


def drop_erased(records: Sequence[Stamped], erased: Mapping[str, float]) -> Sequence[Stamped]:
    """The records without those that an erased customer made before the erasure.

    `erased` maps the digest of an id to the time of its erasure (s since 1970). A record made after that stays: the
    customer came back and is new.
    """
    if not erased:
        return records
    return [stamped for stamped in records if not _is_erased(stamped.record, erased)]


class StreamMerger:
    """The records that were read and not taken yet, from `progress` and the partitions' `clocks` on."""

    def __init__(self, progress: stream.Progress, clocks: Mapping[int, float]) -> None:
        self._progress = progress
        self._clocks = dict(clocks)
        self._waiting: dict[int, deque[_StreamFrame]] = {}
        self._may_hold_more: set[int] = set()

    @property
    def waiting(self) -> Collection[int]:
        """The partitions of which records wait to be taken; they need not be read now."""
        return [partition for partition, frames in self._waiting.items() if frames]

    def add(self, deliveries: Iterable[stream.Delivery], count: int) -> None:
        """Add what was read with at most `count` entries of each partition."""
        entries: Counter[int] = Counter()
        waiting = self.waiting
        for delivery in deliveries:
            entries[delivery.partition] += 1
            self._waiting.setdefault(delivery.partition, deque()).extend(self._frames(delivery))
        # A partition that was not read because its records wait keeps its mark.
        still = {partition for partition in self._may_hold_more if partition in waiting}
        self._may_hold_more = still | {partition for partition, number in entries.items() if number >= count}

    def take(self) -> Taken:
        """Take all records that are older than any that may still be unread."""
        until: Due = (float("inf"), -1)
        for partition in self._may_hold_more:
            frames = self._waiting.get(partition)
            until = min(until, (frames[-1].at if frames else self._clocks.get(partition, 0.0), partition))
        ready: list[_StreamFrame] = []
        for frames in self._waiting.values():
            while frames and frames[0][:2] <= until:
                ready.append(frames.popleft())
        ready.sort(key=_DUE)  # stable, so the frames of a partition keep their order
        unreadable = sum(frame.record is None and frame.seq > 0 for frame in ready)
        records = [Stamped(frame.at, frame.partition, frame.record) for frame in ready if frame.record is not None]
        self._progress = _progress_after(self._progress, ready)
        return Taken(records, unreadable, self._progress)

    def _frames(self, delivery: stream.Delivery) -> Iterator[_StreamFrame]:
        """The frames of an entry, stamped with the partition's clock, and the entry's end."""
        partition = delivery.partition
        clock, seen = self._clocks.get(partition, 0.0), stream.position_key(delivery.position)[0]
        for seq, payload in delivery.frames:
            record = _decode_or_none(payload)
            if record is not None:
                clock = max(clock, time_of(record))
            yield _StreamFrame(
                at=clock, partition=partition, record=record, spool=delivery.spool, seq=seq, seen=seen, last=None
            )
        yield _StreamFrame(
            at=clock,
            partition=partition,
            record=None,
            spool=delivery.spool,
            seq=0,
            seen=seen,
            last=delivery.position,
        )
        self._clocks[partition] = clock


def starting_progress(
    client: stream.StreamClient, stored: stream.Progress | None, partitions: Iterable[int]
) -> stream.Progress:
    """The progress that a learner stored; of a partition that another learner read further, that learner's position.

    What the other one learnt from it is in the published snapshots, which this learner adopts.
    """
    committed = _committed_positions(client, partitions)
    if stored is None:
        return stream.Progress(committed)
    beyond = {
        p: at
        for p, at in committed.items()
        if stream.position_key(at) > stream.position_key(stored.positions.get(p, stream.BEGINNING))
    }
    if beyond:
        _log.info("another learner read further; continuing from its policies", partitions=sorted(beyond))
    marks = {p: of_spools for p, of_spools in stored.marks.items() if p not in beyond}
    return stream.Progress(stored.positions | beyond, marks)


def _committed_positions(client: stream.StreamClient, partitions: Iterable[int]) -> dict[int, str]:
    """Returns the positions up to which learners released the records, of the partitions that have one."""
    found = {p: client.hget(keyspace.partition(p).positions, stream.LEARNER) for p in partitions}
    return {p: at.decode() if isinstance(at, bytes) else at for p, at in found.items() if at}


def has_positions(client: stream.StreamClient, partitions: Collection[int]) -> bool:
    """Returns whether a learner released records of every one of these partitions before."""
    return len(_committed_positions(client, partitions)) == len(partitions)


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


def _progress_after(progress: stream.Progress, frames: Iterable[_StreamFrame]) -> stream.Progress:
    """The progress of a reader that took these frames as well."""
    positions, marks = dict(progress.positions), {p: dict(of_spools) for p, of_spools in progress.marks.items()}
    newest: dict[tuple[int, str], stream.Mark] = {}
    for frame in frames:
        if frame.seq:
            newest[frame.partition, frame.spool] = stream.Mark(frame.seq, frame.seen)
        if frame.last is not None:
            positions[frame.partition] = frame.last
    for (partition, spool), mark in newest.items():
        marks.setdefault(partition, {})[spool] = mark
    return stream.Progress(positions, marks)


def _decode_or_none(payload: bytes) -> AnyRecord | None:
    """The record, or None for bytes that are not a record that this version knows."""
    try:
        return decode(payload)
    except (msgspec.MsgspecError, ValueError):  # counted here; the collector quarantines it with its bytes
        return None


def _is_erased(record: AnyRecord, erased: Mapping[str, float]) -> bool:
    """Whether the record's customer was erased after it was made."""
    if not isinstance(record, DecisionRecord | ExposureRecord | EventRecord):
        return False
    return time_of(record) <= erased.get(identifier_digest(record.customer), float("-inf"))
