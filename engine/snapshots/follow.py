"""Learnt policies on the decision server: polled from the store, checked by digest, fitted to the running plan.

A plan and the snapshots fitted to it are swapped together (`adopt`), so no decision sees one without the other.
Decoding and fitting run in a thread: a large policy must not hold the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import numpy as np
import structlog

from engine import keyspace
from engine.catalog.plan.plan import Plan
from engine.decision.offers import Snapshot
from engine.errors import BadInput, StoreUnavailable
from engine.journal.log_once import LogOnce
from engine.journal.spool import ship
from engine.keyspace import LEARNER_FIGURES, RAMP_POSITIONS, SHADOW_PRICES, SNAPSHOT_HEADERS, TRIPPED_BREAKERS
from engine.settings import Settings
from engine.snapshots.header import Header, align_policy, load_usable_policy, meaning_of, parse_snapshot
from engine.snapshots.publish import as_bytes, numbers_by_name, store_errors
from policies import Bandit

INTERVAL = 0.25
"""Seconds between two polls."""
_PATIENCE = 2.0
"""Seconds after which a poll gives up on the store."""
_log = structlog.get_logger(__name__)


class Follower:
    """Follows what the learner publishes for a plan's selections; `run` it as a task.

    Readers take `snapshots`, one reference that is swapped whole. Beside it: `tripped` selections with the reason why
    their breaker is open, shadow `prices` by offer, the coverage that ramps have reached by experiment (`ramped`), and
    the learner's `figures`. A snapshot that is damaged or does not fit the plan is counted in `rejected` and the one
    before it stays in use.
    """

    def __init__(self, settings: Settings, plan: Callable[[], Plan], *, interval: float = INTERVAL) -> None:
        self.snapshots: Mapping[str, Snapshot] = {}
        self.tripped: Mapping[str, str] = {}
        self.prices: Mapping[str, float] = {}
        self.ramped: Mapping[str, float] = {}
        self.figures: Mapping[str, float] = {}
        self.rejected = 0
        self._plan = plan
        self._interval = interval
        self._client = ship.connect_shipper(settings.redis, timeout=_PATIENCE)
        self._fitted_to: Plan | None = None
        self._fitting = asyncio.Lock()
        self._lines: dict[str, bytes] = {}
        self._learnt: dict[str, tuple[Header, Bandit]] = {}
        self._polled: float | None = None

    @property
    def age(self) -> float | None:
        """Seconds since the last successful poll; None before the first."""
        return None if self._polled is None else time.monotonic() - self._polled

    async def run(self) -> None:
        """Poll until cancelled, through outages of the store."""
        outage = LogOnce("cannot read snapshots; deciding by the ones in use", "reading snapshots again")
        try:
            while True:
                try:
                    await self.poll()
                    outage.over()
                except StoreUnavailable as error:
                    outage.failed(error)
                await asyncio.sleep(self._interval)
        finally:
            await self._client.aclose()

    async def poll(self) -> bool:
        """Poll once and fetch what changed; returns whether anything did.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        plan = self._plan()
        with store_errors("following the snapshots"):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hgetall(SNAPSHOT_HEADERS)
            pipeline.hgetall(TRIPPED_BREAKERS)
            pipeline.hgetall(SHADOW_PRICES)
            pipeline.hgetall(RAMP_POSITIONS)
            pipeline.hgetall(LEARNER_FIGURES)
            lines, marks, priced, reached, counted = await pipeline.execute()
            self._polled = time.monotonic()
            published = {key.decode(errors="replace"): line for key, line in lines.items()}
            taught = plan.taught
            changed = [key for key, line in published.items() if key in taught and self._lines.get(key) != line]
            values = await self._client.mget([keyspace.snapshot(key) for key in changed]) if changed else []
        self.tripped = {key.decode(errors="replace"): reason.decode(errors="replace") for key, reason in marks.items()}
        self.prices, self.figures = numbers_by_name(priced), numbers_by_name(counted)
        ramped = numbers_by_name(reached)
        if ramped != self.ramped:
            self.ramped = ramped
        withdrawn = self._lines.keys() - published.keys()
        if not changed and not withdrawn and plan is self._fitted_to:
            return False
        for key in withdrawn:
            del self._lines[key]
            self._learnt.pop(key, None)
        for key, value in zip(changed, values, strict=True):
            self._lines[key] = published[key]
            await asyncio.to_thread(self._take, key, as_bytes(value or b""))
        await self._refit(frozenset(changed))
        return True

    async def adopt(self, plan: Plan, swap: Callable[[Plan], None]) -> None:
        """Fit the learnt policies to a new plan, then call `swap` and publish both without awaiting between."""
        async with self._fitting:
            fitted = await asyncio.to_thread(self._fit, plan, frozenset())
            swap(plan)
            self.snapshots, self._fitted_to = fitted, plan

    async def _refit(self, fresh: frozenset[str]) -> None:
        """Fit the policies to the running plan; those in `fresh` were fetched just now."""
        async with self._fitting:
            plan = self._plan()
            self.snapshots = await asyncio.to_thread(self._fit, plan, fresh)
            self._fitted_to = plan

    def _take(self, key: str, value: bytes) -> None:
        """Decode a fetched snapshot; a damaged one leaves the previous one in use."""
        try:
            header, blob = parse_snapshot(key, value)
            self._learnt[key] = header, load_usable_policy(blob)
        except (BadInput, ValueError) as error:
            self._reject(key, error)

    def _fit(self, plan: Plan, fresh: frozenset[str]) -> dict[str, Snapshot]:
        """The policies that mean the same under `plan`, over its arms; unchanged ones are reused."""
        fitted: dict[str, Snapshot] = {}
        taught = plan.taught
        for key, (header, policy) in self._learnt.items():
            selection = taught.get(key)
            before = self.snapshots.get(key)
            if selection is None or header.meaning != meaning_of(selection):
                continue
            if before and before.version == header.version and key not in fresh and plan is self._fitted_to:
                fitted[key] = before
                continue
            try:
                fitting = align_policy(policy, selection)
            except ValueError as error:
                self._reject(key, error)
                continue
            # A policy computes some values on first use. Doing it here spares the first request.
            fitting.probabilities(np.zeros(fitting.dim))
            fitted[key] = Snapshot(fitting, header.version, selection.arms)
        return fitted

    def _reject(self, key: str, error: Exception) -> None:
        """Count and log a snapshot that cannot be used."""
        self.rejected += 1
        _log.error("snapshot rejected; the one before it stays in use", key=key, error=str(error))
