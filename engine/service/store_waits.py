"""Tracks the requests of one worker that wait for the store, to tell a slow store from a busy process.

An answer of the store may have arrived and wait for the CPU, as everything else does. So the store is slow only if a
read has no answer `SLOW_SECONDS` after it was sent, and the event loop has looked at its sockets since. It stays slow
until a read is answered sooner.
"""

import asyncio
import time
from collections.abc import Hashable, Sequence

SLOW_SECONDS = 0.01
_LOOK_SECONDS = 0.001
"""The seconds in which to look for a reply that arrived while this process waited for a CPU."""


class StoreWaits:
    """The reads in progress, each named by its first request, and the requests sent to the store."""

    def __init__(self) -> None:
        self.is_slow = False
        self._timers: dict[Hashable, asyncio.TimerHandle | None] = {}
        """By read; None once it found the store slow."""
        self._asked: dict[Hashable, float] = {}

    def __len__(self) -> int:
        """The number of requests that wait for the store's answer."""
        return len(self._asked)

    @property
    def reads(self) -> int:
        """The number of reads in progress."""
        return len(self._timers)

    def asked_at(self, request: Hashable) -> float | None:
        """The time (monotonic, s) at which the store was asked for a waiting request; None if it was not."""
        return self._asked.get(request)

    def begin_read(self, requests: Sequence[Hashable]) -> None:
        """Note a read for at least one request."""
        self._asked.update(dict.fromkeys(requests, time.monotonic()))
        loop, read = asyncio.get_running_loop(), requests[0]
        self._timers[read] = loop.call_later(SLOW_SECONDS, self._look_once_more, read)

    def end_read(self, requests: Sequence[Hashable]) -> None:
        """Note that the read for these requests was answered or failed."""
        timer = self._timers.pop(requests[0])
        if timer is not None:
            timer.cancel()
            self.is_slow = False
        for request in requests:
            self.end(request)

    def begin_write(self, request: Hashable) -> None:
        """Note that a request waits for a write or a look-up of its own."""
        self._asked[request] = time.monotonic()

    def end(self, request: Hashable) -> None:
        """Remove a request from those that wait; does nothing if it did not wait."""
        self._asked.pop(request, None)

    def _look_once_more(self, read: Hashable) -> None:
        self._timers[read] = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._find_slow, read)

    def _find_slow(self, read: Hashable) -> None:
        self._timers[read] = None
        self.is_slow = True
