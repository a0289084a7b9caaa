"""The fast path of hot requests: bytes go from the socket to the handler, and the answer back in one write.

uvicorn parses, queues and answers every request, and Litestar looks up its route. A plain POST to a hot path that
arrived in one piece needs none of that: a sixth less CPU per decision (`loadtests/README.md`).

Invariants:

1. The fast path never guesses. Whatever `parse_plain_request` does not recognize as one complete, plain request goes to
   uvicorn untouched and is judged there: stricter than HTTP is safe, laxer is request smuggling.
2. Answers leave a connection in the order of its requests: the fast path starts only while no other request is parsed
   or in progress on it. Bytes that arrive meanwhile go to uvicorn, which queues them behind `cycle`.
3. The handler and the bytes of its answer are the same on both paths.

| the connection | data arrives | becomes |
|---|---|---|
| idle | a plain request to a hot path | answering: `_FastCycle` is uvicorn's `cycle` until the answer is written |
| idle | anything else | parsing, by uvicorn, until its message is complete |
| answering, parsing | anything | uvicorn parses it and starts it when the request before is answered |
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, cast

from litestar import Litestar
from litestar.routes import ASGIRoute, HTTPRoute
from litestar.types import HTTPReceiveMessage, HTTPResponseStartEvent, HTTPScope, Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from engine.service.access.admission import refuse_overload
from engine.service.access.connection import BoundedProtocol, ConnectionLimits
from engine.service.http import ASGI_ENDPOINT, IS_PROBE, TAKE, WHOLE_BODY, TakeWhole, WholeRequest
from engine.service.ids import new_request_id
from engine.service.problems import PROBLEM

HeaderList = list[tuple[bytes, bytes]]
AsgiEndpoint = Callable[[HTTPScope, Receive, Send], Awaitable[None]]

MOST_IN_PROGRESS = 1024
"""Requests of a process that the fast path has its handlers answer, each by itself: more events and exposures than it
stores in a second or two. Decisions have a queue of their own (`admission`). Streams and pages, which may stay open for
an hour and do nothing meanwhile, are uvicorn's and do not count."""
HELD_SECONDS = 0.5
"""Half of the shortest `Retry-After`."""
_UNUSUAL = frozenset((b"expect", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
_NAME = bytes(byte for byte in range(33, 127) if chr(byte) not in '"(),/:;<=>?@[\\]{}')
_TEXT = bytes(range(32, 127)) + b"\t"
_HOST = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:[]"
_MOST_DIGITS = 18
_VERSION = b" HTTP/1.1"
_POST = len(b"POST ")
_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:"
"""The bytes of a parameter that mean the same to every parser of a path."""
_NO_PARAMS: Mapping[str, str] = {}
_STAY_OPEN, _CLOSE = b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"
"""The ends of a head, after its last header."""
_NO_MORE_BODY = asyncio.Event()  # uvicorn sets it when more of a body comes; here nobody waits for more


class HotRoute(NamedTuple):
    """A hot path with its parameters: its handler, and optionally a batch handler for plain requests."""

    path: str
    endpoint: AsgiEndpoint
    take: TakeWhole | None = None
    params: Mapping[str, str] = _NO_PARAMS


class _FastCycle:
    """The request in progress: the attributes that uvicorn's protocol reads and sets on its `cycle`."""

    __slots__ = ("_connection", "disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self, connection: "FastPathProtocol") -> None:
        self._connection = connection
        self.message_event = _NO_MORE_BODY
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def write(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer the request with one write."""
        self.response_complete = True
        connection = self._connection
        if not self.disconnected:
            lines = b"\r\n".join([b": ".join(header) for header in headers])
            end = _STAY_OPEN if self.keep_alive else _CLOSE
            connection.transport.write(b"".join((STATUS_LINE[status], lines, end, body)))
            if not self.keep_alive:
                connection.transport.close()
        connection.on_response_complete()  # also without a client: uvicorn starts the next queued request here


class HeadReader:
    """Splits plain requests of one connection; it parses a head that equals the one before only once.

    Clients that keep a connection open repeat their headers, so most requests differ in the body alone.
    """

    __slots__ = ("_head", "_headers", "_length", "_limits")

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._head: bytes | None = None
        self._headers: HeaderList = []
        self._length = 0

    def read(self, data: bytes) -> tuple[HeaderList, bytes] | None:
        """Headers and body of `data` as `parse_plain_request` gives them, or None."""
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            return None
        if head != self._head:
            parsed = _parse_head(head, self._limits, is_probe=False)
            if parsed is None:
                return None
            self._head, (self._headers, self._length) = head, parsed
        return (self._headers.copy(), body) if self._length == len(body) else None


class FastPathProtocol(BoundedProtocol):
    """A bounded connection that tries the fast path first."""

    endpoints: ClassVar[Mapping[bytes, HotRoute]] = {}
    """By request line."""
    prefixes: ClassVar[Sequence[tuple[bytes, str, AsgiEndpoint]]] = ()
    """The paths that end in a parameter: the request line up to it, the parameter's name, and the handler."""
    probes: ClassVar[Mapping[bytes, HotRoute]] = {}
    """By request line: the probes that a server which is behind answers at once, ahead of the work that waits."""
    in_progress: ClassVar[set[asyncio.Task[None]]] = set()
    """The requests of all connections that the fast path has handlers answer."""
    _answered_at = 0.0
    _heads: HeadReader | None = None

    def data_received(self, data: bytes) -> None:
        """Answer a plain request on the fast path while the connection is idle; else pass the data to uvicorn."""
        if self.is_idle:
            line = data[: data.find(b"\r\n")]
            route = self.endpoints.get(line) or self._parameter_route(line)
            request = self._read_plain(data) if route else None
            if route and request:
                self.unset_timer()
                cycle = _FastCycle(self)
                self.cycle = cast("RequestResponseCycle", cycle)
                if self._takes_whole(route, request, cycle):
                    return
                if len(self.in_progress) >= MOST_IN_PROGRESS:
                    self._refuse_overload(cycle)
                else:
                    self._start_answer(route, request, cycle)
                return
            if line in self.probes and self._takes_probe(self.probes[line], data):
                return
        super().data_received(data)

    def _read_plain(self, data: bytes) -> tuple[HeaderList, bytes] | None:
        """Headers and body of one complete plain request; else None."""
        if self._heads is None:
            self._heads = HeadReader(self.limits)
        return self._heads.read(data)

    def _takes_probe(self, route: HotRoute, data: bytes) -> bool:
        """Pass a probe to its route, which answers it at once or leaves it to uvicorn; False if it did that."""
        request = parse_plain_request(data, self.limits, is_probe=True)
        if request is None:
            return False
        before, cycle = self.cycle, _FastCycle(self)
        cycle.keep_alive = (b"connection", b"close") not in request[0]
        self.cycle = cast("RequestResponseCycle", cycle)
        self.unset_timer()
        if self._takes_whole(route, request, cycle):
            return True
        self.cycle = before
        return False

    def _start_answer(self, route: HotRoute, request: tuple[HeaderList, bytes], cycle: _FastCycle) -> None:
        """Start the route's handler for this request alone."""
        task = self.loop.create_task(self._answer(route, *request, cycle))
        self.in_progress.add(task)
        self.tasks.add(task)  # uvicorn waits for these when it stops
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self.in_progress.discard(task)
        self.tasks.discard(task)

    def _takes_whole(self, route: HotRoute, request: tuple[HeaderList, bytes], cycle: _FastCycle) -> bool:
        """Pass the request to the route's batch handler; False if the route has none."""
        if route.take is None:
            return False
        headers, body = request
        whole = WholeRequest(
            route.path, headers, body, client=self.client, write=cycle.write, hold=self._hold_after_refusal
        )
        return route.take(whole)

    def _hold_after_refusal(self) -> None:
        """Stop reading for a while, so that a client that ignores `Retry-After` cannot starve others."""
        if not (self.transport.is_closing() or self.flow.is_held):
            self.flow.hold()
            self.loop.call_later(HELD_SECONDS, self._release_after_refusal)

    def _release_after_refusal(self) -> None:
        if not (self._ahead or self.flow.write_paused):  # else what holds the reading then releases it
            self.flow.release()

    def _refuse_overload(self, cycle: _FastCycle) -> None:
        """Answer 503 if the number of requests in progress has reached its limit."""
        refusal, request_id = refuse_overload(), new_request_id()
        body = refusal.body(request_id.decode())
        length = b"%d" % len(body)
        headers = [(b"content-type", PROBLEM), (b"x-request-id", request_id), (b"content-length", length)]
        cycle.write(refusal.status, [*refusal.headers, *headers], body)
        self._hold_after_refusal()

    def _parameter_route(self, line: bytes) -> HotRoute | None:
        """The route of a request line that ends in a plain parameter."""
        for prefix, name, endpoint in self.prefixes:
            if line.startswith(prefix) and line.endswith(_VERSION):
                value = line[len(prefix) : -len(_VERSION)]
                # Neither a dot segment nor an escape: those are for the router.
                if value and not value.translate(None, _PLAIN) and value.strip(b"."):
                    path = line[_POST : -len(_VERSION)].decode("ascii")
                    return HotRoute(path, endpoint, params={name: value.decode("ascii")})
        return None

    def on_response_complete(self) -> None:
        """Complete as uvicorn does, but keep the timer of an idle connection if no request waits.

        To start one for each answer costs more than to read its request. `timeout_keep_alive_handler` finds out how
        long the connection was idle.
        """
        self._answered_at = self.loop.time()
        is_plain = self.timeout_keep_alive_task is not None and isinstance(self.cycle, _FastCycle)
        if is_plain and not (self.pipeline or self.has_waiting or self.flow.read_paused or self.transport.is_closing()):
            self.server_state.total_requests += 1
        else:
            super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it was idle since its last answer for uvicorn's timeout; else set the timer again.

        While a request is answered there is no timer: its answer starts one.
        """
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    async def _answer(self, route: HotRoute, headers: HeaderList, body: bytes, cycle: _FastCycle) -> None:
        """Run the handler as an ASGI application and write its whole answer at once."""
        started: list[Message] = []

        async def receive() -> HTTPReceiveMessage:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
                return
            start = cast("HTTPResponseStartEvent", started[0])
            cycle.write(start["status"], start["headers"], cast("dict[str, bytes]", message)["body"])

        scope: dict[str, object] = {
            "type": "http",
            "method": "POST",
            "path": route.path,
            "path_params": route.params,
            "headers": headers,
            "client": self.client,
            WHOLE_BODY: body,
        }
        await route.endpoint(cast("HTTPScope", scope), cast("Receive", receive), send)


def parse_plain_request(
    data: bytes, limits: ConnectionLimits, *, is_probe: bool = False
) -> tuple[HeaderList, bytes] | None:
    """Headers and body of `data` if it is exactly one complete plain request; else None.

    Stricter than HTTP: any doubt about where the request ends, or whether it is valid, is left to uvicorn. A probe has
    no body, and may ask to close the connection.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    parsed = _parse_head(head, limits, is_probe=is_probe) if end else None
    # Of another length it was cut short, or another request follows.
    return (parsed[0], body) if parsed is not None and parsed[1] == len(body) else None


def _parse_head(head: bytes, limits: ConnectionLimits, *, is_probe: bool) -> tuple[HeaderList, int] | None:
    """The headers of a plain request and the length of its body (bytes); None if the head is not plain."""
    lines = head.split(b"\r\n")
    if len(head) + 4 > limits.head_bytes or len(lines) - 1 > limits.headers:
        return None
    # Printable ASCII, tabs and whole line ends: a bare \n or \r ends a line for some parsers and not for others.
    if head.translate(None, _TEXT) != b"\r\n" * (len(lines) - 1):
        return None
    headers: HeaderList = []
    length = None
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if not colon or not name or name.translate(None, _NAME) or name in _UNUSUAL:
            return None
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > _MOST_DIGITS:
                return None
            length = int(value)
        elif name == b"connection":
            value = value.lower()
            if value != b"keep-alive" and not (is_probe and value == b"close"):
                return None
        elif name == b"host" and value.translate(None, _HOST):
            return None
        headers.append((name, value))
    if is_probe and length is None:
        length = 0
    return None if length is None else (headers, length)


def fast_path_protocol(
    app: Litestar, paths: Collection[str], connection_limits: ConnectionLimits | None = None
) -> type[FastPathProtocol]:
    """The uvicorn protocol class whose fast path serves these paths of `app`."""

    class Protocol(FastPathProtocol):
        limits = connection_limits or ConnectionLimits()
        in_progress: ClassVar[set[asyncio.Task[None]]] = set()
        endpoints: ClassVar[Mapping[bytes, HotRoute]] = {
            f"POST {route.path} HTTP/1.1".encode(): HotRoute(
                route.path, cast("AsgiEndpoint", route.route_handler.fn), route.route_handler.opt.get(TAKE)
            )
            for route in app.routes
            if isinstance(route, ASGIRoute) and route.path in paths
        }
        probes: ClassVar[Mapping[bytes, HotRoute]] = {
            f"GET {route.path} HTTP/1.1".encode(): HotRoute(
                route.path, cast("AsgiEndpoint", route.route_handler.fn), route.route_handler.opt[TAKE]
            )
            for route in app.routes
            if isinstance(route, ASGIRoute) and route.route_handler.opt.get(IS_PROBE)
        }
        prefixes: ClassVar[Sequence[tuple[bytes, str, AsgiEndpoint]]] = [
            (f"POST {before}".encode(), parameter.partition(":")[0], cast("AsgiEndpoint", handler.opt[ASGI_ENDPOINT]))
            for route in app.routes
            if isinstance(route, HTTPRoute) and route.path in paths
            for handler in route.route_handlers
            if ASGI_ENDPOINT in handler.opt
            for before, _, parameter in [route.path.removesuffix("}").partition("{")]
        ]

    return Protocol
