"""Which offers one order may redeem together: the `stacking` of `channels.yaml`.

| event | that breaks a rule | that breaks none |
|---|---|---|
| redemption | rejected with the rule and the offers that the order has | its offers are added to the order's |
| order | accepted with a warning: it was placed all the same | its offers are added to the order's |

An order is what carries one order id; an event without one is an order of its own. An offer counts once in an order,
however often it is redeemed. Of events at the same moment the rules admit as many as they allow: a script checks and
adds in one step. What an event added is taken back where the event is then rejected for another reason.

Format in Redis, for `LIFE` seconds after the last event: a hash of the order, from offer to the message that redeemed
it and the rules that it counts under.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from engine import keyspace
from engine.catalog.plan.plan import Offer, Plan
from engine.claims.claims import order_digest
from engine.claims.offer_outcomes import IncomingEvents, offers_of_event
from engine.customers.model.events import Event, EventStatus
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, load_script
from engine.customers.store import ProfileStore
from engine.orders import order_id
from engine.vocabulary import CONFIRMS, DAY, REDEMPTION

LIFE = int(90 * DAY)
_STACKING = load_script(Path(__file__).with_name("stacking.lua"))
_Action = Literal["admit", "record", "undo"]


class StackedBatch(NamedTuple):
    """A batch in which redemptions are rejected that a rule does not allow, and the warnings of each item."""

    items: IncomingEvents
    warnings: list[list[str]]


async def admit_stacked(store: ProfileStore, plan: Plan, batch: IncomingEvents) -> StackedBatch:
    """Add the offers that a batch redeems to those of its orders, and reject the redemptions that break a rule.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if not plan.has_stacking:
        return StackedBatch(batch, [[] for _ in batch])
    admitted: list[Event | EventStatus] = []
    warnings: list[list[str]] = []
    for item in batch:  # one by one: a batch may redeem several offers of an order, of which the first is admitted
        broken = "" if isinstance(item, EventStatus) else await _add(store, plan, item)
        is_refused = broken and isinstance(item, Event) and item.event == REDEMPTION
        admitted.append(EventStatus("rejected", item.message_id, broken) if is_refused else item)
        warnings.append([broken] if broken and not is_refused else [])
    return StackedBatch(admitted, warnings)


async def undo_rejected(
    store: ProfileStore, plan: Plan, admitted: IncomingEvents, statuses: Sequence[EventStatus]
) -> None:
    """Take back what events added to their orders that were rejected after all.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if not plan.has_stacking:
        return
    lost = [
        item
        for item, status in zip(admitted, statuses, strict=True)
        if isinstance(item, Event) and status.status == "rejected"
    ]
    for item in lost:
        if offers := await _stacked_offers(store, plan, item):
            await _call(store.pipeline, "undo", item, offers)


async def _add(store: ProfileStore, plan: Plan, event: Event) -> str:
    """Add the offers of an event to its order; the rule that it breaks, with the reason, or an empty text."""
    offers = await _stacked_offers(store, plan, event)
    if not offers:
        return ""
    reply = await _call(store.pipeline, "admit" if event.event == REDEMPTION else "record", event, offers)
    if not isinstance(reply, list) or not reply:
        return ""
    rule, most, offer, *others = (part.decode() if isinstance(part, bytes) else str(part) for part in reply)
    place = next(one.place for each in offers for one in each.limits.stacking if one.name == rule)
    return (
        f"offer: {offer} may not be redeemed with {', '.join(others)} in one order: channels.yaml {place} allows "
        f"{most} of its offers; take one of them out of the order"
    )


async def _stacked_offers(store: ProfileStore, plan: Plan, event: Event) -> list[Offer]:
    """The offers with rules that an event redeems."""
    if event.type != "track" or event.event not in CONFIRMS:
        return []
    return [offer for offer in await offers_of_event(store, plan, event) if offer.limits.stacking]


def _call(
    pipeline: RedisPipeline, action: _Action, event: Event, offers: Sequence[Offer]
) -> "asyncio.Future[RedisReply]":
    rules = [(offer.key, offer.limits.stacking) for offer in offers]
    order = order_id(event.properties) or f"message {event.message_id}"
    packed = msgspec.msgpack.encode((action, event.message_id, LIFE, rules))
    return pipeline.call(_STACKING, (keyspace.order(order_digest(order)),), (packed,))
