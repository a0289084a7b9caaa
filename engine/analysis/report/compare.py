"""Variants against control: the effect on every measure, absolute and relative, by the method of the report."""

from __future__ import annotations

import math
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
from engine.analysis.stats.borrowed import borrowed_effects, plug_in_arms
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.effects import absolute_effect, interval_scale, linear_delta_effect, relative_effect
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable, format_chance
from engine.analysis.stats.inference import (
    Arm,
    add_outcomes,
    correct_unequal_units,
    estimate_arm,
    estimate_arms,
    holds_zeros_and_ones,
    not_a_share,
)
from engine.analysis.stats.multiplicity import benjamini_hochberg, holm
from engine.analysis.stats.small_arms import arrange_loan, too_few_outcomes, widening

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.aggregates.aggregate import Group
    from engine.analysis.aggregates.quantiles import Quantiles
    from engine.analysis.design.metrics import Measure
    from engine.analysis.stats.small_arms import Shape


BORROWED = (
    " The smaller arm has few outcomes, or far fewer units: its variance is taken from both arms, so that the interval "
    "does not depend on a handful of outcomes."
)
EXACT = (
    "Few units of a variant did, or did not, convert: the intervals are those of score tests, and p is of an exact "
    "test where the two agree. The chance to win is of a posterior; it is not one minus half of p."
)
REPEATED = ("sequential", "group_sequential")
"""The methods whose intervals hold at several looks."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of each variant: moments by measure, and quantiles, which have no moments.

    `whole` has the moments of stratified measures before they were weighted, `refused` the measures whose values do
    not fit their kind, with the reason.
    """

    control: str
    groups: Mapping[str, Group]
    quantiles: Mapping[str, Quantiles] = msgspec.field(default_factory=dict)
    whole: Mapping[str, Group] = msgspec.field(default_factory=dict)
    refused: Mapping[str, NotEstimable] = msgspec.field(default_factory=dict)

    def sides(self, measure: Measure, variant: str) -> tuple[Arm, Arm, float] | NotEstimable:
        """The values of control and of the variant, and the share of variance that covariates removed."""
        if measure.name in self.refused:
            return self.refused[measure.name]
        if measure.rules.has_moments:
            whole = [self.whole[name].moments[measure.name] for name in (self.control, variant) if name in self.whole]
            if not all(holds_zeros_and_ones(side, measure) for side in whole):
                return not_a_share(measure)
            ours, theirs = (self.groups[name].moments[measure.name] for name in (self.control, variant))
            found = estimate_arms(ours, theirs, measure)
            if isinstance(found, NotEstimable):
                return found
            return (
                self._refine(found[0], measure, self.control),
                self._refine(found[1], measure, variant),
                found[2],
            )
        known = self.quantiles[measure.name]
        control, treatment = (
            known.get(name, NotEstimable(f"{name} has no row with a value")) for name in (self.control, variant)
        )
        if isinstance(control, NotEstimable):
            return control
        return treatment if isinstance(treatment, NotEstimable) else (control, treatment, 0.0)

    def arm(self, measure: Measure, name: str) -> Arm | None:
        """One variant's value without covariates; None if it has no variance."""
        if not measure.rules.has_moments:
            known = self.quantiles[measure.name].get(name)
            return known if isinstance(known, Arm) else None
        moments = self.groups[name].moments[measure.name]
        if moments.n < 2 or not np.all(np.isfinite(moments.comoment)):
            return None
        return self._refine(estimate_arm(moments, measure), measure, name)

    def _refine(self, arm: Arm, measure: Measure, name: str) -> Arm:
        group = self.whole.get(name, self.groups[name])
        own = group.outcomes.get(measure.name, ())
        arm = correct_unequal_units(arm, group.moments[measure.name], measure)
        return add_outcomes(arm, group.moments[measure.name], measure, own[0] if own else None)


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
        return _refused(base, found, measure, evidence)
    raw_control, raw_treatment, reduction = found
    few = _too_few_outcomes(measure, variant, evidence, inference)
    if few is not None:
        return _refused(base, few, measure, evidence)
    known = _estimate_effects(measure, raw_control, raw_treatment, inference, _stretch(measure, variant, evidence))
    if isinstance(known, NotEstimable):
        return _refused(base, known, measure, evidence)
    difference, share, ours, theirs = known.absolute, known.relative, known.control, known.treatment
    posterior = _posterior(measure, raw_control, raw_treatment, inference)
    if inference.method == "bayesian":
        credible = _credible(difference, share, posterior, (raw_control, raw_treatment), inference)
        if isinstance(credible, NotEstimable):
            return _refused(base, credible, measure, evidence)
        difference, share = credible
    return msgspec.structs.replace(
        base,
        units={control: ours.n, variant: theirs.n},
        mean={control: ours.value, variant: theirs.value},
        absolute=difference,
        relative=share,
        bayes=posterior,
        raw_mean=_raw_means(measure, variant, evidence) if measure.covariates else {},
        variance_reduction=reduction if measure.covariates else None,
        interpretation=EXACT if known.is_exact else interpret(difference, posterior, inference) + known.note,
    )


