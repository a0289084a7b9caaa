"""Access to Redis: commands of one tick of the event loop share a round trip, and none is retried.

A retry would wait longer than a storefront does, and could apply a write twice.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from engine.customers.redis.packing import connect_packed
from engine.customers.redis.read_connection import ReadConnection, ReadOutcome, TakeOutcome
from engine.errors import StoreUnavailable
from engine.settings import cluster_address

IN_FLIGHT = 2
READS = 512
WRITES = 128
SCANNED = 1000

T = TypeVar("T")
Argument = bytes | str | int | float
StoredValue = bytes | None
StoredValues = Sequence[StoredValue]
RedisReply = bytes | int | list[bytes | int | None] | Mapping[bytes, bytes] | None
RedisClient = Redis | RedisCluster


class Script(NamedTuple):
    """A Lua script and its hash, by which the server identifies it."""

    text: str
    sha: str


class FollowUp(NamedTuple):
    """A second look-up that a reader needs after its first."""

    keys: list[str]
    read: "ReadValues"


ReadValues = Callable[[StoredValues], object]


class _PendingRead(NamedTuple):
    keys: list[str]
    read: ReadValues
    future: "asyncio.Future[object]"


class _PendingWrite(NamedTuple):
    command: tuple[Argument, ...]
    script: Script | None
    future: "asyncio.Future[RedisReply]"


def load_script(path: Path) -> Script:
    """Reads the Lua script in a file."""
    text = path.read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def connect_store(url: str, timeout: float = 0.05) -> RedisClient:
    """Returns a client of one server (`redis://`, `rediss://`, `unix://`) or of a cluster (`redis+cluster://host:port,…`).

    Every wait, for the connection or an answer, ends after `timeout` seconds; no command is sent twice.
    """
    once = Retry(NoBackoff(), 0)
    if (cluster := cluster_address(url)) is not None:
        return RedisCluster.from_url(
            cluster.first,
            startup_nodes=[ClusterNode(*other) for other in cluster.others],
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=once,
        )
    return connect_packed(url, timeout=timeout, retry=once)


class RedisPipeline:
    """The reads and writes of one process, each coalesced per tick, at most `IN_FLIGHT` batches of each at a time."""

    def __init__(self, client: RedisClient, reads: ReadConnection | None = None) -> None:
        """Serve from `client`, and batches that a caller collected from `reads` while that is open."""
        self.client = client
        self._direct = reads
        self._tasks: set[asyncio.Task[None]] = set()
        self._cluster = isinstance(client, RedisCluster)
        self._reads = _SendQueue(self._send_reads, READS)
        self._writes = _SendQueue(self._send_writes, WRITES)

    def get(self, keys: list[str], read: Callable[[StoredValues], T | FollowUp]) -> "asyncio.Future[T]":
        """Returns the result of `read` for the values of `keys`; if it is a `FollowUp`, a second look-up follows.

        The future raises StoreUnavailable if the store does not answer in time.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._reads.add(_PendingRead(keys, read, future))
        return cast("asyncio.Future[T]", future)

    def get_at_once(self, keys: list[str], take: TakeOutcome) -> None:
        """Read `keys` in a round trip of their own, for a caller that has collected a batch itself.

        `take` gets the values, or StoreUnavailable if the store does not answer in time.
        """
        direct = self._direct
        if direct is not None and direct.is_open:
            direct.read(keys, lambda found: take(_unavailable(found) if isinstance(found, Exception) else found))
            return
        if direct is not None:
            direct.open_soon()
        task = asyncio.get_running_loop().create_task(self._get_by_client(keys, take))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _get_by_client(self, keys: list[str], take: TakeOutcome) -> None:
        try:
            found: ReadOutcome = await self._get(keys)
        except Exception as error:  # noqa: BLE001 (the caller gets it)
            found = _unavailable(error)
        take(found)

    def send(self, *command: Argument) -> "asyncio.Future[RedisReply]":
        """Sends one command and returns its reply; errors as in `get`."""
        future: asyncio.Future[RedisReply] = asyncio.get_running_loop().create_future()
        self._writes.add(_PendingWrite(command, None, future))
        return future

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> "asyncio.Future[RedisReply]":
        """Runs a Lua script and returns its reply; `keys` share one hash slot. Errors as in `get`."""
        future: asyncio.Future[RedisReply] = asyncio.get_running_loop().create_future()
        self._writes.add(_PendingWrite(("EVALSHA", script.sha, len(keys), *keys, *arguments), script, future))
        return future

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Yields the keys that match `pattern` in pages; a key that exists throughout the scan is among them.

        Raises:
            StoreUnavailable: if the store does not answer in time.
        """
        found: list[str] = []
        try:
            async for key in self.client.scan_iter(match=pattern, count=SCANNED):
                found.append(key.decode())
                if len(found) == READS:
                    yield found
                    found = []
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        yield found

    async def read_eviction_policy(self) -> str | None:
        """The store's `maxmemory-policy` if it deletes values to free memory (of any node); errors as in `scan`."""
        try:
            if isinstance(self.client, RedisCluster):
                nodes = await self.client.info("memory", target_nodes=RedisCluster.PRIMARIES)
            else:
                nodes = {"": await self.client.info("memory")}
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error
        policies = [node.get("maxmemory_policy") for node in nodes.values()]
        return next((policy for policy in policies if policy not in {None, "noeviction"}), None)

    async def close(self) -> None:
        """Close the connections."""
        if self._direct is not None:
            await self._direct.close()
        await self.client.aclose()

    async def _send_reads(self, batch: list[_PendingRead]) -> None:
        try:
            values = await self._get([key for item in batch for key in item.keys])
        except Exception as error:  # noqa: BLE001 (every waiting caller must get an answer)
            _fail([item.future for item in batch], error)
            return
        start = 0
        for keys, read, future in batch:
            end = start + len(keys)
            if not future.done():
                try:
                    found = read(values[start:end])
                except Exception as error:  # noqa: BLE001 (its caller gets the error; the others must still be served)
                    future.set_exception(error)
                else:
                    if type(found) is FollowUp:
                        self._reads.add(_PendingRead(found.keys, found.read, future))
                    else:
                        future.set_result(found)
            start = end

    async def _get(self, keys: list[str]) -> StoredValues:
        if not self._cluster:
            return cast("StoredValues", await self.client.execute_command("MGET", *keys))
        pipe = self.client.pipeline()
        for key in keys:
            pipe.execute_command("GET", key)
        return cast("StoredValues", await pipe.execute())

    async def _send_writes(self, batch: list[_PendingWrite]) -> None:
        futures = [item.future for item in batch]
        try:
            replies = await self._pipe([item.command for item in batch])
            missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if missing:
                texts = [cast("Script", batch[i].script).text for i in missing]
                again = await self._pipe(
                    [("EVAL", text, *batch[i].command[2:]) for i, text in zip(missing, texts, strict=True)]
                )
                for i, reply in zip(missing, again, strict=True):
                    replies[i] = reply
        except Exception as error:  # noqa: BLE001 (every waiting caller must get an answer)
            _fail(futures, error)
            return
        for future, reply in zip(futures, replies, strict=True):
            if isinstance(reply, Exception):
                _fail([future], reply)
            elif not future.done():
                future.set_result(cast("RedisReply", reply))

    async def _pipe(self, commands: list[tuple[Argument, ...]]) -> list[object]:
        if len(commands) == 1:
            try:
                return [await self.client.execute_command(*commands[0])]
            except NoScriptError as error:
                return [error]
        pipe = self.client.pipeline() if self._cluster else cast("Redis", self.client).pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return cast("list[object]", await pipe.execute(raise_on_error=False))


