"""The power of an experiment before it runs, from its metric's entry in `metrics.yaml`."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from engine.analysis.design.methods import decode_inference
from engine.analysis.stats.power import Baseline, solve_design
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS

if TYPE_CHECKING:
    from engine.catalog.spec.experiment import AnalysisSpec
    from engine.catalog.spec.metrics import MetricSpec


def planned_power(
    metric: MetricSpec, analysis: AnalysisSpec, shares: tuple[float, float], *, days: float, effect: float | None
) -> tuple[float | None, str]:
    """The power after `days` and its assumptions; None and the reason if a key is missing or no formula applies.

    Args:
        metric: with its `baseline`, `daily_units`, `deviation` unless it is a share of customers, and `mde`.
        analysis: the method, and what it plans.
        shares: of all units, in the control and in the smallest variant.
        days: of the run.
        effect: the relative effect in the place of `mde`.
    """
    is_share = METRIC_KINDS[metric.kind].is_share
    needed = {"baseline": metric.baseline, "daily_units": metric.daily_units, "mde": effect or metric.mde}
    needed |= {} if is_share else {"deviation": metric.deviation}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        return None, f"{metric.key} has no {', '.join(missing)} in metrics.yaml; add what a day without any change has"
    mde, daily = needed["mde"] or 0.0, (needed["daily_units"] or 0.0) * sum(shares)
    units, share = int(days * daily), shares[0] / sum(shares) if sum(shares) else 0.0
    names = ("method", "alpha", "planned", "looks", "spending", "tau", "tolerance", "rope", "prior")
    options = {name: getattr(analysis, name) for name in names}
    try:
        inference = decode_inference(options)
        baseline = Baseline(metric.kind, metric.baseline or 0.0, None if is_share else metric.deviation)
        design = solve_design(baseline, inference, mde=mde, units=units, power=None, share=share)
        enough = solve_design(baseline, inference, mde=mde, units=None, power=0.8, share=share)
    except BadInput as error:
        return None, str(error)
    later = f"a power of 0.8 takes {enough.units:,}, which is {ceil(enough.units / daily):,} days"
    return design.power, f"{units:,} units in {days:g} days find a change of {mde:.1%}; {later}"