class _Effects(msgspec.Struct, frozen=True, kw_only=True):
    """Both effects of two arms, the arms with the variances used, and a note on these."""

    absolute: Effect
    relative: Effect | NotEstimable
    control: Arm
    treatment: Arm
    is_exact: bool = False
    note: str = ""


def _estimate_effects(
    measure: Measure, control: Arm, treatment: Arm, inference: Inference, stretch: float
) -> _Effects | NotEstimable:
    """Both effects: exact tests for small counts, borrowed variances for few outcomes."""
    loan = arrange_loan(control, treatment, _shape(measure), is_repeated=inference.method in REPEATED)
    ours, theirs = plug_in_arms(control, treatment, loan) if loan else (control, treatment)
    if inference.method == "fixed" and _is_plain_share(measure):
        from engine.analysis.stats import proportions  # noqa: PLC0415 # see distributions

        counts, sizes = (_successes(ours), _successes(theirs)), (ours.n, theirs.n)
        if proportions.is_small(counts, sizes):
            exact = proportions.exact_effects(counts, sizes, inference.alpha)
            return _Effects(absolute=exact[0], relative=exact[1], control=ours, treatment=theirs, is_exact=True)
    width = interval_scale(ours, theirs, inference, stretch=stretch)
    if isinstance(width, NotEstimable):
        return width
    if loan:
        difference, share = borrowed_effects(control, treatment, width, loan, inference.relative)
    else:
        difference = absolute_effect(ours, theirs, width)
        share = relative_effect(ours, theirs, width, inference.relative)
    note = BORROWED if loan and loan.weight > 0 else ""
    return _Effects(absolute=difference, relative=share, control=ours, treatment=theirs, note=note)


def _shape(measure: Measure) -> Shape:
    """The relation of a unit's variance to the metric's mean."""
    return "share" if _is_plain_share(measure) else "scale"


def _raw_means(measure: Measure, variant: str, evidence: Evidence) -> dict[str, float]:
    arms = {name: evidence.arm(measure, name) for name in (evidence.control, variant)}
    return {name: arm.value for name, arm in arms.items() if arm is not None}


def _too_few_outcomes(measure: Measure, variant: str, evidence: Evidence, inference: Inference) -> NotEstimable | None:
    """The reason why outcomes are too few for an interval; None if they suffice."""
    if not measure.rules.has_moments:
        return None
    arms = {name: evidence.arm(measure, name) for name in (evidence.control, variant)}
    known = {name: arm for name, arm in arms.items() if arm is not None}
    is_repeated = inference.method in REPEATED
    return too_few_outcomes(measure.name, known, is_share=_is_plain_share(measure), is_repeated=is_repeated)


def _stretch(measure: Measure, variant: str, evidence: Evidence) -> float:
    """The factor by which few outcomes widen a single look's interval."""
    ours, theirs = (evidence.arm(measure, name) for name in (evidence.control, variant))
    if not measure.rules.has_moments or _is_plain_share(measure) or ours is None or theirs is None:
        return 1.0
    return widening((ours, theirs))


def _refused(base: MetricReport, reason: NotEstimable, measure: Measure, evidence: Evidence) -> MetricReport:
    """The row of a comparison without an estimate: each side's units and finite mean."""
    known = {name: evidence.arm(measure, name) for name in (evidence.control, base.variant)}
    arms = {name: arm for name, arm in known.items() if arm is not None}
    return msgspec.structs.replace(
        base,
        units={name: arm.n for name, arm in arms.items()},
        mean={name: arm.value for name, arm in arms.items() if math.isfinite(arm.value)},
        absolute=reason,
        relative=reason,
        bayes=reason,
    )


