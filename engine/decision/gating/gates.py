"""The gates: each with the rule that closes offers, its meaning, and the words for staff.

`GATES` lists them in the order in which they are asked; an offer is closed by the first that closes it. To add a gate,
add its name to `Gate` and its rule to `GATES`. A rule works on the bits of a whole collection of offers, so that its
cost follows what the index finds and not the number of offers; a rule that reads names looks them up with
`OfferIndex.named`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, Protocol

import msgspec

from engine.catalog.plan.indexing.bits import Bits, set_places
from engine.catalog.plan.indexing.offer_index import OfferIndex
from engine.catalog.plan.plan import Offer
from engine.customer import has_consented
from engine.decision.gating.facts import Facts
from engine.decision.windows import is_cap_reached, is_suppressed

Gate = Literal[
    "dates",
    "channel",
    "consent",
    "audience",
    "suppressed",
    "silenced",
    "cap",
    "place",
    "stock",
    "budget",
    "coupon",
    "shown",
    "price",
    "moment",
    "erased",
    "failed",
]
"""Why an offer is no candidate; `GATES` says what each one means."""


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
    """One gate: the rule that closes offers, its meaning, and its explanation for a customer.

    `closes` is None for a gate that is decided outside of this module. One with `given` closes nothing, and is not
    asked, where the request's facts have none of that.
    """

    closes: ClosedOffers | None
    meaning: str
    for_staff: str
    given: Literal["counts", "silenced", "pools", "shown"] | None = None


def is_capped(offer: Offer, facts: Facts) -> bool:
    """Whether a cap of the channel closes the offer for this customer now."""
    return any(
        is_cap_reached(cap, facts.now, facts.zone, facts.counts, facts.former)
        for cap in offer.limits.caps.get(facts.channel, ())
    )


def _outside_dates(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    index = collection.index
    return passing ^ (passing & index.within_dates(facts.now)) if index.edges else 0


def _without_rendering(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return passing ^ (passing & collection.index.named("channel").get(facts.channel, 0))


def _without_consent(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    """The offers without the customer's consent to their purpose; each purpose is looked up once."""
    closed = 0
    for purpose, needing in collection.index.named("purpose").items():
        if needing & passing and not has_consented(facts.profile, purpose, facts.now):
            closed |= needing
    return closed


def _outside_audience(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return collection.index.outside_audience(facts.attributes, passing)


def _suppressed(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    """The offers that past outcomes suppress; only offers with a count are examined."""
    closed = 0
    if limited := passing & _counted_offers(collection, facts):
        for place in set_places(limited):
            rule = collection.offers[place].limits.suppression
            if rule is not None and is_suppressed(rule, facts.counts, facts.now):
                closed |= 1 << place
    return closed


def _silenced(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    """All offers except the spared ones, while the shop's `suppress` condition is true."""
    return passing & ~collection.index.named("spared").get("spared", 0) if facts.is_silenced else 0


def _capped(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    """The offers whose cap is reached; only offers with a count are examined."""
    closed = 0
    if limited := passing & _counted_offers(collection, facts):
        for place in set_places(limited):
            if is_capped(collection.offers[place], facts):
                closed |= 1 << place
    return closed


def _out_of_reach(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    """The offers whose item no place near the request hands over; each rule is evaluated once."""
    closed = 0
    for needing in collection.index.named("hand_over").values():
        if asked := needing & passing:
            rule = collection.offers[next(set_places(asked))].limits.hand_over
            if rule is not None and not facts.vicinity.reached(rule):
                closed |= needing
    return closed


def _out_of_stock(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    if not facts.pools:
        return 0
    closed, by_sku = _short_of(collection, facts, "stock:", passing), collection.index.named("shelf")
    for sku in {pool.partition("/")[2] for pool in facts.pools if pool.startswith("shelf:")}:
        for place in set_places(passing & by_sku.get(sku, 0)):
            if not collection.offers[place].limits.places_with_stock(facts.vicinity, facts.pools):
                closed |= 1 << place
    return closed


def _over_budget(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return _short_of(collection, facts, "budget:", passing) if facts.pools else 0


def _without_code(collection: OfferCollection, facts: Facts, _shown: Collection[str], passing: Bits) -> Bits:
    return _short_of(collection, facts, "coupon:", passing) if facts.pools else 0


def _shown_elsewhere(collection: OfferCollection, _facts: Facts, shown: Collection[str], _passing: Bits) -> Bits:
    """The offers that another placement of this answer shows, and the offers that those exclude."""
    closed, excluded = 0, collection.index.named("excluded_by")
    for key in shown:
        closed |= collection.index.bits.get(key, 0) | excluded.get(key, 0)
    return closed


def _counted_offers(collection: OfferCollection, facts: Facts) -> Bits:
    """The offers whose limits read a counter that is above zero for this customer."""
    limited, counters, counts = 0, collection.index.named("counter"), facts.counts
    # By the shorter of the two: a page may have many placements, and a customer met many offers.
    for counter in counters if len(counters) < len(counts) else counts:
        if counter in counts:
            limited |= counters.get(counter, 0)
    return limited


def _short_of(collection: OfferCollection, facts: Facts, kind: str, passing: Bits) -> Bits:
    """The offers that need more of a pool of this kind than it has left."""
    closed, needing = 0, collection.index.named("pool")
    for pool, left in facts.pools.items():
        if pool.startswith(kind):
            for place in set_places(passing & needing.get(pool, 0)):
                if not collection.offers[place].limits.is_enough(pool, left, facts.channel):
                    closed |= 1 << place
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
        given="counts",
    ),
    "silenced": GateRule(
        closes=_silenced,
        meaning="the condition of the shop's `suppress` holds for the customer, and it does not except the offer",
        for_staff="nothing is sold to the customer now",
        given="silenced",
    ),
    "cap": GateRule(
        closes=_capped,
        meaning="a cap of the offer or of the channel is reached",
        for_staff="the customer had it as often as allowed",
        given="counts",
    ),
    "place": GateRule(
        closes=_out_of_reach,
        meaning="no place near the customer hands over its item, or the customer's position is not known",
        for_staff="not available near the customer",
    ),
    "stock": GateRule(
        closes=_out_of_stock,
        meaning="its SKU is sold out or fully reserved at every place that hands it over",
        for_staff="sold out",
        given="pools",
    ),
    "budget": GateRule(
        closes=_over_budget,
        meaning="its budget is spent or fully reserved",
        for_staff="its budget is spent",
        given="pools",
    ),
    "coupon": GateRule(
        closes=_without_code,
        meaning="all its coupon codes are taken, and the customer has none",
        for_staff="all its codes are given away",
        given="pools",
    ),
    "shown": GateRule(
        closes=_shown_elsewhere,
        meaning="another placement of the same answer shows it, or an offer that excludes it",
        for_staff="already on this screen",
        given="shown",
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
    "failed": GateRule(  # whichever gate raised an error for the offer
        closes=None,
        meaning="a gate failed on this customer's data, which is an error of the engine; its log has it",
        for_staff="it cannot be offered at the moment",
    ),
}
"""Every gate, in the order in which they are asked; the last four are decided after or beside the others."""
