"""Passes requests for pages on to the dashboard's process, so that one address serves the API and the pages.

Only bytes pass: the dashboard computes and renders in its own process, and a slow page waits there. A page that is not
answered in time is a 502 or 504 here; decisions on the same server go on.
"""

import asyncio
import contextlib
from collections.abc import Collection

import httpx
import structlog
from litestar.types import HTTPScope, Receive, Send

from engine.service.http import receive_body
from engine.service.problems import PROBLEM, Refusal

CONNECT_SECONDS, ANSWER_SECONDS = 1.0, 30.0
MOST_BODY_BYTES = 2_000_000
_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"content-length", b"x-forwarded-for", b"expect"),
    )
)
"""Headers of one connection, which do not pass."""

log = structlog.get_logger(__name__)


class Pages:
    """The dashboard at `address`; `own` are the first path segments that the server itself answers."""

    def __init__(self, address: str, own: Collection[str]) -> None:
        self._own = frozenset(own) - {""}
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx.AsyncClient(base_url=address, limits=limits, timeout=timeout, trust_env=False)

    def takes(self, scope: HTTPScope) -> bool:
        """Whether the dashboard answers a request; a request for `/` that accepts JSON gets the server's index."""
        path = scope["path"]
        if path == "/":
            accepted = dict(scope["headers"]).get(b"accept", b"")
            return b"application/json" not in accepted or b"text/html" in accepted
        return path.removeprefix("/").partition("/")[0] not in self._own

    async def answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Forward the request to the dashboard, and pass its answer on part by part."""
        try:
            body = await receive_body(receive, list(scope["headers"]), MOST_BODY_BYTES)
            raw = scope.get("raw_path") or scope["path"].encode()
            query = scope["query_string"]
            url = self._client.base_url.copy_with(raw_path=raw + (b"?" + query if query else b""))
            request = httpx.Request(scope["method"], url, headers=_passed(scope), content=body)
            response = await self._client.send(request, stream=True)
        except Refusal as refusal:
            await _refuse(send, refusal)
            return
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("the dashboard does not answer", error=str(error) or type(error).__name__)
            detail = "the dashboard is starting or ended; load the page again in a moment. The API is not affected"
            await _refuse(send, Refusal(502, detail))
            return
        try:
            headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _HOP]
            if length := response.headers.get("content-length"):
                headers.append((b"content-length", length.encode()))
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await _send_body(response, receive, send)
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def _send_body(response: httpx.Response, receive: Receive, send: Send) -> None:
    """Send the body part by part until it or the client's connection ends."""
    sending, gone = asyncio.create_task(_send_parts(response, send)), asyncio.create_task(_wait_for_end(receive))
    try:
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending


async def _send_parts(response: httpx.Response, send: Send) -> None:
    try:
        async for part in response.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except httpx.HTTPError as error:
        log.info("a page ended early", error=str(error) or type(error).__name__)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _passed(scope: HTTPScope) -> list[tuple[bytes, bytes]]:
    """The headers to forward, with the address of the client."""
    client = scope.get("client")
    passed = [(name, value) for name, value in scope["headers"] if name not in _HOP]
    return [*passed, (b"x-forwarded-for", (client[0] if client else "").encode())]


async def _refuse(send: Send, refusal: Refusal) -> None:
    headers = [(b"content-type", PROBLEM), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body(""), "more_body": False})
