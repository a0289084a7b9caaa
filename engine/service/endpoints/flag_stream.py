"""Notices of changed flags (OFREP 0.3.0, `eventStreams`): server-sent events that make a page evaluate again.

A notice has no content but that something changed: the page evaluates again with its ETag, and gets 304 where its own
values are the same. So anyone may listen, and the number of listeners is bounded.

| a stream | |
|---|---|
| begins | with a comment and the delay after which a browser connects again |
| while nothing changes | has a comment every `BEAT_SECONDS`, which keeps proxies from closing it |
| when the plan changes, or the kill switch is used | has one notice, however much changed meanwhile |
| ends | when the client leaves, after `LONGEST_SECONDS`, and when the server stops |
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from engine.catalog.plan.plan import Plan
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.problems import Refusal

STREAM_PATH = "/ofrep/v1/stream"
MOST_LISTENERS = 2_000
"""Open streams of one process. A page without one goes on polling."""
BEAT_SECONDS = 15.0
LONGEST_SECONDS = 3_600.0
LOOK_SECONDS = 0.1
"""The plan of this worker is compared this often, while anyone listens."""
_OPEN = b"retry: 1000\n: flags may change\n\n"
_BEAT = b": nothing changed\n\n"
_NOTICE = b'data: {"type": "refetchEvaluation"}\n\n'


class FlagChanges:
    """The open streams of one process."""

    def __init__(self, read_plan: Callable[[], Plan]) -> None:
        self._read_plan = read_plan
        self._listeners: set[asyncio.Event] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    def close(self) -> None:
        """End every stream when the server stops."""
        self._is_closed = True
        self._wake()

    async def listen(self, left: Awaitable[None]) -> AsyncIterator[bytes]:
        """Yield the parts of one stream until the client has `left`.

        Raises:
            Refusal: 503, where too many listen.
        """
        changed = asyncio.Event()
        gone = asyncio.ensure_future(left)
        self._listeners.add(changed)
        self._looking = self._looking or asyncio.create_task(self._look())
        ends = asyncio.get_running_loop().time() + LONGEST_SECONDS
        try:
            yield _OPEN
            while not (self._is_closed or gone.done()) and asyncio.get_running_loop().time() < ends:
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait((waiting, gone), timeout=BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if changed.is_set() and not self._is_closed:
                    changed.clear()
                    yield _NOTICE
                elif not gone.done():
                    yield _BEAT
        finally:
            gone.cancel()
            self._listeners.discard(changed)

    def reply(self) -> Reply:
        """The answer to one listener.

        Raises:
            Refusal: 503, where too many listen.
        """
        if self._is_closed or len(self._listeners) >= MOST_LISTENERS:
            detail = f"{MOST_LISTENERS:,} pages listen already; evaluate every few seconds instead"
            raise Refusal(503, detail, "", ((b"retry-after", b"60"),))
        headers = (
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        )
        return Reply(b"", 200, headers, self.listen)

    async def _look(self) -> None:
        """Wake the listeners when the plan changes, while there are any."""
        known = self._read_plan()
        while self._listeners and not self._is_closed:
            await asyncio.sleep(LOOK_SECONDS)
            plan = self._read_plan()
            if plan is not known:
                known = plan
                self._wake()
        self._looking = None

    def _wake(self) -> None:
        for listener in self._listeners:
            listener.set()


def flag_stream_routes(changes: FlagChanges, guard: RequestGuard) -> list[Route]:
    """The route of the stream of notices."""

    async def stream(_: Call) -> Reply:
        return changes.reply()

    return [endpoint(STREAM_PATH, {"GET": stream}, limit=0, guard=guard)]
