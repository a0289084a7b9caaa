"""An experiment's exposed units with their values of each metric, read from the log once per report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.checks.open_windows import OpenWindows, count_open_windows
from engine.analysis.checks.planned_looks import PlannedLook, find_planned_looks
from engine.analysis.design.log_times import SECOND
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.allocation import Allocation, read_allocation
from engine.analysis.report.model import Winsorized
from engine.analysis.report.novelty import novelty_specs
from engine.analysis.sources.log import exposed_decisions, exposed_members, first_exposures
from engine.analysis.sources.metric_sums import Members, flag_earlier_runs, measure_members
from engine.analysis.sources.traced_traits import Segment
from engine.analysis.values.customer_cells import has_customer_cells, read_customer_cells
from engine.analysis.values.table_exposures import load_table_exposures
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.sources.engines import DuckDB


@dataclass(frozen=True, kw_only=True)
class ExperimentUnits:
    """The tables of one report: `members` (unit and customer) and `units` with a column or two per measure.

    `winsorized` are the caps and `open_windows` the units that do not count yet, by metric, `looks`
    the planned look that a group-sequential report is of, `notes` what else was corrected. `allocation` has the shares
    that were served; `units` has their `period`. With `has_cells` the table `cells` has what `count_exposures` reads.

    `measures` are those of `specs` except quantiles, then those of `trend`; `as_of` is the report's date in
    microseconds.
    """

    as_of: int
    log_dir: Path
    specs: list[MeasuredMetric]
    trend: list[MeasuredMetric]
    members: Members
    units: ir.Table
    measures: list[Measure]
    winsorized: dict[str, Winsorized]
    open_windows: dict[str, OpenWindows]
    looks: dict[str, PlannedLook]
    notes: list[str]
    allocation: Allocation
    has_cells: bool


def read_experiment_units(
    source: DuckDB,
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    log_dir: Path,
    as_of: datetime | None,
    segment: Segment | None = None,
) -> ExperimentUnits:
    """The experiment's units; arguments and errors as in `analyze_experiment`."""
    until = int((as_of.timestamp() if as_of else time.time()) * SECOND)
    specs = _named_metrics(question, metrics)
    load_table_exposures(source, log_dir, question)
    earlier = first_exposures(source, log_dir, question, until) if any(s.covariate_window for s in specs) else None
    has_cells = has_customer_cells(question, segment)
    if has_cells:
        cells = read_customer_cells(source, log_dir, question, until, segment)
        drawn, table = cells.drawn, cells.members
        decisions = exposed_decisions(source, log_dir, question, until, None)  # read only if an event names one
    else:
        drawn = decisions = source.keep("decided", exposed_decisions(source, log_dir, question, until, segment))
        table = source.keep("members", exposed_members(decisions))
    members = Members(table, decisions, earlier)
    summed = [spec for spec in specs if spec.rules.has_moments]
    trend = [] if question.switchback else novelty_specs(specs[0])  # a period is not days long
    frame, measures = measure_members(source, log_dir, members, [*summed, *trend], until)
    allocation = read_allocation(source, drawn, question.weights)
    frame = frame.mutate(period=allocation.period(frame["plan"])).drop("plan")
    frame, measures = _sum_per_unit(frame, measures, question)
    frame = source.keep("units", frame)
    looks = find_planned_looks(source, frame, question, specs, until)
    units, winsorized = _winsorize(source, _cut_at_looks(frame, looks, measures), summed, measures)
    return ExperimentUnits(
        as_of=until,
        log_dir=log_dir,
        specs=specs,
        trend=trend,
        members=members,
        units=units,
        measures=measures,
        winsorized=winsorized,
        looks=looks,
        notes=flag_earlier_runs(source, members),
        open_windows=count_open_windows(source, members.table, specs, until),
        allocation=allocation,
        has_cells=has_cells,
    )


