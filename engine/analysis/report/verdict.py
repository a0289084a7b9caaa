"""What a growth team should do with a report, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.report.model import Decision, Money
from engine.analysis.report.money import NO_MONEY
from engine.analysis.stats.bayes import normal_posterior
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.sequential import asymptotic_multiplier, sprt_multiplier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.design.methods import Inference
    from engine.analysis.report.model import MetricReport, Quality


EXPOSURE_GATE = 0.001
FARTHEST = 10  # times the units seen so far: beyond, days left are a guess


def decide(
    metrics: Sequence[MetricReport],
    quality: Quality,
    inference: Inference,
    *,
    money: Money | NotEstimable = NO_MONEY,
    days: float | None = None,
    min_days: float = 0.0,
) -> Decision:
    """The verdict of a report: bad data first, then a harmed guardrail, then the primary metric's intervals."""
    if not quality.srm.ok:
        why = f"the split of units is not the one asked for (p = {quality.srm.p:.2g}); no effect can be trusted"
        return Decision("fix the data", why, money, would_change="Find what loses or adds units in one variant only.")
    if quality.exposure is not None and quality.exposure.p < EXPOSURE_GATE:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in quality.exposure.shares.items())
        why = f"of those assigned a different share was exposed in each variant ({shares}); the rest do not compare"
        return Decision("fix the data", why, money, would_change="Send exposures at the same point in every variant.")
    primary = [metric for metric in metrics if metric.role == "primary"]
    estimated = [metric for metric in primary if isinstance(metric.absolute, Effect)]
    reason = next((m.absolute for m in primary if isinstance(m.absolute, NotEstimable)), NotEstimable(""))
    if not estimated and reason.fault:
        return Decision("fix the data", reason.not_estimable, money, would_change="Mend the column and ask again.")
    harmed = [metric for metric in metrics if metric.role == "guardrail" and _harmed(metric)]
    if harmed:
        why = f"{harmed[0].metric} is worse with {harmed[0].variant} than its margin allows: {interval_text(harmed[0])}"
        return Decision("stop", why, money, would_change="That interval reaching back into the margin would.")
    if not estimated:
        why = f"the primary metric cannot be estimated: {reason.not_estimable}"
        return Decision("keep running", why, money, would_change="More units would.")
    if days is not None and days < min_days:
        why = f"{days:.1f} of at least {min_days:g} days have been seen; a week's rhythm and novelty need them all"
        left = min_days - days
        return Decision("keep running", why, money, left, f"{left:.1f} more days, then the intervals decide.")
    return _by_effect(estimated, metrics, inference, money, days)


def _by_effect(
    estimated: Sequence[MetricReport],
    metrics: Sequence[MetricReport],
    inference: Inference,
    money: Money | NotEstimable,
    days: float | None,
) -> Decision:
    comparisons = len(estimated)
    winners = [metric for metric in estimated if _side(metric, inference) > 0]
    guards = {metric.variant: _guards(metrics, metric.variant) for metric in winners}
    passed = [metric for metric in winners if all(map(_not_inferior, guards[metric.variant]))]
    if passed:
        best = max(passed, key=_gain)
        names = " or ".join(metric.metric for metric in guards[best.variant])
        change = f"{names} falling beyond its margin would stop it." if names else "That interval reaching zero would."
        why = f"{best.variant} is better than control on {best.metric}: {interval_text(best)}"
        if inference.method == "bayesian" and not isinstance(best.bayes, NotEstimable):
            why += f"; if it is not, what is lost is {best.bayes.expected_loss:.3%} of control on average"
            change = change if names else f"An expected loss above {inference.tolerance:.3%} would."
        return Decision("ship", why, money, would_change=change)
    if winners:
        best = max(winners, key=_gain)
        open_guard = next(metric for metric in guards[best.variant] if not _not_inferior(metric))
        why = (
            f"{best.variant} is better than control on {best.metric}, {interval_text(best)}, but {open_guard.metric} "
            f"may still be worse than its margin of {open_guard.margin:.1%}: {interval_text(open_guard)}"
        )
        return Decision("keep running", why, money, would_change=f"More units narrow {open_guard.metric}'s interval.")
    if all(_side(metric, inference) < 0 for metric in estimated):
        worst = estimated[0]
        why = f"{worst.variant} is worse than control on {worst.metric}: {interval_text(worst)}"
        return Decision("stop", why, money, would_change="That interval reaching zero would.")
    if inference.rope and all(_equal(metric, inference) for metric in estimated):
        closest = max(estimated, key=_gain)
        why = f"no variant differs from control on {closest.metric} by more than {inference.rope:.1%}"
        change = f"Only if less than {inference.rope:.1%} is worth something: {interval_text(closest)}."
        return Decision("stop", f"{why}: {interval_text(closest)}", money, would_change=change)
    closest = max(estimated, key=_gain)
    why = f"{closest.metric} may still be better or worse with {closest.variant}: {interval_text(closest)}"
    if not days:
        return Decision("keep running", why, money, would_change="An interval clear of zero would.")
    if inference.method == "bayesian" and closest.loss_best is not None:
        change = (
            f"An expected loss to the best of all below {inference.tolerance:.3%} of control would; "
            f"that of {closest.variant} is {closest.loss_best:.2%} now."
        )
        return Decision("keep running", why, money, would_change=change)
    left = days_left(closest, inference, days, comparisons)
    if left is None:
        change = f"Today's effect is too small to be told from zero within {FARTHEST} times the units seen so far."
    else:
        change = f"If today's effect stays, it is decided in about {max(left, 1):.0f} days."
    return Decision("keep running", why, money, left, change)


