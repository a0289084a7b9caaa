"""The YAML of `experiments/` and nothing else: strict structs that refuse unknown keys."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.fields import (
    Condition,
    Count,
    Interval,
    Key,
    Payload,
    Positive,
    Probability,
    Share,
    Span,
    Spec,
    Text,
    Timestamp,
    Weight,
)
from engine.catalog.spec.profile_rules import MergeRule
from engine.customer import IdKind

Unit = Literal["customer", "device", "store"]
Status = Literal["draft", "running", "paused", "stopped"]

USUAL_FLOOR = 0.01


class PolicySpec(Spec, frozen=True, kw_only=True):
    """How an offer is chosen: the kind of policy, what it may look at, and how it learns.

    `pool` are groups of customers that differ but resemble each other: `channel`, a segment, or a trait with `one_of`.
    Each combination learns for itself and shrinks to what all have in common, by an amount that the data set.
    `attributes` are the offers' own, read like features: an offer that nobody saw yet starts from what offers of like
    attributes taught. Both are for kinds that have features. `floor` is the least share of an offer that may be shown,
    at most an equal one; one above 0.01 must leave room for all the placement's offers.
    """

    kind: Literal[
        "uniform",
        "epsilon_greedy",
        "kl_ucb",
        "beta_thompson",
        "gaussian_thompson",
        "top_two_thompson",
        "linucb",
        "linear_thompson",
        "logistic_thompson",
        "squarecb",
    ]
    features: "list[str | FeatureSpec]" = []
    pool: "list[str | FeatureSpec]" = []
    attributes: "list[str | FeatureSpec]" = []
    floor: Annotated[float, Meta(ge=0, lt=0.5, extra={"remedy": "give the least share of an offer, such as 0.02"})] = (
        USUAL_FLOOR
    )
    discount: Annotated[float, Meta(gt=0, le=1, extra={"remedy": "1 forgets nothing, 0.999 slowly"})] = 1.0


class FeatureSpec(Spec, frozen=True, kw_only=True):
    """One thing a policy looks at: a number scaled from `range` to [-1, 1], or one of a list of values."""

    trait: Text
    one_of: Annotated[list[str | int | bool], Meta(min_length=1, max_length=64)] | None = None
    range: Annotated[list[float], Meta(min_length=2, max_length=2)] | None = None


class VariantSpec(Spec, frozen=True, kw_only=True):
    """One arm of an experiment: a payload, or its own way to choose a placement's offers.

    `range` is the part of the hash that gets it, in place of a weight and whatever the coverage; all variants of an
    experiment have one, or none.
    """

    key: Key
    weight: Weight | None = None
    range: Interval | None = None
    payload: Payload = {}
    policy: PolicySpec | None = None
    offers: list[Key] | None = None


class ForceSpec(Spec, frozen=True, kw_only=True):
    """Customers (testers, staff) who get a variant whatever the hash says. They count in no report."""

    customers: Annotated[list[str], Meta(min_length=1)]
    variant: Key


class ExperimentMetrics(Spec, frozen=True, kw_only=True):
    """What an experiment is judged by."""

    primary: Key
    secondary: list[Key] = []
    guardrails: list[Key] = []


class AnalysisSpec(Spec, frozen=True, kw_only=True):
    """How an experiment is read.

    `planned` is the number of units at which a sequential interval is narrowest, and at which a group-sequential
    experiment ends after `looks` looks; with `tau`, the relative effect to be expected, it is read by the mixture SPRT;
    `prior` is the mean and standard deviation of the relative effect before the data;
    `rope` the relative effect below which variants are as good as equal; a bayesian experiment ends when the better
    choice is expected to lose less than `tolerance`, relative to control. `adjust` gives a covariate one slope for all
    variants (`cuped`) or one for each (`lin`); `stratum` is a trait, or `channel`, within which variants are compared.
    """

    method: Literal["fixed", "sequential", "group_sequential", "bayesian"] = "sequential"
    alpha: Probability = 0.05
    min_days: Count = 14
    relative: Literal["fieller", "log", "linear"] = "fieller"
    planned: Count = 5000
    looks: Count = 5
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"
    prior: tuple[float, Positive] | None = None
    rope: Share = 0.01
    tolerance: Positive = 0.0005
    tau: Positive | None = None
    adjust: Literal["cuped", "lin"] = "cuped"
    stratum: Text | None = None


class RampStep(Spec, frozen=True, kw_only=True):
    """From `at` on, `coverage` holds."""

    at: Timestamp
    coverage: Share


class Prerequisite(Spec, frozen=True, kw_only=True):
    """Only customers in one of `variants` of `experiment` may be in this one."""

    experiment: Key
    variants: Annotated[list[Key], Meta(min_length=1)]


class FilterSpec(Spec, frozen=True, kw_only=True):
    """Only units whose hash under `seed` is in one of `ranges`: a layer that other experiments need not name."""

    seed: Text
    unit: Unit | None = None
    hash_version: Literal[1, 2] = 2
    ranges: Annotated[list[Interval], Meta(min_length=1)]


class ExperimentSpec(Spec, frozen=True, kw_only=True):
    """One experiment, or with `kind: flag` a plain feature flag."""

    key: Key
    kind: Literal["experiment", "flag"] = "experiment"
    hypothesis: Text | None = None
    owner: Text | None = None
    unit: Unit = "customer"
    fallback_unit: Unit | None = None
    layer: Key | None = None
    seed: Text | None = None
    hash_version: Literal[1, 2] = 2
    status: Status = "running"
    start: Timestamp | None = None
    end: Timestamp | None = None
    channels: list[Key] | None = None
    placement: Key | None = None
    audience: Condition = {}
    coverage: Share = 1.0
    ramp: list[RampStep] = []
    prerequisites: list[Prerequisite] = []
    filters: list[FilterSpec] = []
    sticky: bool = False
    bucket_version: Annotated[int, Meta(ge=0)] = 0
    min_bucket_version: Annotated[int, Meta(ge=0)] = 0
    tags: list[Key] = []
    variants: Annotated[list[VariantSpec], Meta(min_length=1, max_length=200)]
    force: list[ForceSpec] = []
    metrics: ExperimentMetrics | None = None
    analysis: AnalysisSpec = AnalysisSpec()


class LayerSpec(Spec, frozen=True, kw_only=True):
    """Experiments in one layer share no unit: each has the range of the layer that is reserved for it.

    GrowthBook's namespaces are layers with `hash_version: 1`, under which layers depend on each other a little.
    """

    key: Key
    title: Text | None = None
    seed: Text | None = None
    hash_version: Literal[1, 2] = 2
    reserve: dict[Key, Interval] = {}


class HoldoutSpec(Spec, frozen=True, kw_only=True):
    """Units that see no experiment (or none with one of `tags`), on any channel, so that the sum can be measured."""

    key: Key
    share: Share
    unit: Unit = "customer"
    seed: Text | None = None
    tags: list[Key] = []


class LayersFile(Spec, frozen=True, kw_only=True):
    """`layers.yaml`: which experiments share no unit, and which units see none."""

    layers: list[LayerSpec] = []
    holdouts: list[HoldoutSpec] = []


class SegmentSpec(Spec, frozen=True, kw_only=True):
    """A named condition, used as `{$segment: key}`, or a named list of values, used as `{trait: {$inGroup: key}}`."""

    key: Key
    condition: Condition | None = None
    values: Annotated[list[str | int | float], Meta(min_length=1)] | None = None


class SegmentsFile(Spec, frozen=True, kw_only=True):
    """`segments.yaml`: who is meant by a name, said once for every condition that uses it."""

    segments: list[SegmentSpec] = []


class MetricSpec(Spec, frozen=True, kw_only=True):
    """What is measured: which events count, and how they become one number per customer.

    Events count from the first exposure, or `delay` after it, for `window`; `filter` is a condition on their
    properties. A ratio divides by the number of `denominator` events, or by their sum of `denominator_value`. With
    `covariate_window` the same metric over so long before the exposure takes noise off (CUPED); `ripe` counts only
    customers whose window is over, as a retention always does. Values above the quantile `winsorize` count as that
    quantile. `margin` is the relative loss that a guardrail must be shown to stay within; `money` what one more of the
    metric is worth.

    What is expected of it lets `check` warn of a run too short to tell: `baseline` without any change, with its
    standard `deviation` (a proportion has its own), the units that come in a day, and as `mde` the least relative
    change worth finding.
    """

    key: Key
    title: Text | None = None
    kind: Literal["proportion", "mean", "count", "revenue", "ratio", "quantile", "retention"] = "proportion"
    event: Text
    value: Text | None = None
    denominator: Text | None = None
    denominator_value: Text | None = None
    denominator_filter: Condition = {}
    quantile: Probability | None = None
    delay: Span | None = None
    window: Span | None = None
    ripe: bool = False
    covariate_window: Span | None = None
    filter: Condition = {}
    winsorize: Annotated[float, Meta(gt=0.5, le=1)] | None = None
    direction: Literal["up", "down"] = "up"
    margin: Annotated[float, Meta(ge=0)] | None = None
    money: float | None = None
    baseline: Positive | None = None
    deviation: Positive | None = None
    daily_units: Positive | None = None
    mde: Positive | None = None


class MetricsFile(Spec, frozen=True, kw_only=True):
    """`metrics.yaml`: what is measured; `currency` is that of every amount."""

    metrics: Annotated[list[MetricSpec], Meta(min_length=1)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$", extra={"remedy": "use an ISO 4217 code such as EUR"})] = "EUR"


class IdentitiesFile(Spec, frozen=True, kw_only=True):
    """`identities.yaml`: how identities and traits come together, and how long they are kept.

    `binds` is how many known customers one value of an identifier kind may name before it names nobody (a tablet in the
    shop), `holds` how many values of a kind one customer keeps.
    """

    merge: dict[str, MergeRule] = {}
    sources: list[Key] = []
    binds: dict[IdKind, Count] = {}
    holds: dict[IdKind, Count] = {}
    points_per_unit: Annotated[float, Meta(ge=0, extra={"remedy": "give points per unit of revenue"})] = 1.0
    tiers: list[Positive] = []
    life: Span = "400d"
    anonymous_life: Span = "90d"
    cart_life: Span = "7d"
    step_life: Span = "1d"
    conversation_life: Span = "3d"
    affinity_half_life: Span = "30d"
