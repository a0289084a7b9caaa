"""The kill switch: pauses an experiment or a selection on every worker within a second, whatever its file states.

The truth is one Redis hash (`keyspace.PAUSED_EXPERIMENTS`): the key of each paused experiment with its `Pause` as JSON.

| who | does | at other workers |
|---|---|---|
| the worker that gets the request | writes the hash, then its own `paused`: it never shows what others do not know | |
| every worker | reads the hash every `POLL_SECONDS` | paused within that time and one round trip |
| a worker without the store | keeps what it read last: an outage neither pauses nor resumes anything | |
| a worker that starts | reads the hash first in `run`; until then nothing is paused for it | |
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import msgspec
import structlog

from engine.catalog.plan.plan import Plan
from engine.customers.redis.pipeline import RedisPipeline
from engine.errors import StoreUnavailable
from engine.keyspace import PAUSED_EXPERIMENTS

POLL_SECONDS = 0.25

log = structlog.get_logger(__name__)


class Pause(msgspec.Struct, frozen=True):
    """Who paused an experiment, when (s since 1970), and why."""

    by: str
    at: float
    reason: str = ""


class KillSwitch:
    """The paused keys that this worker read last."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self.paused: frozenset[str] = frozenset()
        self._pipeline = pipeline
        self._running: Plan | None = None
        self._with_pauses: Plan | None = None

    def apply_to(self, plan: Plan, ramped: Mapping[str, float]) -> Plan:
        """The plan with paused keys and ramp positions applied; a new copy only if one of the three changed."""
        if not self.paused and not ramped:
            return plan
        made = self._with_pauses
        if made is None or plan is not self._running or made.paused != self.paused or made.ramped is not ramped:
            self._running = plan
            self._with_pauses = made = replace(plan, paused=self.paused, ramped=ramped)
        return made

    async def pause(self, key: str, pause: Pause) -> None:
        """Pause an experiment here at once, and on other workers at their next read of the hash.

        Raises:
            StoreUnavailable: if the hash cannot be written; then nothing is paused.
        """
        await self._pipeline.send("HSET", PAUSED_EXPERIMENTS, key, msgspec.json.encode(pause))
        self.paused |= {key}

    async def resume(self, key: str) -> None:
        """Resume an experiment, unless its file pauses it. Errors as in `pause`."""
        await self._pipeline.send("HDEL", PAUSED_EXPERIMENTS, key)
        self.paused -= {key}

    async def refresh(self) -> None:
        """Read the paused keys.

        Raises:
            StoreUnavailable: if the store does not answer in time.
        """
        keys = cast("list[bytes]", await self._pipeline.send("HKEYS", PAUSED_EXPERIMENTS))
        self.paused = frozenset(key.decode(errors="replace") for key in keys)

    async def run(self) -> None:
        """Read the paused keys every `POLL_SECONDS` until cancelled."""
        while True:
            try:
                await self.refresh()
            except StoreUnavailable as error:
                log.debug("cannot read the paused experiments; the last known ones stay paused", error=str(error))
            await asyncio.sleep(POLL_SECONDS)
