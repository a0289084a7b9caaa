"""Interactions between all running pairs of experiments, with the layer that would prevent each.

A customer counts from the moment at which both experiments had been seen, in the metric of each experiment. All
contrasts of all pairs are one family: their anytime-valid p-values are adjusted by Holm, so that the probability of any
false finding, at any look, is at most `alpha`. Pairs in one layer share no customer and cannot interact.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from engine.analysis.aggregates.aggregate import aggregate_groups
from engine.analysis.design.log_times import SECOND
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.interactions.contrasts import SIGNS, CellSizes, estimate_contrast
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import exposed_decisions, exposed_members
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.metric_sums import Members, measure_members
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import estimate_arm
from engine.analysis.stats.multiplicity import holm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.analysis.aggregates.aggregate import Group
    from engine.analysis.design.metrics import Measure
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.catalog.plan.plan import Experiment, Plan

_BETWEEN = "\x1f"
"""Stands between the two variants of a cell; no key contains it."""


class Interaction(msgspec.Struct, frozen=True, kw_only=True):
    """One contrast: the change of the effect of `variants[0]` if `variants[1]` is shown too.

    It is in the metric's unit. `means` are those of the cells, control with control first; `units` the customers in
    both experiments. `found` says that the adjusted p-value is below alpha, and `prevent` which layer would keep the
    two apart.
    """

    experiments: tuple[str, str]
    variants: tuple[str, str]
    metric: str
    units: int
    means: dict[str, float]
    contrast: Effect | NotEstimable
    adjusted_p: float | None = None
    found: bool = False
    prevent: str = ""


class InteractionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The contrasts of all running pairs, findings first; `apart` are pairs that share a layer.

    `skipped` has the experiments that were compared with none, and why.
    """

    as_of: str
    alpha: float
    interactions: list[Interaction]
    apart: list[tuple[str, str]]
    skipped: dict[str, str] = {}


class _Running(NamedTuple):
    """A running experiment with its question and its members, a table of the engine."""

    experiment: Experiment
    question: ExperimentQuestion
    metric: MeasuredMetric
    members: str
    decisions: str


def find_interactions(plan: Plan, log_dir: Path, *, now: float, alpha: float = 0.05) -> InteractionReport:
    """The interactions of every pair of experiments that run at `now` (s since 1970) and assign customers.

    Raises:
        BadInput: if the log cannot be read.
    """
    until = int(now * SECOND)
    every = (each for one in plan.experiments.values() for each in (one, *(rule.experiment for rule in one.rules)))
    open_ones = [one for one in every if _runs(one, now)]
    skipped = {
        one.key: f"its exposures are in the table {one.spec.exposures.table}, and only those of the log are compared"
        for one in open_ones
        if one.spec.exposures is not None
    }
    running = [one for one in open_ones if one.key not in skipped]
    apart = [(a.key, b.key) for a, b in combinations(running, 2) if _share_layer(a, b)]
    found: list[Interaction] = []
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        read = [_read(source, log_dir, plan, one, (number, until)) for number, one in enumerate(running)]
        for first, second in combinations(read, 2):
            if not _share_layer(first.experiment, second.experiment):
                found += _compare_pair(source, log_dir, (first, second), until, alpha)
    return InteractionReport(
        as_of=datetime.fromtimestamp(now, UTC).isoformat(),
        alpha=alpha,
        interactions=adjust(found, plan, alpha),
        apart=apart,
        skipped=skipped,
    )


def _runs(one: Experiment, now: float) -> bool:
    spec = one.spec
    is_open = spec.status == "running" and one.start <= now < one.end
    return is_open and spec.unit == "customer" and spec.metrics is not None and len(spec.variants) > 1


def _share_layer(one: Experiment, other: Experiment) -> bool:
    return one.spec.layer is not None and one.spec.layer == other.spec.layer


def _read(source: DuckDB, log_dir: Path, plan: Plan, one: Experiment, place: tuple[int, int]) -> _Running:
    number, until = place
    question, metrics = build_question(plan, one.key)
    metric = next(each for each in metrics if each.name == question.primary)
    decisions = source.keep(f"decided_{number}", exposed_decisions(source, log_dir, question, until, None))
    members = exposed_members(decisions)
    kept = source.keep(f"members_{number}", members.filter(~members["crossed"]))
    return _Running(one, question, metric, kept.get_name(), decisions.get_name())


