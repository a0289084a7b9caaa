"""`/v1/explain` and `/v1/agent`: show what a customer would get and why, by running `decide` itself.

An explanation has no effect on anything. What staff are shown is a prefetched decision like any other: it is logged and
awaits its exposure, so that what they offered, and what came of it, can be reported under its id.
"""

import asyncio
import time

import msgspec
from msgspec.structs import replace

from engine.claims.coupons import read_codes
from engine.claims.requirements import every_share
from engine.customers.model.merge import absorbed_keys
from engine.customers.store import FetchedCustomer
from engine.decision.decision import Availability, DecideRequest
from engine.decision.explanation import build_explanation
from engine.decision.staff_view import build_agent_view
from engine.errors import StoreUnavailable
from engine.journal.from_decision import records_of
from engine.service.auth import RequestGuard
from engine.service.decide_body import decode_decide, preview_token
from engine.service.decision_flow import DecisionFlow
from engine.service.decision_task import DecidedTask, FetchedTask, new_task, result_of
from engine.service.http import Call, Reply, Route, endpoint
from engine.service.ids import new_id
from engine.service.previews.decisions import decide_preview
from engine.service.previews.tokens import HEADER
from engine.service.problems import refuse_for_now
from engine.service.worker import Worker

AWAY = "the store is away, so the customer is unknown; ask again"

_encode = msgspec.json.Encoder().encode


def explain_routes(worker: Worker, flow: DecisionFlow, guard: RequestGuard, limit: int) -> list[Route]:
    """The routes of `POST /v1/explain` and `POST /v1/agent`, whose body is that of `/v1/decide`."""

    async def explain(call: Call) -> Reply:
        now, request = time.time(), decode_decide(call.body)
        token = preview_token(request, call.header(HEADER))
        if token:
            plain = replace(request, preview=msgspec.UNSET)
            decision = await decide_preview(worker, plain, token, seconds=worker.settings.event_timeout)
            return Reply(_encode(build_explanation(decision)))
        decided = await decide_with_trace(worker, flow, request, now=now, decision_id=new_id(now))
        return Reply(_encode(build_explanation(decided.decision)))

    async def agent(call: Call) -> Reply:
        now, request = time.time(), replace(decode_decide(call.body), expose=False, preview=msgspec.UNSET)
        decided = await decide_with_trace(worker, flow, request, now=now, decision_id=new_id(now, ahead=True))
        plan, asked = worker.plan, time.monotonic()
        stored = result_of((await flow.store_prefetched(await flow.claim_offers([decided], asked)))[0])
        if stored.fetched is None:
            raise refuse_for_now(AWAY)
        decision, profile = stored.decision, stored.fetched.customer.profile
        worker.recorder.append(records_of(decision, now, expose=False))
        return Reply(_encode(build_agent_view(plan, decision, profile, now)))

    return [
        endpoint("/v1/explain", {"POST": explain}, limit=limit, guard=guard),
        endpoint("/v1/agent", {"POST": agent}, limit=limit, guard=guard),
    ]


async def decide_with_trace(
    worker: Worker, flow: DecisionFlow, request: DecideRequest, *, now: float, decision_id: str
) -> DecidedTask:
    """The decision at `now` (s since 1970) with the gate that closed each offer; nothing is written.

    It waits for the store as long as events do: staff would rather wait than ask again, and no page waits for it.

    Raises:
        Refusal: 503 if the store does not answer.
    """
    task = new_task(request, now, decision_id, worker.plan.rules.placeholders)
    try:
        customer = await worker.event_store.fetch(task.request.customer, now, counts=True)
        pools = await _read_pools(worker, task.request, now, customer)
    except StoreUnavailable:
        raise refuse_for_now(AWAY) from None
    availability = Availability(customer.counts, pools, prices=worker.follower.prices)
    decision = flow.evaluate(task, customer.profile, availability=availability, trace=True)
    return DecidedTask(task, decision, FetchedTask(task, customer, availability))


async def _read_pools(
    worker: Worker, request: DecideRequest, now: float, customer: FetchedCustomer
) -> dict[str, float]:
    """The remaining amount of every stock and budget that the requested placements need, low or not.

    Of coupon codes it has at least one for the customer if they have a code already.
    """
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
    shares = {f"{share.pool}:{share.name}": share for offer in offers for share in every_share(plan, offer, now)}
    left = await asyncio.gather(*(worker.event_claims.read_remaining(share, now) for share in shares.values()))
    pools = dict(zip(shares, left, strict=True))
    absorbed = absorbed_keys(customer.profile, worker.event_store.hash_key)
    for pool, share in shares.items():
        if share.pool == "coupon" and pools[pool] < 1:
            codes = await read_codes(worker.event_store.pipeline, share.name, customer.key, absorbed)
            pools[pool] = float(any(one.state == "drawn" for one in codes))
    return pools
