"""Attributes orders and redemptions with a coupon code to the decision that gave the code.

An event of `CONFIRMS` with the property `coupon` and no `decision_id` gets those of the code: its decision and offer.
So caps, budget, learner and ledger take it as they take one that names the decision. The code is redeemed before the
batch is stored, under the event's message id: the same event sent again is the same redemption. Where the event is then
rejected, the code is valid again, unless an earlier delivery of the event was accepted. A redemption by a code that is
not valid is rejected; an order is stored without it, since it was placed all the same.
"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from engine.catalog.plan.plan import Plan
from engine.claims.coupons import redeem_code, return_code
from engine.claims.offer_outcomes import IncomingEvents
from engine.customers.model.events import Event, EventStatus
from engine.customers.redis.pipeline import RedisPipeline
from engine.vocabulary import CONFIRMS, REDEMPTION

INVALID = "coupon: is unknown, revoked, not given to a customer, or already redeemed; do not accept it"


async def redeem_coupons(pipeline: RedisPipeline, plan: Plan, batch: IncomingEvents, now: float) -> IncomingEvents:
    """The batch with the decisions of redeemed codes; redemptions by other codes are rejected.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    offers = [key for key, offer in plan.offers.items() if offer.limits.coupons is not None]
    if not offers or not any(_coupon_of(item) for item in batch):
        return batch
    return await asyncio.gather(*(_redeem(pipeline, offers, item, now) for item in batch))


async def return_rejected(
    pipeline: RedisPipeline, redeemed: IncomingEvents, statuses: Sequence[EventStatus], now: float
) -> None:
    """Undo the redemption of codes whose events were rejected afterwards: by a cap, or for an erased customer.

    One that an earlier delivery of the same event brought stays, since its outcome was applied.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    for item, status in zip(redeemed, statuses, strict=True):
        if isinstance(item, Event) and status.status == "rejected" and item.decision_id:
            code, offer = item.properties.get("coupon"), item.properties.get("offer")
            if isinstance(code, str) and isinstance(offer, str):
                await return_code(pipeline, offer, code, item.message_id, now)


async def _redeem(
    pipeline: RedisPipeline, offers: Sequence[str], item: Event | EventStatus, now: float
) -> Event | EventStatus:
    code = _coupon_of(item)
    if code is None or isinstance(item, EventStatus):
        return item
    named = item.properties.get("offer")
    for offer in [named] if isinstance(named, str) and named in offers else offers:
        claim = await redeem_code(pipeline, offer, code, item.message_id, now)
        if claim:
            decision_id = claim.rpartition(":")[0]
            return replace(item, decision_id=decision_id, properties={**item.properties, "offer": offer})
    return EventStatus("rejected", item.message_id, INVALID) if item.event == REDEMPTION else item


def _coupon_of(item: Event | EventStatus) -> str | None:
    """The code that an event redeems; None for an event that names its decision."""
    if not isinstance(item, Event) or item.event not in CONFIRMS or item.decision_id:
        return None
    code = item.properties.get("coupon")
    return code if isinstance(code, str) and code else None
