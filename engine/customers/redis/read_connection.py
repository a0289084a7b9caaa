"""A connection for reads only: MGET requests in, values out, without a task or a lock per read.

redis-py's path of one command is a pool, a lock, a retry, two time limits and a task. Here a read is one write to the
socket, and its reply calls the reader. Everything else stays with redis-py: it serves reads while this connection is
not open, and stores that need more than an address and a password (TLS, a cluster).

    closed --open--> opening --greeting answered--> open --error, end of stream, `timeout` without an answer--> closed

Invariants:

1. Each read ends once: with its values, or with the error that closed the connection. None is sent twice.
2. Replies come in the order of the reads, as Redis promises for one connection.
3. A read that is not answered within `timeout` closes the connection, so that no late reply is taken for another's.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import hiredis
from redis.asyncio import UnixDomainSocketConnection
from redis.asyncio.connection import parse_url
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as StoreTimeoutError

ReadOutcome = Sequence[bytes | None] | Exception
"""The values of a read in the order of its keys, or the error that ended it."""
TakeOutcome = Callable[[ReadOutcome], None]
"""Takes the outcome of a read; must not raise."""
_REOPEN_SECONDS = 0.25
"""At least between two attempts to open."""
_LOOK_SECONDS = 0.001
"""After the time limit, for a reply that arrived while this process waited for a CPU."""
_PLAIN = frozenset({"host", "port", "path", "username", "password", "db", "connection_class"})


class ReadConnection(asyncio.Protocol):
    """The connection for reads beside a client of redis-py."""

    def __init__(self, options: Mapping[str, object], timeout: float) -> None:
        """Takes the options of a plain address, as redis-py parses it, and the timeout of each answer (s)."""
        self._options = options
        self._timeout = timeout
        self._waiting: deque[tuple[float, TakeOutcome]] = deque()
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._opened_at = -_REOPEN_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._reader = hiredis.Reader()
        self.is_open = False
        """Whether `read` may be called."""

    def open_soon(self) -> None:
        """Start to open, unless an attempt is in progress or failed a moment ago."""
        loop = asyncio.get_running_loop()
        if self._opening is None and loop.time() - self._opened_at >= _REOPEN_SECONDS:
            self._opened_at = loop.time()
            self._opening = loop.create_task(self._open())

    def read(self, keys: Sequence[str], take: TakeOutcome) -> None:
        """Send one MGET; `take` gets the outcome later. Call it only while `is_open`."""
        loop = asyncio.get_running_loop()
        self._send(("MGET", *keys), take, loop.time() + self._timeout)

    async def close(self) -> None:
        """Close the connection, and end the reads that wait for it."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._end(StoreConnectionError("the connection was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport of a new connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        """Hand each reply to its reader."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if not self._waiting:
                    raise hiredis.ProtocolError("a reply that nothing asked for")
                _, take = self._waiting.popleft()
                take(ResponseError(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply)
        except hiredis.HiredisError as error:
            self._end(StoreConnectionError(f"the server's reply is not Redis: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the waiting reads."""
        self._end(StoreConnectionError(f"connection lost: {exc}" if exc else "the server closed the connection"))

    async def _open(self) -> None:
        """Connect, and greet the server; after a failure the connection stays closed."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._connect()
                await self._greet()
        except (OSError, TimeoutError, RedisError) as error:
            self._end(error)
        else:
            self.is_open = self._transport is not None
        finally:
            self._opening = None

    async def _connect(self) -> None:
        loop, options = asyncio.get_running_loop(), self._options
        if "path" in options:
            await loop.create_unix_connection(lambda: self, cast("str", options["path"]))
        else:
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            await loop.create_connection(lambda: self, cast("str", host), cast("int", port))

    async def _greet(self) -> None:
        """Authenticate and choose the database, as redis-py's connections do. Raises the server's refusal."""
        options, loop = self._options, asyncio.get_running_loop()
        name, password, number = options.get("username"), options.get("password"), options.get("db")
        commands: list[tuple[str, ...]] = []
        if password or name:
            commands.append(("AUTH", *([str(name)] if name else []), str(password or "")))
        commands.append(("SELECT", str(number or 0)))
        for command in commands:
            answered: asyncio.Future[ReadOutcome] = loop.create_future()
            self._send(command, partial(_settle, answered), loop.time() + self._timeout)
            reply = await answered
            if isinstance(reply, Exception):
                raise reply

    def _send(self, command: tuple[str, ...], take: TakeOutcome, deadline: float) -> None:
        if self._transport is None:
            take(StoreConnectionError("the connection is closed"))
            return
        self._waiting.append((deadline, take))
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type] # its stub knows no arguments
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._look_once_more)

    def _look_once_more(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._expire)

    def _expire(self) -> None:
        """Close if the oldest read is overdue; else check again when it is due."""
        loop, self._timer = asyncio.get_running_loop(), None
        if not self._waiting:
            return
        deadline, _ = self._waiting[0]
        if deadline <= loop.time():
            self._end(StoreTimeoutError(f"no answer within {self._timeout:g} s"))
        else:
            self._timer = loop.call_at(deadline, self._look_once_more)

    def _end(self, error: Exception) -> None:
        """Closes, and ends every waiting read with an error."""
        transport, self._transport, self.is_open = self._transport, None, False
        if transport is not None:
            transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for _, take in waiting:
            take(error)


def _settle(answered: "asyncio.Future[ReadOutcome]", outcome: ReadOutcome) -> None:
    if not answered.done():
        answered.set_result(outcome)


def connect_reads(url: str, timeout: float) -> ReadConnection | None:
    """A read connection to the server at `url`, not open yet; None if the address needs more than plain TCP."""
    try:
        options = parse_url(url)
    except ValueError:  # a cluster; or no address at all, which redis-py reports
        return None
    is_plain = options.keys() <= _PLAIN and options.get("connection_class") in {None, UnixDomainSocketConnection}
    return ReadConnection(options, timeout) if is_plain else None
