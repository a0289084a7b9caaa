"""What an effect is worth: per month, at the traffic that was seen, with all eligible customers let in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.report.model import Money
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.metric_kinds import METRIC_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.report.compare import Evidence
    from engine.analysis.report.model import MetricReport

MONTH = 30  # days
NO_MONEY = NotEstimable("no metric of this report is in money")


class Traffic(msgspec.Struct, frozen=True):
    """What came in `days` at `coverage`, the share of eligible units let in."""

    days: float
    coverage: float


def money_per_month(
    metrics: Sequence[MetricReport],
    worth: Mapping[str, float],
    variant: str | None,
    evidence: Evidence,
    measures: Mapping[str, Measure],
    traffic: Traffic,
) -> Money | NotEstimable:
    """What a variant's effect on the first metric in money is worth per month at full traffic.

    A mean is per unit, and a ratio per its denominator (a store's mean per customer), so the effect times as many of
    these as came. New units come fewer the longer it runs, so a month is what a month like these days would bring.

    Args:
        metrics: all of the report.
        worth: what one more of each metric in money is worth.
        variant: which is asked for.
        evidence: the moments of all variants.
        measures: what was measured, by metric.
        traffic: what came, and in which time.
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
        return NotEstimable("less than a day of traffic was seen; a month cannot be told from it")
    bearers = _bearers(measures[found.metric], evidence)
    if not math.isfinite(bearers):
        return NotEstimable(f"how often {found.metric} occurs cannot be told")
    scale = bearers / traffic.days * MONTH / traffic.coverage * worth[found.metric]
    low, high = sorted((effect.low * scale, effect.high * scale))
    basis = (
        f"{bearers / traffic.days:,.0f} a day came in over {traffic.days:.1f} days at {traffic.coverage:.0%} coverage"
    )
    return Money(effect.estimate * scale, low, high, found.metric, found.variant, basis)


def _bearers(measure: Measure, evidence: Evidence) -> float:
    """How many bear the metric's value: units, or what a ratio divides by."""
    if measure.y.den is None:
        return float(sum(group.units for group in evidence.groups.values()))
    return math.fsum(group.units * float(group.moments[measure.name].mean[1]) for group in evidence.groups.values())