def _is_plain_share(measure: Measure) -> bool:
    """Whether the metric is a plain share of units, so that its counts are sufficient statistics."""
    plain = not measure.covariates and measure.y.den is None and not measure.stratified
    return measure.rules.is_share and plain


def _successes(arm: Arm) -> int:
    return round(arm.value * arm.n)


def _posterior(measure: Measure, control: Arm, treatment: Arm, inference: Inference) -> Bayes | NotEstimable:
    linear = linear_delta_effect(control, treatment)
    if isinstance(linear, NotEstimable):
        return linear
    good = 1.0 if measure.direction == "increase" else -1.0
    if _is_plain_share(measure) and math.isinf(inference.prior.sd):
        from engine.analysis.stats.beta import beta_binomial_posterior, update_beta  # noqa: PLC0415 # see distributions

        ours, theirs = (update_beta(_successes(side), side.n) for side in (control, treatment))
        return beta_binomial_posterior(ours, theirs, inference.alpha, good=good, rope=inference.rope)
    if _is_near_zero(control, inference):
        return NotEstimable("control's mean is within its own error of zero, so the relative effect is not determined")
    return normal_posterior(*linear, inference.prior, inference.alpha, good=good, rope=inference.rope)


def _credible(
    difference: Effect,
    share: Effect | NotEstimable,
    posterior: Bayes | NotEstimable,
    arms: tuple[Arm, Arm],
    inference: Inference,
) -> tuple[Effect, Effect | NotEstimable] | NotEstimable:
    """Both effects as posterior means with credible intervals; the relative prior is scaled to the absolute effect.

    Without a posterior neither scale has an interval: one of another method would pass for a credible one. Only the
    difference between arms that vary has a posterior of its own under a flat prior, also where control is near zero.
    """
    if isinstance(posterior, NotEstimable):
        is_own = math.isinf(inference.prior.sd) and min(arm.variance for arm in arms) > 0
        return (difference, posterior) if is_own else posterior
    if isinstance(share, Effect):
        mean, sd = update_normal(share.estimate, share.se, inference.prior)
        share = Effect(mean, posterior.low, posterior.high, sd)
    unit = abs(arms[0].value)
    scaled_prior = Prior(inference.prior.mean * unit, inference.prior.sd * unit)
    mean, sd = update_normal(difference.estimate, difference.se, scaled_prior)
    interval = normal_posterior(difference.estimate, difference.se, scaled_prior, inference.alpha)
    return Effect(mean, interval.low, interval.high, sd), share


def interpret(difference: Effect, posterior: Bayes | NotEstimable, inference: Inference) -> str:
    """A sentence that relates a comparison's chance to win to its p-value and interval."""
    if isinstance(posterior, NotEstimable):
        return ""
    win = format_chance(posterior.chance_to_win)
    prior = inference.prior
    if not math.isinf(prior.sd):
        return (
            f"The chance to win, {win}, starts from the prior belief of {prior.mean:+z.1%} ± {prior.sd:.1%}; "
            "the intervals of the other methods do not use it."
        )
    if inference.method == "fixed" and difference.p is not None:
        one_sided = format_chance(1 - difference.p / 2)
        return (
            f"With a flat prior the chance to win, {win}, is about one minus half of p "
            f"({one_sided} on the winning side): both come from one likelihood and are not independent evidence. "
            "Both hold for a single look, at the end."
        )
    if inference.method == "bayesian":
        return (
            f"With a flat prior the chance to win, {win}, and its interval equal those of a test at a single look. "
            "With daily looks stop by the expected loss, not by the chance; it is "
            f"{posterior.expected_loss:.2%} of control now."
        )
    when = "every look" if inference.method == "sequential" else "every planned look"
    return (
        f"The chance to win, {win}, is the posterior under a flat prior at this look; the interval is wider because it "
        f"holds at {when}."
    )


