"""Guardrails: whether a variant exceeds the margin of one, tested jointly over guardrails and variants.

A guardrail is harmed if its whole interval lies beyond the margin. With ten guardrails and two variants, one of twenty
intervals does so by chance in more than a third of all experiments without any effect. So harm is judged by intervals
of the level that all comparisons share, by the steps of Holm (1979): alpha over the number of comparisons that are not
yet known to be harmed. An interval that holds at every look does so at that level too, hence the verdict as well.

To ship, every guardrail of the variant must lie within its margin at alpha itself: that all pass by chance is less
likely than that one does (Berger 1982, "Multiparameter Hypothesis Testing and Acceptance Sampling", theorem 1). A
guardrail without a margin must not be significantly worse at alpha: one that is holds shipping back, and stops only
by the shared level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from engine.analysis.report.compare import compare
from engine.analysis.stats.estimate import Effect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.design.methods import Inference
    from engine.analysis.design.metrics import Measure
    from engine.analysis.report.compare import Evidence
    from engine.analysis.report.model import MetricReport
    from engine.analysis.stats.estimate import NotEstimable


def share_level(
    metrics: Sequence[MetricReport], measures: Mapping[str, Measure], evidence: Evidence, inference: Inference
) -> list[MetricReport]:
    """The metrics with the `joint` interval of each guardrail whose interval lies beyond its margin.

    Comparisons without an estimate count as well: they may have one at the next look.

    Args:
        metrics: every metric of every variant.
        measures: by name, those of the guardrails among them.
        evidence: the statistics that the metrics were estimated from.
        inference: the method, and the level for all comparisons together.
    """
    family = [at for at, metric in enumerate(metrics) if metric.role == "guardrail"]
    suspects = [at for at in family if is_harmed(metrics[at])]
    if len(family) < 2:
        return list(metrics)
    result, harmed = list(metrics), 0
    while suspects:
        level = msgspec.structs.replace(inference, alpha=inference.alpha / (len(family) - harmed))
        for at in suspects:
            joint = compare(measures[metrics[at].metric], metrics[at].variant, evidence, level).relative
            result[at] = msgspec.structs.replace(metrics[at], joint=joint)
        beyond = [at for at in suspects if is_harmed(result[at])]
        if not beyond:
            break
        harmed += len(beyond)
        suspects = [at for at in suspects if at not in beyond]
    return result


def is_harmed(metric: MetricReport) -> bool:
    """Whether a guardrail's whole interval (the joint one if present) lies beyond its margin."""
    return _is_beyond(metric.relative if metric.joint is None else metric.joint, metric)


def _is_beyond(effect: Effect | NotEstimable, metric: MetricReport) -> bool:
    """Whether a whole interval of the guardrail lies beyond its margin."""
    if not isinstance(effect, Effect):
        return False
    margin = metric.margin or 0.0
    return effect.high < -margin if metric.direction == "increase" else effect.low > margin


def is_not_inferior(metric: MetricReport) -> bool:
    """Whether a guardrail permits the variant: its interval lies within the margin.

    Without a margin only a significant improvement would show that, so there the variant is held back by a significant
    loss alone: by its own interval, also where the joint one is too wide to stop the experiment.
    """
    if not metric.margin:
        return not _is_beyond(metric.relative, metric)
    effect = metric.relative
    if not isinstance(effect, Effect):
        return False
    return effect.low > -metric.margin if metric.direction == "increase" else effect.high < metric.margin


def classify_guardrails(metrics: Sequence[MetricReport]) -> list[MetricReport]:
    """The metrics with each guardrail's `guard` set: `harmed`, `passed`, or `open` for a wide interval."""
    return [
        msgspec.structs.replace(metric, guard=_guard(metric)) if metric.role == "guardrail" else metric
        for metric in metrics
    ]


def _guard(metric: MetricReport) -> Literal["passed", "harmed", "open"]:
    if is_harmed(metric):
        return "harmed"
    return "passed" if metric.margin and is_not_inferior(metric) else "open"
