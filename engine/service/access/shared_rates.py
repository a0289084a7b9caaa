"""Divides the rate of an API key among the workers of all servers, by each worker's demand.

Every `ROUND_SECONDS` a worker reports how many requests of a key it got, and takes that part of the rate which is its
part of all requests. The parts add up to the rate. A worker without the store takes the whole rate for itself: the
limit protects the service from a caller, and an outage must not lock callers out.
"""

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path

from engine import keyspace
from engine.customers.redis.pipeline import RedisPipeline, load_script
from engine.errors import StoreUnavailable
from engine.service.auth import Caller

ROUND_SECONDS = 0.5
_SILENT_SECONDS = 2
"""Seconds after which the report of a worker no longer counts; the store's clock has whole seconds."""
_LEAST_SHARE = 0.05
"""The part of the rate that a worker has without any request: its next one must not wait for a round."""
_report = load_script(Path(__file__).with_name("shared_rates.lua"))


class SharedRates:
    """One worker's shares of the keys' rates."""

    def __init__(self, pipeline: RedisPipeline, callers: Sequence[Caller]) -> None:
        self._pipeline = pipeline
        self._callers = callers
        self._worker = uuid.uuid4().hex

    async def run(self) -> None:
        """Report and divide until cancelled; returns at once if no key has a rate."""
        while self._callers:
            await asyncio.sleep(ROUND_SECONDS)
            await self.divide()

    async def divide(self) -> None:
        """Report the demand since the last round, and take this worker's share of each rate."""
        await asyncio.gather(*map(self._divide, self._callers))

    async def _divide(self, caller: Caller) -> None:
        rate = caller.rate or 0.0
        demand, caller.demand = caller.demand, 0
        if not demand and caller.share == rate:
            return  # it is asked for nothing: what others report of the key does not matter here
        try:
            names = [keyspace.key_rate(caller.name)]
            total = await self._pipeline.call(_report, names, [self._worker, demand, _SILENT_SECONDS])
        except StoreUnavailable:
            caller.share = rate
            return
        whole = total if isinstance(total, int) else 0
        caller.share = rate if whole <= demand else max(rate * demand / whole, rate * _LEAST_SHARE)