def compare_all(
    measures: Sequence[Measure], variants: Sequence[str], evidence: Evidence, inference: Inference
) -> list[MetricReport]:
    """Every variant against control on every measure, with adjusted p-values and chances of being best."""
    reports = []
    for measure in measures:
        rows = [compare(measure, name, evidence, inference) for name in variants if name != evidence.control]
        best = _chances_and_losses(measure, rows, evidence, inference) if len(rows) > 1 else {}
        for row in rows:
            chance_best, loss_best = best.get(row.variant, (None, None))
            reports.append(msgspec.structs.replace(row, chance_best=chance_best, loss_best=loss_best))
    return _adjust_p_values(reports)


def _chances_and_losses(
    measure: Measure, rows: Sequence[MetricReport], evidence: Evidence, inference: Inference
) -> dict[str, tuple[float, float | None]]:
    """Chance and loss under the prior, over control and the variants with an estimate."""
    sides = {row.variant: evidence.sides(measure, row.variant) for row in rows}
    known = {name: found[:2] for name, found in sides.items() if not isinstance(found, NotEstimable)}
    good = 1.0 if measure.direction == "increase" else -1.0
    if not known or any(arm.variance <= 0 for pair in known.values() for arm in pair):
        return {}
    if not math.isinf(inference.prior.sd):
        return _shrunken_chances_and_losses(known, evidence.control, inference, good)
    arms: dict[str, Arm] = {}
    for name, (ours, theirs) in known.items():
        arms |= {evidence.control: ours, name: theirs}
    means, sds = [good * arm.value for arm in arms.values()], [arm.variance**0.5 for arm in arms.values()]
    control = arms[evidence.control].value
    losses = [loss / abs(control) if control else None for loss in expected_losses(means, sds)]
    return dict(zip(arms, zip(chances_to_be_best(means, sds), losses, strict=True), strict=True))


def _shrunken_chances_and_losses(
    known: Mapping[str, tuple[Arm, Arm]], control: str, inference: Inference, good: float
) -> dict[str, tuple[float, float | None]]:
    """Chance and loss with an informative prior, from each variant's posterior against control.

    Every relative effect is shrunken as in its row. The effects share control's error. What is left of that error
    after shrinkage is control's own, the least of them where arms are uneven; the rest of each posterior variance is
    the variant's. So a single variant has exactly the loss of its row, and a flat prior the errors of the arms.
    """
    posteriors, shared = {}, math.inf
    for name, (ours, theirs) in known.items():
        linear = linear_delta_effect(ours, theirs)
        if isinstance(linear, NotEstimable) or _is_near_zero(ours, inference):
            return {}
        mean, sd = update_normal(*linear, inference.prior)
        posteriors[name] = mean, sd
        error = theirs.value * ours.variance**0.5 / ours.value**2
        shared = min(shared, (error * sd / linear[1]) ** 2)
    means = [0.0, *(good * mean for mean, _ in posteriors.values())]
    sds = [shared**0.5, *((sd**2 - shared) ** 0.5 for _, sd in posteriors.values())]
    found = zip(chances_to_be_best(means, sds), expected_losses(means, sds), strict=True)
    return dict(zip((control, *posteriors), found, strict=True))


def _is_near_zero(control: Arm, inference: Inference) -> bool:
    """Whether control's mean is within its standard error of zero."""
    return abs(control.value) <= normal_quantile(1 - inference.alpha / 2) * math.sqrt(control.variance)


def _adjust_p_values(metrics: Sequence[MetricReport]) -> list[MetricReport]:
    """The metrics with p-values adjusted within each family: metrics and variants with the same role.

    Holm controls the family-wise error rate of primary metrics and of guardrails, which decide the verdict;
    Benjamini and Hochberg control the false discovery rate of secondary metrics, which explore.
    """
    result = list(metrics)
    for role in ("primary", "secondary", "guardrail"):
        rows = [(at, metric.absolute) for at, metric in enumerate(metrics) if metric.role == role]
        family = {at: found.p for at, found in rows if isinstance(found, Effect) and found.p is not None}
        # A comparison without an estimate may have one at the next look, so it counts as one that found nothing.
        unknown = [1.0 for _, found in rows if isinstance(found, NotEstimable)]
        adjust = benjamini_hochberg if role == "secondary" else holm
        for at, p in zip(family, adjust([*family.values(), *unknown]), strict=False):
            result[at] = msgspec.structs.replace(metrics[at], adjusted_p=p)
    return result
