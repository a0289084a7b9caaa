"""Whether the store is away: once some decisions waited for it in vain, the next do not wait, until it answers."""

import asyncio

import structlog

from engine.customers.redis.pipeline import RedisPipeline
from engine.errors import StoreUnavailable
from engine.keyspace import STORE_PROBE as PROBE

WAITS = 3
SECONDS = 0.2
"""So many waits in vain, over at least so long, with no answer between them: one batch that was lost is no outage."""
PROBE_SECONDS = 0.25

log = structlog.get_logger(__name__)


class StoreHealth:
    """What one worker knows of its store: `now` says that decisions are not to wait for it.

    Only waits count: a store that refuses at once costs nothing to ask, and may still answer the next request.
    """

    def __init__(self, wire: RedisPipeline, timeout: float) -> None:
        self.now = False
        self._wire = wire
        self._wait = timeout / 2
        self._waits = 0
        self._since = 0.0

    def failed(self, asked: float, now: float) -> None:
        """A decision that asked the store had no answer until `now`; both in seconds by any clock that only goes on."""
        if now - asked < self._wait:
            return
        if not self._waits:
            self._since = asked
        self._waits += 1
        if not self.now and self._waits >= WAITS and now - self._since >= SECONDS:
            self.now = True
            log.warning("the store does not answer; decisions are degraded at once until it does")

    def answered(self) -> None:
        """The store answered."""
        self._waits = 0
        if self.now:
            self.now = False
            log.info("the store answers again")

    @property
    def suspected(self) -> bool:
        """Whether an answer would be news."""
        return self._waits > 0

    async def run(self) -> None:
        """Ask a store that is away until it answers."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            if self.now and await self.reached():
                self.answered()

    async def refusal(self) -> str | None:
        """Why a store that answers takes no writes now; None if it does."""
        try:
            await self._wire.send("SET", PROBE, "", "XX")  # what is not there stays so
        except StoreUnavailable as error:
            return str(error)
        return None

    async def reached(self) -> bool:
        """Whether the store answers now."""
        try:
            await self._wire.get([PROBE], len)
        except StoreUnavailable:
            return False
        return True
