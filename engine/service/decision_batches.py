"""Decides all requests that arrive in one tick of the event loop together, by `decision_flow`.

    arrive -> decode all -> one read -> decide all -> encode all -> one write to the spool -> answer all

A batch is calls from the event loop, not a task, which would cost a lone request a tenth of its CPU. Nothing waits for
a batch to fill: it starts in the tick after its first request, unless `IN_FLIGHT` batches are on their way; those that
arrive meanwhile are the next one.

Invariants:

1. A request that fails, or that needs more than the common way, leaves its batch: a second look-up, writes before the
   answer (`DecisionFlow.needs_store`) and a prefetch are tasks of their own, whose writes of one tick share a round
   trip. The others are answered without them.
2. A batch holds the event loop for about `HOLD_SECONDS`; then what is decided is recorded and answered, and other work
   has its turn.
3. Each request has its own budget from its arrival, also while it waits for a batch. The one timer here watches the
   oldest; past its deadline a request whose customer is not read is decided without the store, at once.
4. Each request is answered once, by `deliver`, after its records are in the spool.
5. `admission` counts those that wait. Whoever calls `add` asks `is_full` first, so that the queue for the CPU stays
   short; those that wait for the store are no part of it.
6. Only a store that was asked can fail: a budget that ends in the queue for the CPU says nothing about the store.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

import structlog
from msgspec.structs import replace

from engine.customers.store import BatchFetch, FetchedCustomer
from engine.service.access.admission import Admission
from engine.service.decision_flow import DecisionFlow, LowPools
from engine.service.decision_task import Decided, DecidedTask, DecisionTask, FailedTask, FetchedTask, Prepared, attempt
from engine.service.store_health import BudgetSpent, StoreBudget
from engine.service.store_waits import StoreWaits
from engine.telemetry.tracing import RequestStage, RequestTrace, is_tracing

IN_FLIGHT = 2
"""Batches at a time: while one waits for the store, the other is decided. A third would wait for the CPU anyway, and
make all of them smaller."""
MOST_REQUESTS = 512
"""Requests of one batch: a burst is read at once, since a request that is read is no longer degraded for its wait."""
HOLD_SECONDS = 0.005
"""It is measured by the wall clock: reading the thread's clock after each decision took a fifth of its CPU."""
LATE_SECONDS = 0.01
"""A request is unread for so long past its deadline only if the CPU has more to do than it can."""
LOOK_SECONDS = 0.001
"""The wait after a deadline for replies that arrived while this process waited for a CPU."""
_EXPIRED_AT_ONCE = 32

log = structlog.get_logger(__name__)


class Arrival:
    """A request that waits for its decision: the function that makes its task, and the callback for the outcome.

    `deadline` is by the event loop's clock, `asked` when it arrived by the monotonic one (both s).
    """

    __slots__ = ("asked", "deadline", "deliver", "is_open", "is_unread", "make_task", "task", "trace")

    def __init__(
        self,
        make_task: Callable[[], DecisionTask],
        deliver: Callable[[Prepared], None],
        deadline: float,
        trace: RequestTrace | None = None,
    ) -> None:
        self.make_task = make_task
        self.deliver = deliver
        self.deadline = deadline
        self.asked = time.monotonic()
        self.is_unread = True
        """Whether its customer is not read yet, so that the end of its budget degrades it."""
        self.is_open = True
        """Whether its batch has to answer it."""
        self.task: DecisionTask | None = None
        self.trace = trace


ReadArrival = tuple[Arrival, DecisionTask, BatchFetch]


