"""Returns the redeemed amounts of refunded orders to budgets, within the `refunds` span of the budget.

A refund is of the decision that it names, and of what the order redeemed whose id it has; a named offer or placement
alone. It gives a claim's whole amount back, once, to the period that the claim was taken from: see `claims.py`. A
refund of a part of an order is one of the whole promise, as in the ledger.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from engine.catalog.plan.plan import Offer, Plan
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.limits.stock import BudgetSpec
from engine.claims.budgets import budget_share, decided_at
from engine.claims.claims import Claims, PoolShare
from engine.claims.pending_exposures import concerned_offers, fetch_pending
from engine.claims.requirements import claim_id
from engine.customers.model.events import Event
from engine.customers.redis.pipeline import RedisPipeline
from engine.orders import order_id
from engine.vocabulary import DAY


class _Refundable(NamedTuple):
    """An offer whose budget takes refunds."""

    offer: Offer
    budget: BudgetSpec
    refunds: float


async def refund_budgets(pipeline: RedisPipeline, claims: Claims, plan: Plan, event: Event, now: float) -> None:
    """Return to budgets what a refund event covers; repeating it changes nothing.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    refundable = {one.offer.key: one for one in _refundable(plan, event.properties)}
    if not refundable:
        return
    if event.decision_id:
        concerned = [key for key in await _concerned(pipeline, event.decision_id, event) if key in refundable]
        at = decided_at(event.decision_id, now)
        shares = {key: budget_share(refundable[key].offer, refundable[key].budget, "", at) for key in concerned}
        refunding = (claims.refund(share, [claim_id(event.decision_id, key)], now) for key, share in shares.items())
        await asyncio.gather(*refunding)
    order = order_id(event.properties)
    if order:
        places = [(one.offer.key, share) for one in refundable.values() for share in _recent_shares(one, now)]
        await asyncio.gather(
            *(_refund_order(pipeline, claims, share, (order, key), event, now=now) for key, share in places)
        )


async def _refund_order(
    pipeline: RedisPipeline, claims: Claims, share: PoolShare, named: tuple[str, str], event: Event, *, now: float
) -> None:
    """Return what an order claimed from one pool; `named` are the order and the offer of the pool."""
    order, offer = named
    found = await claims.find_order(share, order)
    if found and isinstance(event.properties.get("placement"), str):
        decisions = [claim.removesuffix(f":{offer}") for claim in found]
        shown = await asyncio.gather(*(_concerned(pipeline, decision, event) for decision in decisions))
        found = [claim for claim, offers in zip(found, shown, strict=True) if offer in offers]
    if found:
        await claims.refund(share, found, now)


async def _concerned(pipeline: RedisPipeline, decision_id: str, event: Event) -> list[str]:
    """The offers of a decision that the event concerns; its named offer if the decision is no longer stored."""
    pending = await fetch_pending(pipeline, decision_id)
    named = event.properties.get("offer")
    if pending is None:
        return [named] if isinstance(named, str) else []
    return [offer for offer, _, _ in concerned_offers(pending, event.properties)]


def _refundable(plan: Plan, properties: Mapping[str, object]) -> Iterator[_Refundable]:
    """Yield the offers whose budget takes refunds; only the named one if the refund names an offer."""
    named = properties.get("offer")
    for offer in plan.offers.values():
        budget = offer.limits.budget
        if budget is not None and budget.refunds is not None and named in (None, offer.key):
            yield _Refundable(offer, budget, seconds(budget.refunds))


def _recent_shares(one: _Refundable, now: float) -> Iterator[PoolShare]:
    """Yield the pools of every recent period that may still remember a claim."""
    earliest = now - one.refunds - seconds(one.budget.hold) - DAY
    at = now
    while True:
        share = budget_share(one.offer, one.budget, "", at)
        yield share
        at = share.begins - 1.0
        if not share.period or at < earliest:
            return
