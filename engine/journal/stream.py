"""Redis Streams between spools and readers, one per partition of customers.

An entry holds one batch of one spool: `s` the spool's id, `p` the sequence number that the batch follows, `f` its
frames (layout: `spool.frames`). Invariants:

1. A reader takes each record once: it remembers the last sequence number per spool (`Mark`) and skips older ones.
2. Records of one spool and partition are read in the order of their sequence numbers.
3. An entry is trimmed only after every registered reader has committed a position behind it.
4. Records that the store lost are reported: a batch that follows a number not yet read leaves a gap (`LostRecords`).
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry

from engine import keyspace
from engine.errors import BadInput, JournalError
from engine.journal.spool import frames
from engine.keyspace import LEARNER_FIGURES, PARTITIONS
from engine.settings import cluster_address

StreamClient = redis.Redis | redis.RedisCluster
Position = str
BEGINNING: Position = "0-0"
LEARNER = "learner"
LAST = "last"
"""A field beside the spools' in `shipped`: the id of the stream's last entry. No spool has this name."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The last sequence number of one spool that a reader took, and when its entry was added (ms since 1970)."""

    seq: int
    seen: int


class Progress(msgspec.Struct, frozen=True):
    """The position of a reader, by partition; it is stored in one transaction with the result of reading."""

    positions: dict[int, Position] = {}
    marks: dict[int, dict[str, Mark]] = {}

    def merge(self, other: "Progress") -> "Progress":
        """The maximum of both, element by element: associative, commutative and idempotent."""
        positions = dict(self.positions)
        for partition, position in other.positions.items():
            positions[partition] = max(position, positions.get(partition, BEGINNING), key=position_key)
        marks = {partition: dict(of_spools) for partition, of_spools in self.marks.items()}
        for partition, of_spools in other.marks.items():
            merged = marks.setdefault(partition, {})
            for name, mark in of_spools.items():
                known = merged.get(name, mark)
                merged[name] = Mark(max(mark.seq, known.seq), max(mark.seen, known.seen))
        return Progress(positions, marks)

    def without_spools_before(self, seen: int) -> "Progress":
        """The same state without the marks of spools whose last record is older than `seen` (ms since 1970)."""
        return Progress(
            dict(self.positions),
            {
                partition: {name: mark for name, mark in of_spools.items() if mark.seen >= seen}
                for partition, of_spools in self.marks.items()
            },
        )


_MOST_RECORDS = 2**53


class Delivery(NamedTuple):
    """The records of one entry that are new to the reader, as (sequence number, encoded record).

    `broken` is the part of the entry that could not be read.
    """

    partition: int
    position: Position
    spool: str
    frames: list[tuple[int, bytes]]
    broken: bytes = b""


class LostRecords(NamedTuple):
    """Sequence numbers `first` to `last` of a spool: those of this partition never arrived."""

    partition: int
    spool: str
    first: int
    last: int


