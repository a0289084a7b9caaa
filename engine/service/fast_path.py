"""The fast path of hot requests: from the socket straight to the handler, and back with one write.

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
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import ClassVar, cast

from litestar import Litestar
from litestar.routes import ASGIRoute
from litestar.types import HTTPReceiveMessage, HTTPScope, Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

HeaderList = list[tuple[bytes, bytes]]
AsgiEndpoint = Callable[[HTTPScope, Receive, Send], Awaitable[None]]

_UNUSUAL = frozenset((b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
_STAY_OPEN, _CLOSE = b"\r\n", b"connection: close\r\n\r\n"
_NO_MORE_BODY = asyncio.Event()  # uvicorn sets it when more of a body comes; here nobody waits for more


class _FastCycle:
    """The request in progress: the attributes that uvicorn's protocol reads and sets on its `cycle`."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.message_event = _NO_MORE_BODY
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


class FastPathProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the fast path in front of it."""

    endpoints: ClassVar[Mapping[bytes, tuple[str, AsgiEndpoint]]] = {}
    """The path and the handler by request line."""

    _is_parsing = False

    def data_received(self, data: bytes) -> None:
        """Answer a plain request on the fast path while the connection is idle; else pass the data to uvicorn."""
        if not self._is_parsing and (self.cycle is None or self.cycle.response_complete):
            route = self.endpoints.get(data[: data.find(b"\r\n")])
            request = parse_plain_request(data) if route else None
            if route and request:
                self._unset_keepalive_if_required()
                cycle = _FastCycle()
                self.cycle = cast("RequestResponseCycle", cycle)
                task = self.loop.create_task(self._answer(*route, *request, cycle))
                task.add_done_callback(self.tasks.discard)
                self.tasks.add(task)  # uvicorn waits for these when it stops
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Uvicorn's parser begins a request."""
        self._is_parsing = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Uvicorn's parser has the whole request."""
        self._is_parsing = False
        super().on_message_complete()

    async def _answer(
        self, path: str, endpoint: AsgiEndpoint, headers: HeaderList, body: bytes, cycle: _FastCycle
    ) -> None:
        """Run the handler as an ASGI application and write its whole answer at once."""
        parts: list[bytes] = []

        async def receive() -> HTTPReceiveMessage:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                parts.append(STATUS_LINE[message["status"]])
                for name, value in message["headers"]:
                    parts.extend((name, b": ", value, b"\r\n"))
                return
            cycle.response_complete = True
            if not cycle.disconnected:
                parts.append(_STAY_OPEN if cycle.keep_alive else _CLOSE)
                parts.append(cast("dict[str, bytes]", message)["body"])
                self.transport.write(b"".join(parts))
                if not cycle.keep_alive:
                    self.transport.close()
            self.on_response_complete()  # also without a client: uvicorn starts the next queued request here

        scope = {"type": "http", "method": "POST", "path": path, "path_params": {}, "headers": headers}
        await endpoint(cast("HTTPScope", scope), cast("Receive", receive), send)


def parse_plain_request(data: bytes) -> tuple[HeaderList, bytes] | None:
    """Headers and body of `data` if it is exactly one complete request with nothing unusual in it; else None.

    Stricter than HTTP: any doubt about where the request ends is left to uvicorn.
    """
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    # A bare \n or \r ends a line for some parsers and not for others.
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        return None
    headers: HeaderList = []
    length = None
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        # A name with spaces around it is a folded line, or a header that proxies disagree about.
        if not colon or not name or name != name.strip() or b" " in name or name in _UNUSUAL:
            return None
        if name == b"content-length":
            if length is not None or not value.isdigit():
                return None
            length = int(value)
        elif name == b"connection" and value.lower() != b"keep-alive":
            return None
        headers.append((name, value))
    return (headers, body) if length == len(body) else None  # else cut short, or followed by another request


def fast_path_protocol(app: Litestar, paths: Collection[str]) -> type[HttpToolsProtocol]:
    """A protocol class for uvicorn whose fast path serves the routes of `app` with these paths."""

    class Protocol(FastPathProtocol):
        endpoints: ClassVar[Mapping[bytes, tuple[str, AsgiEndpoint]]] = {
            f"POST {route.path} HTTP/1.1".encode(): (route.path, cast("AsgiEndpoint", route.route_handler.fn))
            for route in app.routes
            if isinstance(route, ASGIRoute) and route.path in paths
        }

    return Protocol
