"""A ratio's numerator and denominator, each per unit: a ratio also falls when its denominator rises.

Orders per session fall by 29 % where orders rise by 19 % and sessions by 67 %. Which of them moved, the ratio does not
tell; so the report has the effect on each beside it, by the same method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.stats.estimate import Effect, NotEstimable, format_percents
from engine.analysis.stats.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.design.methods import Inference
    from engine.analysis.report.model import MetricReport

PARTS = ("numerator", "denominator")


def add_ratio_parts(
    rows: Sequence[MetricReport], measures: Mapping[str, Measure], evidence: Evidence, inference: Inference
) -> list[MetricReport]:
    """The rows, in which ratios have the relative effects on numerator and denominator per unit."""
    return [
        msgspec.structs.replace(row, parts=_parts(row, measures[row.metric], evidence, inference))
        if row.metric in measures and measures[row.metric].rules.has_denominator and isinstance(row.absolute, Effect)
        else row
        for row in rows
    ]


def _parts(
    row: MetricReport, measure: Measure, evidence: Evidence, inference: Inference
) -> dict[str, Effect | NotEstimable]:
    found = {}
    for at, name in enumerate(PARTS):
        groups = {
            side: Group(
                evidence.groups[side].units,
                {name: _part(evidence.groups[side].moments[measure.name], measure, at)},
                {name: evidence.groups[side].outcomes.get(measure.name, ())[:1] if at == 0 else ()},
            )
            for side in (evidence.control, row.variant)
        }
        alone = Measure(name, "mean", Term("x"), stratified=measure.stratified)
        found[name] = compare(alone, row.variant, Evidence(control=evidence.control, groups=groups), inference).relative
    return found


def _part(whole: Moments, measure: Measure, at: int) -> Moments:
    """The moments of numerator or denominator; a numerator may be centred by its offset times the denominator."""
    direction = np.zeros(len(whole.mean))
    direction[at] = 1.0
    if at == 0:
        direction[1] = measure.y.offset
    return Moments(whole.n, np.array([direction @ whole.mean]), np.array([[direction @ whole.comoment @ direction]]))


def parts_text(row: MetricReport) -> str:
    """Describes the effects on a ratio's numerator and denominator; empty if there is nothing to report."""
    shown = [f"{name} {_percents(effect)}" for name in PARTS if isinstance(effect := row.parts.get(name), Effect)]
    return f"per unit, its {' and its '.join(shown)}" if len(shown) == len(PARTS) else ""


def moved_denominator(row: MetricReport) -> str:
    """Describes the parts as `parts_text` does, but only if the denominator changed significantly."""
    below = row.parts.get("denominator")
    moved = isinstance(below, Effect) and not below.low <= 0 <= below.high
    return f". Its denominator moved: {parts_text(row)}" if moved and parts_text(row) else ""


def _percents(effect: Effect) -> str:
    estimate, low, high = format_percents((effect.estimate, effect.low, effect.high))
    return f"{estimate} ({low} to {high})"
