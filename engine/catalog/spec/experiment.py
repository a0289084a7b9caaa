"""The YAML of experiments, layers, segments and identities, as structs that reject unknown keys."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from engine.catalog.spec.conclusion import ConclusionSpec
from engine.catalog.spec.fields import (
    RESTRICTS,
    Condition,
    Count,
    FlagKey,
    Interval,
    Key,
    Payload,
    Positive,
    Probability,
    PropertyName,
    Share,
    Span,
    Spec,
    Text,
    Weight,
    ZonedTime,
)
from engine.catalog.spec.hashed import Hashed
from engine.catalog.spec.profile_rules import MergeRule
from engine.catalog.spec.ramp import HeldRamp, RampStep
from engine.catalog.spec.sources import ExposuresSpec
from engine.catalog.spec.traits import RfmSpec, StagesSpec
from engine.catalog.spec.units import SwitchbackSpec, Unit
from engine.customer import IdKind

Status = Literal["draft", "running", "paused", "stopped", "shipped"]

USUAL_FLOOR = 0.01
PolicyKind = Literal[
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
"""The names in `policies.KINDS`, repeated so that reading YAML imports no policy; a test compares the two."""
NOT_LEARNING: PolicyKind = "uniform"
"""The kind whose probabilities stay the same whatever is observed."""


class PolicySpec(Spec, frozen=True, kw_only=True):
    """The choice of an offer: the kind of policy, the features it reads, and how it learns.

    `pool` names groups of customers that differ but resemble each other: `channel`, a segment, or a trait with
    `one_of`. Each combination of groups has its own estimate, shrunk towards the common one by an amount that the data
    determine. `attributes` are read from the offers like features from customers: an offer that was never shown starts
    from the estimates of offers with similar attributes. Both need a kind that reads features. `floor` is the least
    probability of an offer that may be shown, and never more than an equal share. A floor above 0.01 must leave room
    for all offers of the placement. `discount` weighs older observations down at every update.
    """

    kind: PolicyKind
    features: "list[str | FeatureSpec]" = []
    pool: "list[str | FeatureSpec]" = []
    attributes: "list[str | FeatureSpec]" = []
    floor: Annotated[float, Meta(ge=0, lt=0.5, extra={"remedy": "give the least share of an offer, such as 0.02"})] = (
        USUAL_FLOOR
    )
    discount: Annotated[float, Meta(gt=0, le=1, extra={"remedy": "1 forgets nothing, 0.999 slowly"})] = 1.0


class FeatureSpec(Spec, frozen=True, kw_only=True):
    """One feature of a policy: a number scaled from `range` to [-1, 1], or one of a list of values."""

    trait: Text
    one_of: Annotated[list[str | int | bool], Meta(min_length=1, max_length=64)] | None = None
    range: Annotated[list[float], Meta(min_length=2, max_length=2)] | None = None


class VariantSpec(Spec, frozen=True, kw_only=True):
    """One variant of an experiment: a payload, or a policy or offers of its own for the experiment's placement.

    `range` is the part of the hash range [0, 1) that is assigned to it, instead of a weight and regardless of coverage.
    Either all variants of an experiment have a range, or none. A variant of a flag may have a `value` instead of a
    payload: true, a text, a number or a mapping, as the flag's type says.
    """

    key: FlagKey
    weight: Weight | None = None
    range: Interval | None = None
    payload: Payload = {}
    value: object | UnsetType = UNSET
    policy: PolicySpec | None = None
    offers: list[Key] | None = None


class ForceSpec(Spec, frozen=True, kw_only=True):
    """Customers (testers, staff) who are assigned a variant regardless of the hash. No report counts them."""

    customers: Annotated[list[str], Meta(min_length=1)]
    variant: FlagKey


class ExperimentMetrics(Spec, frozen=True, kw_only=True):
    """The metrics by which an experiment is judged."""

    primary: Key
    secondary: list[Key] = []
    guardrails: list[Key] = []


class AnalysisSpec(Spec, frozen=True, kw_only=True):
    """The analysis of an experiment: its method, its plan and its corrections.

    `planned` is the number of units at which a sequential interval is narrowest, and at which a group-sequential
    experiment ends after `looks` looks. With `tau`, the expected relative effect, the sequential method is the mixture
    SPRT. `prior` is the mean and standard deviation of the relative effect before the data; a bayesian
    experiment without one starts from 0 and 2 %. `rope` is the relative effect below which variants count as
    equivalent. A bayesian experiment ends when the expected loss of the better variant, relative to control, is below
    `tolerance`. `adjust` estimates one slope per covariate for all variants (`cuped`) or one for each variant (`lin`).
    `stratum` is a trait, or `channel`, within which variants are compared.
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
    stratum: PropertyName | None = None