class _SendQueue(Generic[T]):
    """Sends the items of one tick together; with `IN_FLIGHT` batches in flight, later items wait for one to return."""

    def __init__(self, send: Callable[[list[T]], Coroutine[None, None, None]], size: int) -> None:
        self._send = send
        self._size = size
        self._waiting: list[T] = []
        self._flying: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def add(self, item: T) -> None:
        self._waiting.append(item)
        if not self._scheduled and len(self._flying) < IN_FLIGHT:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._flying) < IN_FLIGHT:
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            task = asyncio.get_running_loop().create_task(self._send(batch))
            self._flying.add(task)
            task.add_done_callback(self._on_sent)

    def _on_sent(self, task: "asyncio.Task[None]") -> None:
        self._flying.discard(task)
        if self._waiting and not self._scheduled:
            self._flush()


def _unavailable(error: Exception) -> StoreUnavailable:
    problem = StoreUnavailable(f"Redis: {type(error).__name__}: {error}; is it up and writable?")
    problem.__cause__ = error
    return problem


def _fail(futures: "Sequence[asyncio.Future[T]]", error: Exception) -> None:
    for future in futures:
        if not future.done():
            problem = _unavailable(error)
            future.set_exception(problem)
            future.exception()  # marks it retrieved: asyncio would log the futures whose callers stopped waiting
