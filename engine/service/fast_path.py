"""The short way for the requests that matter most: one that came whole goes from the socket straight to its handler.

uvicorn parses, queues and answers every request, and Litestar finds its route. A plain POST to a hot path that arrived
in one piece needs none of that, and is answered with one write: a sixth less CPU per decision (`loadtests/README.md`).
Whatever is unusual in any way goes the long way and is judged there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import ClassVar, cast

from litestar import Litestar
from litestar.routes import ASGIRoute
from litestar.types import HTTPReceiveMessage, HTTPScope, Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

HeaderList = list[tuple[bytes, bytes]]
Endpoint = Callable[[HTTPScope, Receive, Send], Awaitable[None]]

_UNUSUAL = frozenset((b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
_KEPT_ALIVE, _CLOSED = b"\r\n", b"connection: close\r\n\r\n"


class _Running:
    """The request in progress, as uvicorn's protocol looks at it."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.message_event = _UNHEARD
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


_UNHEARD = asyncio.Event()  # nobody waits for more of a request that came whole


class FastPathProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the short way in front of it."""

    endpoints: ClassVar[Mapping[bytes, tuple[str, Endpoint]]] = {}
    """The path and the handler for each request line that has one."""

    _parsing = False

    def data_received(self, data: bytes) -> None:
        """Take the short way with a whole plain request, while nothing else is in progress."""
        if not self._parsing and (self.cycle is None or self.cycle.response_complete):
            found = self.endpoints.get(data[: data.find(b"\r\n")])
            read = parse_plain_request(data) if found else None
            if found and read:
                self._unset_keepalive_if_required()
                running = _Running()
                self.cycle = cast("RequestResponseCycle", running)
                task = self.loop.create_task(self._answer(*found, *read, running))
                task.add_done_callback(self.tasks.discard)
                self.tasks.add(task)
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """The long way: a request begins."""
        self._parsing = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """The long way: a request is whole."""
        self._parsing = False
        super().on_message_complete()

    async def _answer(self, path: str, endpoint: Endpoint, headers: HeaderList, body: bytes, running: _Running) -> None:
        parts: list[bytes] = []

        async def receive() -> HTTPReceiveMessage:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                parts.append(STATUS_LINE[message["status"]])
                for name, value in message["headers"]:
                    parts.extend((name, b": ", value, b"\r\n"))
                return
            running.response_complete = True
            if not running.disconnected:
                parts.append(_KEPT_ALIVE if running.keep_alive else _CLOSED)
                parts.append(cast("dict[str, bytes]", message)["body"])
                self.transport.write(b"".join(parts))
                if not running.keep_alive:
                    self.transport.close()
            self.on_response_complete()

        scope = {"type": "http", "method": "POST", "path": path, "path_params": {}, "headers": headers}
        await endpoint(cast("HTTPScope", scope), cast("Receive", receive), send)


def parse_plain_request(data: bytes) -> tuple[HeaderList, bytes] | None:
    """Headers and body of a request that is whole, the only one, and has nothing unusual; else None.

    Stricter than HTTP: no doubt about where the request ends may be decided here.
    """
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        return None
    headers: HeaderList = []
    length = None
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if not colon or not name or name != name.strip() or b" " in name or name in _UNUSUAL:
            return None
        if name == b"content-length":
            if length is not None or not value.isdigit():
                return None
            length = int(value)
        elif name == b"connection" and value.lower() != b"keep-alive":
            return None
        headers.append((name, value))
    return (headers, body) if length == len(body) else None


def fast_path_protocol(app: Litestar, paths: Collection[str]) -> type[HttpToolsProtocol]:
    """The protocol for uvicorn that takes the short way to those routes of `app` that have one of these paths."""

    class Protocol(FastPathProtocol):
        endpoints: ClassVar[Mapping[bytes, tuple[str, Endpoint]]] = {
            f"POST {route.path} HTTP/1.1".encode(): (route.path, cast("Endpoint", route.route_handler.fn))
            for route in app.routes
            if isinstance(route, ASGIRoute) and route.path in paths
        }

    return Protocol