class Reader:
    """Reads streams from `progress` on. The store retains entries until the reader called `name` commits past them.

    It reads all partitions, including ones that appear later, or those in `only`.
    """

    def __init__(
        self,
        client: StreamClient,
        name: str,
        progress: Progress,
        *,
        partitions: int = 0,
        only: Collection[int] | None = None,
    ) -> None:
        self._client = client
        self._name = name
        self._only = only
        begun = dict.fromkeys(range(partitions) if only is None else only, BEGINNING) | progress.positions
        self._positions = {p: position for p, position in begun.items() if only is None or p in only}
        self._marks = {p: dict(marks) for p, marks in progress.marks.items() if p in self._positions}
        self.lost: list[LostRecords] = []

    @property
    def progress(self) -> Progress:
        """The position from which the next reader starts, provided that everything read so far is stored."""
        return Progress(dict(self._positions), {p: dict(of_spools) for p, of_spools in self._marks.items()})

    def read(self, count: int = 16, *, besides: Collection[int] = ()) -> list[Delivery]:
        """Up to `count` entries of each partition except `besides`, without waiting.

        Raises:
            redis.RedisError: if the store does not answer. Calling again skips nothing.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.smembers(PARTITIONS)
        asked = [partition for partition in self._positions if partition not in besides]
        for partition in asked:
            names, position = keyspace.partition(partition), self._positions[partition]
            pipeline.xread({names.stream: position}, count=count)
            pipeline.hget(names.shipped, LAST)
        known, *answers = pipeline.execute()
        deliveries: list[Delivery] = []
        for partition, streams, last in zip(asked, answers[::2], answers[1::2], strict=True):
            for _, entries in streams:
                deliveries += [self._take(partition, entry.decode(), fields) for entry, fields in entries]
            shipped = position_key(last.decode() if last else BEGINNING)
            if shipped < position_key(self._positions[partition]) and self._is_shorter(partition):
                # The store lost entries that were read already. New ones may get smaller ids, so read from the start.
                self._positions[partition] = BEGINNING
        for partition in map(int, known):
            if self._only is None or partition in self._only:
                self._positions.setdefault(partition, BEGINNING)
        return deliveries

    def _is_shorter(self, partition: int) -> bool:
        """Whether the stream ends before the position of this reader; another program's entries may lengthen it."""
        try:
            end = self._client.xinfo_stream(keyspace.partition(partition).stream)["last-generated-id"]
        except redis.ResponseError:  # there is no stream
            end = BEGINNING
        return position_key(end.decode() if isinstance(end, bytes) else end) < position_key(self._positions[partition])

    def commit(self, progress: Progress) -> None:
        """Release the entries up to `progress`, which the caller has stored durably."""
        pipeline = self._client.pipeline(transaction=False)
        for partition, position in progress.positions.items():
            pipeline.hset(keyspace.partition(partition).positions, self._name, position)
        pipeline.execute()

    def _take(self, partition: int, position: Position, fields: dict[bytes, bytes]) -> Delivery:
        """The delivery of one entry, without records that this reader has; notes the gap if records were lost."""
        self._positions[partition] = position
        try:
            name, before, data = fields[b"s"].decode(), int(fields[b"p"]), fields[b"f"]
            if not 0 <= before <= _MOST_RECORDS:
                raise ValueError(f"{before} records were not shipped before this entry")
        except (KeyError, ValueError):
            return Delivery(partition, position, "", [], repr(fields).encode())
        marks = self._marks.setdefault(partition, {})
        mark = marks.get(name)
        taken = mark.seq if mark else 0
        if mark and before > taken:
            self.lost.append(LostRecords(partition, name, taken + 1, before))
        fresh, whole = frames.decode_payloads(data, taken)
        if fresh:
            marks[name] = Mark(fresh[-1][0], position_key(position)[0])
        return Delivery(partition, position, name, fresh, data[whole:])


def publish_collected(client: StreamClient, progress: Progress) -> None:
    """Publish to the workers what they may delete: all records up to the marks are in the Parquet log."""
    pipeline = client.pipeline(transaction=False)
    for partition, of_spools in progress.marks.items():
        if of_spools:
            pipeline.hset(
                keyspace.partition(partition).collected, mapping={name: mark.seq for name, mark in of_spools.items()}
            )
    pipeline.execute()


def drop_removed_spools(client: StreamClient, before: Progress, seen: int) -> Progress:
    """`before` without marks of removed spools whose last record is older than `seen` (ms since 1970).

    A spool is removed once its folder and its last shipped number are deleted; until then it may be shipped again.
    """
    recent = before.without_spools_before(seen)
    marks = {}
    for partition, of_spools in before.marks.items():
        removed = of_spools.keys() - recent.marks[partition].keys()
        if removed:
            shipping = client.hkeys(keyspace.partition(partition).shipped)
            removed -= {name.decode() if isinstance(name, bytes) else name for name in shipping}
        if removed:
            client.hdel(keyspace.partition(partition).collected, *removed)
        marks[partition] = {name: mark for name, mark in of_spools.items() if name not in removed}
    return Progress(dict(before.positions), marks)


