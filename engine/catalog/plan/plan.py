"""The immutable Plan: specs compiled and indexed, so that a decision evaluates only what can apply to it.

Its structs are read on the hot path: conditions are closures, seeds are hashed, and memberships are bits of integers.
Times are seconds since 1970, spans are seconds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from engine.catalog.conditions.compile import Predicate
from engine.catalog.plan.arbitration import Arbitration
from engine.catalog.plan.creatives import NO_CREATIVES, Creative
from engine.catalog.plan.features import Featurizer
from engine.catalog.plan.indexing.bits import Bits, set_places
from engine.catalog.plan.indexing.layers import Layer, LayerSlots
from engine.catalog.plan.indexing.offer_index import OfferIndex
from engine.catalog.plan.languages import NO_LANGUAGES, Rendering
from engine.catalog.plan.limits import Limits
from engine.catalog.plan.places import Places
from engine.catalog.plan.switchback import Switchback
from engine.catalog.spec.experiment import ExperimentSpec, HoldoutSpec, PolicySpec
from engine.catalog.spec.flags import RULE
from engine.catalog.spec.metrics import KpiSpec, MetricSpec
from engine.catalog.spec.offer import CampaignSpec, MomentSpec, OfferSpec, QuietSpec
from engine.catalog.spec.profile_rules import ProfileRules
from engine.catalog.spec.sources import SourceSpec
from engine.catalog.spec.traits import RFM_SEGMENTS, RfmSpec
from engine.catalog.spec.units import STORE_TRAIT, Unit
from engine.customer import IdKind
from engine.traits.rules import TraitRule
from policies import Policy
from policies.batches import Ints

Ranges = tuple[tuple[float, float], ...]
FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Offer:
    """One offer as a placement may show it. Its audience is in the index of its collection."""

    key: str
    spec: OfferSpec
    start: float
    end: float
    limits: Limits
    languages: Mapping[str, Mapping[str, Rendering]] = field(default_factory=lambda: NO_LANGUAGES)
    creatives: Mapping[str, tuple[Creative, ...]] = field(default_factory=lambda: NO_CREATIVES)
    """By channel, the renderings by language, and those from which a policy chooses, where they are."""
    is_spared: bool = True
    """Whether the shop's `suppress` leaves it open."""
    excluded_by: frozenset[str] = frozenset()
    """The offers that exclude it from an answer: those with which it shares an exclusive group."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment of truth; it lasts for `window` seconds, or until the end of the `days`-th day where `days` is set."""

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
    """The counter of a moment that ends after one event; None where it lasts for all of its window."""
    occurred: TraitRule | None = None
    """When the event of a trigger with a filter last was."""
    begun_by: frozenset[str] = frozenset()
    """Every name of the event of its trigger."""
    cancelled_by: frozenset[str] = frozenset()
    """Every name of the events of its `unless`."""


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of a policy: the metric within `window` seconds of the exposure, taken as 0 after `settle` seconds.

    `examination` is the share of customers who look at each position of a list; None where it is learnt.
    """

    metric: MetricSpec
    window: float
    settle: float
    examination: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The compiled choice of one placement's offers: its arms, the features its policy reads, its prior, its fallback.

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
    """None where the policy's own probabilities are final."""
    count: int = 1
    """The number of offers that it shows; above 1 they are a list."""
    is_whole: bool = False
    """Whether a list that cannot have `count` items gives way to the fallback."""
    silence: float = 0.0
    """The share of its decisions that are held out: nothing is shown."""
    creatives: "Selection | None" = None
    places: Mapping[tuple[str, str], Ints] = field(default_factory=dict)
    """The choice of the creatives of its offers: a selection whose `places` are its arms by offer and channel."""


