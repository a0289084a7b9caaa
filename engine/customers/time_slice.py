"""Long computations on the event loop give way to other requests after a few milliseconds."""

import asyncio
import time

SLICE_SECONDS = 0.002
"""Seconds for which a request computes before other requests may run; a decision takes about a tenth of this."""


class TimeSlice:
    """The share of the event loop that one request has used since others could run."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    async def give_way(self) -> None:
        """Let others run if the slice is used up. Called between the parts of a computation."""
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + SLICE_SECONDS
