"""Sends answers in parts until the client disconnects."""

from collections.abc import AsyncIterator, Awaitable, Callable

from litestar.types import Receive, Send

Parts = Callable[[Awaitable[None]], AsyncIterator[bytes]]
"""Yields the parts of an answer; the awaitable ends once the client has left."""


async def send_parts(parts: Parts, receive: Receive, send: Send) -> None:
    """Send the parts of an answer whose head was sent already."""
    async for part in parts(_wait_until_left(receive)):
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _wait_until_left(receive: Receive) -> None:
    """Wait until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