@dataclass(frozen=True, slots=True)
class CampaignArm:
    """A campaign's channel from one minute of the day to another; the offer is chosen at `placement`."""

    key: str
    channel: str
    placement: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign: on the weekdays `days` (Monday 0) its selection chooses one of `arms`, or silence.

    `matches` is its audience, None where it has none.
    """

    key: str
    spec: CampaignSpec
    selection: Selection
    arms: Mapping[str, CampaignArm]
    matches: Predicate | None
    days: frozenset[int]
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Holdout:
    """A holdout: units that hash below `share` enter none of the experiments it covers.

    Where it is frozen they are decided by `kept`, an archived plan under today's limits.
    """

    key: str
    share: float
    unit: Unit
    hash_unit: Callable[[str], float]
    spec: HoldoutSpec
    kept: "Plan | None" = None

    def holds_out(self, unit: str | None) -> bool:
        """Whether the holdout excludes a unit; a request without such a unit is not excluded."""
        return bool(unit) and self.hash_unit(unit or "") < self.share


@dataclass(frozen=True, slots=True)
class Filter:
    """Excludes units that hash outside `ranges`; `unit` None is the experiment's own kind of unit."""

    unit: Unit | None
    hash_unit: Callable[[str], float]
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment, compiled for assignment: seed hashed, audience a closure, ranges per ramp step.

    `low` and `high` are its range of the layer; `forced` has the index of the variant by customer id.
    """

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
    prerequisites: "tuple[Requirement, ...]"
    selections: tuple[Selection | None, ...]
    logged_traits: Featurizer | None
    """The traits that each assignment logs: those of its audience, strata and unit. None where it names none."""
    rules: "tuple[Rule, ...]" = ()
    default: int = -1
    """The index of the variant that a flag gives where it assigns none; -1 without one."""
    is_constant: bool = False
    """Whether a flag gives its default to all of its audience, as it has neither rules nor shares."""
    shipped: int = -1
    """The index of the variant that all of its audience has since it was shipped; -1 if it was not."""
    switchback: Switchback | None = None
    held_steps: tuple[tuple[float, Ranges], ...] = ()
    """The coverage and ranges of each step of a ramp that holds itself; `steps` then has the last of them."""

    def held_ranges(self, coverage: float) -> Ranges:
        """The ranges at the last step of a held ramp up to `coverage`; at least the first step's."""
        current = self.held_steps[0][1]
        for share, ranges in self.held_steps:
            if share <= coverage:
                current = ranges
        return current

    def ranges(self, now: float) -> Ranges:
        """The variants' hash ranges at `now`, by the last ramp step that has begun."""
        current = self.steps[0][1]
        for at, ranges in self.steps[1:]:
            if now < at:
                break
            current = ranges
        return current

    @property
    def shares(self) -> tuple[float, ...]:
        """Each variant's share of the admitted units, from its hash ranges; the shares sum to 1."""
        sizes = [high - low for low, high in self.steps[-1][1]]
        if not sum(sizes):  # nobody is let in at the end of the ramp
            sizes = [1.0 if variant.weight is None else variant.weight for variant in self.spec.variants]
        return tuple(size / sum(sizes) for size in sizes)

    def coverage(self, now: float) -> float:
        """The share of units of the audience, outside holdouts, that have a variant at `now` (s since 1970).

        That is its own coverage, of its part of the layer, of what its filters let in.
        """
        share = sum(high - low for low, high in self.ranges(now)) * (self.high - self.low)
        for each in self.filters:
            share *= sum(high - low for low, high in each.ranges)
        return share


@dataclass(frozen=True, slots=True)
class Requirement:
    """One experiment's requirement on another: one of its variants or rules, or that it is off."""

    experiment: str
    variants: frozenset[str] | None = None
    rules: frozenset[str] | None = None
    is_off: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a flag: its experiment, and the flag's index for each of its variants.

    One that `is_plain` gives its only variant to all of its audience, so that it needs no id to hash.
    """

    experiment: Experiment
    indices: tuple[int, ...]
    is_plain: bool


@dataclass(frozen=True, slots=True)
class ChannelExperiments:
    """A channel's experiments as bits; those whose audience or layer range excludes the customer are skipped."""

    experiments: tuple[Experiment, ...]
    index: OfferIndex
    layers: tuple[LayerSlots, ...]
    everything: Bits

    def find_applicable(
        self, attributes: Mapping[str, object], units: Mapping[Unit, str | None]
    ) -> Iterator[Experiment]:
        """Yield the experiments that may apply, in order; `assign` decides on each."""
        remaining = self.everything
        for slots in self.layers:
            remaining &= ~slots.outside_range(units)
        remaining &= ~self.index.outside_audience(attributes, remaining)
        for place in set_places(remaining):
            yield self.experiments[place]


