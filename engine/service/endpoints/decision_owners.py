"""Recognizes events that name another customer's decision, by the customer tag in the decision's id."""

import asyncio
from collections.abc import Sequence

from engine.customer import KINDS
from engine.customers.model.event_warnings import is_decision_id
from engine.customers.model.events import Event, EventStatus, customer_ids, ids_with_one
from engine.customers.store import ProfileStore
from engine.service.ids import may_be_of

TOGETHER = 32
"""Customers who are looked up in one round trip: more at once would keep decisions waiting."""


async def foreign_decision_warnings(
    store: ProfileStore, batch: Sequence[Event | EventStatus], statuses: Sequence[EventStatus], now: float
) -> list[list[str]]:
    """A warning for each item whose decision was made for another customer.

    The learner rewards that decision all the same: a purchase may be reported under an identifier of the customer that
    the visit did not have. Identifiers that were ever named together are one customer's.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    warnings: list[list[str]] = [[] for _ in batch]
    doubtful = [
        (place, item)
        for place, (item, status) in enumerate(zip(batch, statuses, strict=True))
        if isinstance(item, Event)
        and status.status != "rejected"
        and item.decision_id
        and is_decision_id(item.decision_id)
        and not may_be_of(item.decision_id, customer_ids(item))
    ]
    for start in range(0, len(doubtful), TOGETHER):
        part = doubtful[start : start + TOGETHER]
        foreign = await asyncio.gather(*(_is_foreign(store, event, now) for _, event in part))
        for (place, event), is_foreign in zip(part, foreign, strict=True):
            if is_foreign:
                warnings[place].append(
                    f"decision_id: {event.decision_id:.60} was made for another customer and is rewarded for them; "
                    "send a decision of this customer, or an alias if they are one"
                )
    return warnings


async def _is_foreign(store: ProfileStore, event: Event, now: float) -> bool:
    """Whether none of the event's identifiers belongs to the decision's customer."""
    customer = await store.fetch(customer_ids(event), now)
    known = [ids_with_one(kind, value) for kind in KINDS for value in customer.profile.ids.get(kind, ())]
    return not any(may_be_of(event.decision_id or "", ids) for ids in known)
