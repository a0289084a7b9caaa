"""Translates the limits of a choice into the claim that must be granted before it is shown.

The claim has the state `claimed` when the choice is shown, and becomes confirmed, released or expired as `claims.py`
describes. Invariants: the same decision and offer always give the same claim id, so a repetition counts once; a choice
without limits needs no claim. This module is pure: it reads and writes no Redis.
"""

from collections.abc import Iterable
from typing import NamedTuple

from engine.catalog.plan.limits import Cap as Limit
from engine.catalog.plan.places import shelf_name
from engine.catalog.plan.plan import Moment, Offer, Plan
from engine.catalog.spec.fields import seconds
from engine.claims.budgets import budget_share, decided_at
from engine.claims.claims import COUNTER_ENTRIES, CapCheck, Claim, PoolShare
from engine.decision.moments import once_window_start
from engine.decision.offers import Choice
from engine.decision.windows import FormerZones, cap_window_start
from engine.vocabulary import split_item


class ShowingContext(NamedTuple):
    """The channel, the customer's time zone, the time (s since 1970) of a showing, and the zones before."""

    channel: str
    zone: str
    now: float
    former: FormerZones


def claim_id(decision_id: str, offer: str) -> str:
    """The id of the claim on an offer of a decision, unique because a decision shows no offer twice."""
    return f"{decision_id}:{offer}"


def required_claim(plan: Plan, decision_id: str, name: str, choice: Choice, showing: ShowingContext) -> Claim | None:
    """The claim that must be granted before a choice is shown; None if it has no limits.

    `name` is the placement, or the item of a list.
    """
    if choice.is_silent:
        return None
    limits = choice.offer.limits
    caps = [cap_check(cap, showing) for cap in limits.caps.get(showing.channel, ())]
    counters = list(limits.exposed.get(showing.channel, ()))
    if choice.moment is not None:
        placement, _ = split_item(name)
        moments = plan.moments.get((showing.channel, placement), ())
        for moment in moments:
            if moment.key == choice.moment:
                caps += moment_checks(moment, showing, choice.moment_start)
    place = None if choice.place is None else choice.place.place.key
    shares = pool_shares(choice.offer, place, showing.channel, at=decided_at(decision_id, showing.now))
    if not (caps or counters or shares):
        return None
    return Claim(
        id=claim_id(decision_id, choice.offer.key),
        caps=caps,
        counters=counters,
        shares=shares,
        keep_entries=entries_to_keep(plan, counters),
        zone=zone_to_mark(plan, counters, showing.zone),
    )


def entries_to_keep(plan: Plan, counters: Iterable[str]) -> int:
    """The number of entries to store per counter, so that every rule can read as many as it needs."""
    return max((COUNTER_ENTRIES, *(plan.watched.get(counter, 0) for counter in counters)))


def cap_check(cap: Limit, showing: ShowingContext) -> CapCheck:
    """A cap with the start of its window."""
    return CapCheck(cap.counter, cap.count, cap_window_start(cap, showing.now, showing.zone, showing.former))


def moment_checks(moment: Moment, showing: ShowingContext, began: float) -> list[CapCheck]:
    """The check that a moment begun at `began` has not occurred before; empty if it may repeat."""
    if not moment.counter:
        return []
    return [CapCheck(moment.counter, 1, once_window_start(moment, showing.now, showing.zone, showing.former, began))]


def zone_to_mark(plan: Plan, counters: Iterable[str], zone: str) -> str:
    """The customer's time zone, if one of the counters is compared in its calendar windows; else empty."""
    return "" if plan.zoned.isdisjoint(counters) else zone


def pool_shares(offer: Offer, place: str | None = None, channel: str = "", *, at: float) -> list[PoolShare]:
    """The shares of stock and budget that one showing of an offer claims.

    Of an item that places hand over, `place` has the share of stock; there is none without a place. A budget's share is
    the cost on the channel, in the period in which the showing was decided, `at` (s since 1970).
    """
    stock, budget = offer.limits.stock, offer.limits.budget
    shares = []
    if stock is not None and (offer.limits.hand_over is None or place is not None):
        shares.append(
            PoolShare(
                pool="stock" if offer.limits.hand_over is None else "shelf",
                name=stock.sku if offer.limits.hand_over is None or place is None else shelf_name(place, stock.sku),
                amount=1.0,
                least=stock.at_least,
                hold=seconds(stock.hold),
            )
        )
    if budget is not None:
        shares.append(budget_share(budget, offer.limits.zone, channel, at))
    if offer.limits.coupons is not None:
        shares.append(PoolShare(pool="coupon", name=offer.key, hold=seconds(offer.limits.coupons.hold)))
    return shares


def every_share(plan: Plan, offer: Offer, at: float) -> list[PoolShare]:
    """The shares that showing an offer decided `at` may claim; for a stock by place one per place."""
    rule, places = offer.limits.hand_over, plan.places
    if rule is None or places is None:
        return pool_shares(offer, at=at)
    able = [key for key, place in places.by_key.items() if rule.may_hand_over(place)]
    shares = {(share.pool, share.name): share for key in able for share in pool_shares(offer, key, at=at)}
    return [*shares.values()] or pool_shares(offer, at=at)
