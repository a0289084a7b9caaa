"""Decides when decisions stop waiting for the store: after a few vain waits, until the store answers a probe.

| state | decisions | becomes |
|---|---|---|
| healthy | ask the store | suspect at a vain wait |
| suspect | ask the store | healthy at an answer; away after `FAILED_WAITS` vain waits over `OUTAGE_SECONDS` |
| away (`is_away`) | are degraded at once | healthy when `run`'s probe, sent every `PROBE_SECONDS`, is answered |

A wait is vain if no answer came within half of the store's timeout. A refusal that comes at once does not count: asking
costs nothing then, and the next request may be answered. See docs/decisions/0003-ready-without-the-store.md.
"""

import asyncio

import structlog

from engine.customers.redis.pipeline import RedisPipeline
from engine.errors import StoreUnavailable
from engine.keyspace import STORE_PROBE

FAILED_WAITS = 3
OUTAGE_SECONDS = 0.2
"""Both are needed: the requests of one lost batch fail together, and that is no outage yet."""
PROBE_SECONDS = 0.25

log = structlog.get_logger(__name__)


class StoreHealth:
    """The state of the store as one worker sees it."""

    def __init__(self, pipeline: RedisPipeline, timeout: float) -> None:
        self.is_away = False
        self._pipeline = pipeline
        self._vain_after = timeout / 2
        self._failed_waits = 0
        self._first_asked = 0.0

    def record_failure(self, asked: float, now: float) -> None:
        """Count a request to the store, sent at `asked`, that failed at `now`; seconds of any monotonic clock."""
        if now - asked < self._vain_after:
            return
        if not self._failed_waits:
            self._first_asked = asked
        self._failed_waits += 1
        is_outage = self._failed_waits >= FAILED_WAITS and now - self._first_asked >= OUTAGE_SECONDS
        if is_outage and not self.is_away:
            self.is_away = True
            log.warning("the store does not answer; decisions are degraded at once until it answers a probe")

    def record_answer(self) -> None:
        """The store answered: end the suspicion or the outage."""
        self._failed_waits = 0
        if self.is_away:
            self.is_away = False
            log.info("the store answers again; decisions use it")

    @property
    def is_suspect(self) -> bool:
        """Whether the latest wait was vain, so that an answer changes the state."""
        return self._failed_waits > 0

    async def run(self) -> None:
        """Probe the store while it is away, until cancelled."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            if self.is_away and await self.is_reachable():
                self.record_answer()

    async def is_reachable(self) -> bool:
        """Whether the store answers a read now."""
        try:
            await self._pipeline.get([STORE_PROBE], len)
        except StoreUnavailable:
            return False
        return True

    async def write_refusal(self) -> str | None:
        """Why the store refuses a write now; None if it takes writes."""
        try:
            await self._pipeline.send("SET", STORE_PROBE, "", "XX")  # XX writes only what exists: nothing is stored
        except StoreUnavailable as error:
            return str(error)
        return None
