"""Chooses a placement's offer. `choose_offer` runs the chain; each step below it does one thing.

moment -> gates -> policy -> prices -> arbitration -> redraw after a lost claim -> draw; the fallback where no offer is
left. The offer is drawn from exactly the probabilities that are logged, with a number that is a hash of the decision's
id and the placement: the logged propensity is exact, and a decision can be replayed.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Literal

import msgspec
import numpy as np

from engine.catalog.plan.creatives import DrawnCreative
from engine.catalog.plan.features import Context
from engine.catalog.plan.indexing.bits import Bits, places_of, set_places
from engine.catalog.plan.places import NearPlace
from engine.catalog.plan.plan import Moment, Offer, Selection
from engine.decision.arbitrate import Factors, arbitrate, worth_their_price
from engine.decision.gating.facts import Facts
from engine.decision.gating.gates import Gate
from engine.decision.gating.passing import GateFailure, closing_gates, passing_offers
from engine.decision.moments import moment_start
from engine.decision.shelves import ShelfReason, able_places, explain_shelves
from engine.hashing import uniform_draw
from engine.vocabulary import item_name
from policies import Policy
from policies.batches import Floats, Ints

OfferReason = Literal["policy", "moment", "preview", "fallback", "breaker", "shown", "deferred", "dropped", "silence"]
"""Why a placement shows what it shows.

An offer: `policy` it was drawn; `moment` its moment of truth is now; `preview` a signed token of the request forces
it. The fallback: `fallback` no other offer may be shown now, or the store is away; `breaker` the placement's circuit
breaker is open. Nothing: `shown` the fallback stands in another placement of this answer; on an outbound channel,
`deferred` until `not_before` or `dropped` in its quiet hours, and `dropped` past its caps; `silence` the decision is
held out.
"""
FALLBACK_REASONS = ("fallback", "breaker")
"""The reasons for which the fallback is shown."""

LostClaims = Mapping[str, Gate]
"""Offers of one placement that were drawn and whose claim was denied, with the gate that denied it."""
NONE_LOST: LostClaims = {}


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A policy as the learner published it.

    `fits` are the arms of the selection that it was aligned with: it does not fit another plan's selection, even one
    with arms of the same names. `final` probabilities come from a decision's record: prices and arbitration are in
    them already.
    """

    policy: Policy
    version: int = 0
    fits: tuple[str, ...] | None = None
    final: bool = False


class Choice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The choice for one placement, with the inputs and steps that led to it.

    `candidates` and `probabilities` are the arms that could be drawn, `context` the features as used, `policy` the
    policy and its version (`home_hero@17`). `closed` (the gate that closed each other offer) and `factors` (what made
    each probability) are filled for a trace only. `failures` are errors of the engine that closed an offer or a moment.
    Times are seconds since 1970.

    `propensity` is that of the offer, whichever `creative` of it is shown.

    The choice of a list is that of its first position, with the others in `below`. The propensity of each is the
    probability of its offer given those above it. `position` counts from 1; it is 0 where one offer is shown.

    `place` hands the offer's item over, and those `further` away could; a trace has the `shelves` of each offer.
    """

    offer: Offer
    reason: OfferReason
    propensity: float
    candidates: list[str] = []
    probabilities: Sequence[float] = ()
    context: Context = {}
    policy: str | None = None
    closed: Mapping[str, Gate] = {}
    factors: Mapping[str, Factors] = {}
    moment: str | None = None
    moment_start: float = 0.0
    not_before: float | None = None
    failures: Sequence[GateFailure] = ()
    position: int = 0
    below: "tuple[Choice, ...]" = ()
    place: NearPlace | None = None
    further: Sequence[NearPlace] = ()
    shelves: Mapping[str, list[ShelfReason]] = {}
    creative: DrawnCreative | None = None

    @property
    def shown_propensity(self) -> float:
        """The probability of the offer together with its creative, as logged and answered."""
        return self.propensity if self.creative is None else self.propensity * self.creative.propensity

    @property
    def items(self) -> "tuple[Choice, ...]":
        """The choices of all positions, this one first."""
        return (self, *self.below)

    @property
    def joint(self) -> float:
        """The probability of everything shown: the list, or the one offer, with creatives."""
        return math.prod(item.shown_propensity for item in self.items)

    @property
    def is_silent(self) -> bool:
        """Whether the placement stays empty."""
        return self.reason in ("shown", "deferred", "dropped", "silence")


class OfferQuery(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The complete input of the choice for one placement.

    `shown` are the offers that other placements of the answer, or positions above, show; `lost` those whose claim was
    denied. `position` is that of a list, from 1; 0 where one offer is shown. `creative_snapshot` is the policy of the
    selection's creatives.
    """

    selection: Selection
    snapshot: Snapshot | None
    facts: Facts
    decision_id: str
    moments: Sequence[Moment] = ()
    shown: Collection[str] = ()
    lost: LostClaims = NONE_LOST
    trace: bool = False
    position: int = 0
    creative_snapshot: Snapshot | None = None


