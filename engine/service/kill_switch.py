"""The kill switch: experiments that are held at every worker within a second, whatever their files say."""

import asyncio
from dataclasses import replace
from typing import cast

import msgspec
import structlog

from engine.catalog.plan.plan import Plan
from engine.customers.redis.pipeline import RedisPipeline
from engine.errors import StoreUnavailable
from engine.keyspace import PAUSED_EXPERIMENTS as PAUSED

SECONDS = 0.25

log = structlog.get_logger(__name__)


class Pause(msgspec.Struct, frozen=True):
    """Who paused an experiment, when (s since 1970), and why."""

    by: str
    at: float
    reason: str = ""


class KillSwitch:
    """What is paused, as this worker last heard of it. While the store is away that stays as it was."""

    def __init__(self, wire: RedisPipeline) -> None:
        self.paused: frozenset[str] = frozenset()
        self._wire = wire
        self._base: Plan | None = None
        self._held: Plan | None = None

    def over(self, plan: Plan) -> Plan:
        """The plan with what is paused held."""
        if not self.paused:
            return plan
        if self._held is None or plan is not self._base or self._held.paused != self.paused:
            self._base = plan
            self._held = replace(plan, paused=self.paused)
        return self._held

    async def pause(self, key: str, pause: Pause) -> None:
        """Hold an experiment here at once, and at every worker at its next look.

        Raises:
            StoreUnavailable: if the other workers cannot be told; then nothing is paused.
        """
        await self._wire.send("HSET", PAUSED, key, msgspec.json.encode(pause))
        self.paused |= {key}

    async def resume(self, key: str) -> None:
        """Let an experiment run again, unless its file says otherwise. Errors as in `pause`."""
        await self._wire.send("HDEL", PAUSED, key)
        self.paused -= {key}

    async def look(self) -> None:
        """Ask the store what is paused.

        Raises:
            StoreUnavailable: if it does not answer in time.
        """
        keys = cast("list[bytes]", await self._wire.send("HKEYS", PAUSED))
        self.paused = frozenset(key.decode() for key in keys)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                log.debug("the kill switch stays as it was", error=str(error))
            await asyncio.sleep(SECONDS)
