"""The recommendation of a report: ship, keep running, stop or fix the data, with its reason."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.analysis.checks.ratio_parts import moved_denominator
from engine.analysis.report.guardrails import is_harmed, is_not_inferior
from engine.analysis.report.model import Money, Recommendation, Verdict
from engine.analysis.report.money import NO_MONEY
from engine.analysis.report.quality import exposure_request
from engine.analysis.stats.bayes import normal_posterior
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import Effect, NotEstimable, format_level, format_percents
from engine.analysis.stats.sequential import asymptotic_multiplier, sprt_multiplier
from engine.analysis.stats.small_arms import information

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.design.methods import Inference
    from engine.analysis.design.question import ExperimentQuestion
from engine.analysis.report.model import MetricReport, Quality

EXPOSURE_GATE = 0.001
MOST_GROWTH = 10  # times the units exposed so far; a forecast of days beyond that is a guess


class _Finding(NamedTuple):
    """A recommendation without its value in money."""

    verdict: Verdict
    why: str
    would_change: str
    days_left: float | None = None


def recommend(
    metrics: Sequence[MetricReport],
    quality: Quality,
    inference: Inference,
    *,
    experiment: str = "",
    money: Money | NotEstimable = NO_MONEY,
    days: float | None = None,
    min_days: float = 0.0,
) -> Recommendation:
    """The verdict of a report: data faults come first, then a harmed guardrail, then the primary metric's intervals.

    Args:
        metrics: every metric of every variant.
        quality: the checks of the data.
        inference: the method of the intervals.
        experiment: its key, where exposures are checked.
        money: the value per month of the leading variant.
        days: between the first exposure and the report; None where the data has no time.
        min_days: the duration before which no verdict is given.
    """
    finding = (
        _no_exposures(quality, experiment)
        or _data_fault(metrics, quality)
        or _harmed_guardrail(metrics)
        or _too_early(metrics, days, min_days)
        or _primary_effect(metrics, inference)
        or _undecided(metrics, inference, days)
    )
    if finding.verdict == "fix the data" and isinstance(money, Money):
        money = NotEstimable("the data have a fault that must be corrected first", fault=True)
    return Recommendation(
        verdict=finding.verdict,
        why=finding.why,
        money_per_month=money,
        days_left=finding.days_left,
        would_change=finding.would_change,
    )


def _no_exposures(quality: Quality, experiment: str) -> _Finding | None:
    """The finding if no assigned unit was exposed, so that the report has no units."""
    exposure = quality.exposure
    if exposure is None or exposure.exposed:
        return None
    if exposure.assigned:
        why = f"{exposure.assigned:,} assigned, none seen: send exposures"
        return _Finding("fix the data", why, exposure_request(experiment))
    return _Finding(
        "keep running", f"no customer was assigned to {experiment} yet", "Decisions that assign it would change this."
    )


def _data_fault(metrics: Sequence[MetricReport], quality: Quality) -> _Finding | None:
    """The finding of a split, exposures or values that invalidate every effect; None if they are fine."""
    if not quality.srm.ok:
        why = f"the split of units is not the one asked for (p = {quality.srm.p:.2g}); no effect can be trusted"
        return _Finding("fix the data", why, "Find what loses or adds units in one variant only.")
    if quality.exposure is not None and quality.exposure.p < EXPOSURE_GATE:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in quality.exposure.shares.items())
        why = f"a different share was exposed in each variant ({shares} of those assigned); the effects do not compare"
        return _Finding("fix the data", why, "Send exposures at the same point in every variant.")
    unlike = next((row for row in quality.balance if not row.ok), None)
    if unlike is not None:
        why = (
            f"{unlike.variant} differs from control in {unlike.metric} already before the exposure "
            f"(p = {unlike.p:.2g}); no effect can be trusted"
        )
        return _Finding(
            "fix the data", why, "Find what sorts the units, or leave out a covariate from after exposures."
        )
    reason = _refusal(metrics)
    if not _estimated(metrics) and reason.fault:
        return _Finding("fix the data", reason.not_estimable, "Correct the column, then run the report again.")
    return None


def _harmed_guardrail(metrics: Sequence[MetricReport]) -> _Finding | None:
    harmed = [metric for metric in metrics if metric.role == "guardrail" and is_harmed(metric)]
    if not harmed:
        return None
    worst, shared = harmed[0], ""
    if worst.joint is not None:
        worst = msgspec.structs.replace(worst, relative=worst.joint)
        guardrails = sum(metric.role == "guardrail" for metric in metrics)
        shared = f", an interval that holds for all {guardrails} comparisons of guardrails together"
    why = f"{worst.metric} is worse with {worst.variant} than its margin allows: {interval_text(worst)}{shared}"
    why += moved_denominator(worst)
    return _Finding("stop", why, "That interval reaching back into the margin would change this.")


def _too_early(metrics: Sequence[MetricReport], days: float | None, min_days: float) -> _Finding | None:
    """The finding of a primary metric without an estimate, or of a duration below the minimum."""
    if not _estimated(metrics):
        reason = _refusal(metrics)
        why = f"the primary metric cannot be estimated: {reason.not_estimable}"
        return _Finding("keep running", why, reason.remedy or "More units would change this.")
    if days is not None and days < min_days:
        over = f"{days:.1f}" if days >= 1 else "0"
        why = f"{over} of at least {min_days:g} days are over; weekday and novelty effects need them all"
        left = min_days - days
        return _Finding("keep running", why, f"{left:.3g} more days, then the intervals decide.", left)
    return None


def _primary_effect(metrics: Sequence[MetricReport], inference: Inference) -> _Finding | None:
    """The finding of a winner, loser or practically null effect on the primary metric; None if all are possible."""
    estimated = _estimated(metrics)
    winners = [metric for metric in estimated if _side(metric, inference) > 0]
    if winners:
        return _winner(winners, metrics, inference)
    if all(_side(metric, inference) < 0 for metric in estimated):
        worst = estimated[0]
        why = (
            f"{worst.variant} is worse than control on {worst.metric}: {interval_text(worst)}{moved_denominator(worst)}"
        )
        return _not_judged(metrics, why) or _Finding("stop", why, "That interval reaching zero would change this.")
    if inference.rope and all(_equal(metric, inference) for metric in estimated):
        closest = max(estimated, key=_gain)
        why = f"no variant differs from control on {closest.metric} by more than {format_level(inference.rope)}"
        change = f"Only if less than {format_level(inference.rope)} is worth something: {interval_text(closest)}."
        why = f"{why}: {interval_text(closest)}"
        return _not_judged(metrics, why) or _Finding("stop", why, change)
    return None


def _not_judged(metrics: Sequence[MetricReport], why: str) -> _Finding | None:
    """The variant without an estimate of its primary metric, which may still win; None if each has one."""
    for metric in metrics:
        if metric.role == "primary" and isinstance(metric.absolute, NotEstimable):
            reason = metric.absolute
            why = f"{why}; but {metric.variant} cannot be judged yet: {reason.not_estimable}"
            return _Finding("keep running", why, reason.remedy or f"More units of {metric.variant} would change this.")
    return None


def _winner(winners: Sequence[MetricReport], metrics: Sequence[MetricReport], inference: Inference) -> _Finding:
    """The best winner whose guardrails passed, else the guardrail that is still open."""
    guards = {metric.variant: _guards(metrics, metric.variant) for metric in winners}
    passed = [metric for metric in winners if all(map(is_not_inferior, guards[metric.variant]))]
    if passed:
        best = max(passed, key=_gain)
        names = " or ".join(metric.metric for metric in guards[best.variant])
        change = (
            f"{names} falling beyond its margin would stop it."
            if names
            else "That interval reaching zero would change this."
        )
        why = f"{best.variant} is better than control on {best.metric}: {interval_text(best)}{moved_denominator(best)}"
        if inference.method == "bayesian" and not isinstance(best.bayes, NotEstimable):
            if best.loss_best is None:
                why += f"; if it is not, the expected loss is {best.bayes.expected_loss:.3%} of control"
            else:
                why += f"; if another is the best of all, the expected loss is {best.loss_best:.3%} of control"
            change = (
                change if names else f"An expected loss above {format_level(inference.tolerance)} would change this."
            )
        return _Finding("ship", why, change)
    best = max(winners, key=_gain)
    open_guard = next(metric for metric in guards[best.variant] if not is_not_inferior(metric))
    risk = f"may still be worse than its margin of {format_level(open_guard.margin or 0.0)}"
    change = f"More units narrow {open_guard.metric}'s interval."
    if not open_guard.margin:
        risk = "is worse by its own interval, though not by the one that all guardrails share"
        change = f"{open_guard.metric}'s own interval reaching zero would clear it, the shared one beyond zero stop it."
    why = (
        f"{best.variant} is better than control on {best.metric}, {interval_text(best)}, but {open_guard.metric} "
        f"{risk}: {interval_text(open_guard)}"
    )
    if isinstance(open_guard.relative, NotEstimable):
        change = open_guard.relative.remedy or "More units would change this."
    return _Finding("keep running", why, change)


def _undecided(metrics: Sequence[MetricReport], inference: Inference, days: float | None) -> _Finding:
    """The evidence that the leading variant lacks, with a forecast of the days until a verdict."""
    estimated = _estimated(metrics)
    closest = max(estimated, key=_gain)
    why = f"{closest.metric} may still be better or worse with {closest.variant}: {interval_text(closest)}"
    if not days:
        return _Finding("keep running", why, "An interval clear of zero would change this.")
    if inference.method == "bayesian" and closest.loss_best is not None:
        change = (
            f"An expected loss to the best of all below {format_level(inference.tolerance)} of control would; "
            f"that of {closest.variant} is {closest.loss_best:.2%} now."
        )
        return _Finding("keep running", why, change)
    left = days_left(closest, inference, days, sum(metric.role == "primary" for metric in metrics))
    if left is None:
        change = f"Today's effect is too small to be distinguished from zero with {MOST_GROWTH} times the units so far."
    else:
        change = f"If today's effect stays, it is decided in about {max(left, 1):.0f} days."
    return _Finding("keep running", why, change, left)


def _estimated(metrics: Sequence[MetricReport]) -> list[MetricReport]:
    """The primary metric of each variant for which it has an estimate."""
    return [metric for metric in metrics if metric.role == "primary" and isinstance(metric.absolute, Effect)]


def _refusal(metrics: Sequence[MetricReport]) -> NotEstimable:
    """The reason why the primary metric has no estimate; empty if every variant has one."""
    absolutes = [metric.absolute for metric in metrics if metric.role == "primary"]
    return next((absolute for absolute in absolutes if isinstance(absolute, NotEstimable)), NotEstimable(""))


def days_left(metric: MetricReport, inference: Inference, days: float, comparisons: int = 1) -> float | None:
    """Days until a verdict if effect, variance and traffic stay as they are; None beyond ten times the units.

    Args:
        metric: the primary metric of the leading variant.
        inference: the method of the intervals.
        days: so far.
        comparisons: over which p-values are adjusted; the first of Holm's steps divides alpha by all of them.
    """
    effect = metric.absolute
    if not isinstance(effect, Effect) or effect.estimate == 0:
        return None
    for step in range(1, 100 * (MOST_GROWTH - 1) + 1):
        grown = 1 + step / 100
        if _is_settled(metric, inference, alpha=inference.alpha / comparisons, grown=grown):
            return days * step / 100
    return None


def _is_settled(metric: MetricReport, inference: Inference, *, alpha: float, grown: float) -> bool:
    """Whether the current effect would be significant with `grown` times as many units."""
    if inference.method == "bayesian":
        share = metric.relative
        if not isinstance(share, Effect):
            return False
        later = normal_posterior(share.estimate, share.se / math.sqrt(grown), inference.prior, inference.alpha)
        return min(later.expected_loss, later.forgone) < inference.tolerance
    effect = metric.absolute
    if not isinstance(effect, Effect):
        return False
    bound = critical_t(alpha, math.inf)
    if inference.method == "sequential" and inference.tau is not None and isinstance(metric.relative, Effect):
        bound = sprt_multiplier(metric.relative.se / math.sqrt(grown), inference.tau, alpha)
    elif inference.method == "sequential":
        bound = asymptotic_multiplier(round(information(*metric.units.values()) * grown), inference.planned, alpha)
    return bound * effect.se / math.sqrt(grown) < abs(effect.estimate)


def _guards(metrics: Sequence[MetricReport], variant: str) -> list[MetricReport]:
    return [metric for metric in metrics if metric.role == "guardrail" and metric.variant == variant]


def _sign(metric: MetricReport) -> int:
    return 1 if metric.direction == "increase" else -1


def _gain(metric: MetricReport) -> float:
    return _sign(metric) * metric.absolute.estimate if isinstance(metric.absolute, Effect) else -math.inf


def leading_variant(metrics: Sequence[MetricReport]) -> str | None:
    """The variant with the best estimate of the primary metric; None without estimates."""
    estimated = _estimated(metrics)
    return max(estimated, key=_gain).variant if estimated else None


def is_better(metric: MetricReport, inference: Inference) -> bool:
    """Whether the method calls the variant better than control on this metric."""
    return _side(metric, inference) > 0


def _side(metric: MetricReport, inference: Inference) -> int:
    """1 for a significantly better variant, -1 for a significantly worse one, else 0."""
    effect = metric.absolute
    if not isinstance(effect, Effect):
        return 0
    if inference.method == "bayesian":
        return _by_loss(metric, inference)
    if metric.adjusted_p is not None and metric.adjusted_p > inference.alpha:
        return 0
    return _sign(metric) * ((effect.low > 0) - (effect.high < 0))


def _by_loss(metric: MetricReport, inference: Inference) -> int:
    """The side of an effect, by an expected loss below the tolerance (Stucchio 2015, "Bayesian A/B Testing at VWO")."""
    if isinstance(metric.bayes, NotEstimable):
        return 0
    against = metric.bayes.expected_loss if metric.loss_best is None else metric.loss_best
    if against < inference.tolerance:
        return 1 if metric.bayes.chance_to_win > 0.5 else 0
    return -1 if metric.bayes.forgone < inference.tolerance else 0


def _equal(metric: MetricReport, inference: Inference) -> bool:
    """Whether the whole interval lies within the region of practical equivalence (Kruschke 2018)."""
    effect = metric.relative
    return isinstance(effect, Effect) and -inference.rope < effect.low and effect.high < inference.rope


def interval_text(metric: MetricReport) -> str:
    """The relative effect with its interval; the absolute effect if the relative has no estimate."""
    effect = metric.relative
    if isinstance(effect, NotEstimable):
        effect = metric.absolute
        if isinstance(effect, NotEstimable):
            return effect.not_estimable
        return f"{effect.estimate:+z.4g} ({effect.low:+z.4g} to {effect.high:+z.4g})"
    estimate, low, high = format_percents((effect.estimate, effect.low, effect.high))
    return f"{estimate} ({low} to {high})"


def describe_cumulated(reports: Sequence[MetricReport], question: ExperimentQuestion) -> str:
    """The effect on the primary metric as a sentence; empty for an experiment."""
    if not question.is_holdout:
        return ""
    what = f"All {len(question.covers)} experiments and flags together" if len(question.covers) > 1 else "It alone"
    if question.side_key is not None:
        what = "Everything that changed since the kept plan"
    row = next(row for row in reports if row.metric == question.primary)
    absolute, relative = row.absolute, row.relative
    if not isinstance(absolute, Effect):
        return f"{what}: the effect on {row.metric} is open: {absolute.not_estimable}."
    span = f"{absolute.estimate:+z.4g} per unit ({absolute.low:+z.4g} to {absolute.high:+z.4g})"
    if isinstance(relative, Effect):
        span += f", {format_percents((relative.estimate,), 2)[0]}"
    return f"{what}: {row.metric} {span}, against those held out."
