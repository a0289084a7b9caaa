"""The worker's shipper: moves its spool, and the spools that killed workers left, into the streams."""

import asyncio
import hashlib
import os
import random
import time
from pathlib import Path
from typing import NamedTuple

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from engine import keyspace
from engine.errors import JournalError
from engine.journal.log_once import Outage
from engine.journal.spool import spool

AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster

_SCRIPT = Path(__file__).with_name("ship.lua").read_text(encoding="utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode()).hexdigest()  # noqa: S324 (the name by which Redis knows a script)
_FINISH = 3.0
_PATIENCE = 2.0
_log = structlog.get_logger(__name__)


class Lag(NamedTuple):
    """What the streams do not have yet of a worker's own spool; `error` is why, if the store does not take it."""

    records: int
    bytes: int
    seconds: float
    error: str | None


class Shipment:
    """One spool on its way: a place in its files and the last sequence number shipped to each partition."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cursor = spool.START
        self.seq = 0
        self._shipped: dict[int, int] = {}
        self._last_in: dict[int, dict[int, int]] = {}

    async def step(self, client: AsyncClient) -> bool:
        """Ship the next few records of every partition; False if there were none.

        Raises:
            RedisError: if the store did not take them. They are shipped again, once, by the next call.
        """
        frames, after = spool.read(self.path, self.cursor)
        if not frames:
            self.cursor = after  # in the segment begun last: those before it may go
            return False
        if 0 < self.seq < frames[0].seq - 1:
            lost = {"first": self.seq + 1, "last": frames[0].seq - 1}
            _log.error("records were deleted or damaged before they were shipped", spool=str(self.path), **lost)
        last_in_segment = self._last_in.setdefault(after.segment, {})
        batches: dict[int, list[spool.Frame]] = {}
        for frame in frames:
            last_in_segment[frame.partition] = frame.seq
            if frame.seq > self._shipped.get(frame.partition, 0):
                batches.setdefault(frame.partition, []).append(frame)
        sent = await asyncio.gather(
            *(self._send(client, partition, batch) for partition, batch in batches.items()), return_exceptions=True
        )
        for outcome in sent:
            if isinstance(outcome, BaseException):
                raise outcome
        if False in sent:
            self.cursor = spool.START
        else:
            self.cursor = after
            self.seq = max(self.seq, frames[-1].seq)
        return True

    async def _send(self, client: AsyncClient, partition: int, batch: list[spool.Frame]) -> bool:
        """Whether the stream now ends with `batch`; if not, it is known what it ends with."""
        names = keyspace.partition(partition)
        before = self._shipped.get(partition)
        if before is None:
            await client.sadd(keyspace.PARTITIONS, partition)
        last = batch[-1].seq
        arguments = (names.stream, names.shipped, self.path.name, before or 0, last, b"".join(f.raw for f in batch))
        try:
            there = int(await client.evalsha(_SHA, 2, *arguments))
        except NoScriptError:
            there = int(await client.eval(_SCRIPT, 2, *arguments))
        self._shipped[partition] = there
        return there == last

    async def tidy(self, client: AsyncClient) -> bool:
        """Delete the segments that are collected; True if nothing that was shipped is left to collect."""
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

    async def forget(self, client: AsyncClient) -> None:
        """Remove what the store knows of a spool that is gone."""
        for partition in self._shipped:
            await client.hdel(keyspace.partition(partition).shipped, self.path.name)


class Shipper:
    """Runs beside the worker's requests on its event loop: `run` it as a task; at the end `stop` it, await the task.

    A segment goes whole, so one is begun every `life` seconds: no record, of the erased too, stays in one for longer
    than that after it was collected.
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
        """Ship until `stop`, whatever the store does: what it does not take waits in the spool, for others at last."""
        outage = Outage("the store does not take the log; it waits in the spool", "the store takes the log again")
        pause, scanned, looked = self._interval, -self._scan, time.monotonic()
        async with connect(self._url, timeout=_PATIENCE) as client:
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
                        self._adopted += adopt(self._own.root)
                    self._error, pause = None, 0.0 if busy else self._interval
                    if busy or due:  # else the store was not asked
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
        """Make `run` ship what is left, for some seconds at most, let go of every spool, and return."""
        self._stopping.set()

    def lag(self) -> Lag:
        """How far the streams are behind the spool."""
        records = self._own.seq - self._shipment.seq
        seconds = time.monotonic() - self._current_at if records else 0.0
        try:
            size = spool.bytes_after(self._own.path, self._shipment.cursor)
        except OSError as error:  # the spool was deleted
            return Lag(records, 0, seconds, str(error))
        return Lag(records, size, seconds, self._error)

    async def _step(self, client: AsyncClient) -> bool:
        begun = time.monotonic()
        end = self._own.seq
        busy = await self._shipment.step(client)
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

    async def _finish(self, client: AsyncClient) -> None:
        try:
            async with asyncio.timeout(_FINISH):
                while await self._step(client):
                    pass
        except (TimeoutError, RedisError, OSError) as error:
            _log.warning("what was not shipped waits in the spool", path=str(self._own.path), error=str(error))

    async def _tidy(self, client: AsyncClient) -> None:
        await self._shipment.tidy(client)
        old = self._life * len(spool.segments_of(self._own.path))  # few, while nobody collects
        if self._own.size and time.monotonic() - self._rolled_at > old:
            self._own.roll()
            self._rolled_at = time.monotonic()
        self._adopted = await remove_collected(self._adopted, client)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def adopt(root: Path) -> list[tuple[Shipment, int]]:
    """Take over the spools below `root` that no process holds, each with its lock."""
    return [(Shipment(path), lock) for path, lock in spool.orphans(root)]


async def ship(adopted: list[tuple[Shipment, int]], url: str) -> None:
    """Ship adopted spools to their ends.

    Raises:
        RedisError: if the store does not take them.
    """
    async with connect(url) as client:
        for shipment, _ in adopted:
            while await shipment.step(client):
                pass


async def remove_collected(adopted: list[tuple[Shipment, int]], client: AsyncClient) -> list[tuple[Shipment, int]]:
    """Remove the adopted spools of which everything is collected; the others."""
    left: list[tuple[Shipment, int]] = []
    for shipment, lock in adopted:
        if not await shipment.tidy(client) or spool.read(shipment.path, shipment.cursor, 1)[0]:
            left.append((shipment, lock))
            continue
        torn = spool.bytes_after(shipment.path, shipment.cursor)
        if torn:
            _log.warning("the end of a spool was torn: its last record was never answered", bytes=torn)
        spool.remove(shipment.path, lock)
        await shipment.forget(client)
    return left


def connect(url: str, timeout: float = 5.0) -> AsyncClient:
    """The asynchronous twin of `stream.connect`."""
    if "+cluster://" in url:
        return redis.asyncio.RedisCluster.from_url(
            url.replace("+cluster", "", 1), socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2
        )
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )
