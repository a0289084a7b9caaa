"""A decision from request to answer, in stages: fetch -> decide -> claim -> record -> answer.

Every stage takes a list of tasks and returns their next states, in the same order. The list may hold all requests of
one event-loop tick: what the stages read and write is sent together.

| state | holds | made by |
|---|---|---|
| `DecisionTask` | the request, its time and its decision id | `new_task` |
| `FetchedTask` | the customer's profile, and what limits the offers | `fetch_customers`, in one pipelined read |
| `DecidedTask` | the decision | `decide_fetched`; `decide_degraded` while the store is away |
| | the same, with its claims | `claim_offers`: writes of one tick share a round trip |
| | the same, its exposure pending | `store_prefetched`, with `expose: false` |
| `PreparedTask` | the encoded answer, and its records | `prepare` |
| `FailedTask` | the error that ends this request | any stage; the other tasks go on |

A stage passes on the tasks that are not its concern, so the unusual takes the same way: a lost claim draws again within
`claim_offers`, a merge binds the customer there, an idempotency key stops before `record` and appends by itself.

Invariants:

1. Record before answer (promise 1): `record` returns once the records are in the spool; only then is the answer sent.
2. The propensity that is logged is that of the last draw (promise 2): a lost claim masks its offer, `evaluate` draws
   from the renormalized rest, and the trace has the availability of that draw.
3. Claim before answer (promise 4): a limited offer is in an exposed answer only if its claim was granted.
4. The store failing in any stage degrades that one request (promise 6). Claims granted before that expire unused.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from engine.claims.grant_offers import LostOffers, pending_of
from engine.claims.pending_exposures import store_pending
from engine.claims.sticky_writes import write_sticky
from engine.customer import CustomerIds, Profile
from engine.customers.redis.keys import strongest_identifier
from engine.customers.store import FetchedCustomer
from engine.decision.decision import UNRESTRICTED, Availability, DecideOptions, DecideRequest, Decision, decide
from engine.errors import StoreUnavailable
from engine.journal import traces
from engine.journal.from_decision import exposable_keys, logged_probabilities, records_of
from engine.service.idempotency import PreparedAnswer
from engine.service.recorder import encode_records
from engine.service.worker import Worker


class DecisionTask(msgspec.Struct, frozen=True):
    """A request to decide, at `now` (s since 1970)."""

    request: DecideRequest
    now: float
    decision_id: str


class FetchedTask(msgspec.Struct, frozen=True):
    """A task whose customer was read."""

    task: DecisionTask
    customer: FetchedCustomer
    availability: Availability


class DecidedTask(msgspec.Struct, frozen=True):
    """A task with its decision; `fetched` is None where it was decided without the store."""

    task: DecisionTask
    decision: Decision
    fetched: FetchedTask | None


class PreparedTask(msgspec.Struct, frozen=True):
    """A decision whose answer is encoded; its records are not in the spool yet."""

    decision: Decision
    answer: PreparedAnswer


class FailedTask(msgspec.Struct, frozen=True):
    """A task that ends with an error: of the request, or of the engine."""

    error: Exception


Read = FetchedTask | DecidedTask | FailedTask
Decided = DecidedTask | FailedTask
Prepared = PreparedTask | FailedTask
In = TypeVar("In")
Out = TypeVar("Out")


class DecisionFlow:
    """The stages, on the parts of one worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._store = worker.store
        self._health = worker.store_health
        self._grants = worker.offer_grants
        self._recorder = worker.recorder
        self._encode = msgspec.json.Encoder().encode

    async def answer(self, tasks: list[DecisionTask]) -> list[Prepared]:
        """Take all stages: when this returns, the records are in the spool and the answers may be sent.

        Raises:
            Refusal: 503 if the disk takes no more; then none of the answers may be sent.
        """
        prepared = await self.prepare(tasks)
        self.record(prepared)
        return prepared

    async def prepare(self, tasks: list[DecisionTask]) -> list[Prepared]:
        """Take all stages but `record`, for an answer that is stored before its records are appended."""
        decided = await self.decide_with_store(tasks)
        decided = await self.store_prefetched(decided)
        return _each(self._prepare_one, decided)

    async def decide_with_store(self, tasks: list[DecisionTask]) -> list[Decided]:
        """Fetch, decide and claim; while the store is away, decide without it. Nothing is recorded yet."""
        if self._health.is_away:
            return _each(self.decide_degraded, tasks)
        asked = time.monotonic()
        read = await self.fetch_customers(tasks, asked)
        return await self.claim_offers(self.decide_fetched(read), asked)

    async def fetch_customers(self, tasks: list[DecisionTask], asked: float) -> list[Read]:
        """Read the customers, and what is left of the pools that were found empty; `asked` is now (monotonic)."""
        with_counts = bool(self._worker.plan.watched)
        # `fetch` queues a read, and those of one tick are sent together: all are queued before the first is awaited.
        reads = _each(lambda task: self._store.fetch(task.request.customer, task.now, counts=with_counts), tasks)
        pools: dict[str, float] | StoreUnavailable = {}
        if self._grants.low and any(task.request.placements for task in tasks):
            try:
                pools = await self._grants.read_low_pools(self._worker.plan, tasks[0].now)
            except StoreUnavailable as error:
                pools = error
        return [await self._await_read(task, read, pools, asked) for task, read in zip(tasks, reads, strict=True)]

    def decide_fetched(self, tasks: list[Read]) -> list[Decided]:
        """Decide for the customers that were read."""
        return [_attempt(self._decide_one, task) if isinstance(task, FetchedTask) else task for task in tasks]

    async def claim_offers(self, tasks: list[Decided], asked: float) -> list[Decided]:
        """Claim the limited offers for their customers, and write what the decisions bind customers to.

        `asked` is when `fetch_customers` began (monotonic).
        """
        return await _each_async(lambda decided: self._claim_one(decided, asked), tasks)

    async def store_prefetched(self, tasks: list[Decided]) -> list[Decided]:
        """Store the prefetched decisions, so that their exposures can be reported."""
        return await _each_async(self._store_one_prefetched, tasks)

    def record(self, tasks: list[Prepared]) -> None:
        """Append the records of all answers to the spool, in one write. Errors as in `answer`."""
        payloads = [payload for task in tasks if isinstance(task, PreparedTask) for payload in task.answer.records]
        if payloads:
            self._recorder.append_encoded(payloads)

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
        return decide(
            worker.plan,
            worker.snapshots,
            profile,
            task.request,
            task.now,
            decision_id=task.decision_id,
            options=DecideOptions(degraded=degraded, tripped=worker.tripped, availability=availability, trace=trace),
        )

    async def store_pending_exposure(self, decision: Decision) -> bool:
        """Store a decision until its exposure is reported; False if the store did not take it.

        A degraded decision, or one for an erased customer, is not stored: its exposure is not counted.
        """
        if decision.answer.degraded or decision.erased:
            return True
        pending = pending_of(decision, decision.claims_key, exposable_keys(decision))
        if pending is None:
            return True
        try:
            await store_pending(self._store.pipeline, decision.answer.decision_id, pending)
        except StoreUnavailable:
            return False
        return True

    async def _await_read(
        self,
        task: DecisionTask,
        read: "asyncio.Future[FetchedCustomer] | FailedTask",
        pools: dict[str, float] | StoreUnavailable,
        asked: float,
    ) -> Read:
        if isinstance(read, FailedTask):
            return read
        try:
            customer = await read
            if not task.request.placements:
                pools = {}  # no offers, so no pools in the trace either
            if isinstance(pools, StoreUnavailable):
                raise pools
        except StoreUnavailable:
            return self._degrade(task, asked)
        except Exception as error:  # noqa: BLE001 (it ends this request; the others go on)
            return FailedTask(error)
        return FetchedTask(task, customer, Availability(customer.counts, pools, prices=self._worker.follower.prices))

    def _decide_one(self, fetched: FetchedTask) -> DecidedTask:
        decision = self.evaluate(fetched.task, fetched.customer.profile, availability=fetched.availability)
        return DecidedTask(fetched.task, decision, fetched)

    async def _claim_one(self, decided: DecidedTask, asked: float) -> Decided:
        if decided.fetched is None:
            return decided
        try:
            claimed = await self._write_claims(decided.decision, decided.fetched)
        except StoreUnavailable:
            return self._degrade(decided.task, asked)
        if self._health.is_suspect:
            self._health.record_answer()
        return claimed

    async def _write_claims(self, decision: Decision, fetched: FetchedTask) -> DecidedTask:
        """The writes of one decision, in the order that a crash between two of them needs.

        The customer is bound first, since claims and variants belong to the merged profile; an offer is claimed before
        it can be found by its outcome events, which would confirm or release that claim.
        """
        task, customer, availability = fetched.task, fetched.customer, fetched.availability
        profile, is_exposed = customer.profile, task.request.expose
        if is_exposed:
            if not customer.is_settled or profile.undecided:
                await self._store.bind_customer(customer, task.now, self._recorder.append_events)

            def draw_again(lost: LostOffers) -> Decision:
                nonlocal availability  # that of the last draw goes into the trace
                availability = replace(availability, lost=lost)
                return self.evaluate(task, profile, availability=availability)

            decision = await self._grants.grant(self._worker.plan, decision, customer.key, task.now, draw_again)
        if decision.sticky_entries:
            await write_sticky(self._store, customer, decision.sticky_entries, self._worker.plan.experiments)
        if is_exposed and (pending := pending_of(decision, customer.key, ())) is not None:
            await store_pending(self._store.pipeline, task.decision_id, pending)
        completed = replace(
            decision,
            claims_key=customer.key,
            customer_ids=task.request.customer,
            unit=profile.unit,
            erased=customer.is_erased,
            trace=self._trace(task, profile, availability, decision),
        )
        return DecidedTask(task, completed, fetched)

    async def _store_one_prefetched(self, decided: DecidedTask) -> DecidedTask:
        if decided.task.request.expose or await self.store_pending_exposure(decided.decision):
            return decided
        return self.decide_degraded(decided.task)  # an exposure that nobody can report must not be offered

    def _prepare_one(self, decided: DecidedTask) -> PreparedTask:
        task, decision = decided.task, decided.decision
        records = encode_records(records_of(decision, task.now, expose=task.request.expose))
        customer = None if decision.erased else decision.answer.customer
        return PreparedTask(decision, PreparedAnswer(self._encode(decision.answer), records, customer))

    def _degrade(self, task: DecisionTask, asked: float) -> Decided:
        """Decide a task without the store, which failed after it was `asked`."""
        self._health.record_failure(asked, time.monotonic())
        return _attempt(self.decide_degraded, task)

    def _trace(self, task: DecisionTask, profile: Profile, availability: Availability, decision: Decision) -> bytes:
        """What `explain` needs to repeat the decision, encoded."""
        worker = self._worker
        trace = traces.Trace(
            now=task.now,
            request=task.request,
            profile=profile,
            availability=availability,
            degraded=decision.answer.degraded,
            tripped=list(worker.tripped),
            paused=list(worker.kill_switch.paused),
            probabilities=logged_probabilities(decision),
        )
        return traces.encode_trace(trace)