def _compare_pair(
    source: DuckDB, log_dir: Path, pair: tuple[_Running, _Running], until: int, alpha: float
) -> Iterator[Interaction]:
    """Yield a pair's contrasts, for each metric and each variant other than control of both."""
    names = dict.fromkeys(one.metric.name for one in pair)
    metrics = {one.metric.name: one.metric for one in pair if one.metric.rules.has_moments}
    specs = [msgspec.structs.replace(metrics[name], covariate_window=None) for name in names if name in metrics]
    if not specs:
        return
    joined = _join_members(source, pair)
    units, measures = measure_members(source, log_dir, joined, specs, until)
    groups = {str(key[0]): group for key, group in aggregate_groups(source, units, ("variant",), measures).items()}
    for measure in measures:
        for first in _others(pair[0].question):
            for second in _others(pair[1].question):
                yield _contrast(pair, (first, second), groups, measure, alpha)


def _others(question: ExperimentQuestion) -> list[str]:
    return [name for name in question.weights if name != question.control]


def _join_members(source: DuckDB, pair: tuple[_Running, _Running]) -> Members:
    """The units that saw both experiments, from the later exposure on."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    schema = {"customer": "string", "variant": "string", "first": "int64", "plan": "string"}
    one, other = (ibis.table(schema, name=each.members) for each in pair)
    both = one.join(other.rename(variant2="variant", first2="first", plan2="plan"), "customer")
    table = both.select(
        "customer",
        "plan",
        unit="customer",
        variant=both["variant"] + _BETWEEN + both["variant2"],
        first=ibis.greatest(both["first"], both["first2"]),
        crossed=ibis.literal(value=False),
        segment=ibis.null("string"),
    )
    ids = {"decision_id": "string", "customer": "string"}
    decisions = ibis.union(*(ibis.table(ids, name=each.decisions) for each in pair))
    return Members(source.keep("both", table), decisions)


def _contrast(
    pair: tuple[_Running, _Running], variants: tuple[str, str], groups: dict[str, Group], measure: Measure, alpha: float
) -> Interaction:
    first, second = pair
    arms, sizes, means, total = {}, {}, {}, 0
    for cell in SIGNS:
        keys = [
            name if is_new else one.question.control for one, name, is_new in zip(pair, variants, cell, strict=True)
        ]
        group = groups.get(_BETWEEN.join(keys))
        if group is None or group.moments[measure.name].n < 2:
            continue
        moments = group.moments[measure.name]
        arms[cell] = estimate_arm(moments, measure)
        outcomes = next((one.units for one in group.outcomes.get(measure.name, ()) if one.units is not None), moments.n)
        sizes[cell] = CellSizes(moments.n, outcomes)
        means["+".join(keys)] = arms[cell].value
        total += moments.n
    return Interaction(
        experiments=(first.experiment.key, second.experiment.key),
        variants=variants,
        metric=measure.name,
        units=total,
        means=dict(reversed(means.items())),
        contrast=estimate_contrast(arms, sizes, alpha=alpha, planned=first.question.inference.planned),
    )


def adjust(found: Sequence[Interaction], plan: Plan, alpha: float) -> list[Interaction]:
    """The contrasts with adjusted p-values, the findings first, each with the layer that would prevent it."""
    tested = [one for one in found if isinstance(one.contrast, Effect)]
    rest = [one for one in found if not isinstance(one.contrast, Effect)]
    p = holm([one.contrast.p or 0.0 for one in tested if isinstance(one.contrast, Effect)])
    judged = [
        msgspec.structs.replace(
            one,
            adjusted_p=value,
            found=value < alpha,
            prevent=_layer_for(plan, one.experiments) if value < alpha else "",
        )
        for one, value in zip(tested, p, strict=True)
    ]
    return [*sorted(judged, key=lambda one: one.adjusted_p or 0.0), *rest]


def _layer_for(plan: Plan, experiments: tuple[str, str]) -> str:
    """Describes the layer that would separate the two: the first one's layer, else a new one."""
    specs = [found.spec for key in experiments if (found := plan.find_reported(key)) is not None]
    layered = next((spec for spec in specs if spec.layer is not None), None)
    if layered is None:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", experiments[0])[:64]
        return f"write 'layer: {name}' in both, and in layers.yaml a layer {name} with a range for each under 'reserve'"
    other = next(spec for spec in specs if spec is not layered)
    return f"write 'layer: {layered.layer}' in {other.key} too, and in layers.yaml a range for each under 'reserve'"
