"""What events say of offers: redemptions, refusals and answers are counted, holds become sales or are given back."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from engine.catalog.plan.limits import Cap as Limit
from engine.catalog.plan.plan import Moment, Offer, Plan
from engine.claims.claims import Claim, Claims
from engine.claims.pending_exposures import fetch_pending
from engine.claims.requirements import ShowingContext, cap_check, claim_id, entries_to_keep, moment_checks, pool_shares
from engine.customer import derive_attributes
from engine.customers.model.events import Event, EventStatus, customer_ids, event_time
from engine.customers.store import ProfileStore
from engine.decision.moments import customer_zone
from engine.vocabulary import CONFIRMS, REDEMPTION, RELEASES

Batch = Sequence[Event | EventStatus]


class _Redeemed(NamedTuple):
    """An offer that is redeemed, its caps on redemptions, and the moments that brought it, with when they began."""

    offer: Offer
    caps: list[Limit]
    moments: list[tuple[Moment, float]]


async def admit_redemptions(store: ProfileStore, claims: Claims, plan: Plan, batch: Batch, now: float) -> Batch:
    """The batch, in which redemptions that a cap, or a moment that is once, does not allow any more are refused.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if REDEMPTION not in plan.feedback_events or not any(_redeems(item) for item in batch):
        return batch
    return await asyncio.gather(*(_admitted(store, claims, plan, item, now) for item in batch))


async def apply_outcomes(
    store: ProfileStore, claims: Claims, plan: Plan, batch: Batch, statuses: Sequence[EventStatus], now: float
) -> None:
    """Count what the events of a batch say of offers, and confirm or release what was held for them.

    Told again of an event, nothing happens twice.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    heard = [
        item
        for item, status in zip(batch, statuses, strict=True)
        if isinstance(item, Event) and status.status != "rejected" and item.event in plan.feedback_events
    ]
    await asyncio.gather(*(_hear(store, claims, plan, event, now) for event in heard))


async def _hear(store: ProfileStore, claims: Claims, plan: Plan, event: Event, now: float) -> None:
    name = event.event or ""
    offers = await _offers(store, plan, event)
    if not offers:
        return
    key = (await store.fetch(customer_ids(event), now)).key
    for offer in offers:
        await claims.count(key, _counted(plan, offer, event), event_time(event, now))
        takes = pool_shares(offer)
        if takes and event.decision_id:
            claim = Claim(claim_id(event.decision_id, offer.key), shares=takes)
            if name in CONFIRMS:
                await claims.confirm(claim, now)
            elif name in RELEASES:
                await claims.release(key, claim, now)


async def _admitted(
    store: ProfileStore, claims: Claims, plan: Plan, item: Event | EventStatus, now: float
) -> Event | EventStatus:
    if isinstance(item, EventStatus) or not _redeems(item):
        return item
    about = [one for one in await _about(store, plan, item) if one.caps or one.moments]
    if not about:
        return item
    found = await store.fetch(customer_ids(item), now)
    zone = customer_zone(derive_attributes(found.profile, now), plan.zone)
    where = ShowingContext(item.channel or "", zone, event_time(item, now))
    asked: list[Claim] = []
    for offer, limits, moments in about:
        caps = [cap_check(cap, where) for cap in limits]
        caps += [cap for moment, began in moments for cap in moment_checks(moment, where, began)]
        asked.append(replace(_counted(plan, offer, item), caps=caps))
    denials = await claims.claim(found.key, asked, where.now)
    refused = [one.offer.key for one, denial in zip(about, denials, strict=True) if denial is not None]
    if not refused:
        return item
    granted = [claim for claim, denial in zip(asked, denials, strict=True) if denial is None]
    await asyncio.gather(*(claims.release(found.key, claim, now) for claim in granted))
    return EventStatus("rejected", item.message_id, f"offer: {refused[0]} was redeemed as often as it may be")


def _counted(plan: Plan, offer: Offer, event: Event) -> Claim:
    """What an event about an offer counts, whatever the caps."""
    counters = offer.limits.counters(event.event or "", event.channel, plan.watched)
    return Claim(f"{event.message_id}:{offer.key}", counters=counters, keep_entries=entries_to_keep(plan, counters))


async def _about(store: ProfileStore, plan: Plan, event: Event) -> list[_Redeemed]:
    """The offers that a redemption is about, each with what limits it."""
    single = {
        moment.key: moment
        for moments in plan.moments.values()
        for moment in moments
        if moment.counter is not None and _of_redemptions(moment.counter)
    }
    shown = await fetch_pending(store.pipeline, event.decision_id) if event.decision_id and single else None
    offered = shown.offers.values() if shown else ()
    came = {offer: (single[moment], began) for offer, moment, began in offered if moment in single}
    found = []
    for offer in await _offers(store, plan, event):
        limits = [cap for cap in offer.limits.all_caps if _of_redemptions(cap.counter)]
        by = [came[offer.key]] if offer.key in came else []
        if shown is None and not any(offer.key in selection.arms for selection in plan.policies.values()):
            by = [
                (one, 0.0)
                for one in single.values()
                if one.spec.once and one.spec.once.per != "occurrence" and offer.key in one.spec.offers
            ]
        found.append(_Redeemed(offer, limits, by))
    return found


async def _offers(store: ProfileStore, plan: Plan, event: Event) -> list[Offer]:
    """The offers an event is about: the one it names, or those of its decision of which more may be heard."""
    told = event.properties.get("offer")
    if isinstance(told, str):
        return [plan.offers[told]] if told in plan.offers else []
    shown = await fetch_pending(store.pipeline, event.decision_id) if event.decision_id else None
    keys = [offer for offer, _, _ in shown.offers.values()] if shown else []
    return [plan.offers[key] for key in keys if key in plan.offers]


def _redeems(item: Event | EventStatus) -> bool:
    return isinstance(item, Event) and item.type == "track" and item.event == REDEMPTION


def _of_redemptions(counter: str) -> bool:
    return counter.startswith(f"{REDEMPTION}|")
