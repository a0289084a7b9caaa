"""Variants against control: every measure's effect on both scales, by the method that was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.design.methods import Inference
from engine.analysis.report.model import MetricReport
from engine.analysis.stats.bayes import (
    Prior,
    chances_to_be_best,
    expected_losses,
    normal_posterior,
    update_normal,
)
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.effects import absolute_effect, interval_scale, linear_delta_effect, relative_effect
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable, format_chance
from engine.analysis.stats.inference import Arm, estimate_arm, estimate_arms, holds_zeros_and_ones, not_a_share
from engine.analysis.stats.multiplicity import benjamini_hochberg, holm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.aggregate import Group
    from engine.analysis.sources.quantiles import Quantiles


@dataclass(frozen=True)
class Evidence:
    """What a table or a log says of each variant: moments by measure, and the quantiles, which have no moments.

    `whole` has the moments of stratified measures before they were weighted, `refused` the measures that are none.
    """

    control: str
    groups: Mapping[str, Group]
    quantiles: Mapping[str, Quantiles] = field(default_factory=dict)
    whole: Mapping[str, Group] = field(default_factory=dict)
    refused: Mapping[str, NotEstimable] = field(default_factory=dict)

    def sides(self, measure: Measure, variant: str) -> tuple[Arm, Arm, float] | NotEstimable:
        """Control's and the variant's value, and the share of variance that covariates removed."""
        if measure.name in self.refused:
            return self.refused[measure.name]
        if measure.rules.has_moments:
            whole = [self.whole[name].moments[measure.name] for name in (self.control, variant) if name in self.whole]
            if not all(holds_zeros_and_ones(side, measure) for side in whole):
                return not_a_share(measure)
            ours, theirs = (self.groups[name].moments[measure.name] for name in (self.control, variant))
            return estimate_arms(ours, theirs, measure)
        known = self.quantiles[measure.name]
        control, treatment = (
            known.get(name, NotEstimable(f"{name} has no row with a value")) for name in (self.control, variant)
        )
        if isinstance(control, NotEstimable):
            return control
        return treatment if isinstance(treatment, NotEstimable) else (control, treatment, 0.0)

    def arm(self, measure: Measure, name: str) -> Arm | None:
        """One side alone without covariates, as far as it is known."""
        if not measure.rules.has_moments:
            known = self.quantiles[measure.name].get(name)
            return known if isinstance(known, Arm) else None
        moments = self.groups[name].moments[measure.name]
        return estimate_arm(moments, measure) if moments.n > 1 and np.all(np.isfinite(moments.comoment)) else None


def compare(measure: Measure, variant: str, evidence: Evidence, inference: Inference) -> MetricReport:
    """One variant against control on one measure."""
    control = evidence.control
    found = evidence.sides(measure, variant)
    base = MetricReport(
        metric=measure.name,
        kind=measure.kind,
        variant=variant,
        method=inference.method,
        role=measure.role,
        direction=measure.direction,
        units={},
        mean={},
        absolute=NotEstimable(""),
        relative=NotEstimable(""),
        bayes=NotEstimable(""),
        covariates=[str(term) for term in measure.covariates],
        margin=measure.margin if measure.role == "guardrail" else None,
    )
    if isinstance(found, NotEstimable):
        units, mean = _seen(measure, (control, variant), evidence)
        return msgspec.structs.replace(base, units=units, mean=mean, absolute=found, relative=found, bayes=found)
    ours, theirs, reduction = found
    width = interval_scale(ours, theirs, inference)
    if isinstance(width, NotEstimable):
        units, mean = _seen(measure, (control, variant), evidence)
        return msgspec.structs.replace(base, units=units, mean=mean, absolute=width, relative=width, bayes=width)
    difference = absolute_effect(ours, theirs, width)
    share = relative_effect(ours, theirs, width, inference.relative)
    if inference.method == "fixed" and _counted(measure):
        from engine.analysis.stats import proportions  # noqa: PLC0415 # see distributions

        counts, sizes = (_successes(ours), _successes(theirs)), (ours.n, theirs.n)
        if proportions.is_small(counts, sizes):
            difference, share = proportions.exact_effects(counts, sizes, difference.se, inference.alpha)
    posterior = _posterior(measure, ours, theirs, inference)
    if inference.method == "bayesian":
        difference, share = _credible(difference, share, posterior, ours, inference)
    return msgspec.structs.replace(
        base,
        units={control: ours.n, variant: theirs.n},
        mean={control: ours.value, variant: theirs.value},
        absolute=difference,
        relative=share,
        bayes=posterior,
        variance_reduction=reduction if measure.covariates else None,
        words=words(difference, posterior, inference),
    )


def _seen(measure: Measure, names: Sequence[str], evidence: Evidence) -> tuple[dict[str, int], dict[str, float]]:
    """What is known of each side where their comparison is not: its units and, where it is a number, its mean."""
    known = {name: evidence.arm(measure, name) for name in names}
    arms_seen = {name: arm for name, arm in known.items() if arm is not None}
    means = {name: arm.value for name, arm in arms_seen.items() if math.isfinite(arm.value)}
    return {name: arm.n for name, arm in arms_seen.items()}, means


def _counted(measure: Measure) -> bool:
    """Whether the metric is a plain share of units, so that counts say all."""
    plain = not measure.covariates and measure.y.den is None and not measure.stratified
    return measure.rules.is_share and plain


def _successes(arm: Arm) -> int:
    return round(arm.value * arm.n)


def _posterior(measure: Measure, control: Arm, treatment: Arm, inference: Inference) -> Bayes | NotEstimable:
    linear = linear_delta_effect(control, treatment)
    if isinstance(linear, NotEstimable):
        return linear
    good = 1.0 if measure.direction == "increase" else -1.0
    if _counted(measure) and math.isinf(inference.prior.sd):
        from engine.analysis.stats.beta import beta_binomial_posterior, update_beta  # noqa: PLC0415 # see distributions

        ours, theirs = (update_beta(_successes(side), side.n) for side in (control, treatment))
        return beta_binomial_posterior(ours, theirs, inference.alpha, good=good, rope=inference.rope)
    if abs(control.value) <= normal_quantile(1 - inference.alpha / 2) * math.sqrt(control.variance):
        return NotEstimable("control's mean is within its own error of zero, so no effect can be a share of it")
    return normal_posterior(*linear, inference.prior, inference.alpha, good=good, rope=inference.rope)


def _credible(
    difference: Effect,
    share: Effect | NotEstimable,
    posterior: Bayes | NotEstimable,
    control: Arm,
    inference: Inference,
) -> tuple[Effect, Effect | NotEstimable]:
    """Both scales as posterior means and credible intervals; the relative prior is carried over."""
    if isinstance(posterior, NotEstimable) or isinstance(share, NotEstimable):
        return difference, share
    mean, sd = update_normal(share.estimate, share.se, inference.prior)
    relative_effect = Effect(mean, posterior.low, posterior.high, sd)
    unit = abs(control.value)
    carried = Prior(inference.prior.mean * unit, inference.prior.sd * unit)
    mean, sd = update_normal(difference.estimate, difference.se, carried)
    interval = normal_posterior(difference.estimate, difference.se, carried, inference.alpha)
    return Effect(mean, interval.low, interval.high, sd), relative_effect


def words(difference: Effect, posterior: Bayes | NotEstimable, inference: Inference) -> str:
    """How the Bayesian and the frequentist figure of one comparison hang together."""
    if isinstance(posterior, NotEstimable):
        return ""
    win = format_chance(posterior.chance_to_win)
    prior = inference.prior
    if not math.isinf(prior.sd):
        return (
            f"The chance to win, {win}, starts from a belief of {prior.mean:+.1%} ± {prior.sd:.1%}; "
            "the interval of the other methods does not know it."
        )
    if inference.method == "fixed" and difference.p is not None:
        one_sided = format_chance(1 - difference.p / 2)
        return (
            f"With a flat prior the chance to win, {win}, is about one minus half of p "
            f"({one_sided} on the winning side): two readings of one likelihood, not two proofs. "
            "Both are for one look, at the end."
        )
    if inference.method == "bayesian":
        return (
            f"Without a prior the chance to win, {win}, and its interval are those of a test at a single look, read "
            "as belief; what makes daily looks harmless here is to stop by the expected loss, "
            f"now {posterior.expected_loss:.2%} of control, not by the chance."
        )
    when = "every look" if inference.method == "sequential" else "every planned look"
    return (
        f"The chance to win, {win}, is what to believe now under a flat prior; the interval is wider because it must "
        f"hold at {when}."
    )


def compare_all(
    measures: Sequence[Measure], variants: Sequence[str], evidence: Evidence, inference: Inference
) -> list[MetricReport]:
    """Every variant against control on every measure, p-values adjusted, with the chance of being best of all."""
    reports = []
    for measure in measures:
        rows = [compare(measure, name, evidence, inference) for name in variants if name != evidence.control]
        best = _best(measure, [row.variant for row in rows], evidence) if len(rows) > 1 else {}
        for row in rows:
            chance_best, loss_best = best.get(row.variant, (None, None))
            reports.append(msgspec.structs.replace(row, chance_best=chance_best, loss_best=loss_best))
    return _adjusted(reports)


def _best(measure: Measure, variants: Sequence[str], evidence: Evidence) -> dict[str, tuple[float, float | None]]:
    """Chance and loss under a flat prior, over the variants that can be estimated and control."""
    known: dict[str, Arm] = {}
    for name in variants:
        found = evidence.sides(measure, name)
        if not isinstance(found, NotEstimable):
            known |= {evidence.control: found[0], name: found[1]}
    good = 1.0 if measure.direction == "increase" else -1.0
    if not known or any(arm.variance <= 0 for arm in known.values()):
        return {}
    means, sds = [good * arm.value for arm in known.values()], [arm.variance**0.5 for arm in known.values()]
    control = known[evidence.control].value
    losses = [loss / abs(control) if control else None for loss in expected_losses(means, sds)]
    return dict(zip(known, zip(chances_to_be_best(means, sds), losses, strict=True), strict=True))


def _adjusted(metrics: Sequence[MetricReport]) -> list[MetricReport]:
    """Each p-value adjusted within its family, the metrics and variants that share a role.

    Holm keeps the chance of any error among primary metrics and among guardrails, on which a decision hangs;
    Benjamini and Hochberg the share of errors among the secondary ones, which are there to learn from.
    """
    result = list(metrics)
    for role in ("primary", "secondary", "guardrail"):
        family = {
            at: metric.absolute.p
            for at, metric in enumerate(metrics)
            if metric.role == role and isinstance(metric.absolute, Effect) and metric.absolute.p is not None
        }
        adjust = benjamini_hochberg if role == "secondary" else holm
        for at, p in zip(family, adjust(list(family.values())), strict=True):
            result[at] = msgspec.structs.replace(metrics[at], adjusted_p=p)
    return result