def new_task(request: DecideRequest, now: float, decision_id: str) -> DecisionTask:
    """The task of a request.

    A request that names no customer but a store, as a sign or a kiosk sends it, is decided for the store.
    """
    store = request.context.get("store")
    if isinstance(store, str) and request.customer == CustomerIds():
        request = replace(request, customer=CustomerIds(device_id=f"store:{store}"))
    return DecisionTask(request, now, decision_id)


def unknown_profile(ids: CustomerIds) -> Profile:
    """The profile that stands in for a customer while the store is away: nothing but the strongest identifier.

    Raises:
        BadInput: if no identifier is given.
    """
    name = strongest_identifier(ids)
    return Profile(id=name, unit=name)


def result_of(outcome: Out | FailedTask) -> Out:
    """The task's result, or raise the error that ended it."""
    if isinstance(outcome, FailedTask):
        raise outcome.error
    return outcome


def _attempt(step: Callable[[In], Out], task: In) -> Out | FailedTask:
    try:
        return step(task)
    except Exception as error:  # noqa: BLE001 (it ends this request; the others go on)
        return FailedTask(error)


def _each(step: Callable[[In], Out], tasks: Sequence[In | FailedTask]) -> list[Out | FailedTask]:
    return [task if isinstance(task, FailedTask) else _attempt(step, task) for task in tasks]


async def _each_async(step: Callable[[In], Awaitable[Out]], tasks: Sequence[In | FailedTask]) -> list[Out | FailedTask]:
    """As `_each`; several steps run concurrently, so that their writes share round trips."""

    async def attempt(task: In | FailedTask) -> Out | FailedTask:
        if isinstance(task, FailedTask):
            return task
        try:
            return await step(task)
        except Exception as error:  # noqa: BLE001 (it ends this request; the others go on)
            return FailedTask(error)

    if len(tasks) == 1:  # a task of the event loop costs more than the step itself
        return [await attempt(tasks[0])]
    return await asyncio.gather(*map(attempt, tasks))