class Prerequisite(Spec, frozen=True, kw_only=True):
    """Only customers who get this from another experiment or flag may enter.

    Exactly one is given: `variants`, of which they have one; `value`, which their variant has; `rules`, one of which
    decided the flag for them; or `off: true`, where it gives them no variant, or no more than its default.
    """

    experiment: FlagKey
    variants: Annotated[list[FlagKey], Meta(min_length=1)] | None = None
    value: object | UnsetType = UNSET
    rules: Annotated[list[Key], Meta(min_length=1)] | None = None
    off: Literal[True] | None = None


class FilterSpec(Hashed, frozen=True, kw_only=True):
    """Only units whose hash under `seed` lies in one of `ranges`: a layer that other experiments need not name."""

    seed: Text
    unit: Unit | None = None
    ranges: Annotated[list[Interval], Meta(min_length=1)]


FlagType = Literal["boolean", "string", "number", "object"]


class RuleSpec(Hashed, frozen=True, kw_only=True):
    """One rule of a flag: who is in `audience` gets `variant`, or one of `variants` by the hash.

    With `coverage` below 1 only that share of the audience does; the others go on to the next rule. Several variants
    make the rule an experiment, which `analyze FLAG#RULE` reports on. `key` names the rule; without one it is the value
    of the audience's only trait, such as `de`, or `rule1`, `rule2` by its place. The name is part of the default seed.

    An experiment that is over has `status: shipped` with the variant `ship`, which all of its audience gets but the
    units of its holdouts, or `status: stopped`, which leaves them to the next rule; `counterpoint conclude` writes it.
    """

    key: Key | None = None
    title: Text | None = None
    hypothesis: Text | None = None
    status: Literal["running", "stopped", "shipped"] = "running"
    ship: FlagKey | None = None
    decided: ConclusionSpec | None = None
    audience: Condition = {}
    coverage: Share = 1.0
    variant: FlagKey | None = None
    variants: Annotated[list[VariantSpec], Meta(min_length=1, max_length=200)] = []
    unit: Unit | None = None
    fallback_unit: Unit | None = None
    seed: Text | None = None
    start: ZonedTime | None = None
    end: ZonedTime | None = None
    ramp: list[RampStep] | HeldRamp = []
    filters: list[FilterSpec] = []
    prerequisites: list[Prerequisite] = []
    metrics: ExperimentMetrics | None = None
    analysis: AnalysisSpec = AnalysisSpec()


class EnvironmentSpec(Spec, frozen=True, kw_only=True):
    """The keys of a flag that are different where `COUNTERPOINT_ENVIRONMENT` names this environment."""

    status: Status | None = None
    default: FlagKey | None = None
    rules: Annotated[list[RuleSpec], Meta(max_length=200)] | None = None


class ExperimentSpec(Hashed, frozen=True, kw_only=True):
    """One experiment, or with `kind: flag` a feature flag.

    With `sticky` a customer keeps the variant first assigned, even after ranges move. Raising `bucket_version` assigns
    those customers again; those whose stored version is below `min_bucket_version` are excluded.

    A flag may have `rules`: in their order, the first that gives a variant decides. Everyone else gets `default`.
    `variants` then only says what the values are, and may be left out. With a `type` each value is checked against it.
    Holdouts cover experiments; a flag is covered by those that it names under `holdouts`, as a shipped experiment does.

    With `status: shipped` all of its audience gets the variant `ship`, but the units of its holdouts. `decided` says
    when and why it was shipped or stopped; `counterpoint conclude` writes both.
    """

    key: FlagKey
    kind: Literal["experiment", "flag"] = "experiment"
    type: FlagType | None = None
    title: Text | None = None
    hypothesis: Text | None = None
    owner: Text | None = None
    unit: Unit = "customer"
    fallback_unit: Unit | None = None
    switchback: SwitchbackSpec | None = None
    layer: Annotated[Key | None, RESTRICTS] = None
    seed: Text | None = None
    status: Status = "running"
    ship: FlagKey | None = None
    decided: ConclusionSpec | None = None
    start: Annotated[ZonedTime | None, RESTRICTS] = None
    end: Annotated[ZonedTime | None, RESTRICTS] = None
    channels: Annotated[list[Key] | None, RESTRICTS] = None
    placement: Key | None = None
    audience: Annotated[Condition, RESTRICTS] = {}
    coverage: Share = 1.0
    ramp: list[RampStep] | HeldRamp = []
    prerequisites: Annotated[list[Prerequisite], RESTRICTS] = []
    filters: Annotated[list[FilterSpec], RESTRICTS] = []
    sticky: bool = False
    bucket_version: Annotated[int, Meta(ge=0)] = 0
    min_bucket_version: Annotated[int, Meta(ge=0)] = 0
    tags: list[Key] = []
    holdouts: Annotated[list[Key], RESTRICTS] = []
    variants: Annotated[list[VariantSpec], Meta(min_length=1, max_length=200)] = []
    rules: Annotated[list[RuleSpec], Meta(max_length=200)] = []
    default: FlagKey | None = None
    environments: dict[Key, EnvironmentSpec] = {}
    force: list[ForceSpec] = []
    metrics: ExperimentMetrics | None = None
    exposures: ExposuresSpec | None = None
    analysis: AnalysisSpec = AnalysisSpec()