class DecisionBatches:
    """The batches of one worker, from `add` to the answers."""

    def __init__(self, flow: DecisionFlow) -> None:
        self.admission = Admission(flow.budget)
        self._flow = flow
        self._arrived: list[Arrival] = []
        self._unread: deque[Arrival] = deque()
        self._settled: list[tuple[Arrival, Decided]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._waits = StoreWaits()
        self._ended = asyncio.Event()
        """Set when a batch has ended."""
        self._is_starting = False

    @property
    def is_full(self) -> bool:
        """Whether a decision that arrives now would wait for the CPU longer than its budget."""
        waiting, most = self.admission.waiting, self.admission.most
        return waiting >= most and (self._is_late() or waiting - self._count_idle() >= most)

    def _is_late(self) -> bool:
        """Whether a waiting request has used up its budget before the CPU was free for it."""
        self._drop_read()
        return bool(self._unread) and self._unread[0].deadline + LATE_SECONDS < asyncio.get_running_loop().time()

    def _count_idle(self) -> int:
        """The number of requests that wait for the store: sent to it, or queued behind earlier batches."""
        if not self._waits.is_slow:
            return 0
        return len(self._waits) + (len(self._arrived) if self._waits.reads == IN_FLIGHT else 0)

    def _drop_read(self) -> None:
        while self._unread and not self._unread[0].is_unread:
            self._unread.popleft()

    def add(self, arrival: Arrival) -> None:
        """Decide a request with the others of this tick."""
        self.admission.waiting += 1
        self._arrived.append(arrival)
        self._unread.append(arrival)
        self._start()
        self._watch()

    async def drain(self) -> None:
        """Wait until every arrived request is answered; their budgets limit the wait."""
        while self._arrived or self._in_flight:
            self._ended.clear()
            await self._ended.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # for `_finish_settled`

    def _start(self) -> None:
        """Start the next batch if one waits and the store may be read."""
        if self._arrived and not self._is_starting and self._in_flight < IN_FLIGHT:
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin(self) -> None:
        """Decode the arrived requests and start their read."""
        batch, self._arrived = self._arrived[:MOST_REQUESTS], self._arrived[MOST_REQUESTS:]
        self._is_starting = False
        self._in_flight += 1
        usual: list[tuple[Arrival, DecisionTask]] = []
        try:
            usual = self._decode(batch)
            self._start()
            if usual:
                self._read(usual)
            else:
                self._end()
        except Exception as error:  # noqa: BLE001 (an error of ours; every request gets an answer)
            taken = [arrival for arrival, _ in usual] or [arrival for arrival in batch if arrival not in self._arrived]
            self._fail(taken, error)

    def _end(self) -> None:
        """Mark the batch as ended, and start the next one."""
        self._drop_read()
        self._in_flight -= 1
        self._ended.set()
        self._start()

    def _fail(self, taken: Sequence[Arrival], error: Exception) -> None:
        """End a batch with an internal error; requests that were answered or left the batch are not affected."""
        self._finish([(arrival, FailedTask(error)) for arrival in taken if arrival.is_open])
        self._end()

    def _decode(self, batch: Sequence[Arrival]) -> list[tuple[Arrival, DecisionTask]]:
        """Make the tasks of the batch; refused requests and those for the one-by-one way leave it.

        Bodies that take long to decode are those of the next batch.
        """
        usual: list[tuple[Arrival, DecisionTask]] = []
        over: list[tuple[Arrival, Decided]] = []
        began = time.monotonic()
        degrading = attempt(DecisionFlow.is_degrading, self._flow)
        for number, arrival in enumerate(batch):
            if time.monotonic() - began > HOLD_SECONDS:
                self._arrived = [*batch[number:], *self._arrived]
                break
            if not arrival.is_unread:
                continue
            task = attempt(lambda one: one.make_task(), arrival)
            if isinstance(degrading, FailedTask) and isinstance(task, DecisionTask):
                task = degrading
            if isinstance(task, FailedTask):
                arrival.is_unread = False
                over.append((arrival, task))
            elif degrading:
                arrival.is_unread = False
                over.append((arrival, attempt(self._flow.decide_degraded, task)))
            elif task.request.expose:
                arrival.task = task
                usual.append((arrival, task))
            else:
                arrival.is_unread = False
                timed = replace(task, deadline=arrival.deadline)
                self._leave(arrival, self._prefetch(timed))
        self._finish(over)
        return usual

    def _read(self, usual: Sequence[tuple[Arrival, DecisionTask]]) -> None:
        """Read the batch's customers, and the pools that were found empty."""
        _enter("store.read", usual)
        tasks = [task for _, task in usual]
        if self._flow.has_low_pools:
            self._spawn(self._read_with_pools(usual, tasks))
        else:
            self._flow.read_batch(tasks, partial(self._take_customers, usual, {}))
        self._waits.begin_read([arrival for arrival, _ in usual])

    async def _read_with_pools(
        self, usual: Sequence[tuple[Arrival, DecisionTask]], tasks: Sequence[DecisionTask]
    ) -> None:
        """Reads as `_read` does, and the pools at the same time as the customers."""
        customers: asyncio.Future[list[BatchFetch]] = asyncio.get_running_loop().create_future()
        self._flow.read_batch(tasks, customers.set_result)
        left = await self._flow.read_pools(tasks)
        self._take_customers(usual, left, await customers)

    def _take_customers(
        self, usual: Sequence[tuple[Arrival, DecisionTask]], pools: LowPools, customers: Sequence[BatchFetch]
    ) -> None:
        """Decide for the customers that were read, unless the budget ended meanwhile."""
        self._waits.end_read([arrival for arrival, _ in usual])
        read = [
            (arrival, task, customer)
            for (arrival, task), customer in zip(usual, customers, strict=True)
            if arrival.is_unread
        ]
        for arrival, _, _ in read:
            arrival.is_unread = False
        _enter("decide", read)
        self._decide(read, pools)

    def _decide(self, read: Sequence[ReadArrival], pools: LowPools) -> None:
        """Decide, record and answer the batch in parts."""
        done: list[tuple[Arrival, Decided]] = []
        began = time.monotonic()
        number = 0
        try:
            while number < len(read) and time.monotonic() - began <= HOLD_SECONDS:
                arrival = read[number][0]
                decided = attempt(lambda one: self._decide_one(*one, pools), read[number])
                if decided is not None:
                    done.append((arrival, decided))
                number += 1
            self._finish(done)
        except Exception as error:  # noqa: BLE001 (an error of ours; every request gets an answer)
            self._fail([arrival for arrival, _, _ in read], error)
            return
        if number:
            self.admission.record_cost(number, time.monotonic() - began)
        if number < len(read):
            asyncio.get_running_loop().call_soon(self._decide, read[number:], pools)
        else:
            self._end()

    def _decide_one(self, arrival: Arrival, task: DecisionTask, read: BatchFetch, pools: LowPools) -> Decided | None:
        """Decide one request; None if it leaves the batch for a second look-up or a write."""
        flow, asked = self._flow, arrival.asked
        if isinstance(read, asyncio.Future):
            self._leave(arrival, self._follow(arrival, task, read, pools))
            return None
        found = flow.use_read(task, read, pools, asked)
        if not isinstance(found, FetchedTask):
            return found
        decided = flow.decide_one(found)
        if flow.needs_store(decided):
            self._leave(arrival, self._settle(arrival, decided))
            return None
        return flow.complete(decided)

    async def _settle(self, arrival: Arrival, decided: DecidedTask) -> Decided:
        """Write what one decision requires; after its budget, or without the store, degrade it."""
        try:
            async with StoreBudget(arrival.deadline):
                [settled] = await self._flow.claim_offers([decided], arrival.asked)
                return settled
        except BudgetSpent:
            return attempt(self._flow.decide_degraded, decided.task)

    async def _follow(
        self, arrival: Arrival, task: DecisionTask, second: asyncio.Future[FetchedCustomer], pools: LowPools
    ) -> Decided:
        """Decide for a customer whose identifiers point to another one, after the second look-up."""
        flow, read = self._flow, None
        try:
            async with StoreBudget(arrival.deadline):
                read = await flow.await_read(task, second, pools, arrival.asked)
                [settled] = await flow.claim_offers(flow.decide_fetched([read]), arrival.asked)
                return settled
        except BudgetSpent:
            return attempt(flow.decide_degraded, task) if read else flow.degrade(task, arrival.asked)

    async def _prefetch(self, task: DecisionTask) -> Decided:
        """Make a decision that is exposed later, and store it."""
        [decided] = await self._flow.decide_and_store([task])
        return decided

    def _leave(self, arrival: Arrival, deciding: Coroutine[None, None, Decided]) -> None:
        """Move a request into a task of its own."""
        arrival.is_open = False
        _enter("store.write", ((arrival,),))
        self._waits.begin_write(arrival)
        self._spawn(self._alone(arrival, deciding))

    async def _alone(self, arrival: Arrival, deciding: Coroutine[None, None, Decided]) -> None:
        """Finish a request that left its batch."""
        try:
            decided = await deciding
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            decided = FailedTask(error)
        self._waits.end(arrival)
        self._finish_soon(arrival, decided)

    def _finish_soon(self, arrival: Arrival, decided: Decided) -> None:
        """Record and answer a task together with the others of this tick."""
        if not self._settled:
            asyncio.get_running_loop().call_soon(self._finish_settled)
        self._settled.append((arrival, decided))

    def _finish_settled(self) -> None:
        settled, self._settled = self._settled, []
        self._finish(settled)

    def _finish(self, decided: Sequence[tuple[Arrival, Decided]]) -> None:
        """Encode the answers, write all records to the spool in one write, then send the answers."""
        if not decided:
            return
        _enter("spool.append", decided)
        prepared = self._flow.answers.record_all([one for _, one in decided])
        for (arrival, _), outcome in zip(decided, prepared, strict=True):
            arrival.is_open = arrival.is_unread = False
            self.admission.waiting -= 1
            self.admission.made += 1
            self._waits.end(arrival)
            try:
                arrival.deliver(outcome)
            except Exception:  # the others are answered
                log.exception("a decision could not be delivered")

    def _watch(self) -> None:
        """Set the timer to the end of the oldest request's budget."""
        if self._timer is None and self._unread:
            self._timer = asyncio.get_running_loop().call_at(self._unread[0].deadline, self._look_once_more)

    def _look_once_more(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._expire)

    def _expire(self) -> None:
        """Decide without the store for requests whose budget is used up."""
        loop = asyncio.get_running_loop()
        self._timer = None
        now, spent = loop.time(), list[tuple[Arrival, Decided]]()
        while self._unread and len(spent) < _EXPIRED_AT_ONCE:
            arrival = self._unread[0]
            if arrival.is_unread and arrival.deadline > now:
                break
            self._unread.popleft()
            if arrival.is_unread:
                arrival.is_unread = False
                spent.append((arrival, self._degrade(arrival)))
        if spent:
            self._arrived = [arrival for arrival in self._arrived if arrival.is_unread]
        self._finish(spent)
        self._watch()

    def _degrade(self, arrival: Arrival) -> Decided:
        """Decide without the store for a request whose customer was not read in time."""
        task = attempt(lambda one: one.task or one.make_task(), arrival)
        if isinstance(task, FailedTask):
            return task
        asked = self._waits.asked_at(arrival)
        if asked is None and self._waits.reads < IN_FLIGHT:
            return attempt(self._flow.decide_degraded, task)
        return self._flow.degrade(task, asked or arrival.asked)


def _enter(stage: RequestStage, requests: Sequence[tuple[Arrival, *tuple[object, ...]]]) -> None:
    """Begin a stage of the traced requests."""
    if not is_tracing():
        return
    for arrival, *_ in requests:
        if arrival.trace is not None:
            arrival.trace.enter(stage)
