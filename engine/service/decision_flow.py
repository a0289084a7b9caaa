"""A decision from request to answer, in stages: fetch -> decide -> claim -> record -> answer.

Every stage takes a list of tasks and returns their next states, in the same order. The list may hold all requests of
one event-loop tick: what the stages read and write is sent together (`decision_batches`).

| state | holds | made by |
|---|---|---|
| `DecisionTask` | the request, its time and its decision id | `new_task` |
| `FetchedTask` | the customer's profile, and what limits the offers | `fetch_customers`, in one pipelined read |
| `DecidedTask` | the decision | `decide_fetched`; `decide_degraded` while the store is away |
| | the same, with its claims | `claim_offers`: writes of one tick share a round trip |
| | the same, its exposure pending | `store_prefetched`, with `expose: false` |
| `PreparedTask` | the encoded answer, and its records | `prepare`, or `RecordedAnswers` |
| `FailedTask` | the error that ends this request | any stage; the other tasks go on |

A stage passes on the tasks that are not its concern, so the unusual takes the same way: a lost claim draws again within
`claim_offers`, a merge binds the customer there, an idempotency key stops before that and appends by itself.

Invariants:

1. Record before answer (promise 1): when `RecordedAnswers.record_all` returns, the records are in the spool; only then
   is the answer sent. Only where the operator set so, a full disk lets a degraded one leave without record, counted.
2. The propensity that is logged is that of the last draw (promise 2): a lost claim masks its offer, `evaluate` draws
   from the renormalized rest, and the trace has the availability of that draw.
3. Claim before answer (promise 4): a limited offer is in an exposed answer only if its claim was granted.
4. The store failing in any stage, or taking longer in all than a decision may wait, degrades that one request
   (promise 6). Claims granted before that expire unused.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import structlog
from msgspec.structs import replace

from engine.claims.grant_offers import LostOffers, OfferGrants, is_unlimited, pending_life, pending_of
from engine.claims.pending_exposures import store_pending
from engine.claims.sticky_writes import write_sticky
from engine.customer import Profile
from engine.customers.model.merge import absorbed_keys
from engine.customers.store import BatchFetch, FetchedCustomer
from engine.decision.decision import UNRESTRICTED, Availability, DecideOptions, Decision, decide, with_coupons
from engine.decision.gating.facts import Pools
from engine.decision.offers import Choice
from engine.errors import StoreUnavailable, UnreadableValueError
from engine.journal import traces
from engine.journal.from_decision import exposable_keys, logged_probabilities
from engine.service.decision_task import (
    Decided,
    DecidedTask,
    DecisionTask,
    FailedTask,
    FetchedTask,
    Prepared,
    Read,
    attempt,
    each,
    each_async,
    unknown_profile,
)
from engine.service.recorded_answers import RecordedAnswers
from engine.service.store_health import BudgetSpent, StoreBudget
from engine.service.worker import Worker

LowPools = dict[str, float] | Exception
"""The rest of the pools that were found empty, or the error of reading it."""


log = structlog.get_logger(__name__)


class DecisionFlow:
    """The stages, on the parts of one worker."""

    def __init__(self, worker: Worker, *, patient: bool = False) -> None:
        """Set up the stages; if `patient`, use the store with the longer timeout of events, as no storefront waits."""
        self._worker = worker
        self._store = worker.event_store if patient else worker.store
        self._health = worker.store_health
        self._grants = OfferGrants(worker.event_claims, worker.metrics.count_claim) if patient else worker.offer_grants
        self._recorder = worker.recorder
        self.answers = RecordedAnswers(worker, self.decide_degraded)

    async def answer(self, tasks: list[DecisionTask]) -> list[Prepared]:
        """Run all stages: when this returns, the records are in the spool and the answers may be sent.

        Raises:
            Refusal: 503 if the disk is full and answers need a record.
        """
        return self.answers.record_all(await self.decide_and_store(tasks))

    async def prepare(self, tasks: list[DecisionTask]) -> list[Prepared]:
        """Run all stages except `record_all`, for an answer that is stored before its records are appended."""
        return each(self.answers.prepare_one, await self.decide_and_store(tasks))

    async def decide_and_store(self, tasks: list[DecisionTask]) -> list[Decided]:
        """Fetch, decide, claim, and store what is prefetched."""
        return await self.store_prefetched(await self.decide_with_store(tasks))

    async def decide_with_store(self, tasks: list[DecisionTask]) -> list[Decided]:
        """Fetch, decide and claim; while the store is away, decide without it. Nothing is recorded yet."""
        if self.is_degrading():
            return each(self.decide_degraded, tasks)
        asked, read = time.monotonic(), None
        try:
            async with StoreBudget(self._deadline_of(tasks)):
                read = await self.fetch_customers(tasks, asked)
                return await self.claim_offers(self.decide_fetched(read), asked)
        except BudgetSpent:
            if read is None:  # a store that answered reads is not away
                self._health.record_failure(asked, time.monotonic())
            return each(self.decide_degraded, tasks)

    def is_degrading(self) -> bool:
        """Whether decisions are made without the store now: it is away, or the spool takes no records.

        Raises:
            Refusal: 503 if the disk takes no records and answers need one.
        """
        return not self._recorder.has_space() or self._health.is_away

    @property
    def budget(self) -> float:
        """The total time (s) that a decision may wait before it is answered without the store."""
        return self._worker.settings.store_timeout

    def new_deadline(self) -> float:
        """The deadline (s, event loop's clock) up to which a request that arrives now waits for the store."""
        return asyncio.get_running_loop().time() + self.budget

    def _deadline_of(self, tasks: list[DecisionTask]) -> float:
        """The earliest deadline of the tasks."""
        return min((task.deadline for task in tasks if task.deadline is not None), default=self.new_deadline())

    async def fetch_customers(self, tasks: list[DecisionTask], asked: float) -> list[Read]:
        """Read the customers, and the remaining amount of pools that were found empty; `asked` is now (monotonic)."""
        with_counts = bool(self._worker.plan.watched)
        # `fetch` queues a read, and those of one tick are sent together: all are queued before the first is awaited.
        reads = each(lambda task: self._store.fetch(task.request.customer, task.now, counts=with_counts), tasks)
        pools = await self.read_pools(tasks)
        return [await self.await_read(task, read, pools, asked) for task, read in zip(tasks, reads, strict=True)]

    @property
    def has_low_pools(self) -> bool:
        """Whether a stock or budget was found empty, so that decisions must read its remaining amount."""
        return bool(self._grants.low)

    async def read_pools(self, tasks: Sequence[DecisionTask]) -> LowPools:
        """Read the remaining amount of empty pools, if the tasks may show offers; else return the reason.

        An error is returned, not raised, since it concerns only the tasks with placements (`use_read`).
        """
        if not self._grants.low or not any(task.request.placements for task in tasks):
            return {}
        try:
            return await self._grants.read_low_pools(self._worker.plan, tasks[0].now)
        except Exception as error:  # noqa: BLE001 (a pool whose number was damaged, or the store's failure)
            return error

    def read_batch(self, tasks: Sequence[DecisionTask], take: Callable[[list[BatchFetch]], None]) -> None:
        """Read a batch's customers without pools; `take` gets each customer or its error in a later tick."""
        customers = [(task.request.customer, task.now) for task in tasks]
        self._store.fetch_batch(customers, take, counts=bool(self._worker.plan.watched))

    def decide_fetched(self, tasks: list[Read]) -> list[Decided]:
        """Decide for the fetched customers."""
        return [attempt(self.decide_one, task) if isinstance(task, FetchedTask) else task for task in tasks]

    async def claim_offers(self, tasks: list[Decided], asked: float) -> list[Decided]:
        """Claim the limited offers, and write the decisions' bindings of customers.

        `asked` is when `fetch_customers` began (monotonic).
        """
        return await each_async(lambda decided: self._claim_one(decided, asked), tasks)

    async def store_prefetched(self, tasks: list[Decided]) -> list[Decided]:
        """Store the prefetched decisions, so that their exposures can be reported."""
        return await each_async(self._store_one_prefetched, tasks)

    def decide_degraded(self, task: DecisionTask) -> DecidedTask:
        """Decide without the store: the customer is unknown, so placements show their fallbacks."""
        profile = unknown_profile(task.request.customer)
        decision = self.evaluate(task, profile, degraded=True)
        trace = self._trace(task, profile, UNRESTRICTED, decision)
        erased = self._worker.erased_cache.names(task.request.customer)
        return DecidedTask(task, replace(decision, erased=erased, trace=trace), None)

    def evaluate(
        self,
        task: DecisionTask,
        profile: Profile,
        *,
        availability: Availability = UNRESTRICTED,
        degraded: bool = False,
        trace: bool = False,
    ) -> Decision:
        """`decide` by the running plan, snapshots and breakers; reads, claims and records nothing."""
        worker = self._worker
        decision = decide(
            worker.plan,
            worker.snapshots,
            profile,
            task.request,
            task.now,
            decision_id=task.decision_id,
            options=DecideOptions(degraded=degraded, tripped=worker.tripped, availability=availability, trace=trace),
        )
        for placement, choice in decision.choices.items():
            if choice.failures:  # those of a list's first position stand for all
                self._report_failures(task.decision_id, placement, choice)
        return decision

    async def store_pending_exposure(self, decision: Decision, deadline: float | None = None) -> bool:
        """Store a decision until its exposure is reported; False if the store did not take it.

        A degraded decision, or one for an erased customer, is not stored: its exposure is not counted.
        """
        if decision.answer.degraded or decision.erased:
            return True
        pending = pending_of(decision, decision.claims_key, exposable_keys(decision))
        if pending is None:
            return True
        try:
            async with StoreBudget(self.new_deadline() if deadline is None else deadline):
                await store_pending(self._store.pipeline, decision.answer.decision_id, pending, pending_life(decision))
        except StoreUnavailable:
            return False
        return True

    def _report_failures(self, decision_id: str, placement: str, choice: Choice) -> None:
        """Count and log the internal errors that closed an offer or a moment."""
        for gate, candidate, error in choice.failures:
            self._worker.metrics.count_gate_failure(gate)
            names = {"decision_id": decision_id, "placement": placement, "candidate": candidate}
            log.error("gate failed", gate=gate, **names, exc_info=error)

    async def await_read(
        self,
        task: DecisionTask,
        read: "asyncio.Future[FetchedCustomer] | FailedTask",
        pools: LowPools,
        asked: float,
    ) -> Read:
        """Wait for one customer's read; a store that fails or is slow degrades only this task."""
        if isinstance(read, FailedTask):
            return read
        try:
            customer = await read
        except Exception as error:  # noqa: BLE001 (it ends this request; the others go on)
            return self.use_read(task, error, pools, asked)
        return self.use_read(task, customer, pools, asked)

    def use_read(
        self, task: DecisionTask, read: FetchedCustomer | Exception, pools: LowPools, asked: float
    ) -> FetchedTask | Decided:
        """The task with its customer; a store failure degrades it, any other error ends it."""
        if not task.request.placements:
            pools = {}  # no offers, so no pools in the trace either
        failure = read if isinstance(read, Exception) else pools
        if isinstance(failure, Exception):
            match failure:
                case StoreUnavailable():
                    return self.degrade(task, asked)
                case UnreadableValueError():
                    return self._degrade_unreadable(task, failure)
                case _:
                    return FailedTask(failure)
        customer = cast("FetchedCustomer", read)
        left = cast("dict[str, float]", pools)
        return FetchedTask(task, customer, Availability(customer.counts, left, prices=self._worker.follower.prices))

    def complete(self, decided: DecidedTask) -> DecidedTask:
        """The decision for which `needs_store` is false, in the form that `claim_offers` returns."""
        if decided.fetched is None:
            return decided
        if self._health.is_suspect:
            self._health.record_answer()
        return self._complete_with(decided.decision, decided.fetched, decided.fetched.availability)

    def needs_store(self, decided: DecidedTask) -> bool:
        """Whether the answer requires a write first: a binding, claims, sticky variants, or a prefetch."""
        decision, fetched = decided.decision, decided.fetched
        if fetched is None:
            return False
        customer = fetched.customer
        if decision.sticky_entries or not customer.is_settled or customer.profile.undecided:
            return True
        if not fetched.task.request.expose:
            return True
        return not all(is_unlimited(choice, decision.channel) for choice in decision.choices.values())

    def decide_one(self, fetched: FetchedTask) -> DecidedTask:
        """Decide one task for its fetched customer."""
        decision = self.evaluate(fetched.task, fetched.customer.profile, availability=fetched.availability)
        return DecidedTask(fetched.task, decision, fetched)

    async def _claim_one(self, decided: DecidedTask, asked: float) -> Decided:
        """Write one decision's claims, or decide it again without the store if that fails."""
        if decided.fetched is None:
            return decided
        try:
            claimed = await self._write_claims(decided.decision, decided.fetched)
        except StoreUnavailable:
            return self.degrade(decided.task, asked)
        except UnreadableValueError as error:
            return self._degrade_unreadable(decided.task, error)
        if self._health.is_suspect:
            self._health.record_answer()
        return claimed

    async def _write_claims(self, decision: Decision, fetched: FetchedTask) -> DecidedTask:
        """Make the writes of one decision, in an order that is safe if the process dies between two of them.

        The customer is bound first, since claims and variants belong to the merged profile; an offer is claimed before
        it can be found by its outcome events, which would confirm or release that claim.
        """
        task, customer, availability = fetched.task, fetched.customer, fetched.availability
        profile, is_exposed = customer.profile, task.request.expose
        if is_exposed:
            if not customer.is_settled or profile.undecided:
                await self._store.bind_customer(customer, task.now, self._recorder.append_events)
                await self._worker.roster.note(self._worker.plan, [customer.key], task.now)

            def draw_again(lost: LostOffers, short: Pools, reserved: Mapping[str, str]) -> Decision:
                nonlocal availability  # that of the last draw goes into the trace
                availability = replace(availability, lost=lost, short=short, reserved=reserved)
                return self.evaluate(task, profile, availability=availability)

            absorbed = absorbed_keys(profile, self._store.hash_key)
            decision = await self._grants.grant(
                self._worker.plan, decision, customer.key, task.now, draw_again, absorbed=absorbed
            )
            decision = with_coupons(decision, await self._grants.show_coupons(decision, task.now))
        if decision.sticky_entries:
            await write_sticky(self._store, customer, decision.sticky_entries, self._worker.plan.experiments)
        if is_exposed and (pending := pending_of(decision, customer.key, ())) is not None:
            await store_pending(self._store.pipeline, task.decision_id, pending, pending_life(decision))
        return self._complete_with(decision, fetched, availability)

    def _complete_with(self, decision: Decision, fetched: FetchedTask, availability: Availability) -> DecidedTask:
        """The decision with its customer, and the trace of its last draw."""
        customer, profile = fetched.customer, fetched.customer.profile
        completed = replace(
            decision,
            claims_key=customer.key,
            customer_ids=fetched.task.request.customer,
            unit=profile.unit,
            erased=customer.is_erased,
            trace=self._trace(fetched.task, profile, availability, decision),
        )
        return DecidedTask(fetched.task, completed, fetched)

    async def _store_one_prefetched(self, decided: DecidedTask) -> DecidedTask:
        """Store one prefetched decision for its later exposure; degrade it if the store fails."""
        if decided.task.request.expose or await self.store_pending_exposure(decided.decision, decided.task.deadline):
            return decided
        return self.decide_degraded(
            decided.task
        )  # its exposure could not be reported, so a limited offer must not be shown

    def degrade(self, task: DecisionTask, asked: float) -> Decided:
        """Decide a task without the store, which failed or did not answer since `asked` (monotonic)."""
        self._health.record_failure(asked, time.monotonic())
        return attempt(self.decide_degraded, task)

    def _degrade_unreadable(self, task: DecisionTask, error: UnreadableValueError) -> Decided:
        """Decide a task whose customer's stored values cannot be read; the values stay unchanged."""
        log.error(
            "a stored customer cannot be read; the decision is degraded", decision_id=task.decision_id, error=str(error)
        )
        return attempt(self.decide_degraded, task)

    def _trace(self, task: DecisionTask, profile: Profile, availability: Availability, decision: Decision) -> bytes:
        """The encoded trace from which `explain` repeats the decision."""
        worker = self._worker
        # While a claim waits the plan may be replaced, and the new one does not know what the deciding one read.
        is_same_plan = decision.answer.plan == worker.plan.version
        trace = traces.Trace(
            now=task.now,
            request=task.request,
            profile=traces.traced_profile(profile, worker.plan, task.now) if is_same_plan else profile,
            availability=availability,
            degraded=decision.answer.degraded,
            tripped=list(worker.tripped),
            paused=list(worker.kill_switch.paused),
            probabilities=logged_probabilities(decision),
            ramped=dict(worker.follower.ramped),
        )
        return traces.encode_trace(trace)
