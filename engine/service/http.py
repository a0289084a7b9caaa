"""The thin skin between ASGI and a handler that takes a request's bytes and returns the answer's bytes."""

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
from engine.service.problems import Refusal, refuse_field

JSON = b"application/json"
PROBLEM = b"application/problem+json"
BODY_SECONDS = 10.0
SLASH, WHOLE = "\ue000", "whole_ids"
METHODS = [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]

ReplyHeaders = tuple[tuple[bytes, bytes], ...]

log = structlog.get_logger(__name__)


class Call:
    """One request as a handler sees it."""

    __slots__ = ("_headers", "body", "caller", "path")

    def __init__(
        self, body: bytes, path: Mapping[str, object], headers: list[tuple[bytes, bytes]], caller: Caller
    ) -> None:
        self.body = body
        self.path = path
        self.caller = caller
        self._headers = headers

    def header(self, name: bytes) -> str:
        """The header's value, empty where it is not sent."""
        return next((value.decode("latin-1") for key, value in self._headers if key == name), "")


class Reply:
    """One answer; JSON with status 200 unless said."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, status: int = 200, headers: ReplyHeaders = ((b"content-type", JSON),)) -> None:
        self.body = body
        self.status = status
        self.headers = headers


Handler = Callable[[Call], Awaitable[Reply]]
RefusalFormat = Callable[[Refusal, Mapping[str, object]], Reply | None]
"""A protocol's own form of a refusal, of which it gets the parameters of the path too; None where it has none."""
Route = ASGIRouteHandler | HTTPRouteHandler


def endpoint(
    path: str,
    handlers: Mapping[str, Handler],
    *,
    limit: int,
    guard: RequestGuard | None = None,
    refused: RefusalFormat | None = None,
) -> Route:
    """A Litestar route for `path`: one handler per method, bodies of at most `limit` bytes, errors as problem+json.

    `guard` tells who asks, before the body is read; without one anyone may. `refused` gives refusals another form.
    """
    allowed = ", ".join(handlers).encode()

    async def answer(scope: HTTPScope, receive: Receive, send: Send) -> None:
        headers = list(scope["headers"])
        method = str(scope["method"])
        request_id = request_id_of(headers)
        try:
            handler = handlers.get("GET" if method == "HEAD" else method)
            if handler is None:
                raise Refusal(
                    405,
                    f"{method} is not offered here; use {allowed.decode()}",
                    "method",
                    ((b"allow", allowed),),
                )
            caller = guard(headers) if guard else ANYONE
            body = await _body(receive, headers, limit) if method == "POST" else b""
            reply = await handler(Call(body, _whole(scope), headers, caller))
        except Refusal as refusal:
            own = refused(refusal, scope["path_params"]) if refused else None
            reply = own or _refused(refusal, request_id)
        except BadInput as error:
            reply = _refused(refuse_field(str(error)), request_id)
        except JournalError as error:
            reply = _refused(Refusal(503, str(error), "", ((b"retry-after", b"5"),)), request_id)
        except OverflowError:
            reply = _refused(Refusal(400, "a number in it is beyond 64 bits; send it as text", "body"), request_id)
        except Exception:
            log.exception("request failed", path=scope["path"], request_id=request_id.decode())
            detail = "the engine failed on this request; it is logged under the request id"
            reply = _refused(Refusal(500, detail), request_id)
        sent = [*reply.headers, (b"x-request-id", request_id)]
        if reply.status != 304:
            sent.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body, "more_body": False})

    if "{" not in path:
        return asgi(path, copy_scope=False)(answer)

    # Litestar 2.25 has no path parameters for ASGI routes (KeyError), so the route hands over to one.
    async def hand_over() -> ASGIApp:
        return cast("ASGIApp", answer)

    return route(path, http_method=METHODS)(hand_over)


def keep_encoded_slashes(scope: HTTPScope) -> HTTPScope:
    """The scope, in whose path a slash that was sent as %2F belongs to an id, which `endpoint` gives back whole."""
    raw = scope.get("raw_path") or b""
    if b"%2f" not in raw.lower():
        return scope
    path = unquote(raw.decode("latin-1").replace("%2f", "%2F").replace("%2F", quote(SLASH)))
    return cast("HTTPScope", {**scope, "path": path, WHOLE: True})


def _whole(scope: HTTPScope) -> Mapping[str, object]:
    params: Mapping[str, object] = scope["path_params"]
    if WHOLE not in scope:
        return params
    return {name: str(value).replace(SLASH, "/") for name, value in params.items()}


def request_id_of(headers: RawHeaders) -> bytes:
    """The id that the sender gave the request, or a new one."""
    for name, value in headers:
        if name == b"x-request-id" and 0 < len(value) <= 128 and value.isascii():
            return value
    return b"%016x" % random.getrandbits(64)


async def _body(receive: Receive, headers: list[tuple[bytes, bytes]], limit: int) -> bytes:
    kind = next((value for name, value in headers if name == b"content-type"), b"")
    if not kind and _empty(headers):
        return b""
    if kind.partition(b";")[0].strip().lower() != JSON:
        said = kind.decode("latin-1") or "nothing"
        raise Refusal(415, f"the content type is {said!r}; send application/json", "content-type")
    message = await receive()
    part = _part(message)
    if not message.get("more_body"):
        return _within(part, limit)
    parts = [part]
    size = len(part)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while message.get("more_body"):
                _within(b"", limit - size)
                message = await receive()
                parts.append(_part(message))
                size += len(parts[-1])
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} s; send it at once", "body") from None
    return _within(b"".join(parts), limit)


def _part(message: Mapping[str, object]) -> bytes:
    if message["type"] == "http.disconnect":
        raise Refusal(400, "the connection closed before the body was sent; send it again", "body")
    part = message.get("body", b"")
    return part if isinstance(part, bytes) else b""


def _empty(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether no body comes, from something else than a page in a browser: that could make anyone's browser ask."""
    telling = {name: value for name, value in headers if name in (b"content-length", b"transfer-encoding", b"origin")}
    return telling.keys() <= {b"content-length"} and telling.get(b"content-length", b"0") == b"0"


def _within(body: bytes, limit: int) -> bytes:
    if limit < 0 or len(body) > limit:
        raise Refusal(413, "the body is too large; send it in several requests", "body")
    return body


def _refused(refusal: Refusal, request_id: bytes) -> Reply:
    headers = ((b"content-type", PROBLEM), *refusal.headers)
    return Reply(refusal.body(request_id.decode()), refusal.status, headers)
