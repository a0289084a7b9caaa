"""`POST /v1/decide`: what a customer gets."""

import time

import msgspec

from engine.decision.decision import DecideRequest
from engine.service.auth import PROOF_HEADER, RequestGuard
from engine.service.decision_flow import DecisionFlow, PreparedTask, new_task, result_of
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.idempotency import PreparedAnswer
from engine.service.ids import mark_repeatable, new_id
from engine.service.problems import decode_body
from engine.service.worker import Worker

_decoder = msgspec.json.Decoder(DecideRequest)


def decide_routes(worker: Worker, flow: DecisionFlow, guard: RequestGuard, limit: int) -> list[Route]:
    """`/v1/decide`."""

    async def handle_decide(call: Call) -> Reply:
        began = time.perf_counter()
        request = decode_body(_decoder, call.body)
        call.caller.require_proof(request.customer, call.header(PROOF_HEADER))
        key = call.header(b"idempotency-key")
        if key:
            return await answer_once(call, request, key, began)
        now = time.time()
        task = new_task(request, now, new_id(now, ahead=not request.expose))
        [outcome] = await flow.answer([task])
        return Reply(counted(result_of(outcome), began).answer)

    async def answer_once(call: Call, request: DecideRequest, key: str, began: float) -> Reply:
        """Answer a request with an idempotency key: the stored answer of the key if it has one."""
        now = time.time()

        async def prepare() -> PreparedAnswer:
            [outcome] = await flow.prepare([new_task(request, now, mark_repeatable(new_id(now)))])
            return counted(result_of(outcome), began)

        # All customers of a page share its publishable key, so an idempotency key is theirs only with their ids.
        owner = repr(request.customer) if call.caller.role == "client" else ""
        scope = f"{call.caller.name}\0{owner}\0{key}"
        return Reply(await worker.idempotent_answers.answer_once(scope, call.body, prepare))

    def counted(prepared: PreparedTask, began: float) -> PreparedAnswer:
        worker.metrics.count_decision(prepared.decision, time.perf_counter() - began)
        return prepared.answer

    return [endpoint("/v1/decide", {"POST": handle_decide}, limit=limit, guard=guard)]
