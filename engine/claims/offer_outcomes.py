"""Applies events about offers: counts redemptions, refusals and answers; confirms or releases claims.

| event               | caps                           | claim of the event's decision |
|---------------------|--------------------------------|-------------------------------|
| redemption          | rejected or counted            | claimed → confirmed           |
| others of `CONFIRMS` | counted                       | claimed → confirmed           |
| `RELEASES`          | counted                        | claimed → released            |
| `REFUNDS`           | counted                        | see `budget_refunds.py`       |
| others              | counted                        | claimed, until it expires     |

Invariants: a redemption is admitted before its batch is stored and applied after, so a rejected one changes no profile.
An event counts once under its message id, however often it is delivered, and an order under its order id. The format
in Redis is that of `claims.py`, and of `pending_exposures.py` for the offers of a decision.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from engine.catalog.plan.limits import Cap as Limit
from engine.catalog.plan.plan import Moment, Offer, Plan
from engine.claims.budget_refunds import refund_budgets
from engine.claims.budgets import decided_at
from engine.claims.claims import Claim, Claims
from engine.claims.pending_exposures import LIFE, concerned_offers, fetch_pending
from engine.claims.requirements import (
    ShowingContext,
    cap_check,
    claim_id,
    entries_to_keep,
    moment_checks,
    pool_shares,
    zone_to_mark,
)
from engine.customer import Profile
from engine.customers.ingest import UNREADABLE
from engine.customers.model.events import EARLIEST, Event, EventStatus, customer_ids, event_time
from engine.customers.store import ProfileStore
from engine.decision.moments import customer_zone
from engine.decision.windows import former_zones
from engine.errors import UnreadableValueError
from engine.orders import order_id
from engine.traits.attributes import derive_attributes
from engine.vocabulary import CONFIRMS, PURCHASES, REDEMPTION, REFUNDS, RELEASES

TOGETHER = 32
"""Events whose offers are looked up in one round trip: more at once would keep decisions waiting."""

FORGOTTEN = (
    "decision_id: the offers of a decision are stored for 24 hours past their holds, so no cap on redemptions can be "
    "checked by it any more; send the offer's key as properties.offer"
)

IncomingEvents = Sequence[Event | EventStatus]
"""The events of one request in their order; an event that was rejected already stands as its status."""


class _Redeemed(NamedTuple):
    """A redeemed offer, its caps on redemptions, and the moments that showed it, with their start."""

    offer: Offer
    caps: list[Limit]
    moments: list[tuple[Moment, float]]


async def admit_redemptions(
    store: ProfileStore, claims: Claims, plan: Plan, batch: IncomingEvents, now: float
) -> IncomingEvents:
    """The batch, with redemptions rejected that a cap or a once-only moment forbids.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if REDEMPTION not in plan.feedback_events or not any(_is_redemption(item) for item in batch):
        return batch
    admitted: list[Event | EventStatus] = []
    for start in range(0, len(batch), TOGETHER):
        part = batch[start : start + TOGETHER]
        admitted += await asyncio.gather(*(_admit(store, claims, plan, item, now) for item in part))
    return admitted


