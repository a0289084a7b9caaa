"""What keeps an offer from a customer now: gates in a fixed order, each with its reason."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from engine.catalog.plan.limits import Cap, Suppression
from engine.catalog.plan.offer_index import Bits, OfferIndex, set_places
from engine.catalog.plan.plan import Offer
from engine.customer import Counts, Profile, has_consented
from engine.decision.windows import ignored_exposures, suppressed_until, window_start

Gate = Literal[
    "dates",
    "channel",
    "consent",
    "audience",
    "suppressed",
    "cap",
    "stock",
    "budget",
    "shown",
    "price",
    "moment",
    "erased",
]
"""What keeps an offer from being a candidate, in this order: not within its `dates`; no rendering for the `channel`;
no `consent` to its purpose; the customer is not its `audience`; `suppressed` after too many outcomes; a `cap` is
reached; the `stock` is gone or held; the `budget` is spent or held; already `shown` in another placement of this
answer; its stock or budget must last, and at its `price` it is worth more to others; a `moment` of truth goes before
it. `erased`: nothing may be counted for this customer, so nothing that is counted is shown."""

Pools = Mapping[str, float]
Prices = Mapping[str, float]
NOTHING: Counts = {}
FULL: Pools = {}
FREE: Prices = {}


class Facts(msgspec.Struct, frozen=True):
    """All that gates, moments and policies look at, for one request.

    `counts` says when what is counted of the customer happened (s since 1970); `pools` how much is left of stocks and
    budgets that are known to be low, by `stock:SKU` and `budget:OFFER`; `prices` what showing a scarce offer costs the
    others who want it, by its key.
    """

    profile: Profile
    attributes: Mapping[str, object]
    channel: str
    now: float
    zone: str
    counts: Counts = NOTHING
    pools: Pools = FULL
    prices: Prices = FREE


def passing_offers(
    index: OfferIndex,
    offers: Sequence[Offer],
    facts: Facts,
    shown: Collection[str] = (),
    closed: dict[str, Gate] | None = None,
) -> Bits:
    """The offers that may be shown, as bits of the index; why not the others goes to `closed`, if it is wanted."""
    alive = index.everything

    def keep(kept: Bits, gate: Gate) -> None:
        nonlocal alive
        if closed is not None:
            closed.update({index.keys[place]: gate for place in set_places(alive & ~kept)})
        alive &= kept

    keep(index.within_dates(facts.now), "dates")
    keep(index.channels.get(facts.channel, 0), "channel")
    for purpose, needing in index.purposes.items():
        if needing & alive and not has_consented(facts.profile, purpose, facts.now):
            keep(~needing, "consent")
    keep(~index.outside_audience(facts.attributes, alive), "audience")
    if facts.counts:
        limited = 0
        for counter in facts.counts:
            limited |= index.counters.get(counter, 0)
        for place in set_places(alive & limited):
            limits = offers[place].limits
            if limits.suppression is not None and _suppressed(limits.suppression, facts):
                keep(~(1 << place), "suppressed")
            elif any(_reached(cap, facts) for cap in limits.caps.get(facts.channel, ())):
                keep(~(1 << place), "cap")
    for pool, left in facts.pools.items():
        for place in set_places(alive & index.pools.get(pool, 0)):
            if not is_enough(offers[place], pool, left):
                keep(~(1 << place), "stock" if pool.startswith("stock:") else "budget")
    for key in shown:
        bit = index.bits.get(key, 0)
        if bit:
            keep(~bit, "shown")
    return alive


def is_capped(offer: Offer, facts: Facts) -> bool:
    """Whether a cap keeps the offer from this customer now."""
    return any(_reached(cap, facts) for cap in offer.limits.caps.get(facts.channel, ()))


def cap_window_start(cap: Cap, now: float, zone: str) -> float:
    """When the window of a cap began that `now` lies in; `zone` is the customer's."""
    return window_start(now, cap.per, "calendar" if cap.calendar else "rolling", cap.zone or zone)


def is_enough(offer: Offer, pool: str, left: float) -> bool:
    """Whether what is left of a stock or budget is enough to show the offer once more."""
    stock, budget = offer.limits.stock, offer.limits.budget
    if pool.startswith("stock:"):
        return stock is None or left >= max(1, stock.at_least)
    return budget is None or left >= budget.cost


def _reached(cap: Cap, facts: Facts) -> bool:
    times = facts.counts.get(cap.counter)
    if not times or len(times) < cap.count:
        return False
    start = cap_window_start(cap, facts.now, facts.zone)
    return sum(time > start for time in times) >= cap.count


def _suppressed(rule: Suppression, facts: Facts) -> bool:
    outcomes = facts.counts.get(rule.outcome, ())
    if rule.shown is not None and rule.answered is not None:
        counts = facts.counts
        outcomes = [*outcomes, *ignored_exposures(counts.get(rule.shown, ()), counts.get(rule.answered, ()), facts.now)]
    return suppressed_until(outcomes, rule.after, rule.within, rule.lasts) > facts.now
