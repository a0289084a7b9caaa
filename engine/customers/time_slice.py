"""Lets long computations on the event loop yield to other requests after a few milliseconds."""

import asyncio
import time

SLICE_SECONDS = 0.002
"""Seconds for which a request computes before other requests may run; a decision takes about a tenth of this."""


class TimeSlice:
    """The time that one request has held the event loop since others could run."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    async def give_way(self) -> None:
        """Let other requests run if the slice is used up. Call it between the parts of a computation."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + SLICE_SECONDS