def days_left(metric: MetricReport, inference: Inference, days: float, comparisons: int = 1) -> float | None:
    """Days until a decision if effect, variance and traffic stay; None beyond ten times the units.

    Args:
        metric: of the variant that is ahead.
        inference: how it is decided.
        days: seen so far.
        comparisons: among which p-values are adjusted; the first of Holm's steps takes them all.
    """
    effect, units = metric.absolute, sum(metric.units.values())
    if not isinstance(effect, Effect) or effect.estimate == 0:
        return None
    for step in range(1, 100 * (FARTHEST - 1) + 1):
        grown = 1 + step / 100
        if _decided(metric, effect, inference, comparisons, round(units * grown), grown):
            return days * step / 100
    return None


def _decided(
    metric: MetricReport, effect: Effect, inference: Inference, comparisons: int, units: int, grown: float
) -> bool:
    if inference.method == "bayesian":
        share = metric.relative
        if not isinstance(share, Effect):
            return False
        later = normal_posterior(share.estimate, share.se / math.sqrt(grown), inference.prior, inference.alpha)
        return min(later.expected_loss, later.forgone) < inference.tolerance
    alpha = inference.alpha / comparisons
    bound = critical_t(alpha, math.inf)
    if inference.method == "sequential" and inference.tau is not None and isinstance(metric.relative, Effect):
        bound = sprt_multiplier(metric.relative.se / math.sqrt(grown), inference.tau, alpha)
    elif inference.method == "sequential":
        bound = asymptotic_multiplier(units, inference.planned, alpha)
    return bound * effect.se / math.sqrt(grown) < abs(effect.estimate)


def _guards(metrics: Sequence[MetricReport], variant: str) -> list[MetricReport]:
    return [metric for metric in metrics if metric.role == "guardrail" and metric.variant == variant]


def _sign(metric: MetricReport) -> int:
    return 1 if metric.direction == "increase" else -1


def _gain(metric: MetricReport) -> float:
    return _sign(metric) * metric.absolute.estimate if isinstance(metric.absolute, Effect) else -math.inf


def leader(metrics: Sequence[MetricReport]) -> str | None:
    """The variant that is ahead on the primary metric, None where that has no estimate."""
    ahead = [metric for metric in metrics if metric.role == "primary" and isinstance(metric.absolute, Effect)]
    return max(ahead, key=_gain).variant if ahead else None


def _side(metric: MetricReport, inference: Inference) -> int:
    """1 where the variant is better beyond doubt, -1 where worse, 0 while either is possible."""
    effect = metric.absolute
    if not isinstance(effect, Effect):
        return 0
    if inference.method == "bayesian":
        return _by_loss(metric, inference)
    if metric.adjusted_p is not None and metric.adjusted_p > inference.alpha:
        return 0
    return _sign(metric) * ((effect.low > 0) - (effect.high < 0))


def _by_loss(metric: MetricReport, inference: Inference) -> int:
    """As `_side`, once the better choice is expected to lose next to nothing (Stucchio 2015, Bayesian A/B Testing)."""
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


def _harmed(metric: MetricReport) -> bool:
    """Whether a guardrail's whole interval lies beyond its margin."""
    effect = metric.relative
    if not isinstance(effect, Effect):
        return False
    margin = metric.margin or 0.0
    return effect.high < -margin if metric.direction == "increase" else effect.low > margin


def _not_inferior(metric: MetricReport) -> bool:
    """Whether a guardrail lets the variant pass: shown to be within its margin, or without one merely not harmed.

    Without a margin nothing short of an improvement would show it, so only harm counts.
    """
    if not metric.margin:
        return True
    effect = metric.relative
    if not isinstance(effect, Effect):
        return False
    return effect.low > -metric.margin if metric.direction == "increase" else effect.high < metric.margin


def judged(metrics: Sequence[MetricReport]) -> list[MetricReport]:
    """The same metrics, each guardrail with what it says: `harmed`, `passed`, or `open` while its interval is wide."""
    return [
        msgspec.structs.replace(m, guard="harmed" if _harmed(m) else "passed" if _shown(m) else "open")
        if m.role == "guardrail"
        else m
        for m in metrics
    ]


def _shown(metric: MetricReport) -> bool:
    return bool(metric.margin) and _not_inferior(metric)


def interval_text(metric: MetricReport) -> str:
    """An effect with its interval as people read it."""
    effect = metric.relative
    if isinstance(effect, NotEstimable):
        effect = metric.absolute
        if isinstance(effect, NotEstimable):
            return effect.not_estimable
        return f"{effect.estimate:+.4g} ({effect.low:+.4g} to {effect.high:+.4g})"
    return f"{effect.estimate:+.1%} ({effect.low:+.1%} to {effect.high:+.1%})"
