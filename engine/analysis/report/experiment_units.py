"""An experiment's units with their values, once per report: who was exposed, and what each did."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.novelty import novelty_specs
from engine.analysis.sources.log import SECOND, exposed_members, measure_members
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.sources.engines import DuckDB


@dataclass(frozen=True)
class Gathered:
    """Tables of one report: `members` (unit and customer) and `units` with a column or two per measure.

    `measures` are those of the specs but for quantiles, then those of `trend`; `moment` is the report's date in
    microseconds.
    """

    moment: int
    folder: Path
    specs: list[MeasuredMetric]
    trend: list[MeasuredMetric]
    members: ir.Table
    units: ir.Table
    measures: list[Measure]


def gather(
    source: DuckDB,
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    log_dir: Path,
    as_of: datetime | None,
    segment: str | None = None,
) -> Gathered:
    """The experiment's units; arguments and errors as `analyze_experiment`."""
    moment = int((as_of.timestamp() if as_of else time.time()) * SECOND)
    specs = _named(question, metrics)
    members = source.keep("members", exposed_members(source, log_dir, question, moment, segment))
    summed = [spec for spec in specs if spec.rules.has_moments]
    trend = novelty_specs(specs[0])
    frame, measures = measure_members(source, log_dir, members, [*summed, *trend], moment)
    frame, measures = _per_unit(frame, measures, question)
    units = _winsorized(source, source.keep("units", frame), summed, measures)
    return Gathered(moment, log_dir, specs, trend, members, units, measures)


def _named(question: ExperimentQuestion, metrics: Sequence[MeasuredMetric]) -> list[MeasuredMetric]:
    """The metrics the experiment names, the primary one first."""
    known = {spec.name: spec for spec in metrics}
    names = dict.fromkeys((question.primary, *question.secondary, *question.guardrails))
    missing = [name for name in names if name not in known]
    if missing:
        raise BadInput(f"{question.key}: metric {missing[0]!r} is not defined; the metrics are {', '.join(known)}")
    if question.control not in question.weights:
        raise BadInput(f"{question.key}: control {question.control!r} is none of {', '.join(question.weights)}")
    return [known[name] for name in names]


def _per_unit(frame: ir.Table, measures: list[Measure], question: ExperimentQuestion) -> tuple[ir.Table, list[Measure]]:
    """Units that hold several customers (stores, devices): sums over these, and each mean per customer."""
    if question.unit == "customer":
        return frame, measures
    columns = sorted({column for measure in measures for column in measure.columns})
    sums = {column: frame[column].sum() for column in columns}
    sizes = {f"{column}_of": frame[column].count().cast("float64") for column in columns}
    first = frame["first"].min()
    keys = ("unit", "variant", "crossed", "segment")
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


def _winsorized(
    source: DuckDB, units: ir.Table, specs: Sequence[MeasuredMetric], measures: Sequence[Measure]
) -> ir.Table:
    """Values above a metric's quantile over all units count as that quantile."""
    capped = {
        measure.y.num: spec.winsorize
        for spec, measure in zip(specs, measures, strict=False)
        if spec.winsorize is not None
    }
    if not capped:
        return units
    caps = source.rows(units.aggregate(**{name: units[name].quantile(level) for name, level in capped.items()}))[0]
    return units.mutate(
        **{
            name: (units[name].isnan() | units[name].isinf()).ifelse(  # no value to cap, but one to tell of
                units[name], units[name].clip(upper=float(cap or 0.0))
            )
            for name, cap in zip(capped, caps, strict=True)
        }
    )
