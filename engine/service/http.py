"""The layer between ASGI and handlers: a handler takes a `Call` with the body's bytes and returns a `Reply`.

Everything every endpoint needs is here: methods, the caller's key, limits of the body, request ids, errors as problems.
"""

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import cast
from urllib.parse import parse_qsl, quote, unquote

import structlog
from litestar.enums import HttpMethod
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler, asgi, route
from litestar.types import ASGIApp, HTTPScope, Receive, Send

from engine.errors import BadInput, JournalError, UnreadableValueError
from engine.service.access.cors import cors_headers, options_headers
from engine.service.access.parts import Parts, send_parts
from engine.service.auth import ANYONE, Caller, RawHeaders, RequestGuard
from engine.service.ids import new_request_id
from engine.service.problems import DISK_RETRY_SECONDS, PROBLEM, Refusal, refuse_field, refuse_for_now
from engine.telemetry.log_lines import current_request
from engine.telemetry.tracing import current_trace, end_trace, trace_request

JSON = b"application/json"
BODY_SECONDS, BODY_GAP_SECONDS = 10.0, 5.0
"""Seconds that a body may take in all, and between two of its parts; `connection` limits the head of a request."""
_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")
ENCODED_SLASH, HAS_ENCODED_SLASH = "\ue000", "has_encoded_slash"
WHOLE_BODY = "whole_body"
"""The entry of a scope in which the fast path passes on the body."""
ASGI_ENDPOINT = "asgi_endpoint"
"""The option of a route with parameters that has its ASGI application, for the fast path."""
TAKE, IS_PROBE = "take", "is_probe"
"""The entries of a route's options with its `TakeWhole`, and whether that takes GET requests, of probes."""
METHODS = list(HttpMethod)

ReplyHeaders = tuple[tuple[bytes, bytes], ...]
Headers = list[tuple[bytes, bytes]]
WriteAnswer = Callable[[int, Headers, bytes], None]

log = structlog.get_logger(__name__)


class Call:
    """One request: its body, path and query parameters, headers and sender.

    `is_head`: only the headers of the answer are sent, so a handler that changes something does not.
    """

    __slots__ = ("_headers", "_query", "body", "caller", "is_head", "path")

    def __init__(
        self,
        body: bytes,
        path: Mapping[str, object],
        headers: list[tuple[bytes, bytes]],
        caller: Caller,
        *,
        query: bytes = b"",
        is_head: bool = False,
    ) -> None:
        self.body = body
        self.path = path
        self.caller = caller
        self.is_head = is_head
        self._headers = headers
        self._query = query

    @classmethod
    def of(cls, scope: HTTPScope, body: bytes, headers: Headers, caller: Caller) -> "Call":
        """The call of a request that Litestar routed."""
        query, is_head = scope.get("query_string", b""), scope["method"] == "HEAD"
        return cls(body, _path_params(scope), headers, caller, query=query, is_head=is_head)

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; of a repeated one the last."""
        return dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))

    def header(self, name: bytes) -> str:
        """The value of a header, named in lower case; empty if it is missing."""
        return next((value.decode("latin-1") for key, value in self._headers if key == name), "")


class Reply:
    """One answer; by default JSON with status 200. An answer in `parts` has no body."""

    __slots__ = ("body", "headers", "parts", "status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        headers: ReplyHeaders = ((b"content-type", JSON),),
        parts: Parts | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers
        self.parts = parts


class WholeRequest:
    """A request that the fast path read whole; `write` answers it, once.

    `hold` reads its connection no more for a while, after an answer that has `Retry-After`.
    """

    __slots__ = ("_headers_by_name", "body", "client", "headers", "hold", "path", "write")

    def __init__(
        self,
        path: str,
        headers: Headers,
        body: bytes,
        *,
        client: tuple[str, int] | None,
        write: WriteAnswer,
        hold: Callable[[], None],
    ) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.client = client
        self.write = write
        self.hold = hold
        self._headers_by_name = dict(headers)

    def is_plain_json(self, limit: int) -> bool:
        """Whether headers and body size need no further check; otherwise `endpoint` decides."""
        headers = self._headers_by_name
        return (
            len(headers) == len(self.headers)
            and headers.get(b"content-type") == JSON
            and b"content-encoding" not in headers
            and len(self.body) <= limit
        )

    def has_header(self, name: bytes) -> bool:
        """Whether a header, named in lower case, was sent."""
        return name in self._headers_by_name

    def call_by(self, guard: RequestGuard) -> Call:
        """The call once the guard has identified its caller. Errors as in `RequestGuard`."""
        caller = guard(self.headers, _peer_address(self.client))
        return Call(self.body, {}, self.headers, caller)

    def answer(self, reply: Reply, origins: Collection[str]) -> None:
        """Write a reply."""
        is_named = b"x-request-id" in self._headers_by_name
        self._write(reply, origins, request_id_of(self.headers) if is_named else new_request_id())

    def refuse(self, error: Exception, origins: Collection[str]) -> int:
        """Write the problem for a handler's error; returns its status."""
        request_id = request_id_of(self.headers)
        refusal = _refusal_of(error, self.path, request_id)
        self._write(_problem_reply(refusal, request_id), origins, request_id)
        return refusal.status

    def _write(self, reply: Reply, origins: Collection[str], request_id: bytes) -> None:
        self.write(reply.status, _reply_headers(reply, self.headers, origins, request_id), reply.body)


