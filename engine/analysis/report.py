"""The one object that command line, JSON and dashboard render: effects, quality and the decision they lead to."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from engine.analysis.aggregate import Group
from engine.analysis.bayes import Prior, beta_posterior, normal, normal_posterior, proportions
from engine.analysis.estimate import Bayes, Effect, NotEstimable
from engine.analysis.inference import Arm, Method, Relative, absolute, arms, relative, scale
from engine.analysis.metrics import Direction, Kind, Measure, Role
from engine.analysis.multiplicity import holm
from engine.analysis.quality import SampleRatio

Verdict = Literal["ship", "keep running", "stop", "fix the data"]


class Quality(msgspec.Struct, frozen=True):
    """What was checked before any number; `flags` are sentences for people."""

    srm: SampleRatio
    crossovers: int = 0
    flags: list[str] = []


class MetricReport(msgspec.Struct, frozen=True):
    """One metric of one variant against control. `adjusted_p` is over the metrics and variants of its role."""

    metric: str
    kind: Kind
    variant: str
    method: Method
    role: Role
    direction: Direction
    units: dict[str, int]
    mean: dict[str, float]
    absolute: Effect | NotEstimable
    relative: Effect | NotEstimable
    bayes: Bayes | NotEstimable
    adjusted_p: float | None = None
    covariates: list[str] = []
    variance_reduction: float | None = None
    margin: float | None = None


class Money(msgspec.Struct, frozen=True):
    """What shipping would bring per month at full traffic, in the shop's currency."""

    estimate: float
    low: float
    high: float


class Decision(msgspec.Struct, frozen=True):
    """What to do, why, and what it is worth."""

    verdict: Verdict
    why: str
    money_per_month: Money | NotEstimable
    days_left: float | None = None
    would_change: str = ""


class Report(msgspec.Struct, frozen=True):
    """The answer to one experiment's question."""

    experiment: str
    as_of: str
    control: str
    alpha: float
    units: dict[str, int]
    quality: Quality
    metrics: list[MetricReport]
    decision: Decision

    def json(self) -> bytes:
        """The report as the JSON of the contract."""
        return msgspec.json.encode(self)


class Settings(msgspec.Struct, frozen=True):
    """How to infer: an anytime-valid interval is narrowest at `planned` units, `rope` is a null effect's half width."""

    method: Method = "sequential"
    alpha: float = 0.05
    relative: Relative = "fieller"
    prior: Prior = Prior()
    planned: int = 5000
    rope: float = 0.01


def compare(
    measure: Measure, control: str, variant: str, groups: Mapping[str, Group], settings: Settings
) -> MetricReport:
    """One variant against control on one measure."""
    sides = {name: groups[name].moments[measure.name] for name in (control, variant)}
    found = arms(sides[control], sides[variant], measure)
    base = MetricReport(
        metric=measure.name,
        kind=measure.kind,
        variant=variant,
        method=settings.method,
        role=measure.role,
        direction=measure.direction,
        units={name: max(side.n, 0) for name, side in sides.items()},
        mean={},
        absolute=NotEstimable(""),
        relative=NotEstimable(""),
        bayes=NotEstimable(""),
        covariates=[str(term) for term in measure.covariates],
        margin=measure.margin if measure.role == "guardrail" else None,
    )
    if isinstance(found, NotEstimable):
        return msgspec.structs.replace(base, absolute=found, relative=found, bayes=found)
    ours, theirs, reduction = found
    width = scale(ours, theirs, settings.method, settings.alpha, settings.planned)
    difference = absolute(ours, theirs, width)
    share = relative(ours, theirs, width, settings.relative)
    posterior = _posterior(measure, ours, theirs, settings)
    if settings.method == "bayesian":
        difference, share = _credible(difference, share, posterior, ours, settings)
    return msgspec.structs.replace(
        base,
        mean={control: ours.value, variant: theirs.value},
        absolute=difference,
        relative=share,
        bayes=posterior,
        variance_reduction=reduction if measure.covariates else None,
    )


def _posterior(measure: Measure, control: Arm, treatment: Arm, settings: Settings) -> Bayes | NotEstimable:
    linear = relative(control, treatment, scale(control, treatment, "bayesian", settings.alpha, 1), "linear")
    if isinstance(linear, NotEstimable):
        return linear
    good = 1.0 if measure.direction == "increase" else -1.0
    counted = measure.kind in {"proportion", "retention"} and not measure.covariates and measure.y.den is None
    if counted and math.isinf(settings.prior.sd):
        ours, theirs = (beta_posterior(side.value * side.n, side.n) for side in (control, treatment))
        return proportions(ours, theirs, settings.alpha, good=good, rope=settings.rope)
    return normal(linear.estimate, linear.se, settings.prior, settings.alpha, good=good, rope=settings.rope)


def _credible(
    difference: Effect, share: Effect | NotEstimable, posterior: Bayes | NotEstimable, control: Arm, settings: Settings
) -> tuple[Effect, Effect | NotEstimable]:
    """Both scales as posterior means and credible intervals; the relative prior is carried over."""
    if isinstance(posterior, NotEstimable) or isinstance(share, NotEstimable):
        return difference, share
    mean, sd = normal_posterior(share.estimate, share.se, settings.prior)
    relative_effect = Effect(mean, posterior.low, posterior.high, sd)
    unit = abs(control.value)
    carried = Prior(settings.prior.mean * control.value, settings.prior.sd * unit)
    mean, sd = normal_posterior(difference.estimate, difference.se, carried)
    interval = normal(difference.estimate, difference.se, carried, settings.alpha)
    return Effect(mean, interval.low, interval.high, sd), relative_effect


def adjusted(metrics: Sequence[MetricReport]) -> list[MetricReport]:
    """Each p-value adjusted by Holm within its family: the metrics and variants that share a role."""
    result = list(metrics)
    for role in ("primary", "secondary", "guardrail"):
        family = [
            (at, metric.absolute.p)
            for at, metric in enumerate(metrics)
            if metric.role == role and isinstance(metric.absolute, Effect) and metric.absolute.p is not None
        ]
        for (at, _), p in zip(family, holm([p for _, p in family if p is not None]), strict=True):
            result[at] = msgspec.structs.replace(metrics[at], adjusted_p=p)
    return result