class Model(msgspec.Struct, frozen=True, gc=False):
    """The policy that chooses, and the context as it reads it: `x` is float64 (dim,)."""

    policy: Policy
    version: int
    final: bool
    context: Context
    x: Floats


class _Candidates(msgspec.Struct, frozen=True, gc=False):
    """The arms that can be drawn, with probabilities that sum to 1; `places` are positions in the selection."""

    places: Sequence[int]
    names: list[str]
    probabilities: list[float]
    factors: Sequence[Factors] = ()


def choose_offer(query: OfferQuery) -> Choice:
    """Chooses what a placement shows; the propensity is exactly the probability of the draw."""
    choice, failures = _choose_by_moment(query) if query.moments else (None, [])
    if choice is None:
        passing = passing_offers(query.selection, query.facts, query.shown)
        failures += passing.failures
        choice = _choose_by_policy(query, passing.bits)
    if choice.offer.limits.hand_over is not None or query.trace:
        choice = _with_place(query, choice)
    return msgspec.structs.replace(choice, failures=failures) if failures else choice


def _with_place(query: OfferQuery, choice: Choice) -> Choice:
    """The choice with the place that hands its item over; a trace has the places of every offer."""
    facts = query.facts
    limits = choice.offer.limits
    able = able_places(choice.offer, facts) or limits.places_with_stock(facts.vicinity, facts.pools)
    place, *further = able or (None,)  # where all are short its claim is denied, which masks the offer
    shelves = {}
    if query.trace:
        offers = (*query.selection.offers, *(offer for moment in query.moments for offer in moment.offers))
        shelves = {offer.key: explain_shelves(offer, facts) for offer in offers if offer.limits.hand_over is not None}
    return msgspec.structs.replace(choice, place=place, further=further, shelves=shelves)


def _choose_by_policy(query: OfferQuery, passing: Bits) -> Choice:
    """An offer that the policy draws from those that pass the gates; the fallback if none passes."""
    if not passing:
        return _fall_back(query)
    model = current_model(query.selection, query.snapshot, query.facts)
    places = places_of(passing, len(query.selection.offers))
    if query.facts.prices:
        places = _affordable_places(query, model, places)
        if not places.size:
            return _fall_back(query, model, places)
    candidates = _weigh_candidates(query, model, places)
    if query.lost:
        candidates = _without_lost(query, candidates)
        if not candidates.names:
            return _fall_back(query, model, places)
    return _draw_candidate(query, model, places, candidates)


def draw(probabilities: Sequence[float], u: float) -> int:
    """The index on which `u` in [0, 1) falls when the unit interval is divided by `probabilities` in their order."""
    edges = list(accumulate(probabilities))
    if u < edges[-1]:
        return bisect_right(edges, u)
    # Rounding: the probabilities sum to a little less than 1. Their last part reaches to 1.
    return max(index for index, p in enumerate(probabilities) if p > 0.0)


def _choose_by_moment(query: OfferQuery) -> tuple[Choice | None, list[GateFailure]]:
    """The first permitted offer of the first moment that holds, if any, and the gates that failed."""
    failures: list[GateFailure] = []
    for position, moment in enumerate(query.moments):
        try:
            start = moment_start(moment, query.facts)
        except Exception as error:  # noqa: BLE001 (this moment does not hold; the caller reports it)
            failures.append(GateFailure("moment", moment.key, error))
            continue
        if start is None:
            continue
        passing, failed = passing_offers(moment, query.facts, query.shown)
        failures += failed
        for offer in moment.offers:
            if passing & moment.index.bits[offer.key] and offer.key not in query.lost:
                choice = Choice(
                    offer=offer,
                    reason="moment",
                    propensity=1.0,
                    candidates=[offer.key],
                    probabilities=[1.0],
                    closed=_closed_behind(query, position, offer) if query.trace else {},
                    moment=moment.key,
                    moment_start=start,
                )
                return choice, failures
    return None, failures


def _holds(moment: Moment, facts: Facts) -> bool:
    """Whether the moment holds now; a moment whose condition fails does not hold."""
    try:
        return moment_start(moment, facts) is not None
    except Exception:  # noqa: BLE001 (`_choose_by_moment` returned it)
        return False


def _fall_back(query: OfferQuery, model: Model | None = None, affordable: Ints | None = None) -> Choice:
    """The selection's fallback, which no gate can close."""
    return Choice(
        offer=query.selection.fallback,
        reason="fallback",
        propensity=1.0,
        context={} if model is None else model.context,
        closed=_closed(query, affordable) if query.trace else {},
    )


def current_model(selection: Selection, snapshot: Snapshot | None, facts: Facts) -> Model:
    """The published policy, or the prior if no published policy fits the selection."""
    if snapshot is not None and snapshot.fits is not None and snapshot.fits is not selection.arms:
        snapshot = None  # the plan was swapped and the snapshots are not aligned with it yet
    vectors, layouts = facts.vectors, (selection.logged_features.layout, selection.features.layout)
    if layouts not in vectors:
        read = selection.logged_features.read(facts.attributes)
        vectors[layouts] = read, selection.features.vector(read)
    context, x = vectors[layouts]
    if snapshot is None:
        return Model(selection.prior, 0, False, context, x)
    return Model(snapshot.policy, snapshot.version, snapshot.final, context, x)