Handler = Callable[[Call], Awaitable[Reply]]
TakeWhole = Callable[[WholeRequest], bool]
"""Takes a request to answer it in a batch with others; or returns False, and the handler answers it."""
RefusalFormat = Callable[[Refusal, Mapping[str, object]], Reply | None]
"""A protocol's own form of a refusal, given the parameters of the path; None leaves it as problem+json."""
Route = ASGIRouteHandler | HTTPRouteHandler


def endpoint(
    path: str,
    handlers: Mapping[str, Handler],
    *,
    limit: int,
    guard: RequestGuard | None = None,
    format_refusal: RefusalFormat | None = None,
    take: TakeWhole | None = None,
    names_pages: bool = False,
) -> Route:
    """A Litestar route whose errors are answered as problem+json.

    Args:
        path: may have parameters, as `/v1/stock/{sku:str}`.
        handlers: by method; HEAD is answered by that of GET.
        limit: most bytes of a body.
        guard: identifies the caller, before the body is read; without one anyone may call.
        format_refusal: a protocol's own form of refusals.
        take: answers plain requests in batches; those that it leaves come to their handler.
        names_pages: the parameter is the name of a public page. Where GET has none, every method answers 404.
    """
    methods = [*handlers, "HEAD"] if "GET" in handlers else list(handlers)
    allowed = ", ".join(handlers).encode()
    origins = guard.origins if guard else frozenset()

    async def handle(scope: HTTPScope, receive: Receive, headers: Headers) -> Reply:
        method = str(scope["method"])
        if names_pages and method not in methods:
            await handlers["GET"](Call.of(scope, b"", headers, ANYONE))
        if method == "OPTIONS":
            return Reply(b"", 204, options_headers(headers, methods, origins))
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            detail = f"{method} is not offered here; use {allowed.decode()}"
            raise Refusal(405, detail, "method", ((b"allow", allowed),))
        caller = guard(headers, _peer_address(scope.get("client"))) if guard else ANYONE
        body = await _read_body(scope, receive, headers, limit) if method == "POST" else b""
        return await handler(Call.of(scope, body, headers, caller))

    async def answer(scope: HTTPScope, receive: Receive, send: Send) -> None:
        headers = list(scope["headers"])
        request_id = request_id_of(headers)
        current_request.set(request_id.decode())
        current_trace.set(trace_request(str(scope["method"]), path, headers))
        try:
            reply = await handle(scope, receive, headers)
        except Exception as error:  # noqa: BLE001 (every request gets an answer; an unexpected error is logged)
            own = format_refusal(error, scope["path_params"]) if format_refusal and type(error) is Refusal else None
            reply = own or _problem_reply(_refusal_of(error, path, request_id), request_id)
        sent = _reply_headers(reply, headers, origins, request_id)
        await _send_reply(reply, sent, scope, receive, send)

    if "{" not in path:
        return asgi(path, copy_scope=False, opt={TAKE: take, IS_PROBE: take is not None and "GET" in handlers})(answer)

    # Litestar 2.25 has no path parameters for ASGI routes (KeyError), so an HTTP route returns an ASGI application.
    async def asgi_app() -> ASGIApp:
        return cast("ASGIApp", answer)

    return route(path, http_method=METHODS, opt={ASGI_ENDPOINT: answer})(asgi_app)


