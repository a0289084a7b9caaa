"""Finds the places that can hand an offer's item over; `explain` also has the reasons against the other places."""

from typing import Literal

import msgspec

from engine.catalog.plan.places import NearPlace, shelf_name
from engine.catalog.plan.plan import Offer
from engine.decision.gating.facts import Facts


class ShelfReason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place and an offer's item: it is `first`, may be `next`, or cannot hand it over for the reason `why`.

    `km` is the distance from the request, where that has a position; `left` the items there, where that was read.
    """

    place: str
    status: Literal["first", "next", "not"]
    why: str = ""
    km: float | None = None
    left: float | None = None


def able_places(offer: Offer, facts: Facts) -> list[NearPlace]:
    """The places that can hand an offer's item over, the nearest first.

    Before them stands the place where this decision has claimed the item: that its last unit is gone is by that claim.
    """
    able = offer.limits.places_with_stock(facts.vicinity, {**facts.pools, **facts.short})
    key = facts.reserved.get(offer.key)
    if key is None:
        return able
    anywhere = offer.limits.places_with_stock(facts.vicinity, {})
    return [near for near in anywhere if near.place.key == key] + [near for near in able if near.place.key != key]


def explain_shelves(offer: Offer, facts: Facts) -> list[ShelfReason]:
    """Every place of the shop with its `ShelfReason` for the offer's item, the nearest first."""
    rule, stock = offer.limits.hand_over, offer.limits.stock
    if rule is None or stock is None:
        return []
    pools = {**facts.pools, **facts.short}
    able = able_places(offer, facts)
    found = []
    for near in facts.vicinity.places:
        why = rule.why_not(near) or ("" if near in able else "what it has is sold or reserved")
        status: Literal["first", "next", "not"] = "not" if why else "first" if near == able[0] else "next"
        left = pools.get(f"shelf:{shelf_name(near.place.key, stock.sku)}")
        km = None if near.km is None else round(near.km, 3)
        found.append(ShelfReason(place=near.place.key, status=status, why=why, km=km, left=left))
    return found
