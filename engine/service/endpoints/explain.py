"""Why a customer would get what they would get, and the same for staff: through `decide`, and without a trace left."""

import asyncio
import time

import msgspec

from engine.catalog.plan.plan import Plan
from engine.claims.requirements import pool_shares
from engine.customer import Profile
from engine.decision.decision import Availability, DecideRequest, Decision
from engine.decision.explanation import build_explanation
from engine.decision.staff_view import build_agent_view
from engine.errors import StoreUnavailable
from engine.service.auth import RequestGuard
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.problems import Refusal, refuse_body
from engine.service.worker import Worker, address_store

_request = msgspec.json.Decoder(DecideRequest)
_encode = msgspec.json.Encoder().encode


def explain_routes(worker: Worker, guard: RequestGuard, limit: int) -> list[Route]:
    """`POST /v1/explain` and `POST /v1/agent`, each with the body of `/v1/decide`."""

    async def explain(call: Call) -> Reply:
        decision, _, _ = await _traced(worker, call)
        return Reply(_encode(build_explanation(decision)))

    async def agent(call: Call) -> Reply:
        decision, profile, now = await _traced(worker, call)
        return Reply(_encode(build_agent_view(worker.plan, decision, profile, now)))

    return [
        endpoint("/v1/explain", {"POST": explain}, limit=limit, guard=guard),
        endpoint("/v1/agent", {"POST": agent}, limit=limit, guard=guard),
    ]


async def _traced(worker: Worker, call: Call) -> tuple[Decision, Profile, float]:
    try:
        request = address_store(_request.decode(call.body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse_body(error) from None
    now = time.time()
    try:
        resolved = await worker.store.fetch(request.customer, now, counts=True)
        pools = await _pools(worker, worker.plan, request, now)
    except StoreUnavailable:
        raise Refusal(503, "the store is away; ask again", "", ((b"retry-after", b"1"),)) from None
    availability = Availability(resolved.counts, pools, prices=worker.follower.prices)
    decision = worker.decided(resolved.profile, request, now, new_id(now), availability=availability, trace=True)
    return decision, resolved.profile, now


async def _pools(worker: Worker, plan: Plan, request: DecideRequest, now: float) -> dict[str, float]:
    """What is left of every stock and budget that an offer of the request needs."""
    offers = [
        offer
        for placement in request.placements
        if (selection := plan.selections.get((request.channel, placement)))
        for offer in (
            *selection.offers,
            *(offer for moment in plan.moments.get((request.channel, placement), ()) for offer in moment.offers),
        )
    ]
    takes = {f"{take.pool}:{take.name}": take for offer in offers for take in pool_shares(offer)}
    left = await asyncio.gather(*(worker.claims.read_remaining(take, now) for take in takes.values()))
    return dict(zip(takes, left, strict=True))