class LayerSpec(Spec, frozen=True, kw_only=True):
    """Experiments in one layer share no unit: each has a range of the layer reserved for it.

    GrowthBook's namespaces are layers with `hash_version: 1`, which leaves a slight dependence between layers.
    """

    key: Key
    title: Text | None = None
    seed: Text | None = None
    hash_version: Literal[1, 2] = 2
    reserve: dict[FlagKey, Interval] = {}


KeptVersion = Annotated[
    str, Meta(pattern="^[0-9a-f]{12}$", extra={"remedy": "give the version that `counterpoint check` prints"})
]
"""The version of a plan: twelve hexadecimal digits."""


class HoldoutSpec(Spec, frozen=True, kw_only=True):
    """Units excluded from all experiments (or those with one of `tags`) on every channel.

    The difference between them and all others is the total effect of the experiments: `analyze KEY` reports it by
    `metrics`; without them by the metrics in money and the primary metrics of the experiments.

    With `keeps`, the version of an archived plan, it is frozen: that plan decides its units' experiments, flags and
    offers, while today's caps, stock, consents and kill switch hold. Its report compares them with everyone else.
    """

    key: Key
    title: Text | None = None
    share: Share
    unit: Unit = "customer"
    seed: Text | None = None
    tags: list[Key] = []
    keeps: KeptVersion | None = None
    metrics: ExperimentMetrics | None = None

    def covers(self, spec: ExperimentSpec) -> bool:
        """Whether the holdout keeps units out of this experiment or flag; a frozen one leaves that to its kept plan."""
        if self.keeps is not None:
            return False
        if spec.kind == "flag":
            return self.key in spec.holdouts
        return not self.tags or bool(set(self.tags) & set(spec.tags))


class LayersFile(Spec, frozen=True, kw_only=True):
    """`layers.yaml`: layers, whose experiments share no unit, and holdouts, whose units see no experiment."""

    layers: list[LayerSpec] = []
    holdouts: list[HoldoutSpec] = []


class SegmentSpec(Spec, frozen=True, kw_only=True):
    """A named condition, used as `{$segment: key}`, or a named list of values, used as `{trait: {$inGroup: key}}`."""

    key: Key
    condition: Condition | None = None
    values: Annotated[list[str | int | float], Meta(min_length=1)] | None = None


class SegmentsFile(Spec, frozen=True, kw_only=True):
    """`segments.yaml`: named conditions and lists of values, the stages of the journey, and the segments of RFM."""

    segments: list[SegmentSpec] = []
    stages: StagesSpec = StagesSpec()
    rfm: list[RfmSpec] = []


class IdentitiesFile(Spec, frozen=True, kw_only=True):
    """`identities.yaml`: how identifiers and traits are merged into one customer, and how long they are stored.

    `binds` is the number of known customers that one value of an identifier kind may name. A value that names more (a
    tablet in the shop) identifies nobody. `holds` is the number of values of a kind stored for one customer.
    `placeholders` are the shop's own values that name nobody, beside `undefined`, `null`, `0` and the like; as an
    identifier or order id they count as absent. A refund within `return_period` finds its order, however many followed.
    What campaign or ad brought a visitor is read until their visit ends, and no longer than `campaign_life`.
    `profiling` is the purpose that lets decisions use a customer's history: their orders, visits and affinities.
    """

    merge: dict[str, MergeRule] = {}
    profiling: Key | None = None
    sources: list[Key] = []
    binds: dict[IdKind, Count] = {}
    holds: dict[IdKind, Count] = {}
    placeholders: list[Annotated[str, Meta(min_length=1, max_length=200)]] = []
    points_per_unit: Annotated[float, Meta(ge=0, extra={"remedy": "give points per unit of revenue"})] = 1.0
    tiers: list[Positive] = []
    life: Span = "400d"
    anonymous_life: Span = "90d"
    return_period: Span = "100d"
    cart_life: Span = "7d"
    step_life: Span = "1d"
    conversation_life: Span = "3d"
    campaign_life: Span = "1d"
    affinity_half_life: Span = "30d"
