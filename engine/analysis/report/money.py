"""The monthly value of an effect in money, at the report's traffic and full coverage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.report.model import Money
from engine.analysis.stats.estimate import Effect, NotEstimable, format_level
from engine.metric_kinds import METRIC_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.report.compare import Evidence
    from engine.analysis.report.model import MetricReport

MONTH = 30  # days
NO_MONEY = NotEstimable("no metric of this report is in money")


class Traffic(msgspec.Struct, frozen=True):
    """The days of traffic and `coverage`, the share of eligible units that take part."""

    days: float
    coverage: float


def money_per_month(
    metrics: Sequence[MetricReport],
    worth: Mapping[str, float],
    variant: str | None,
    *,
    evidence: Evidence,
    measures: Mapping[str, Measure],
    traffic: Traffic,
    alpha: float,
) -> Money | NotEstimable:
    """The monthly value, at full traffic, of a variant's effect on the first metric in money.

    A mean's effect is per unit and a ratio's per its denominator (a store's mean is per customer), so the effect is
    multiplied by their number. An experiment that runs longer gets fewer new units a day; the month is extrapolated
    from the days of the report.

    Args:
        metrics: all of the report.
        worth: the value of one more of each metric in money.
        variant: the variant that would be shipped.
        evidence: the moments of all variants.
        measures: the measures, by metric.
        traffic: the days and the coverage of the report.
        alpha: the level that an adjusted p-value is compared with.
    """
    found = next(
        (m for m in metrics if m.metric in worth and m.variant == variant and METRIC_KINDS[m.kind].has_moments), None
    )
    if found is None:
        return NO_MONEY
    effect = found.absolute
    if not isinstance(effect, Effect):
        return effect
    if traffic.days < 1:
        return NotEstimable("the report covers less than a day of traffic; a month needs at least one")
    if not traffic.coverage > 0:
        return NotEstimable("nobody was let in by the ramp in the period of the report, as its moves in the log say")
    count = _count_denominators(measures[found.metric], evidence)
    if not math.isfinite(count):
        return NotEstimable(f"the denominator of {found.metric} has values that are NaN or infinite")
    scale = count / traffic.days * MONTH / traffic.coverage * worth[found.metric]
    low, high = sorted((effect.low * scale, effect.high * scale))
    basis = (
        f"{count / traffic.days:,.0f} a day over {traffic.days:.1f} days at {format_level(traffic.coverage)} coverage"
    )
    return Money(
        estimate=effect.estimate * scale,
        low=low,
        high=high,
        metric=found.metric,
        variant=found.variant,
        basis=basis,
        settled=(effect.low > 0 or effect.high < 0) and (found.adjusted_p is None or found.adjusted_p <= alpha),
    )


def _count_denominators(measure: Measure, evidence: Evidence) -> float:
    """The number of units, or the sum of a ratio's denominator."""
    if measure.y.den is None:
        return float(sum(group.units for group in evidence.groups.values()))
    return math.fsum(group.units * float(group.moments[measure.name].mean[1]) for group in evidence.groups.values())
