"""Gates: the reasons for which an offer may not be shown to a customer now.

`GATES` lists them in the order in which they are asked; an offer is closed by the first that closes it. To add a gate,
add its name to `Gate` and its rule to `GATES`. A rule works on the bits of a whole collection of offers, so that its
cost follows what the index finds and not the number of offers.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, Protocol

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
"""Why an offer is no candidate; `GATES` says what each one means."""

Pools = Mapping[str, float]
"""What is left of stocks and budgets that are known to be low, by `stock:SKU` and `budget:OFFER`."""
Prices = Mapping[str, float]
"""What one more showing of a scarce offer costs the other customers who want it, by the offer's key."""
NOTHING: Counts = {}
FULL: Pools = {}
FREE: Prices = {}


class Facts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All that gates, moments and policies read, for one request. `now` is in seconds since 1970."""

    profile: Profile
    attributes: Mapping[str, object]
    channel: str
    now: float
    zone: str
    counts: Counts = NOTHING
    pools: Pools = FULL
    prices: Prices = FREE


class OfferCollection(Protocol):
    """Offers with their index: those of a placement's selection or of a moment."""

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The offers, in the order of the index's bits."""

    @property
    def index(self) -> OfferIndex:
        """The index of the same offers."""


ClosedOffers = Callable[[OfferCollection, Facts, Collection[str], Bits], Bits]
"""(collection, facts, keys shown in other placements, offers still open) -> the bits that the gate closes."""


class GateRule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One gate: which offers it closes, what that means, and how staff explain it to a customer.

    `closes` is None for a gate that is decided outside of this module.
    """

    closes: ClosedOffers | None
    meaning: str
    for_staff: str


def passing_offers(collection: OfferCollection, facts: Facts, shown: Collection[str] = ()) -> Bits:
    """The offers that no gate closes, as bits of the collection's index."""
    passing = collection.index.everything
    for closes in _CLOSING:
        passing &= ~closes(collection, facts, shown, passing)
    return passing


def closing_gates(collection: OfferCollection, facts: Facts, shown: Collection[str] = ()) -> dict[str, Gate]:
    """The gate that closes each closed offer, by the offer's key; for a trace, beside `passing_offers`."""
    index = collection.index
    passing = index.everything
    closed: dict[str, Gate] = {}
    for gate, rule in GATES.items():
        if rule.closes is not None:
            closing = rule.closes(collection, facts, shown, passing) & passing
            closed.update({index.keys[place]: gate for place in set_places(closing)})
            passing &= ~closing
    return closed


def is_capped(offer: Offer, facts: Facts) -> bool:
    """Whether a cap of the channel keeps the offer from this customer now."""
    return any(_is_reached(cap, facts) for cap in offer.limits.caps.get(facts.channel, ()))


def is_enough(offer: Offer, pool: str, left: float) -> bool:
    """Whether `left` of a stock or budget suffices to show the offer one more time."""
    stock, budget = offer.limits.stock, offer.limits.budget
    if pool.startswith("stock:"):
        return stock is None or left >= max(1, stock.at_least)
    return budget is None or left >= budget.cost


def cap_window_start(cap: Cap, now: float, zone: str) -> float:
    """When the window of a cap began that `now` lies in (s since 1970); `zone` is the customer's."""
    return window_start(now, cap.per, "calendar" if cap.calendar else "rolling", cap.zone or zone)


