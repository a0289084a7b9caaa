"""`POST /v1/decide`: decides placements and experiments for a customer."""

import asyncio
import time

import msgspec
from msgspec.structs import replace

from engine.decision.decision import DecideRequest
from engine.service.access.client_statements import refuse_worth_in_context
from engine.service.access.public_answer import publish_answer
from engine.service.auth import PROOF_HEADER, RequestGuard
from engine.service.decide_body import DecideBody, decode_decide, preview_token
from engine.service.decision_batches import Arrival, DecisionBatches
from engine.service.decision_flow import DecisionFlow
from engine.service.decision_task import DecisionTask, FailedTask, Prepared, PreparedTask, new_task, result_of
from engine.service.http import Call, Reply, Route, WholeRequest, endpoint
from engine.service.idempotency import PreparedAnswer
from engine.service.ids import mark_repeatable, new_id
from engine.service.previews.decisions import decide_preview
from engine.service.previews.tokens import HEADER
from engine.service.problems import Refusal
from engine.service.worker import Worker
from engine.telemetry.tracing import RequestTrace, current_trace, end_trace, trace_request

PREVIEW_NAME = b'"preview"'
"""The field that marks a request with a preview, which is not decided in a batch."""
_encode = msgspec.json.Encoder().encode
DEAD_SECONDS = 0.1
"""A request past its deadline by more has waited for another with its key, which died, and starts over."""


class DecideEndpoint:
    """`/v1/decide` of one worker."""

    def __init__(
        self, worker: Worker, flow: DecisionFlow, batches: DecisionBatches, guard: RequestGuard, limit: int
    ) -> None:
        self._worker = worker
        self._flow = flow
        self._batches = batches
        self._guard = guard
        self._limit = limit

    def take(self, request: WholeRequest) -> bool:
        """Decide a plain request together with the others of its tick, from its bytes to its answer's bytes."""
        if not request.is_plain_json(self._limit) or request.has_header(b"idempotency-key"):
            return False
        if self._batches.is_full:
            self._worker.metrics.count_refused()
            request.refuse(self._batches.admission.refuse(time.monotonic()), self._guard.origins)
            request.hold()
            return True
        if PREVIEW_NAME in request.body or request.has_header(HEADER):
            return False
        # Neither function knows the arrival, which knows both: a cycle would stay until the garbage collector runs.
        origins, began = self._guard.origins, time.monotonic()
        trace = trace_request("POST", request.path, request.headers, "queue")

        def make_task() -> DecisionTask:
            call = request.call_by(self._guard)
            return self._task_of(call, self._decode(call))

        def deliver(outcome: Prepared) -> None:
            if isinstance(outcome, FailedTask):
                end_trace(trace, request.refuse(outcome.error, origins))
            else:
                request.answer(Reply(self._counted(outcome, began)), origins)
                if trace is not None:
                    _describe(trace, outcome)
                    trace.end(200)

        self._batches.add(Arrival(make_task, deliver, self._flow.new_deadline(), trace))
        return True

    async def handle(self, call: Call) -> Reply:
        """Decide a request that the fast path did not take, or that has an idempotency key."""
        if self._batches.is_full:
            self._worker.metrics.count_refused()
            raise self._batches.admission.refuse(time.monotonic())
        request = self._decode(call)
        token = preview_token(request, call.header(HEADER))
        if token:
            return await self._preview(call, request, token)
        key = call.header(b"idempotency-key")
        if key and self._worker.recorder.has_space():  # else it has no record to store with its answer
            return await self._answer_once(call, request, key)
        outcome: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        trace = current_trace.get()
        if trace is not None:
            trace.enter("queue")
        arrival = Arrival(
            lambda: self._task_of(call, request),
            lambda prepared: None if outcome.done() else outcome.set_result(prepared),
            self._flow.new_deadline(),
            trace,
        )
        self._batches.add(arrival)
        prepared = result_of(await outcome)
        if trace is not None:
            _describe(trace, prepared)
        return Reply(self._counted(prepared, arrival.asked))

    async def _answer_once(self, call: Call, request: DecideRequest, key: str) -> Reply:
        """Answer a request with an idempotency key: by the key's stored answer if there is one."""
        flow, began, now, deadline = self._flow, time.monotonic(), time.time(), self._flow.new_deadline()

        async def prepare() -> PreparedAnswer:
            waited = asyncio.get_running_loop().time() - deadline
            ends = flow.new_deadline() if waited > DEAD_SECONDS else deadline
            task = replace(self._new_task(call, request, now, mark_repeatable(new_id(now))), deadline=ends)
            [outcome] = await flow.prepare([task])
            prepared = result_of(outcome)
            self._counted(prepared, began)
            return prepared.answer

        # All customers of a page share its publishable key, so an idempotency key is theirs only with their ids.
        owner = repr(request.customer) if call.caller.role == "client" else ""
        scope = f"{call.caller.name}\0{owner}\0{key}"
        answers = self._worker.idempotent_answers
        return Reply(await answers.answer_once(scope, call.body, prepare, deadline=deadline))

    async def _preview(self, call: Call, request: DecideBody, token: str) -> Reply:
        """Answer a request with a preview token; nothing is recorded, so its idempotency key has no effect."""
        plain = replace(request, preview=msgspec.UNSET)
        decision = await decide_preview(self._worker, plain, token, seconds=self._worker.settings.store_timeout)
        is_public = call.caller.role == "client"
        return Reply(_encode(publish_answer(decision.answer) if is_public else decision.answer))

    def _decode(self, call: Call) -> DecideBody:
        """Decode a request and check that its caller may make it."""
        request = decode_decide(call.body)
        if call.caller.role == "client":
            call.caller.require_proof(request.customer, call.header(PROOF_HEADER))
            refuse_worth_in_context(request.context, self._worker.plan.audience_names, call.caller.may_say)
        return request

    def _task_of(self, call: Call, request: DecideBody) -> DecisionTask:
        if request.preview is not msgspec.UNSET:  # a name that is escaped: `handle` did not see it
            raise Refusal(400, "preview: its name has an escape; write it plainly", "preview")
        now = time.time()
        return self._new_task(call, request, now, new_id(now, ahead=not request.expose))

    def _new_task(self, call: Call, request: DecideRequest, now: float, decision_id: str) -> DecisionTask:
        is_public = call.caller.role == "client"
        return new_task(request, now, decision_id, self._worker.plan.rules.placeholders, is_public=is_public)

    def _counted(self, prepared: PreparedTask, began: float) -> bytes:
        """Count the answer with the time since `began` (monotonic), and return it."""
        self._worker.metrics.count_decision(prepared.decision, time.monotonic() - began)
        return prepared.answer.answer


def _describe(trace: RequestTrace, prepared: PreparedTask) -> None:
    """Add the decision's attributes to a trace."""
    answer = prepared.decision.answer
    trace.add(
        decision_id=answer.decision_id,
        channel=prepared.decision.channel,
        plan=answer.plan,
        degraded=answer.degraded,
        placements=len(answer.offers),
        experiments=len(answer.experiments),
    )


def decide_routes(
    worker: Worker, flow: DecisionFlow, batches: DecisionBatches, guard: RequestGuard, limit: int
) -> list[Route]:
    """The route of `/v1/decide`."""
    decide = DecideEndpoint(worker, flow, batches, guard, limit)
    return [endpoint("/v1/decide", {"POST": decide.handle}, limit=limit, guard=guard, take=decide.take)]
