"""The worker's shipper: copies its spool, and the spools of processes that died, into the streams.

`ship.lua` adds a batch to a partition's stream only if the last sequence number shipped from this spool is the one that
the shipper believes; otherwise it answers what that number is, and the shipper reads its spool again from the start.
So a step whose reply was lost, and two processes that ship one spool after each other, add no record twice.
Records that the store does not take wait in the spool.
"""

import asyncio
import hashlib
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

import redis.asyncio
import structlog
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from engine import keyspace
from engine.errors import JournalError
from engine.journal.log_once import LogOnce
from engine.journal.spool import spool
from engine.journal.spool.frames import Frame
from engine.settings import cluster_address
from engine.telemetry.tracing import record_batch

AsyncStreamClient = redis.asyncio.Redis | redis.asyncio.RedisCluster

_SCRIPT = Path(__file__).with_name("ship.lua").read_text(encoding="utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()  # Redis knows a script by this name
_FINISH_SECONDS = 3.0
"""The seconds that a stopping worker has to ship its last records."""
_TIMEOUT = 2.0
"""Seconds that one command may take."""
_BUSY_SECONDS = 0.02
"""Seconds between two steps while records come in: each step costs two reads of the disk and a round trip, so records
of this time are shipped together. No answer waits for it."""
_STEP_BYTES = 256 << 10
_log = structlog.get_logger(__name__)


class Lag(NamedTuple):
    """The records of a worker's own spool that are not in the streams yet; `error` is the store's last refusal."""

    records: int
    bytes: int
    seconds: float
    error: str | None


class Shipment:
    """The progress of one spool: a position in its files and the last sequence number shipped per partition."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cursor = spool.START
        self.seq = 0
        self.is_behind = False
        """Whether the latest step left more to ship than what came in meanwhile."""
        self._shipped: dict[int, int] = {}
        self._last_in: dict[int, dict[int, int]] = {}

    async def step(self, client: AsyncStreamClient) -> bool:
        """Ship the next records of every partition; False if there were none.

        Raises:
            RedisError: if the store did not answer. The next call ships them again; the stream has them once.
        """
        frames, after = spool.read_frames(self.path, self.cursor, _STEP_BYTES)
        size = sum(len(frame.raw) for frame in frames)
        self.is_behind = size > _STEP_BYTES // 2
        if not frames:
            self.cursor = after  # in the newest segment, so that earlier ones may be deleted
            return False
        if 0 < self.seq < frames[0].seq - 1:
            lost = {"first": self.seq + 1, "last": frames[0].seq - 1}
            _log.error("records were deleted or damaged before they were shipped", spool=str(self.path), **lost)
        last_in_segment = self._last_in.setdefault(after.segment, {})
        batches: dict[int, list[Frame]] = {}
        for frame in frames:
            last_in_segment[frame.partition] = frame.seq
            if frame.seq > self._shipped.get(frame.partition, 0):
                batches.setdefault(frame.partition, []).append(frame)
        began = time.time()
        sent = await self._send(client, batches)
        record_batch("spool.ship", began, records=len(frames), bytes=size)
        if False in sent:
            self.cursor = spool.START
        else:
            self.cursor = after
            self.seq = max(self.seq, frames[-1].seq)
        return True

    async def _send(self, client: AsyncStreamClient, batches: dict[int, list[Frame]]) -> list[bool]:
        """Add each partition's batch to its stream; False if a stream ended elsewhere, whose end is now known.

        One round trip, in a cluster one per node. An error of one partition is raised after all were sent.
        """
        if not batches:
            return []
        is_cluster = isinstance(client, redis.asyncio.RedisCluster)
        pipe = client.pipeline() if is_cluster else client.pipeline(transaction=False)
        for partition in batches:
            if partition not in self._shipped:
                await client.sadd(keyspace.PARTITIONS, partition)
        for partition, batch in batches.items():
            pipe.execute_command("EVALSHA", _SHA, 2, *self._arguments(partition, batch))
        replies = await pipe.execute(raise_on_error=False)
        sent: list[bool] = []
        error: BaseException | None = None
        for (partition, batch), reply in zip(batches.items(), replies, strict=True):
            is_unknown = isinstance(reply, NoScriptError)
            there = await client.eval(_SCRIPT, 2, *self._arguments(partition, batch)) if is_unknown else reply
            if isinstance(there, BaseException):
                error = error or there
                continue
            self._shipped[partition] = int(there)
            sent.append(self._shipped[partition] == batch[-1].seq)
        if error is not None:
            raise error
        return sent

    def _arguments(self, partition: int, batch: list[Frame]) -> tuple[str | int | bytes, ...]:
        """The keys and arguments of `ship.lua`."""
        names, before = keyspace.partition(partition), self._shipped.get(partition, 0)
        frames = b"".join(frame.raw for frame in batch)
        return names.stream, names.shipped, self.path.name, before, batch[-1].seq, frames

    async def tidy(self, client: AsyncStreamClient) -> bool:
        """Delete the collected segments; True if everything that was shipped is collected."""
        collected: dict[int, int] = {}
        for partition in {partition for last in self._last_in.values() for partition in last}:
            answer = await client.hget(keyspace.partition(partition).collected, self.path.name)
            collected[partition] = int(answer or 0)
        done = {
            segment
            for segment, last in self._last_in.items()
            if segment <= self.cursor.segment and all(collected[p] >= seq for p, seq in last.items())
        }
        for segment in done - {self.cursor.segment}:
            spool.delete_segment(self.path, segment)
            del self._last_in[segment]
        return done >= self._last_in.keys()

    async def delete_progress(self, client: AsyncStreamClient) -> None:
        """Delete from the store the shipping progress of a removed spool."""
        for partition in self._shipped:
            await client.hdel(keyspace.partition(partition).shipped, self.path.name)


class Shipper:
    """Ships beside the worker's requests on its event loop: `run` it as a task; then `stop` it and await the task.

    Segments are deleted whole, so a new one starts every `life` seconds. An erased person's records therefore leave
    the disk within that time after they were collected.
    """

    def __init__(
        self, own: spool.Spool, url: str, *, interval: float = 0.05, scan: float = 5.0, life: float = 60.0
    ) -> None:
        self._own = own
        self._url = url
        self._interval = interval
        self._scan = scan
        self._life = life
        self._shipment = Shipment(own.path)
        self._adopted: list[tuple[Shipment, int]] = []
        self._stopping = asyncio.Event()
        self._current_at = time.monotonic()
        self._rolled_at = time.monotonic()
        self._error: str | None = None

    async def run(self) -> None:
        """Ship until `stop`. Records that the store refuses stay in the spool, which another process may adopt."""
        outage = LogOnce("the store refuses records; they wait in the spool", "the store takes records again")
        pause, scanned, looked = self._interval, -self._scan, time.monotonic()
        async with connect_shipper(self._url, timeout=_TIMEOUT) as client:
            while not self._stopping.is_set():
                try:
                    if time.monotonic() - looked >= self._scan:
                        looked = time.monotonic()
                        self._own.restore()
                    busy = await self._step(client)
                    due = time.monotonic() - scanned >= self._scan
                    if due:
                        scanned = time.monotonic()
                        await self._tidy(client)
                        self._adopted += adopt_spools(self._own.root)
                    self._error, pause = None, self._pause_after(busy=busy)
                    if busy or due:  # otherwise the store was not asked
                        outage.over()
                except (RedisError, JournalError, OSError) as error:
                    outage.failed(error)
                    self._error = str(error) or type(error).__name__
                    pause = min(2.0, max(pause, self._interval) * 2) * random.uniform(0.5, 1.0)
                await self._rest(pause)
            await self._finish(client)
        for _, lock in self._adopted:
            os.close(lock)
        self._own.close()

    def stop(self) -> None:
        """Make `run` ship the rest within some seconds, release every spool and return."""
        self._stopping.set()

    @property
    def adopted(self) -> int:
        """The number of spools of dead processes that this one ships."""
        return len(self._adopted)

    def lag(self) -> Lag:
        """The lag of the streams behind the worker's own spool."""
        records = self._own.seq - self._shipment.seq
        seconds = time.monotonic() - self._current_at if records else 0.0
        try:
            size = spool.bytes_after(self._own.path, self._shipment.cursor)
        except OSError as error:  # the spool was deleted meanwhile
            return Lag(records, 0, seconds, str(error))
        return Lag(records, size, seconds, self._error)

    async def _step(self, client: AsyncStreamClient) -> bool:
        """Ship the next records of the own spool and of every adopted one; True if any shipped something."""
        begun = time.monotonic()
        end = self._own.seq
        busy = self._own.is_open and await self._shipment.step(client)
        if self._shipment.seq >= end:
            self._current_at = begun
        for shipment, lock in list(self._adopted):
            try:
                busy |= await shipment.step(client)
            except FileNotFoundError:
                _log.error("a spool was deleted before it was collected", path=str(shipment.path))
                self._adopted.remove((shipment, lock))
                os.close(lock)
        return busy

    def _pause_after(self, *, busy: bool) -> float:
        """Seconds until the next step: 0 while a backlog is left, such as after an outage."""
        if self._shipment.is_behind or any(shipment.is_behind for shipment, _ in self._adopted):
            return 0.0
        return min(_BUSY_SECONDS, self._interval) if busy else self._interval

    async def _finish(self, client: AsyncStreamClient) -> None:
        """Ship the rest when the worker stops, for some seconds at most."""
        try:
            async with asyncio.timeout(_FINISH_SECONDS):
                while await self._step(client):
                    pass
        except (TimeoutError, RedisError, OSError) as error:
            _log.warning("records that were not shipped wait in the spool", path=str(self._own.path), error=str(error))

    async def _tidy(self, client: AsyncStreamClient) -> None:
        """Delete collected segments and spools, and start a new segment when the current one is old."""
        await self._shipment.tidy(client)
        if self._own.size:
            old = self._life * len(spool.segments_of(self._own.path))  # fewer new segments while nobody collects
            if time.monotonic() - self._rolled_at > old:
                self._own.roll()
                self._rolled_at = time.monotonic()
        self._adopted = await remove_collected(self._adopted, client)

    async def _rest(self, seconds: float) -> None:
        """Sleep, but return at once on `stop`."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def adopt_spools(root: Path) -> list[tuple[Shipment, int]]:
    """Adopt the spools under `root` that no process holds, each with its lock."""
    return [(Shipment(path), lock) for path, lock in spool.claim_orphans(root)]


async def ship_spools(adopted: list[tuple[Shipment, int]], url: str) -> None:
    """Ship everything in adopted spools.

    Raises:
        RedisError: if the store refuses records.
    """
    async with connect_shipper(url) as client:
        for shipment, _ in adopted:
            while await shipment.step(client):
                pass


async def remove_collected(
    adopted: list[tuple[Shipment, int]], client: AsyncStreamClient
) -> list[tuple[Shipment, int]]:
    """Remove the adopted spools whose records are all collected; returns the others."""
    left: list[tuple[Shipment, int]] = []
    for shipment, lock in adopted:
        if not await shipment.tidy(client) or spool.read_frames(shipment.path, shipment.cursor, 1)[0]:
            left.append((shipment, lock))
            continue
        torn = spool.bytes_after(shipment.path, shipment.cursor)
        if torn:
            _log.warning("a spool ends in a torn frame: its record was never answered", bytes=torn)
        spool.remove_spool(shipment.path, lock)
        await shipment.delete_progress(client)
    return left


def connect_shipper(url: str, timeout: float = 5.0) -> AsyncStreamClient:
    """An asynchronous client of the store at `url`, without retries: a retried script could hide a lost reply."""
    if (cluster := cluster_address(url)) is not None:
        return redis.asyncio.RedisCluster.from_url(
            cluster.first,
            startup_nodes=[ClusterNode(*other) for other in cluster.others],
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            protocol=2,
        )
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )
