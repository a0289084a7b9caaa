"""moments -> gates -> candidates -> policy -> arbitration -> offer; the fallback where nothing passes."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalog.plan.features import Context
from engine.catalog.plan.offer_index import Bits
from engine.catalog.plan.plan import Moment, Offer, Selection
from engine.decision.arbitrate import Factors, arbitrate, worth_their_price
from engine.decision.gates import Facts, Gate, passing_offers
from engine.decision.moments import moment_start
from engine.hashing import uniform_draw
from policies import Policy

OfferReason = Literal["policy", "moment", "fallback", "breaker", "shown", "deferred", "dropped"]
"""Why an offer is shown: drawn by the `policy`; its `moment` of truth is now; the `fallback` because no other may be
shown now, or the store is away; the fallback because the placement's circuit `breaker` is open. Nothing is
shown where the fallback would be, but is `shown` in another placement of this answer. On an outbound channel nothing is
sent in its quiet hours, `deferred` until `not_before` or `dropped`, nor past its caps: `dropped`."""
FALLBACK_REASONS = ("fallback", "breaker")
"""The reasons for which the fallback is shown."""

LostOffers = Mapping[str, Gate]
NONE_LOST: LostOffers = {}


class Snapshot(msgspec.Struct, frozen=True):
    """A policy as it was when the learner published it as this version.

    `fits` are the arms of the selection it was fitted to: another plan's selection has others, were they named alike.
    `final` probabilities are those of a record: neither prices nor arbitration are still to come.
    """

    policy: Policy
    version: int = 0
    fits: tuple[str, ...] | None = None
    final: bool = False


class Choice(msgspec.Struct, frozen=True):
    """The offer for one placement, and all that made it the one: what the log keeps.

    `closed` (why not the others) and `factors` (what made the probabilities) are kept for whoever wants it explained.
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

    @property
    def is_silent(self) -> bool:
        """Whether nothing is to be shown at all."""
        return self.reason in ("shown", "deferred", "dropped")


def choose_offer(
    selection: Selection,
    snapshot: Snapshot | None,
    facts: Facts,
    decision_id: str,
    *,
    moments: Sequence[Moment] = (),
    shown: Collection[str] = (),
    lost: LostOffers = NONE_LOST,
    trace: bool = False,
) -> Choice:
    """Draw one offer of the selection from exactly the propensities that are returned with it.

    `lost` are offers that were drawn before and could not be had: each is drawn again from the probabilities of the
    others, renormalized.
    """
    closed: dict[str, Gate] | None = dict(lost) if trace else None
    for moment in moments:
        start = moment_start(moment, facts)
        if start is not None:
            bits = passing_offers(moment.index, moment.offers, facts, shown, closed)
            first = next((o for o in moment.offers if bits & moment.index.bits[o.key] and o.key not in lost), None)
            if first is not None:
                why = _others(selection, moment, first, facts, shown, closed)
                return Choice(
                    first, "moment", 1.0, [first.key], [1.0], closed=why, moment=moment.key, moment_start=start
                )
    bits = passing_offers(selection.index, selection.offers, facts, shown, closed)
    if not bits:
        return Choice(selection.fallback, "fallback", 1.0, closed=closed or {})
    if snapshot is not None and snapshot.fits is not None and snapshot.fits is not selection.arms:
        snapshot = None  # the plan was swapped a moment ago
    size = len(selection.offers)
    some = None if bits == selection.index.everything else _places(bits, size)
    context = selection.logged_features.read(facts.attributes)
    policy = snapshot.policy if snapshot else selection.prior
    final = snapshot is not None and snapshot.final
    x = selection.features.vector(context)
    if facts.prices and not final and not facts.prices.keys().isdisjoint(selection.index.bits):
        some = _affordable(selection, policy, x, np.arange(size) if some is None else some, facts, closed)
        if not some.size:
            return Choice(selection.fallback, "fallback", 1.0, context=context, closed=closed or {})
    p = policy.probabilities(x, candidates=some)
    may = range(size) if some is None else some.tolist()
    factors: Sequence[Factors] = ()
    if selection.arbitration is not None and not final:
        p, factors = arbitrate(selection.arbitration, p, np.array(may), facts.attributes, selection.policy.floor)
    probabilities: list[float] = p.tolist()
    names = [selection.arms[place] for place in may]
    if trace:
        factors = factors or [Factors(each) for each in probabilities]
        if facts.prices:
            prices = (facts.prices.get(name, 0.0) for name in names)
            factors = [msgspec.structs.replace(one, price=price) for one, price in zip(factors, prices, strict=True)]
    had = [place for place, name in enumerate(names) if name not in lost]
    if len(had) < len(names):
        if not had:
            return Choice(selection.fallback, "fallback", 1.0, context=context, closed=closed or {})
        left = sum(probabilities[place] for place in had)
        probabilities = [probabilities[place] / left for place in had]
        names = [names[place] for place in had]
        factors = [factors[place] for place in had] if trace else ()
    drawn = draw(probabilities, uniform_draw(decision_id, selection.placement + (f"#{len(lost)}" if lost else "")))
    return Choice(
        selection.offers[int(may[had[drawn]])],
        "policy",
        probabilities[drawn],
        names,
        probabilities,
        context,
        f"{selection.key}@{snapshot.version if snapshot else 0}",
        closed or {},
        dict(zip(names, factors, strict=True)) if trace else {},
    )


def draw(probabilities: Sequence[float], u: float) -> int:
    """The index that `u` in [0, 1) falls on when the unit interval is divided by `probabilities` in their order."""
    total = 0.0
    last = 0
    for index, p in enumerate(probabilities):
        if p > 0.0:
            total += p
            last = index
            if u < total:
                return index
    return last


def _others(
    selection: Selection,
    moment: Moment,
    first: Offer,
    facts: Facts,
    shown: Collection[str],
    closed: dict[str, Gate] | None,
) -> Mapping[str, Gate]:
    """Why not the others, if that is wanted: those without a gate of their own stand behind the moment."""
    if closed is None:
        return {}
    passing_offers(selection.index, selection.offers, facts, shown, closed)
    behind: dict[str, Gate] = {key: "moment" for key in (*moment.index.keys, *selection.arms) if key != first.key}
    return behind | {key: gate for key, gate in closed.items() if key != first.key}


def _affordable(
    selection: Selection,
    policy: Policy,
    x: NDArray[np.float64],
    may: NDArray[np.intp],
    facts: Facts,
    closed: dict[str, Gate] | None,
) -> NDArray[np.intp]:
    """Those of the places `may` whose offers are worth their price to this customer."""
    names = [selection.arms[place] for place in may.tolist()]
    prices = np.array([facts.prices.get(name, 0.0) for name in names])
    expected = policy.expected(x, candidates=may)
    kept = worth_their_price(selection.arbitration, expected, prices, may, facts.attributes)
    if closed is not None:
        closed.update({name: "price" for name, stays in zip(names, kept.tolist(), strict=True) if not stays})
    return may[kept]


@lru_cache(256)
def _places(bits: Bits, size: int) -> NDArray[np.intp]:
    """The places of the bits that are set, in order, read-only."""
    if not bits:
        return np.empty(0, dtype=np.intp)
    packed = np.frombuffer(bits.to_bytes((size + 7) // 8, "little"), dtype=np.uint8)
    found: NDArray[np.intp] = np.unpackbits(packed, bitorder="little").view(np.bool_).nonzero()[0]
    found.flags.writeable = False
    return found