def _affordable_places(query: OfferQuery, model: Model, places: Ints) -> Ints:
    """The `places` whose offers are worth their shadow price to this customer; all if no offer has a price."""
    selection, prices = query.selection, query.facts.prices
    if model.final or prices.keys().isdisjoint(selection.index.bits):
        return places
    price = np.array([prices.get(selection.arms[place], 0.0) for place in places.tolist()])
    expected = model.policy.expected(model.x, candidates=places)
    return places[worth_their_price(selection.arbitration, expected, price, places, query.facts.attributes)]


def _weigh_candidates(query: OfferQuery, model: Model, places: Ints) -> _Candidates:
    """The candidates with their final probabilities: the policy's, multiplied by arbitration if there is any."""
    selection, rule = query.selection, query.selection.arbitration
    arms = selection.arms
    everywhere = places.size == len(arms)
    p = model.policy.probabilities(model.x, candidates=None if everywhere else places)
    factors: Sequence[Factors] = ()
    if rule is not None and not model.final:
        weighed = arbitrate(rule, p, places, query.facts.attributes, selection.policy.floor)
        p = weighed.probabilities
        factors = weighed.factors() if query.trace else ()
    positions = range(len(arms)) if everywhere else places.tolist()
    names = list(arms) if everywhere else [arms[place] for place in positions]
    probabilities: list[float] = p.tolist()
    if query.trace:
        factors = factors or [Factors(policy=each) for each in probabilities]
        prices = query.facts.prices
        factors = [
            msgspec.structs.replace(one, price=prices.get(name, 0.0)) for one, name in zip(factors, names, strict=True)
        ]
    return _Candidates(positions, names, probabilities, factors)


def _without_lost(query: OfferQuery, candidates: _Candidates) -> _Candidates:
    """The candidates without offers whose claim was denied; probabilities are renormalized.

    None is left where all the others have probability 0: those are never shown, so the fallback is.
    """
    if query.lost.keys().isdisjoint(candidates.names):
        return candidates
    names = candidates.names
    kept = [place for place, name in enumerate(names) if name not in query.lost]
    total = sum(candidates.probabilities[place] for place in kept)
    if not total:
        return _Candidates([], [], [])
    return _Candidates(
        [candidates.places[place] for place in kept],
        [names[place] for place in kept],
        [candidates.probabilities[place] / total for place in kept],
        [candidates.factors[place] for place in kept] if query.trace else (),
    )


def _draw_candidate(query: OfferQuery, model: Model, places: Ints, candidates: _Candidates) -> Choice:
    """The candidate on which the decision's hash falls; a redraw has a hash of its own."""
    selection = query.selection
    place = item_name(selection.placement, query.position)
    draw_key = f"{place}#{len(query.lost)}" if query.lost else place
    drawn = draw(candidates.probabilities, uniform_draw(query.decision_id, draw_key))
    return Choice(
        offer=selection.offers[candidates.places[drawn]],
        reason="policy",
        propensity=candidates.probabilities[drawn],
        candidates=candidates.names,
        probabilities=candidates.probabilities,
        context=model.context,
        policy=f"{selection.key}@{model.version}",
        closed=_closed(query, places) if query.trace else {},
        factors=dict(zip(candidates.names, candidates.factors, strict=True)) if query.trace else {},
    )


def _closed(query: OfferQuery, affordable: Ints | None = None) -> dict[str, Gate]:
    """The reason why each offer of the placement and of its current moments is no candidate, for a trace.

    `affordable` are the places that passed the prices; None where no offer came so far.
    """
    selection = query.selection
    closed = _closed_by_gates(query, query.moments)
    if affordable is not None:
        candidates = {selection.arms[place] for place in affordable.tolist()}
        passing = passing_offers(selection, query.facts, query.shown).bits
        priced_out = (selection.arms[place] for place in set_places(passing))
        closed |= {name: "price" for name in priced_out if name not in candidates}
    return closed


def _closed_behind(query: OfferQuery, position: int, winner: Offer) -> dict[str, Gate]:
    """The reasons of the offers that lost to a moment's winner; one that no gate closed has the reason `moment`."""
    keys = (*query.moments[position].index.keys, *query.selection.arms)
    closed: dict[str, Gate] = dict.fromkeys(keys, "moment")
    closed |= _closed_by_gates(query, query.moments[: position + 1])
    closed.pop(winner.key, None)
    return closed


def _closed_by_gates(query: OfferQuery, moments: Sequence[Moment]) -> dict[str, Gate]:
    """The offers closed by lost claims or gates, in the current moments and in the selection."""
    closed = dict(query.lost)
    for moment in moments:
        if _holds(moment, query.facts):
            closed |= closing_gates(moment, query.facts, query.shown)
    return closed | closing_gates(query.selection, query.facts, query.shown)