def _outside_dates(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return passing & ~collection.index.within_dates(facts.now)


def _without_rendering(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return passing & ~collection.index.channels.get(facts.channel, 0)


def _without_consent(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    closed = 0
    for purpose, needing in collection.index.purposes.items():
        if needing & passing and not has_consented(facts.profile, purpose, facts.now):
            closed |= needing
    return closed


def _outside_audience(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return collection.index.outside_audience(facts.attributes, passing)


def _suppressed(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    closed = 0
    if limited := passing & _counted_offers(collection, facts):
        for place in set_places(limited):
            rule = collection.offers[place].limits.suppression
            if rule is not None and _is_suppressed(rule, facts):
                closed |= 1 << place
    return closed


def _capped(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    closed = 0
    if limited := passing & _counted_offers(collection, facts):
        for place in set_places(limited):
            if is_capped(collection.offers[place], facts):
                closed |= 1 << place
    return closed


def _out_of_stock(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return _short_of(collection, facts.pools, "stock:", passing) if facts.pools else 0


def _over_budget(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return _short_of(collection, facts.pools, "budget:", passing) if facts.pools else 0


def _shown_elsewhere(collection: OfferCollection, _facts: Facts, shown: Collection[str], _passing: Bits) -> Bits:
    closed = 0
    for key in shown:
        closed |= collection.index.bits.get(key, 0)
    return closed


GATES: Mapping[Gate, GateRule] = {
    "dates": GateRule(
        closes=_outside_dates,
        meaning="today is not within the offer's dates",
        for_staff="not on offer today",
    ),
    "channel": GateRule(
        closes=_without_rendering,
        meaning="the offer has no rendering for the channel",
        for_staff="not offered here",
    ),
    "consent": GateRule(
        closes=_without_consent,
        meaning="the customer has not consented to the offer's purpose",
        for_staff="the customer did not agree to be approached with it",
    ),
    "audience": GateRule(
        closes=_outside_audience,
        meaning="the customer is not in the offer's audience",
        for_staff="not meant for this customer",
    ),
    "suppressed": GateRule(
        closes=_suppressed,
        meaning="the offer had too many outcomes of the kind that its `suppress` counts",
        for_staff="the customer turned it down lately",
    ),
    "cap": GateRule(
        closes=_capped,
        meaning="a cap of the offer or of the channel is reached",
        for_staff="the customer had it as often as allowed",
    ),
    "stock": GateRule(
        closes=_out_of_stock,
        meaning="what is left of its SKU is sold or reserved",
        for_staff="sold out",
    ),
    "budget": GateRule(
        closes=_over_budget,
        meaning="what is left of its budget is spent or reserved",
        for_staff="its budget is spent",
    ),
    "shown": GateRule(
        closes=_shown_elsewhere,
        meaning="another placement of the same answer shows it",
        for_staff="already on this screen",
    ),
    "price": GateRule(  # closed in `offers`, once the policy has estimated what the offers are worth
        closes=None,
        meaning="its stock or budget must last, and it is worth more to other customers than to this one",
        for_staff="reserved for customers who value it more",
    ),
    "moment": GateRule(  # closed in `offers`, where a moment's offer wins
        closes=None,
        meaning="a moment of truth takes precedence",
        for_staff="another offer is for this very moment",
    ),
    "erased": GateRule(  # closed by the claims: a limit cannot be enforced without counting
        closes=None,
        meaning="the customer was erased, so nothing is counted for them and no limited offer is shown",
        for_staff="nothing may be stored about this customer",
    ),
}
"""Every gate, in the order in which they are asked; the last three are decided after the others."""

_CLOSING = tuple(rule.closes for rule in GATES.values() if rule.closes is not None)


def _counted_offers(collection: OfferCollection, facts: Facts) -> Bits:
    """The offers whose limits read a counter that has counted something for this customer."""
    limited = 0
    for counter in facts.counts:
        limited |= collection.index.counters.get(counter, 0)
    return limited


def _short_of(collection: OfferCollection, pools: Pools, kind: str, passing: Bits) -> Bits:
    """The offers that need more of a pool of this kind than is left."""
    closed = 0
    for pool, left in pools.items():
        if pool.startswith(kind):
            for place in set_places(passing & collection.index.pools.get(pool, 0)):
                if not is_enough(collection.offers[place], pool, left):
                    closed |= 1 << place
    return closed


def _is_reached(cap: Cap, facts: Facts) -> bool:
    """Whether the cap's counter has reached its limit within its window."""
    times = facts.counts.get(cap.counter)
    if not times or len(times) < cap.count:
        return False
    start = cap_window_start(cap, facts.now, facts.zone)
    return sum(time > start for time in times) >= cap.count


def _is_suppressed(rule: Suppression, facts: Facts) -> bool:
    """Whether the outcomes that the rule counts, with exposures nobody answered, suppress the offer now."""
    counts = facts.counts
    outcomes = counts.get(rule.outcome, ())
    if rule.shown is not None and rule.answered is not None:
        ignored = ignored_exposures(counts.get(rule.shown, ()), counts.get(rule.answered, ()), facts.now)
        outcomes = [*outcomes, *ignored]
    return suppressed_until(outcomes, rule.after, rule.within, rule.lasts) > facts.now
