"""`/v1/explain` and `/v1/agent`: what a customer would get and why, by `decide` itself, with no effect on anything."""

import asyncio
import time

import msgspec

from engine.claims.requirements import pool_shares
from engine.customer import Profile
from engine.decision.decision import Availability, DecideRequest, Decision
from engine.decision.explanation import build_explanation
from engine.decision.staff_view import build_agent_view
from engine.errors import StoreUnavailable
from engine.service.auth import RequestGuard
from engine.service.decision_flow import DecisionFlow, new_task
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.problems import decode_body, refuse_for_now
from engine.service.worker import Worker

AWAY = "the store is away, so the customer is unknown; ask again"

_decoder = msgspec.json.Decoder(DecideRequest)
_encode = msgspec.json.Encoder().encode


def explain_routes(worker: Worker, flow: DecisionFlow, guard: RequestGuard, limit: int) -> list[Route]:
    """`POST /v1/explain` and `POST /v1/agent`, each with the body of `/v1/decide`."""

    async def explain(call: Call) -> Reply:
        decision, _, _ = await _decide_with_trace(worker, flow, call)
        return Reply(_encode(build_explanation(decision)))

    async def agent(call: Call) -> Reply:
        decision, profile, now = await _decide_with_trace(worker, flow, call)
        return Reply(_encode(build_agent_view(worker.plan, decision, profile, now)))

    return [
        endpoint("/v1/explain", {"POST": explain}, limit=limit, guard=guard),
        endpoint("/v1/agent", {"POST": agent}, limit=limit, guard=guard),
    ]


async def _decide_with_trace(worker: Worker, flow: DecisionFlow, call: Call) -> tuple[Decision, Profile, float]:
    """The decision with its trace, the customer's profile, and when it was decided (s since 1970)."""
    now = time.time()
    task = new_task(decode_body(_decoder, call.body), now, new_id(now))
    try:
        customer = await worker.store.fetch(task.request.customer, now, counts=True)
        pools = await _read_pools(worker, task.request, now)
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None
    availability = Availability(customer.counts, pools, prices=worker.follower.prices)
    decision = flow.evaluate(task, customer.profile, availability=availability, trace=True)
    return decision, customer.profile, now


async def _read_pools(worker: Worker, request: DecideRequest, now: float) -> dict[str, float]:
    """What is left of every stock and budget that an offer of the request's placements needs, low or not."""
    plan = worker.plan
    offers = [
        offer
        for placement in request.placements
        if (selection := plan.selections.get((request.channel, placement)))
        for offer in (
            *selection.offers,
            *(offer for moment in plan.moments.get((request.channel, placement), ()) for offer in moment.offers),
        )
    ]
    shares = {f"{share.pool}:{share.name}": share for offer in offers for share in pool_shares(offer)}
    left = await asyncio.gather(*(worker.claims.read_remaining(share, now) for share in shares.values()))
    return dict(zip(shares, left, strict=True))