@dataclass(frozen=True, slots=True)
class Plan:
    """The compiled shop, one immutable value that decisions read; a YAML change replaces it as a whole."""

    version: str
    channels: frozenset[str]
    placements: Mapping[str, frozenset[str]]
    experiments: Mapping[str, Experiment]
    by_channel: Mapping[str, ChannelExperiments]
    by_placement: Mapping[tuple[str, str], tuple[Experiment, ...]]
    selections: Mapping[tuple[str, str], Selection]
    policies: Mapping[str, Selection]
    """Every selection, by its key: `home_hero`, or `experiment.variant` for a variant with its own policy or offers."""
    offers: Mapping[str, Offer]
    metrics: Mapping[str, MetricSpec]
    currency: str
    rules: ProfileRules
    moments: Mapping[tuple[str, str], tuple[Moment, ...]]
    """The moments of truth by channel and placement, in the order of the file: the first that applies precedes."""
    outbound: frozenset[str]
    """The channels on which the shop writes to its customers."""
    quiet: Mapping[str, QuietSpec]
    """The quiet hours of the outbound channels that have any."""
    watched: Mapping[str, int]
    """The counters that caps, suppressions and moments read, each with the highest count that any of them compares."""
    zoned: frozenset[str]
    """The counters compared in calendar windows of the customer's time zone."""
    feedback_events: frozenset[str]
    """The events after an exposure that change a counter, a stock or a budget of any offer."""
    segments: Mapping[str, Predicate]
    """The predicate of each segment that has a condition, over a customer's attributes."""
    zone: str
    language: str | None = None
    """The language of customers whose own is not known, or that an offer does not speak."""
    silenced_when: Predicate | None = None
    """The condition under which every offer that is not spared is closed."""
    audience_names: frozenset[str] = frozenset()
    """The traits that conditions, dates and caps read."""
    read_names: frozenset[str] = frozenset()
    """The first parts of the names of all traits that a decision may read."""
    holdouts: Mapping[str, Holdout] = field(default_factory=dict)
    has_stacking: bool = False
    """Whether some offers may not be redeemed in one order."""
    paused: frozenset[str] = frozenset()
    """Experiments paused by the kill switch, in addition to those paused in their files."""
    kpis: tuple[KpiSpec, ...] = ()
    """The nodes of the KPI tree, which reports read."""
    rfm: tuple[RfmSpec, ...] = RFM_SEGMENTS
    bad_rows: Mapping[str, int] = field(default_factory=dict)
    """Rows of feeds that are left out, by the selection that reads the feed."""
    unit_traits: Mapping[Unit, str] = field(default_factory=dict)
    """The trait with the id of each unit of `units.yaml`."""
    campaigns: Mapping[str, Campaign] = field(default_factory=dict)
    """The campaigns; their selections are among `policies`."""
    capacities: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """The most messages of a channel that are handed out in a number of seconds; None without a limit."""
    addresses: Mapping[str, IdKind] = field(default_factory=dict)
    """The kind of identifier without which a channel does not reach a customer."""
    sources: Mapping[str, SourceSpec] = field(default_factory=dict)
    """The connections to tables outside the log, which reports read."""
    places: Places | None = None
    """The places that have a stock of their own."""
    ramped: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """The coverage that each ramp which holds itself has reached, by experiment; its first step where it has none."""
    frozen: tuple[Holdout, ...] = ()
    """The holdouts whose units an archived plan decides."""

    def find_kept(self, units: Mapping[Unit, str | None]) -> "Plan | None":
        """The archived plan that decides for a customer with these units; None if this plan decides.

        What is paused today is paused in it. A ramp in it that holds itself stays at its first step.
        """
        for holdout in self.frozen:
            if holdout.kept is not None and holdout.holds_out(units.get(holdout.unit)):
                in_files = {key for key, one in self.experiments.items() if one.spec.status == "paused"}
                kept = replace(holdout.kept, paused=self.paused | in_files)
                return kept.find_kept(units) or kept
        return None

    @property
    def taught(self) -> dict[str, Selection]:
        """All policies that learn, including those of creatives, by the selection's key."""
        return {each.key: each for one in self.policies.values() for each in (one, one.creatives) if each is not None}

    def trait_of(self, unit: Unit) -> str | None:
        """The trait with a unit's id; None for customers and devices, whose ids are no traits."""
        return STORE_TRAIT if unit == STORE_TRAIT else self.unit_traits.get(unit)

    def current_ranges(self, experiment: Experiment, now: float) -> Ranges:
        """The hash ranges of an experiment's variants at `now` (s since 1970)."""
        if experiment.held_steps:
            return experiment.held_ranges(self.ramped.get(experiment.key, 0.0))
        return experiment.ranges(now)

    def find_reported(self, key: str) -> Experiment | None:
        """The experiment with this report key: a key of the plan, or `FLAG#RULE`; None if there is none."""
        flag = self.experiments.get(key.partition(RULE)[0])
        if flag is None or RULE not in key:
            return flag
        return next((rule.experiment for rule in flag.rules if rule.experiment.key == key), None)