async def _send_reply(reply: Reply, headers: Headers, scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Send an answer, part by part if it has parts; HEAD gets no body."""
    end_trace(current_trace.get(), reply.status)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    is_head = scope["method"] == "HEAD"
    if reply.parts is not None and not is_head:
        await send_parts(reply.parts, receive, send)
    await send({"type": "http.response.body", "body": b"" if is_head else reply.body, "more_body": False})


def _reply_headers(reply: Reply, headers: Headers, origins: Collection[str], request_id: bytes) -> Headers:
    """The headers of an answer."""
    sent = [*reply.headers, *cors_headers(headers, origins), (b"x-request-id", request_id)]
    if reply.status not in (204, 304) and reply.parts is None:
        sent.append((b"content-length", b"%d" % len(reply.body)))
    return sent


def _refusal_of(error: Exception, path: str, request_id: bytes) -> Refusal:
    """The refusal for a handler's error; an unexpected one is logged with `path`, without ids."""
    match error:
        case Refusal():
            return error
        case BadInput():
            return refuse_field(str(error))
        case UnreadableValueError():
            log.error("a stored value cannot be read", request_id=request_id.decode(), error=str(error))
            return refuse_for_now("the stored value cannot be read; the server's log has the reason")
        case JournalError():
            log.error("a journal cannot be read or written", request_id=request_id.decode(), error=str(error))
            return refuse_for_now(f"the journal: {error.reason}", seconds=DISK_RETRY_SECONDS)
        case _:
            log.error("request failed", path=path, request_id=request_id.decode(), exc_info=error)
            return Refusal(500, "the engine failed on this request; its log has the error under this request id")


def keep_encoded_slashes(scope: HTTPScope) -> HTTPScope:
    """The scope with each %2F of its path replaced by a private character, so that routing does not split an id.

    `endpoint` turns it back into a slash in the parameters of the path.
    """
    raw = scope.get("raw_path") or b""
    if b"%2f" not in raw.lower():
        return scope
    path = unquote(raw.decode("latin-1").replace("%2f", "%2F").replace("%2F", quote(ENCODED_SLASH)))
    return cast("HTTPScope", {**scope, "path": path, HAS_ENCODED_SLASH: True})


def _peer_address(client: tuple[str, int] | None) -> str:
    """The address of the peer; for IPv6 its network, since one peer owns a whole network."""
    host = client[0] if client else ""
    return ":".join(host.split(":")[:4]) if ":" in host else host


def _path_params(scope: HTTPScope) -> Mapping[str, object]:
    """The parameters of the path, with the slashes that `keep_encoded_slashes` hid."""
    params: Mapping[str, object] = scope["path_params"]
    if HAS_ENCODED_SLASH not in scope:
        return params
    return {name: str(value).replace(ENCODED_SLASH, "/") for name, value in params.items()}


def request_id_of(headers: RawHeaders) -> bytes:
    """The client's `X-Request-Id` if it is printable ASCII of at most 128 characters; else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return new_request_id()


async def _read_body(scope: HTTPScope, receive: Receive, headers: list[tuple[bytes, bytes]], limit: int) -> bytes:
    """The whole body, which the fast path may already have read.

    Raises:
        Refusal: 415 for another content type or encoding, 413 past `limit` bytes, as they come and inflated, 408 past
            `BODY_SECONDS`.
    """
    kind = next((value for name, value in headers if name == b"content-type"), b"")
    if not kind and _may_be_empty(headers):
        return b""
    if kind.partition(b";")[0].strip().lower() != JSON:
        sent = repr(kind.decode("latin-1")) if kind else "missing"
        raise Refusal(415, f"the content type is {sent}; send application/json", "content-type")
    encoding = next((value for name, value in headers if name == b"content-encoding"), b"identity").strip().lower()
    if encoding not in (b"identity", b"gzip"):
        detail = f"the content encoding is {encoding.decode('latin-1')!r}; send gzip, or the body as it is"
        raise Refusal(415, detail, "content-encoding", ((b"accept-encoding", b"gzip, identity"),))
    whole = cast("bytes | None", scope.get(WHOLE_BODY))
    if whole is None:
        whole = await receive_body(receive, headers, limit)
    _require_room(limit - len(whole))
    return _inflate(whole, limit) if encoding == b"gzip" else whole


async def receive_body(receive: Receive, headers: list[tuple[bytes, bytes]], limit: int) -> bytes:
    """The body as its parts come in, of at most `limit` bytes. Errors as in `_read_body`."""
    _require_room(limit - _declared_length(headers))  # refused before it is read into memory
    parts: list[bytes] = []
    message: Mapping[str, object] = {"more_body": True}
    ends = asyncio.get_running_loop().time() + BODY_SECONDS
    while message.get("more_body"):
        message = await _receive_part(receive, ends)
        parts.append(_body_part(message))
        limit -= len(parts[-1])
        _require_room(limit)
    return b"".join(parts)


def _inflate(body: bytes, limit: int) -> bytes:
    """The gzip body, inflated up to `limit` bytes at most."""
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        inflated: bytes = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is not gzip: {error}; remove Content-Encoding or compress it", "body") from None
    _require_room(limit - len(inflated))
    if not inflater.eof or inflater.unused_data:
        raise Refusal(400, "the gzip body is cut short or has bytes after its end; send one gzip stream", "body")
    return inflated


async def _receive_part(receive: Receive, ends: float) -> Mapping[str, object]:
    try:
        async with asyncio.timeout_at(min(ends, asyncio.get_running_loop().time() + BODY_GAP_SECONDS)):
            return await receive()
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s; send it at once", "body") from None


def _declared_length(headers: list[tuple[bytes, bytes]]) -> int:
    """The body's length by the request's header; 0 if it has none."""
    digits = next((value for name, value in headers if name == b"content-length"), b"")
    digits = digits.lstrip(b"0")[:20]  # more digits are too many in any case
    return int(digits) if digits.isdigit() else 0


def _body_part(message: Mapping[str, object]) -> bytes:
    """The bytes of one ASGI message of a body."""
    if message["type"] == "http.disconnect":
        raise Refusal(400, "the connection closed before the body was sent; send it again", "body")
    part = message.get("body", b"")
    return part if isinstance(part, bytes) else b""


def _may_be_empty(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request without a content type has no body and does not come from a page in a browser.

    A page of another site can make a browser send such a request (it is "simple" for CORS); it carries an Origin.
    """
    framing = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding", b"origin")}
    return framing.keys() <= {b"content-length"} and framing.get(b"content-length", b"0") == b"0"


def _require_room(left: int) -> None:
    """Refuse a body that exceeds its limit, that is leaves a negative number of bytes."""
    if left < 0:
        raise Refusal(413, "the body is too large; send it in several requests", "body")


def _problem_reply(refusal: Refusal, request_id: bytes) -> Reply:
    """A refusal as RFC 9457 `application/problem+json`."""
    headers = ((b"content-type", PROBLEM), *refusal.headers)
    return Reply(refusal.body(request_id.decode()), refusal.status, headers)
