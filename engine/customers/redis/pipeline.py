"""The way to Redis: everything asked within one tick of the event loop travels together, and nothing is retried."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from engine.errors import StoreUnavailable

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
    """A Lua script and the hash by which the server knows it."""

    text: str
    sha: str


class FollowUp(NamedTuple):
    """What a reader needs besides what it asked for first."""

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
    """The Lua script in a file."""
    text = path.read_text(encoding="utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def connect_store(url: str, timeout: float = 0.05) -> RedisClient:
    """A client of one server (`redis://`, `rediss://`, `unix://`) or of a cluster (`redis+cluster://host:port`).

    Every wait, for the connection or an answer, ends after `timeout` seconds; no command is sent twice.
    """
    scheme, *rest = urlsplit(url)
    base, plus, _ = scheme.partition("+")
    once = Retry(NoBackoff(), 0)
    if plus:
        return RedisCluster.from_url(
            urlunsplit((base, *rest)), socket_timeout=timeout, socket_connect_timeout=timeout, retry=once
        )
    return Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=once)


class RedisPipeline:
    """Reads and writes of one process, each coalesced per tick, at most two of each on their way."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self._cluster = isinstance(client, RedisCluster)
        self._reads = _SendQueue(self._send_reads, READS)
        self._writes = _SendQueue(self._send_writes, WRITES)

    def get(self, keys: list[str], read: Callable[[StoredValues], T | FollowUp]) -> "asyncio.Future[T]":
        """What `read` makes of the values of `keys`; where it answers `Again`, a second look-up follows.

        The future raises StoreUnavailable where the store did not answer in time.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._reads.add(_PendingRead(keys, read, future))
        return cast("asyncio.Future[T]", future)

    def send(self, *command: Argument) -> "asyncio.Future[RedisReply]":
        """The reply to one command; errors as in `get`."""
        future: asyncio.Future[RedisReply] = asyncio.get_running_loop().create_future()
        self._writes.add(_PendingWrite(command, None, future))
        return future

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> "asyncio.Future[RedisReply]":
        """The reply of a Lua script; `keys` share one hash slot. Errors as in `get`."""
        future: asyncio.Future[RedisReply] = asyncio.get_running_loop().create_future()
        self._writes.add(_PendingWrite(("EVALSHA", script.sha, len(keys), *keys, *arguments), script, future))
        return future

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """The keys that look like `pattern`, some at a time; what is there all the while is among them.

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

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()

    async def _send_reads(self, batch: list[_PendingRead]) -> None:
        try:
            values = await self._get([key for item in batch for key in item.keys])
        except Exception as error:  # noqa: BLE001 (nobody may wait for ever, whatever broke)
            _fail([item.future for item in batch], error)
            return
        start = 0
        for keys, read, future in batch:
            end = start + len(keys)
            if not future.done():
                try:
                    found = read(values[start:end])
                except Exception as error:  # noqa: BLE001 (whoever awaits it gets it; the others must still be served)
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
        except Exception as error:  # noqa: BLE001 (nobody may wait for ever, whatever broke)
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
    """Items of one tick, sent together; what comes while two batches are on their way waits for one of them."""

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
            task.add_done_callback(self._landed)

    def _landed(self, task: "asyncio.Task[None]") -> None:
        self._flying.discard(task)
        if self._waiting and not self._scheduled:
            self._flush()


def _unavailable(error: Exception) -> StoreUnavailable:
    return StoreUnavailable(f"Redis: {type(error).__name__}: {error}; is it up and writable?")


def _fail(futures: "Sequence[asyncio.Future[T]]", error: Exception) -> None:
    for future in futures:
        if not future.done():
            problem = _unavailable(error)
            problem.__cause__ = error
            future.set_exception(problem)
            future.exception()  # seen here, so that one of several that nobody awaits any more is not reported lost
