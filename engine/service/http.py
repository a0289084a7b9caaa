"""The layer between ASGI and handlers: a handler takes a `Call` with the body's bytes and returns a `Reply`.

Everything every endpoint needs is here: methods, the caller's key, limits of the body, request ids, errors as problems.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import cast
from urllib.parse import quote, unquote

import structlog
from litestar.enums import HttpMethod
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler, asgi, route
from litestar.types import ASGIApp, HTTPScope, Receive, Send

from engine.errors import BadInput, JournalError
from engine.service.auth import ANYONE, Caller, RawHeaders, RequestGuard
from engine.service.problems import DISK_RETRY_SECONDS, Refusal, refuse_field, refuse_for_now

JSON = b"application/json"
PROBLEM = b"application/problem+json"
BODY_SECONDS = 10.0
"""How long a body that comes in several parts may take; the servers below have no such limit."""
ENCODED_SLASH, HAS_ENCODED_SLASH = "\ue000", "has_encoded_slash"
METHODS = [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]

ReplyHeaders = tuple[tuple[bytes, bytes], ...]

log = structlog.get_logger(__name__)


class Call:
    """One request: its body, the parameters of its path, its headers and who sent it."""

    __slots__ = ("_headers", "body", "caller", "path")

    def __init__(
        self, body: bytes, path: Mapping[str, object], headers: list[tuple[bytes, bytes]], caller: Caller
    ) -> None:
        self.body = body
        self.path = path
        self.caller = caller
        self._headers = headers

    def header(self, name: bytes) -> str:
        """The value of a header, given in lower case; empty where it is not sent."""
        return next((value.decode("latin-1") for key, value in self._headers if key == name), "")


class Reply:
    """One answer; by default JSON with status 200."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, status: int = 200, headers: ReplyHeaders = ((b"content-type", JSON),)) -> None:
        self.body = body
        self.status = status
        self.headers = headers


Handler = Callable[[Call], Awaitable[Reply]]
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
) -> Route:
    """A Litestar route whose errors are answered as problem+json.

    Args:
        path: may have parameters, as `/v1/stock/{sku:str}`.
        handlers: by method; HEAD is answered by that of GET.
        limit: most bytes of a body.
        guard: identifies the caller, before the body is read; without one anyone may call.
        format_refusal: a protocol's own form of refusals.
    """
    allowed = ", ".join(handlers).encode()

    async def handle(scope: HTTPScope, receive: Receive, headers: list[tuple[bytes, bytes]]) -> Reply:
        method = str(scope["method"])
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            detail = f"{method} is not offered here; use {allowed.decode()}"
            raise Refusal(405, detail, "method", ((b"allow", allowed),))
        caller = guard(headers) if guard else ANYONE
        body = await _read_body(receive, headers, limit) if method == "POST" else b""
        return await handler(Call(body, _path_params(scope), headers, caller))

    async def answer(scope: HTTPScope, receive: Receive, send: Send) -> None:
        headers = list(scope["headers"])
        request_id = request_id_of(headers)
        try:
            reply = await handle(scope, receive, headers)
        except Exception as error:  # noqa: BLE001 (every request gets an answer; an unexpected error is logged)
            own = format_refusal(error, scope["path_params"]) if format_refusal and type(error) is Refusal else None
            reply = own or _problem_reply(_refusal_of(error, scope, request_id), request_id)
        sent = [*reply.headers, (b"x-request-id", request_id)]
        if reply.status != 304:
            sent.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        body = b"" if scope["method"] == "HEAD" else reply.body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    if "{" not in path:
        return asgi(path, copy_scope=False)(answer)

    # Litestar 2.25 has no path parameters for ASGI routes (KeyError), so an HTTP route returns an ASGI application.
    async def asgi_app() -> ASGIApp:
        return cast("ASGIApp", answer)

    return route(path, http_method=METHODS)(asgi_app)


def _refusal_of(error: Exception, scope: HTTPScope, request_id: bytes) -> Refusal:
    """The refusal that an error of a handler is answered with; an unexpected one is logged with its traceback."""
    match error:
        case Refusal():
            return error
        case BadInput():
            return refuse_field(str(error))
        case JournalError():
            return refuse_for_now(str(error), seconds=DISK_RETRY_SECONDS)
        case OverflowError():
            return Refusal(400, "a number in it does not fit 64 bits; send it as text", "body")
        case _:
            log.error("request failed", path=scope["path"], request_id=request_id.decode(), exc_info=error)
            return Refusal(500, "the engine failed on this request; its log has the error under this request id")


def keep_encoded_slashes(scope: HTTPScope) -> HTTPScope:
    """The scope with every %2F of its path as a private character, so that routing does not split an id there.

    `endpoint` turns it back into a slash in the parameters of the path.
    """
    raw = scope.get("raw_path") or b""
    if b"%2f" not in raw.lower():
        return scope
    path = unquote(raw.decode("latin-1").replace("%2f", "%2F").replace("%2F", quote(ENCODED_SLASH)))
    return cast("HTTPScope", {**scope, "path": path, HAS_ENCODED_SLASH: True})


def _path_params(scope: HTTPScope) -> Mapping[str, object]:
    params: Mapping[str, object] = scope["path_params"]
    if HAS_ENCODED_SLASH not in scope:
        return params
    return {name: str(value).replace(ENCODED_SLASH, "/") for name, value in params.items()}


def request_id_of(headers: RawHeaders) -> bytes:
    """The `X-Request-Id` that the client sent, if it is ASCII of at most 128 characters; else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and 0 < len(value) <= 128 and value.isascii():
            return value
    return b"%016x" % random.getrandbits(64)


async def _read_body(receive: Receive, headers: list[tuple[bytes, bytes]], limit: int) -> bytes:
    """The whole body.

    Raises:
        Refusal: 415 for another content type, 413 past `limit` bytes, 408 past `BODY_SECONDS`.
    """
    kind = next((value for name, value in headers if name == b"content-type"), b"")
    if not kind and _may_be_empty(headers):
        return b""
    if kind.partition(b";")[0].strip().lower() != JSON:
        sent = repr(kind.decode("latin-1")) if kind else "missing"
        raise Refusal(415, f"the content type is {sent}; send application/json", "content-type")
    message = await receive()
    part = _body_part(message)
    if not message.get("more_body"):
        return _within_limit(part, limit)
    parts = [part]
    size = len(part)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while message.get("more_body"):
                _within_limit(b"", limit - size)  # refused before the rest is read into memory
                message = await receive()
                parts.append(_body_part(message))
                size += len(parts[-1])
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s; send it at once", "body") from None
    return _within_limit(b"".join(parts), limit)


def _body_part(message: Mapping[str, object]) -> bytes:
    if message["type"] == "http.disconnect":
        raise Refusal(400, "the connection closed before the body was sent; send it again", "body")
    part = message.get("body", b"")
    return part if isinstance(part, bytes) else b""


def _may_be_empty(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a request without a content type has no body and is not sent by a page in a browser.

    A page of another site can make a browser send such a request (it is "simple" for CORS); it carries an Origin.
    """
    framing = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding", b"origin")}
    return framing.keys() <= {b"content-length"} and framing.get(b"content-length", b"0") == b"0"


def _within_limit(body: bytes, limit: int) -> bytes:
    if limit < 0 or len(body) > limit:
        raise Refusal(413, "the body is too large; send it in several requests", "body")
    return body


def _problem_reply(refusal: Refusal, request_id: bytes) -> Reply:
    headers = ((b"content-type", PROBLEM), *refusal.headers)
    return Reply(refusal.body(request_id.decode()), refusal.status, headers)