async def apply_outcomes(
    store: ProfileStore, claims: Claims, plan: Plan, batch: IncomingEvents, statuses: Sequence[EventStatus], now: float
) -> None:
    """Count a batch's accepted events about offers, and confirm or release the offers' claims.

    Applying an event again changes nothing.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    accepted = [
        item
        for item, status in zip(batch, statuses, strict=True)
        if isinstance(item, Event) and status.status != "rejected" and item.event in plan.feedback_events
    ]
    for start in range(0, len(accepted), TOGETHER):
        part = accepted[start : start + TOGETHER]
        await asyncio.gather(*(_apply(store, claims, plan, event, now) for event in part))


async def _apply(store: ProfileStore, claims: Claims, plan: Plan, event: Event, now: float) -> None:
    name = event.event or ""
    if name in REFUNDS:
        await refund_budgets(store.pipeline, claims, plan, event, now)
    offers = await offers_of_event(store, plan, event)
    if not offers:
        return
    customer = await store.fetch(customer_ids(event), now)
    key, zone = customer.key, _zone_of(customer.profile, plan, now)
    places, channel = await _reserved(store, event) if any(_depends(offer) for offer in offers) else ({}, "")
    for offer in offers:
        await claims.count(key, _event_claim(plan, offer, event, zone), event_time(event, now))
        if not event.decision_id or name not in CONFIRMS | RELEASES:
            continue
        at = decided_at(event.decision_id, now)
        shares = pool_shares(offer, places.get(offer.key, _named_place(plan, event)), channel, at=at)
        if shares:
            claim = Claim(id=claim_id(event.decision_id, offer.key), shares=shares)
            if name in CONFIRMS:
                await claims.confirm(claim, now, order_id(event.properties))
            elif name in RELEASES:
                await claims.release(key, claim, now)


async def _admit(
    store: ProfileStore, claims: Claims, plan: Plan, item: Event | EventStatus, now: float
) -> Event | EventStatus:
    if isinstance(item, EventStatus) or not _is_redemption(item):
        return item
    try:
        return await _admit_readable(store, claims, plan, item, now)
    except UnreadableValueError:
        return EventStatus("rejected", item.message_id, UNREADABLE)


async def _admit_readable(
    store: ProfileStore, claims: Claims, plan: Plan, item: Event, now: float
) -> Event | EventStatus:
    offers = await _redeemed(store, plan, item)
    if not offers and _is_forgotten(item, now) and _limits_redemptions(plan):
        return EventStatus("rejected", item.message_id, FORGOTTEN)
    redeemed = [one for one in offers if one.caps or one.moments]
    if not redeemed:
        return item
    customer = await store.fetch(customer_ids(item), now, counts=True)
    zone = _zone_of(customer.profile, plan, now)
    showing = ShowingContext(item.channel or "", zone, event_time(item, now), former_zones(zone, customer.counts))
    required: list[Claim] = []
    for offer, limits, moments in redeemed:
        caps = [cap_check(cap, showing) for cap in limits]
        caps += [cap for moment, began in moments for cap in moment_checks(moment, showing, began)]
        required.append(replace(_event_claim(plan, offer, item, zone), caps=caps))
    denials = await claims.claim(customer.key, required, showing.now)
    refused = [one.offer.key for one, denial in zip(redeemed, denials, strict=True) if denial is not None]
    if not refused:
        return item
    granted = [claim for claim, denial in zip(required, denials, strict=True) if denial is None]
    await asyncio.gather(*(claims.release(customer.key, claim, now) for claim in granted))
    return EventStatus("rejected", item.message_id, f"offer: {refused[0]} was redeemed as often as it may be")


def _is_forgotten(event: Event, now: float) -> bool:
    """Whether an event only names a decision whose id shows that it is no longer stored."""
    if isinstance(event.properties.get("offer"), str) or not event.decision_id:
        return False
    try:
        decided = int(event.decision_id[:12], 16) / 1000
    except ValueError:
        return False  # no id that the engine made
    return EARLIEST < decided < now - LIFE


def _limits_redemptions(plan: Plan) -> bool:
    return any(_counts_redemptions(counter) for counter in plan.watched)


def _zone_of(profile: Profile, plan: Plan, now: float) -> str:
    return customer_zone(derive_attributes(profile, now, plan.rules.computed), plan.zone)


def _event_claim(plan: Plan, offer: Offer, event: Event, zone: str) -> Claim:
    """The claim, without caps, that counts an event about an offer. All messages of one order are one purchase."""
    counters = offer.limits.counters(event.event or "", event.channel, plan.watched)
    order = order_id(event.properties) if event.event in PURCHASES else ""
    return Claim(
        id=f"order {order}:{offer.key}" if order else f"{event.message_id}:{offer.key}",
        counters=counters,
        keep_entries=entries_to_keep(plan, counters),
        zone=zone_to_mark(plan, counters, zone),
    )


async def _redeemed(store: ProfileStore, plan: Plan, event: Event) -> list[_Redeemed]:
    """The offers of a redemption, each with its limits on redemptions."""
    once = {
        moment.key: moment
        for moments in plan.moments.values()
        for moment in moments
        if moment.counter is not None and _counts_redemptions(moment.counter)
    }
    pending = await fetch_pending(store.pipeline, event.decision_id) if event.decision_id and once else None
    shown = concerned_offers(pending, event.properties) if pending else ()
    moment_of = {offer: (once[moment], began) for offer, moment, began in shown if moment in once}
    found = []
    for offer in await offers_of_event(store, plan, event):
        limits = [cap for cap in offer.limits.all_caps if _counts_redemptions(cap.counter)]
        moments = [moment_of[offer.key]] if offer.key in moment_of else []
        # Without a decision, an offer that no policy shows can only have come from a moment: each of them applies.
        if pending is None and not any(offer.key in selection.arms for selection in plan.policies.values()):
            moments = [
                (one, 0.0)
                for one in once.values()
                if one.spec.once and one.spec.once.per != "occurrence" and offer.key in one.spec.offers
            ]
        found.append(_Redeemed(offer, limits, moments))
    return found


async def offers_of_event(store: ProfileStore, plan: Plan, event: Event) -> list[Offer]:
    """The offers of an event: the one in its property `offer`, or those of its pending decision that it concerns."""
    named = event.properties.get("offer")
    if isinstance(named, str):
        return [plan.offers[named]] if named in plan.offers else []
    pending = await fetch_pending(store.pipeline, event.decision_id) if event.decision_id else None
    keys = [offer for offer, _, _ in concerned_offers(pending, event.properties)] if pending else []
    return [plan.offers[key] for key in dict.fromkeys(keys) if key in plan.offers]


def _depends(offer: Offer) -> bool:
    """Whether a showing's claims depend on its place or channel."""
    return offer.limits.hand_over is not None or bool(offer.limits.budget and offer.limits.budget.spec.costs)


async def _reserved(store: ProfileStore, event: Event) -> tuple[dict[str, str], str]:
    """The places at which the decision of an event reserved items, by offer, and its channel."""
    pending = await fetch_pending(store.pipeline, event.decision_id) if event.decision_id else None
    return ({}, "") if pending is None else (pending.places, pending.channel)


def _named_place(plan: Plan, event: Event) -> str | None:
    """The place in an event's property `place`, for a decision that is no longer stored."""
    named = event.properties.get("place")
    return named if isinstance(named, str) and plan.places is not None and named in plan.places.by_key else None


def _is_redemption(item: Event | EventStatus) -> bool:
    return isinstance(item, Event) and item.type == "track" and item.event == REDEMPTION


def _counts_redemptions(counter: str) -> bool:
    return counter.startswith(f"{REDEMPTION}|")
