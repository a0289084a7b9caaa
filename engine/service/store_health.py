"""Detects an outage of the store after a few failed waits; decisions then skip it until a probe is answered.

| state | decisions | becomes |
|---|---|---|
| healthy | ask the store | suspect at a failed wait |
| suspect | ask the store | healthy at an answer; away after `FAILED_WAITS` failed waits over `OUTAGE_SECONDS` |
| away (`is_away`) | are degraded at once | healthy when `run`'s probe, sent every `PROBE_SECONDS`, is answered |

A wait has failed if no answer came within half of the store's timeout. A refusal at once does not count: asking
costs nothing then, and the next request may be answered. See docs/decisions/0003-ready-without-the-store.md.
"""

import asyncio
from types import TracebackType

import structlog

from engine.customers.redis.pipeline import RedisPipeline
from engine.errors import StoreUnavailable
from engine.keyspace import STORE_PROBE
from engine.vocabulary import HOUR

FAILED_WAITS = 3
OUTAGE_SECONDS = 0.2
"""Both are needed: the requests of one lost batch fail together, and that is no outage yet."""
PROBE_SECONDS = 0.25

log = structlog.get_logger(__name__)


class BudgetSpent(StoreUnavailable):
    """The error of a request that waited its whole budget; the store may be healthy but overloaded."""


class StoreBudget:
    """A block that waits for the store until `deadline` (s, event loop's clock), over any number of round trips.

    Past that the block is cancelled where it waits, as by a crash between two writes: their order allows that.

    Raises:
        BudgetSpent: at the end of a block that was cancelled.
    """

    __slots__ = ("_cancelling", "_deadline", "_handle", "_is_spent", "_task")

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._is_spent = False

    async def __aenter__(self) -> None:
        """Start the timer."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            raise RuntimeError("a budget limits a task, and none is running")
        self._task, self._cancelling = task, task.cancelling()
        self._handle = loop.call_at(min(self._deadline, loop.time() + HOUR), self._look_once_more)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the timer. Works as `asyncio.timeout`, at a third of its cost: only our own cancellation ends here."""
        self._handle.cancel()
        if self._is_spent and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise BudgetSpent("the store took longer than a decision may wait") from error

    def _look_once_more(self) -> None:
        """Read what arrived while this process waited for a CPU, before the budget ends."""
        self._handle = asyncio.get_running_loop().call_later(0.001, self._expire)

    def _expire(self) -> None:
        self._is_spent = True
        self._task.cancel()


class StoreHealth:
    """The state of the store as this worker observes it."""

    def __init__(self, pipeline: RedisPipeline, timeout: float) -> None:
        self.is_away = False
        self._pipeline = pipeline
        self._vain_after = timeout / 2
        self._failed_waits = 0
        self._first_asked = 0.0

    def record_failure(self, asked: float, now: float) -> None:
        """Count a request to the store that was sent at `asked` and failed at `now` (s, any monotonic clock)."""
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
        """End the suspicion or the outage, since the store answered."""
        self._failed_waits = 0
        if self.is_away:
            self.is_away = False
            log.info("the store answers again; decisions use it")

    @property
    def is_suspect(self) -> bool:
        """Whether the latest wait failed, so that an answer changes the state."""
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

    async def eviction_policy(self) -> str | None:
        """The store's `maxmemory-policy` if it evicts values; None if it does not, or the policy is unknown."""
        try:
            return await self._pipeline.read_eviction_policy()
        except StoreUnavailable:
            return None

    async def write_refusal(self) -> str | None:
        """The reason why the store refuses writes now; None if it accepts them."""
        try:
            await self._pipeline.send("SET", STORE_PROBE, "", "XX")  # XX writes only what exists: nothing is stored
        except StoreUnavailable as error:
            return str(error)
        return None