def _named_metrics(question: ExperimentQuestion, metrics: Sequence[MeasuredMetric]) -> list[MeasuredMetric]:
    """The metrics that the experiment names, the primary one first."""
    known = {spec.name: spec for spec in metrics}
    names = dict.fromkeys((question.primary, *question.secondary, *question.guardrails))
    missing = [name for name in names if name not in known]
    if missing:
        raise BadInput(f"{question.key}: metric {missing[0]!r} is not defined; the metrics are {', '.join(known)}")
    if question.control not in question.weights:
        raise BadInput(f"{question.key}: control {question.control!r} is not one of {', '.join(question.weights)}")
    return [known[name] for name in names]


def _cut_at_looks(frame: ir.Table, looks: Mapping[str, PlannedLook], measures: Sequence[Measure]) -> ir.Table:
    """The units, without a metric's value for those after its last planned look."""
    values = {
        name: (frame["first"] <= looks[measure.name].last).ifelse(frame[name], None)
        for measure in measures
        if measure.name in looks and looks[measure.name].later
        for name in measure.y.columns
    }
    return frame.mutate(**values) if values else frame


def _sum_per_unit(
    frame: ir.Table, measures: list[Measure], question: ExperimentQuestion
) -> tuple[ir.Table, list[Measure]]:
    """The sums over the customers of each unit (store, device), and measures with means per customer."""
    if question.unit == "customer":
        return frame.drop("unit", "customer"), measures
    columns = sorted({column for measure in measures for column in measure.columns})
    sums = {column: frame[column].sum() for column in columns}
    sizes = {f"{column}_of": frame[column].count().cast("float64") for column in columns}
    first = frame["first"].min()
    keys = ("unit", "variant", "crossed", "segment", "period")
    per_unit = frame.group_by(*keys).aggregate(first=first, **sums, **sizes)
    return per_unit, [
        msgspec.structs.replace(
            measure,
            y=_per_customer(measure.y),
            covariates=tuple(_per_customer(term) for term in measure.covariates),
        )
        for measure in measures
    ]


def _per_customer(term: Term) -> Term:
    return term if term.den else Term(term.num, f"{term.num}_of")


def _winsorize(
    source: DuckDB, units: ir.Table, specs: Sequence[MeasuredMetric], measures: Sequence[Measure]
) -> tuple[ir.Table, dict[str, Winsorized]]:
    """The units with each metric capped at a quantile of the sizes of its non-zero values, and the caps by metric.

    Most units of a shop buy nothing: a quantile that counts their zeros is itself zero, and a cap at zero would delete
    the metric. Of a metric that is mostly negative, such as refunds, a quantile of the values would be negative, and
    all zeros would count as that: so the sizes are capped, and losses as gains. Values that are NaN or infinite stay
    as they are, since the report must name them.
    """
    capped = {measure.y.num: spec for spec, measure in zip(specs, measures, strict=False) if spec.winsorize is not None}
    if not capped:
        return units, {}
    quantiles = {
        name: units[name].abs().quantile(spec.winsorize, where=_is_finite(units[name]) & (units[name] != 0.0))
        for name, spec in capped.items()
    }
    caps = {
        name: float(cap)
        for name, cap in zip(capped, source.rows(units.aggregate(**quantiles))[0], strict=True)
        if cap is not None
    }
    if not caps:
        return units, {}
    above = {name: (_is_finite(units[name]) & (units[name].abs() > cap)).sum() for name, cap in caps.items()}
    totals = {f"{name}_n": units[name].count() for name in caps}
    (row,) = source.rows(units.aggregate(**above, **totals))
    counts, sizes = row[: len(caps)], row[len(caps) :]
    winsorized = {
        capped[name].name: Winsorized(
            level=capped[name].winsorize or 1.0, cap=caps[name], share=int(count or 0) / max(int(total or 0), 1)
        )
        for name, count, total in zip(caps, counts, sizes, strict=True)
    }
    values = {
        name: _is_finite(units[name]).ifelse(units[name].clip(-cap, cap), units[name]) for name, cap in caps.items()
    }
    return units.mutate(**values), winsorized


def _is_finite(column: ir.Value) -> ir.BooleanValue:
    return ~(column.isnan() | column.isinf())