def trim_streams(client: StreamClient, partitions: list[int]) -> None:
    """Delete the entries that every registered reader has committed."""
    for partition in partitions:
        names = keyspace.partition(partition)
        positions = [value.decode() if isinstance(value, bytes) else value for value in client.hvals(names.positions)]
        if positions:
            milliseconds, count = min(map(position_key, positions))
            client.xtrim(names.stream, minid=f"{milliseconds}-{count + 1}", approximate=False)


def publish_counts(client: StreamClient, counts: Mapping[str, int]) -> None:
    """Publish the counters of a process by name, `kind|label|process`, for decision servers to export."""
    if counts:
        client.hset(LEARNER_FIGURES, mapping={name: str(count) for name, count in counts.items()})


def register_reader(client: StreamClient, reader: str, partitions: int) -> None:
    """Retain all entries for a reader that has not started, unless it has committed a position before."""
    for partition in range(partitions):
        client.hsetnx(keyspace.partition(partition).positions, reader, BEGINNING)


def has_entries_before(client: StreamClient, time: float) -> bool:
    """Whether a stream still has an entry older than `time` (s since 1970)."""
    last = f"{int(time * 1000)}"
    return any(
        client.xrange(keyspace.partition(int(one)).stream, max=last, count=1) for one in client.smembers(PARTITIONS)
    )


def unregister_reader(client: StreamClient, name: str) -> None:
    """Release the entries retained for a reader that will not return."""
    for partition in client.smembers(PARTITIONS):
        client.hdel(keyspace.partition(int(partition)).positions, name)


def position_key(position: Position) -> tuple[int, int]:
    """The position as numbers that sort in stream order: milliseconds since 1970, and a count within them."""
    milliseconds, _, count = position.partition("-")
    return int(milliseconds), int(count)


def connect_stream(url: str, timeout: float = 5.0) -> StreamClient:
    """A client without retries whose commands time out after `timeout` seconds; `redis+cluster://` is a cluster.

    A retried XADD whose reply was lost would add an entry twice.

    Raises:
        BadInput: if redis-py cannot use `url`.
    """
    try:
        if (cluster := cluster_address(url)) is not None:
            return redis.RedisCluster.from_url(
                cluster.first,
                startup_nodes=[ClusterNode(*other) for other in cluster.others],  # type: ignore[no-untyped-call]
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                protocol=2,
            )
        return redis.Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise BadInput(f"{url!r} is not the address of a store: {error}; write redis://host:6379/0") from error


def read_layout(client: StreamClient) -> int | None:
    """The layout that the store's keys and values have; None if none is noted, as in earlier versions.

    Raises:
        JournalError: if it is of a later version.
        RedisError: if the store does not answer.
    """
    found = client.get(keyspace.STORE_LAYOUT)
    layout = int(found) if found else None
    if layout is not None and layout > keyspace.LAYOUT:
        raise JournalError(
            f"the store has layout {layout} of a later version, this one reads up to {keyspace.LAYOUT}; install that"
        )
    return layout


def note_layout(client: StreamClient) -> None:
    """Note in the store that its keys and values have this version's layout."""
    client.set(keyspace.STORE_LAYOUT, keyspace.LAYOUT)


def refuse_eviction(client: StreamClient) -> None:
    """Check that the store never deletes acknowledged records to free memory, and is not of a later version.

    Raises:
        JournalError: if its `maxmemory-policy` evicts, or its layout is of a later version.
    """
    read_layout(client)
    try:
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    except redis.ResponseError:  # hosted stores forbid CONFIG
        policy = client.info("memory").get("maxmemory_policy")
    if policy not in {None, "noeviction"}:
        raise JournalError(
            f"maxmemory-policy is {policy!r}: it would delete answered decisions to make room; "
            "set it to noeviction (CONFIG SET maxmemory-policy noeviction)"
        )
