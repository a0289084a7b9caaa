"""Returns the redeemed amounts of refunded orders to budgets, within the `refunds` span of the budget.

A refund is of the decision that it names, and of what the order redeemed whose id it has; a named offer or placement
alone. It gives a claim's whole amount back, once, to the period that the claim was taken from: see `claims.py`. A
refund of a part of an order is one of the whole promise, as in the ledger.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping

from engine.catalog.plan.limits import Budget
from engine.catalog.plan.plan import Plan
from engine.claims.budgets import budget_share, decided_at
from engine.claims.claims import Claims, PoolShare
from engine.claims.pending_exposures import concerned_offers, fetch_pending
from engine.claims.requirements import claim_id
from engine.customers.model.events import Event
from engine.customers.redis.pipeline import RedisPipeline
from engine.orders import order_id
from engine.vocabulary import DAY


async def refund_budgets(pipeline: RedisPipeline, claims: Claims, plan: Plan, event: Event, now: float) -> None:
    """Return to budgets what a refund event covers; repeating it changes nothing.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    refundable = dict(_refundable(plan, event.properties))
    if not refundable:
        return
    if event.decision_id:
        concerned = [key for key in await _concerned(pipeline, event.decision_id, event) if key in refundable]
        at = decided_at(event.decision_id, now)
        shares = {key: budget_share(refundable[key], plan.zone, "", at) for key in concerned}
        refunding = (claims.refund(share, [claim_id(event.decision_id, key)], now) for key, share in shares.items())
        await asyncio.gather(*refunding)
    order = order_id(event.properties)
    if order:
        by_hold = sorted(refundable.values(), key=lambda budget: budget.hold)
        pools = {budget.pool: budget for budget in by_hold}  # of offers that share one, the longest hold
        recent = [share for budget in pools.values() for share in _recent_shares(budget, plan.zone, now)]
        await asyncio.gather(
            *(_refund_order(pipeline, claims, share, (order, refundable.keys()), event, now=now) for share in recent)
        )


async def _refund_order(
    pipeline: RedisPipeline,
    claims: Claims,
    share: PoolShare,
    named: tuple[str, Collection[str]],
    event: Event,
    *,
    now: float,
) -> None:
    """Return what an order claimed from one pool; `named` are the order, and the offers that the refund may be of."""
    order, offers = named
    parts = [claim.rpartition(":") for claim in await claims.find_order(share, order)]
    found = [(decision, offer) for decision, _, offer in parts if offer in offers]
    if found and isinstance(event.properties.get("placement"), str):
        shown = await asyncio.gather(*(_concerned(pipeline, decision, event) for decision, _ in found))
        found = [one for one, concerned in zip(found, shown, strict=True) if one[1] in concerned]
    if found:
        await claims.refund(share, [claim_id(*one) for one in found], now)


async def _concerned(pipeline: RedisPipeline, decision_id: str, event: Event) -> list[str]:
    """The offers of a decision that the event concerns; its named offer if the decision is no longer stored."""
    pending = await fetch_pending(pipeline, decision_id)
    named = event.properties.get("offer")
    if pending is None:
        return [named] if isinstance(named, str) else []
    return [offer for offer, _, _ in concerned_offers(pending, event.properties)]


def _refundable(plan: Plan, properties: Mapping[str, object]) -> Iterator[tuple[str, Budget]]:
    """Yield the offers whose budget takes refunds; only the named one if the refund names an offer."""
    named = properties.get("offer")
    for offer in plan.offers.values():
        budget = offer.limits.budget
        if budget is not None and budget.refunds and named in (None, offer.key):
            yield offer.key, budget


def _recent_shares(budget: Budget, zone: str, now: float) -> Iterator[PoolShare]:
    """Yield the pools of every recent period that may still remember a claim."""
    earliest = now - budget.refunds - budget.hold - DAY
    at = now
    while True:
        share = budget_share(budget, zone, "", at)
        yield share
        at = share.begins - 1.0
        if not share.period or at < earliest:
            return
