"""The frozen Plan: specs compiled and indexed, so that a decision touches only what its placement can match."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.catalog.conditions.compile import Predicate
from engine.catalog.plan.features import Featurizer
from engine.catalog.plan.limits import Limits
from engine.catalog.plan.offer_index import Bits, OfferIndex, set_places
from engine.catalog.spec.experiment import ExperimentSpec, MetricSpec, PolicySpec, Unit
from engine.catalog.spec.offer import MomentSpec, OfferSpec, QuietSpec
from engine.catalog.spec.profile_rules import ProfileRules
from policies import Policy

Ranges = tuple[tuple[float, float], ...]
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Offer:
    """One offer as a placement may show it. Times are seconds since 1970."""

    key: str
    spec: OfferSpec
    matches: Predicate | None
    start: float
    end: float
    limits: Limits


@dataclass(frozen=True, slots=True)
class ContextWeight:
    """Where `matches` holds, the arms of `bits` weigh `weight` times as much."""

    matches: Predicate | None
    bits: Bits
    weight: float


@dataclass(frozen=True, slots=True)
class Arbitration:
    """What changes the policy's probabilities: values and levers of the arms (None: all alike), context weights."""

    policy: bool
    weights: tuple[ContextWeight, ...]
    value: np.ndarray | None
    lever: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment of truth at the places where it holds; `window` in seconds, `days` where it ends with the day."""

    key: str
    spec: MomentSpec
    matches: Predicate | None
    trigger: Predicate | None
    window: float
    days: int
    after: float
    offers: tuple[Offer, ...]
    index: OfferIndex
    counter: str | None
    """What is counted once; None for a moment that may come back as long as it lasts."""


@dataclass(frozen=True, slots=True)
class Reward:
    """What teaches a policy: an event with this name, within `window` seconds of the exposure."""

    metric: MetricSpec
    window: float
    settle: float


@dataclass(frozen=True, slots=True)
class Selection:
    """How one placement's offers are chosen: its arms, the features its policy reads, its fallback.

    `logged_features` are those of every policy of the placement: each decision logs them whichever policy chose, so
    that every policy can be evaluated on the choices of all.
    """

    key: str
    placement: str
    policy: PolicySpec
    offers: tuple[Offer, ...]
    arms: tuple[str, ...]
    features: Featurizer
    logged_features: Featurizer
    prior: Policy
    reward: Reward
    fallback: Offer
    index: OfferIndex
    arbitration: Arbitration | None
    """None where the policy's own probabilities are the last word."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Where a unit stands in a layer decides which one of its experiments it may be in."""

    key: str
    hash_unit: Callable[[str], float]


@dataclass(frozen=True, slots=True)
class Holdout:
    """Units below `share` see none of the experiments that it covers."""

    key: str
    share: float
    unit: Unit
    hash_unit: Callable[[str], float]


@dataclass(frozen=True, slots=True)
class Filter:
    """Units (of the experiment's own kind where `unit` is None) outside `ranges` are not in the experiment."""

    unit: Unit | None
    hash_unit: Callable[[str], float]
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment, ready to assign: seeds hashed, audience compiled, ranges laid out per step of its ramp."""

    key: str
    spec: ExperimentSpec
    start: float
    end: float
    hash_unit: Callable[[str], float]
    steps: tuple[tuple[float, Ranges], ...]
    matches: Predicate | None
    layer: Layer | None
    low: float
    high: float
    filters: tuple[Filter, ...]
    holdouts: tuple[Holdout, ...]
    forced: Mapping[str, int]
    prerequisites: tuple[tuple[str, frozenset[str]], ...]
    selections: tuple[Selection | None, ...]

    def ranges(self, now: float) -> Ranges:
        """The variants' ranges at `now` on the ramp."""
        current = self.steps[0][1]
        for at, ranges in self.steps[1:]:
            if now < at:
                break
            current = ranges
        return current


@dataclass(frozen=True, slots=True)
class LayerSlots:
    """One layer's experiments of one unit: between `edges[i - 1]` and `edges[i]` stand `inside[i]`."""

    layer: Layer
    unit: Unit
    members: Bits
    edges: Sequence[float]
    inside: Sequence[Bits]

    def outside_range(self, units: Mapping[Unit, str | None]) -> Bits:
        """The experiments of the layer in whose range the unit is not."""
        unit = units[self.unit]
        return self.members & ~self.inside[bisect_right(self.edges, self.layer.hash_unit(unit))] if unit else 0


@dataclass(frozen=True, slots=True)
class ChannelExperiments:
    """A channel's experiments as bits: those whose audience or range of the layer shuts someone out are not touched."""

    experiments: tuple[Experiment, ...]
    index: OfferIndex
    layers: tuple[LayerSlots, ...]
    everything: Bits

    def find_applicable(
        self, attributes: Mapping[str, object], units: Mapping[Unit, str | None]
    ) -> Iterator[Experiment]:
        """Every experiment that can apply, in the order of the roster; `assign` has the last word."""
        left = self.everything
        for slots in self.layers:
            left &= ~slots.outside_range(units)
        left &= ~self.index.outside_audience(attributes, left)
        for place in set_places(left):
            yield self.experiments[place]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided from, in one value that is swapped whole."""

    version: str
    channels: frozenset[str]
    placements: Mapping[str, frozenset[str]]
    experiments: Mapping[str, Experiment]
    by_channel: Mapping[str, ChannelExperiments]
    by_placement: Mapping[tuple[str, str], tuple[Experiment, ...]]
    selections: Mapping[tuple[str, str], Selection]
    policies: Mapping[str, Selection]
    """Every selection that learns, by its key: `home_hero`, or `experiment.variant` for a variant with its own."""
    offers: Mapping[str, Offer]
    metrics: Mapping[str, MetricSpec]
    currency: str
    rules: ProfileRules
    moments: Mapping[tuple[str, str], tuple[Moment, ...]]
    """The moments of truth by channel and placement, in the order of their file."""
    outbound: frozenset[str]
    """The channels on which the shop writes to customers."""
    quiet: Mapping[str, QuietSpec]
    """The quiet hours of the outbound channels that have any."""
    watched: Mapping[str, int]
    """The counters that caps, suppressions and moments read, and up to how many of each."""
    feedback_events: frozenset[str]
    """The events that concern an offer after it was shown."""
    segments: Mapping[str, Predicate]
    """What puts a customer into each segment that has a condition."""
    zone: str
    paused: frozenset[str] = frozenset()
    """Experiments that the kill switch holds, beside those whose files say so."""
