"""One decision server process: its parts, its background tasks, its start and its stop.

What happens to a request is in `decision_flow` and `endpoints`.

| task | does |
|---|---|
| shipper | sends the spool to the stream; the last task to stop |
| follower | takes over new snapshots, open breakers and shadow prices |
| plan | looks at the experiments folder, swaps in a new plan together with its fitted snapshots |
| recovery | finishes merges and erasures that a crash cut short |
| kill switch, store health, erased cache | keep this worker's view of the store current |
| pulse | measures spool, streams and event loop for `/metrics` |

Order at the stop: the server has answered its last request before it begins. The shipper starts to drain the spool, the
other tasks end, the shipper gets `DRAIN_SECONDS`, and the connections close. What is not shipped by then stays in the
spool on disk, from which another server or `collect --drain` ships it.
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Collection, Mapping

import structlog

from engine.catalog.archive import Archive
from engine.catalog.plan.plan import Plan
from engine.catalog.watch import PlanWatch
from engine.claims.claims import Claims
from engine.claims.grant_offers import OfferGrants
from engine.customers.erased_cache import ErasedCache
from engine.customers.store import ProfileStore
from engine.decision.offers import Snapshot
from engine.due.index import DueIndex
from engine.erasure.recovery import recover_erasures, recover_merges
from engine.journal.spool.ship import Shipper
from engine.journal.spool.spool import Spool
from engine.service.due.roster import Roster
from engine.service.idempotency import IdempotentAnswers, delete_answers
from engine.service.kill_switch import KillSwitch
from engine.service.metrics.counters import ServiceMetrics
from engine.service.metrics.learner import LearnerMetrics
from engine.service.metrics.pulse import Pulse
from engine.service.recorder import Recorder
from engine.service.store_health import StoreHealth
from engine.settings import Settings
from engine.snapshots.follow import Follower

PLAN_SECONDS = 0.3
DRAIN_SECONDS = 5.0
"""Seconds that a stop waits for the shipper; records left then stay in the spool."""
GC_THRESHOLDS = (50_000, 20, 50)
"""Far above CPython's: a request allocates hundreds of objects and no cycle, so early collections only cost time."""

log = structlog.get_logger(__name__)


class Worker:
    """The parts that requests need, made before the first request; `running` while requests are served.

    `store` waits `store_timeout`, since a decision must be quick; `event_store` waits `event_timeout`, since events and
    exposures must arrive.
    """

    def __init__(self, settings: Settings, *, logs_changes: bool = True) -> None:
        self.settings = settings
        self.watch = PlanWatch(settings.experiments, Archive(settings.plans), logs_changes=logs_changes)
        rules = self.watch.plan.rules
        self.store = ProfileStore.open(settings.redis, rules, timeout=settings.store_timeout)
        self.event_store = ProfileStore.open(settings.redis, rules, timeout=settings.event_timeout)
        self.store_health = StoreHealth(self.store.pipeline, settings.store_timeout)
        self.spool = Spool(settings.spool, fsync=settings.fsync)
        self.shipper = Shipper(self.spool, settings.redis)
        self.recorder = Recorder(self.spool, settings.partitions, when_full=settings.full_disk)
        self.follower = Follower(settings, lambda: self.watch.plan)
        self.kill_switch = KillSwitch(self.event_store.pipeline)
        self.erased_cache = ErasedCache(self.event_store.pipeline)
        self.claims = Claims(self.store.pipeline)
        self.event_claims = Claims(self.event_store.pipeline)
        self.roster = Roster(DueIndex(self.event_store.pipeline))
        self.idempotent_answers = IdempotentAnswers(
            self.store.pipeline, self.store_health, self.recorder.append_encoded
        )
        self.metrics = ServiceMetrics()
        self.offer_grants = OfferGrants(self.claims, self.metrics.count_claim)
        self.metrics.set_bad_rows(self.watch.plan.bad_rows)
        self.metrics.registry.register(LearnerMetrics(self.follower))
        self.pulse = Pulse(settings.redis, self.spool, self.shipper, self.follower)
        self.pulse.register(self.metrics.shared, self.metrics.registry)

    @property
    def plan(self) -> Plan:
        """The running plan, with the kill switch's pauses and the ramps' positions applied."""
        return self.kill_switch.apply_to(self.watch.plan, self.follower.ramped)

    @property
    def snapshots(self) -> Mapping[str, Snapshot]:
        """The current snapshots of the learnt policies."""
        return self.follower.snapshots

    @property
    def tripped(self) -> Collection[str]:
        """The selections that show their fallback: their breaker is open, or the kill switch paused them."""
        tripped, paused = self.follower.tripped, self.kill_switch.paused
        return {*tripped, *paused} if paused else tripped

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks until the block ends; then stop them in the order above."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        shipping = asyncio.create_task(self.shipper.run())
        tasks = [
            asyncio.create_task(task)
            for task in (
                self.follower.run(),
                self._follow_plan(),
                recover_merges(self.event_store, self.recorder.append_events),
                recover_erasures(self.event_store, delete_answers),
                self.kill_switch.run(),
                self.store_health.run(),
                self.erased_cache.run(),
                self.pulse.run(),
            )
        ]
        await self.store_health.is_reachable()  # opens the connection: no decision's budget pays for that
        try:
            yield
        finally:
            self.shipper.stop()
            await _cancel_all(tasks)
            self.metrics.flush()
            await asyncio.wait([shipping], timeout=DRAIN_SECONDS)
            await _cancel_all([shipping])
            await self.store.close()
            await self.event_store.close()

    async def _follow_plan(self) -> None:
        """Look for a changed plan until cancelled."""
        while True:
            await asyncio.sleep(PLAN_SECONDS)
            refused = self.watch.rejected_changes
            try:
                plan = await asyncio.to_thread(self.watch.read_change)
                if plan is not None:
                    # The follower fits the snapshots first and then calls back: no decision sees one without the other.
                    await self.follower.adopt(plan, self._swap_plan)
            except OSError as error:
                log.warning("cannot read the experiments folder; the running plan is unchanged", error=str(error))
            self.metrics.plans_refused.inc(self.watch.rejected_changes - refused)
            self.metrics.flush()

    def _swap_plan(self, plan: Plan) -> None:
        """Replace the plan, and with it the rules by which both stores merge profiles."""
        self.watch.swap(plan)
        self.metrics.set_bad_rows(plan.bad_rows)
        self.store.use_rules(plan.rules)
        self.event_store.use_rules(plan.rules)


async def _cancel_all(tasks: Collection["asyncio.Task[None]"]) -> None:
    """Cancel tasks until all have ended.

    Once is not enough: a task that waits for the store may take the cancellation for a timeout and continue.
    """
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=0.5)
