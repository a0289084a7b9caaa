"""What a growth team should do with a report, and why."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.analysis.effects import critical_t
from engine.analysis.estimate import Effect, NotEstimable
from engine.analysis.report import Decision, Money
from engine.analysis.sequential import asymptotic_multiplier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from engine.analysis.effects import Settings
    from engine.analysis.question import ExperimentQuestion
    from engine.analysis.report import MetricReport, Quality


MONTH = 30  # days
EXPOSURE_GATE = 0.001

NO_MONEY = NotEstimable("no metric of this report is in money")


def money_per_month(
    metrics: Sequence[MetricReport], in_money: AbstractSet[str], units: int, days: int, question: ExperimentQuestion
) -> Money | NotEstimable:
    """What the best variant's effect on the first money metric is worth per month at full traffic.

    Units per day are those the experiment let in, divided by its coverage.
    """
    names = [metric.metric for metric in metrics if metric.metric in in_money]
    effects = [m.absolute for m in metrics if m.metric in names[:1] and isinstance(m.absolute, Effect)]
    if not effects or not days:
        return NO_MONEY
    best = max(effects, key=lambda effect: effect.estimate)
    scale = units / days * MONTH / question.coverage
    return Money(best.estimate * scale, best.low * scale, best.high * scale)


def decide(
    metrics: Sequence[MetricReport],
    quality: Quality,
    settings: Settings,
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
    harmed = [metric for metric in metrics if metric.role == "guardrail" and _harmed(metric)]
    if harmed:
        return Decision("stop", f"{harmed[0].metric} is worse with {harmed[0].variant} than its margin allows", money)
    primary = [metric for metric in metrics if metric.role == "primary"]
    estimated = [metric for metric in primary if isinstance(metric.absolute, Effect)]
    if not estimated:
        reason = primary[0].absolute.not_estimable if primary and isinstance(primary[0].absolute, NotEstimable) else ""
        return Decision("keep running", f"the primary metric cannot be estimated: {reason}", money)
    if days is not None and days < min_days:
        why = f"{days:g} of at least {min_days:g} days have been seen; a week's rhythm and novelty need them all"
        return Decision("keep running", why, money, min_days - days)
    return _by_effect(estimated, metrics, settings, money, days)


def _by_effect(
    estimated: Sequence[MetricReport],
    metrics: Sequence[MetricReport],
    settings: Settings,
    money: Money | NotEstimable,
    days: float | None,
) -> Decision:
    winners = [metric for metric in estimated if _side(metric, settings) > 0]
    if winners:
        best = max(winners, key=_gain)
        guards = [metric.metric for metric in metrics if metric.role == "guardrail" and metric.variant == best.variant]
        change = f"{' or '.join(dict.fromkeys(guards))} falling beyond its margin would stop it." if guards else ""
        why = f"{best.variant} is better than control on {best.metric}: {_interval(best)}"
        return Decision("ship", why, money, would_change=change)
    if all(_side(metric, settings) < 0 for metric in estimated):
        worst = estimated[0]
        return Decision("stop", f"{worst.variant} is worse than control on {worst.metric}: {_interval(worst)}", money)
    closest = max(estimated, key=_gain)
    why = f"{closest.metric} may still be better or worse: {_interval(closest)}"
    left = days_left(closest, settings, days) if days else None
    if left is None:
        change = "Today's effect is too small to be told from zero within ten times the units seen so far."
    elif left <= 0:
        change = "Its interval is clear of zero, but not its p-value adjusted for all variants; more units settle it."
    else:
        change = f"If today's effect stays, its interval leaves zero in about {left:.0f} days."
    return Decision("keep running", why, money, left, change if days else "")


def days_left(metric: MetricReport, settings: Settings, days: float) -> float | None:
    """Days until the interval leaves zero if effect, variance and traffic stay; None beyond ten times the units."""
    effect, units = metric.absolute, sum(metric.units.values())
    if not isinstance(effect, Effect) or effect.estimate == 0:
        return None
    for step in range(901):
        grown = units * (1 + step / 100)
        se = effect.se * (units / grown) ** 0.5
        if _width(round(grown), settings) * se < abs(effect.estimate):
            return days * step / 100
    return None


def _width(units: int, settings: Settings) -> float:
    if settings.method == "sequential":
        return asymptotic_multiplier(units, settings.planned, settings.alpha)
    return critical_t(settings.alpha, math.inf)


def _sign(metric: MetricReport) -> int:
    return 1 if metric.direction == "increase" else -1


def _gain(metric: MetricReport) -> float:
    return _sign(metric) * metric.absolute.estimate if isinstance(metric.absolute, Effect) else 0.0


def _side(metric: MetricReport, settings: Settings) -> int:
    """1 where the variant is better beyond doubt, -1 where worse, 0 while either is possible."""
    effect = metric.absolute
    if not isinstance(effect, Effect):
        return 0
    if settings.method == "bayesian":
        return _by_loss(metric, settings)
    if metric.adjusted_p is not None and metric.adjusted_p > settings.alpha:
        return 0
    return _sign(metric) * ((effect.low > 0) - (effect.high < 0))


def _by_loss(metric: MetricReport, settings: Settings) -> int:
    """As `_side`, once the better choice is expected to lose next to nothing (Stucchio 2015, Bayesian A/B Testing)."""
    if isinstance(metric.bayes, NotEstimable):
        return 0
    if metric.bayes.expected_loss < settings.tolerance:
        return 1 if metric.bayes.chance_to_win > 0.5 else 0
    return -1 if metric.bayes.forgone < settings.tolerance else 0


def _harmed(metric: MetricReport) -> bool:
    """Whether a guardrail's whole interval lies beyond its margin."""
    effect = metric.relative
    if not isinstance(effect, Effect):
        return False
    margin = metric.margin or 0.0
    return effect.high < -margin if metric.direction == "increase" else effect.low > margin


def _interval(metric: MetricReport) -> str:
    effect = metric.relative
    if isinstance(effect, NotEstimable):
        effect = metric.absolute
        if isinstance(effect, NotEstimable):
            return effect.not_estimable
        return f"{effect.estimate:+.4g} ({effect.low:+.4g} to {effect.high:+.4g})"
    return f"{effect.estimate:+.1%} ({effect.low:+.1%} to {effect.high:+.1%})"
