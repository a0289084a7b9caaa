"""gates -> candidates -> policy -> offer; the fallback where nothing passes."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from engine.catalog.features import Context
from engine.catalog.plan import Offer, Selection
from engine.hashing import uniform
from policies import Policy

OfferReason = Literal["policy", "fallback", "breaker"]
"""Why an offer is shown: drawn by the `policy`; the `fallback` because no other may be shown now, or the store is away;
or the fallback because the placement's circuit `breaker` is open."""

Gate = Literal["channel", "dates", "audience", "shown"]
"""What keeps an offer from being a candidate: no rendering for the `channel`, not within its `dates`, the customer
is not its `audience`, already `shown` in another placement of this answer."""


class Snapshot(msgspec.Struct, frozen=True):
    """A policy as it was when the learner published it as this version."""

    policy: Policy
    version: int = 0


class Choice(msgspec.Struct, frozen=True):
    """The offer for one placement, and all that made it the one: what the log keeps."""

    offer: Offer
    reason: OfferReason
    propensity: float
    candidates: list[str] = []
    probabilities: Sequence[float] = ()
    context: Context = {}
    policy: str | None = None
    closed: Mapping[str, Gate] = {}


def choose(
    selection: Selection,
    snapshot: Snapshot | None,
    attributes: Mapping[str, object],
    channel: str,
    decision_id: str,
    now: float,
    shown: Collection[str] = (),
) -> Choice:
    """Draw one offer of the selection from exactly the propensities that are returned with it."""
    may, closed = _candidates(selection, attributes, channel, now, shown)
    if not may:
        return Choice(selection.fallback, "fallback", 1.0, closed=closed)
    policy = snapshot.policy if snapshot else selection.prior
    version = snapshot.version if snapshot else 0
    context = selection.features.read(attributes)
    offers = selection.offers
    some = None if len(may) == len(offers) else np.array(may)
    probabilities = policy.probabilities(selection.features.vector(context), candidates=some).tolist()
    drawn = draw(probabilities, uniform(decision_id, selection.placement))
    return Choice(
        offers[may[drawn]],
        "policy",
        probabilities[drawn],
        [offers[index].key for index in may],
        probabilities,
        context,
        f"{selection.key}@{version}",
        closed,
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


def _candidates(
    selection: Selection, attributes: Mapping[str, object], channel: str, now: float, shown: Collection[str]
) -> tuple[list[int], dict[str, Gate]]:
    may: list[int] = []
    closed: dict[str, Gate] = {}
    offers = selection.offers
    for index in selection.by_channel.get(channel, ()):
        offer = offers[index]
        if not offer.start <= now < offer.end:
            closed[offer.key] = "dates"
        elif offer.key in shown:
            closed[offer.key] = "shown"
        elif offer.matches is not None and not offer.matches(attributes):
            closed[offer.key] = "audience"
        else:
            may.append(index)
    return may, closed
