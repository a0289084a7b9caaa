"""The report of one experiment from the log."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.aggregate import Group, groups
from engine.analysis.decision import decide, money_per_month
from engine.analysis.log import DAY, SECOND, exposed, observed
from engine.analysis.metrics import Measure, Term
from engine.analysis.moments import empty
from engine.analysis.quality import sample_ratio
from engine.analysis.report import Quality, Report, Settings, adjusted, compare
from engine.analysis.sources import DuckDB
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis.expr.types as ir

    from engine.analysis.question import ExperimentQuestion, MetricSpec


def analyze_experiment(
    question: ExperimentQuestion,
    metrics: Sequence[MetricSpec],
    log_dir: Path | str,
    *,
    as_of: datetime | None = None,
) -> Report:
    """Compares an experiment's variants with control, from the exposures and events of the log.

    Args:
        question: the experiment's design.
        metrics: every metric it names (others are left aside).
        log_dir: the folder that holds `decisions/`, `exposures/` and `events/`.
        as_of: count only what happened until then; now if left out.

    Raises:
        BadInput: if a metric it names is missing, or the log is no log.
    """
    moment = int((as_of.timestamp() if as_of else time.time()) * SECOND)
    specs = _named(question, metrics)
    source = DuckDB()
    members = source.keep("members", exposed(source, Path(log_dir), question, moment, None))
    frame, measures = observed(source, Path(log_dir), members, specs, moment)
    frame, measures = _per_unit(frame, measures, question)
    measures = _roles(question, measures)
    units = source.keep("units", frame)
    found = groups(source, units, ("variant", "crossed"), measures)
    named = {str(key[0]): group for key, group in found.items() if not key[1]}
    for variant in question.weights:
        named.setdefault(variant, _empty(measures))
    crossovers = sum(group.units for key, group in found.items() if key[1])
    days = _days(source, units)
    settings = Settings(
        question.method, question.alpha, question.relative, question.prior, question.planned, question.rope
    )
    counts = {name: named[name].units for name in question.weights}
    daily = list(days.values()) if question.method == "sequential" else None
    quality = Quality(
        sample_ratio(counts, question.weights, daily=daily), crossovers, _flags(named, question, crossovers)
    )
    reports = adjusted(
        [
            compare(measure, question.control, variant, named, settings)
            for measure in measures
            for variant in question.weights
            if variant != question.control
        ]
    )
    ran = (max(days) - min(days) + 1) if days else 0
    money = money_per_month(reports, {spec.name for spec in specs if spec.money}, sum(counts.values()), ran, question)
    return Report(
        experiment=question.key,
        as_of=datetime.fromtimestamp(moment / SECOND, UTC).isoformat(timespec="seconds"),
        control=question.control,
        alpha=question.alpha,
        units=counts,
        quality=quality,
        metrics=reports,
        decision=decide(reports, quality, settings, money=money, days=ran, min_days=question.min_days),
    )


def _named(question: ExperimentQuestion, metrics: Sequence[MetricSpec]) -> list[MetricSpec]:
    known = {spec.name: spec for spec in metrics}
    names = dict.fromkeys((question.primary, *question.secondary, *question.guardrails))
    missing = [name for name in names if name not in known]
    if missing:
        raise BadInput(f"{question.key}: metric {missing[0]!r} is not defined; the metrics are {', '.join(known)}")
    if question.control not in question.weights:
        raise BadInput(f"{question.key}: control {question.control!r} is none of {', '.join(question.weights)}")
    return [known[name] for name in names]


def _roles(question: ExperimentQuestion, measures: Sequence[Measure]) -> list[Measure]:
    roles = dict.fromkeys(question.secondary, "secondary")
    roles |= dict.fromkeys(question.guardrails, "guardrail") | {question.primary: "primary"}
    return [msgspec.structs.replace(measure, role=roles[measure.name]) for measure in measures]


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


def _empty(measures: Sequence[Measure]) -> Group:
    return Group(0, {measure.name: empty(len(measure.columns)) for measure in measures})


def _days(source: DuckDB, units: ir.Table) -> dict[int, dict[str, int]]:
    """New units per day since 1970 and variant, crossovers left out."""
    kept = units.filter(~units["crossed"])
    kept = kept.select("variant", day=(kept["first"] // DAY).cast("int64"))
    days: dict[int, dict[str, int]] = {}
    for day, variant, count in source.rows(
        kept.group_by("day", "variant").aggregate(units=kept.count()).order_by("day")
    ):
        days.setdefault(int(day or 0), {})[str(variant)] = int(count or 0)
    return days


def _flags(named: Mapping[str, Group], question: ExperimentQuestion, crossovers: int) -> list[str]:
    flags = []
    strangers = sorted(set(named) - set(question.weights))
    if strangers:
        flags.append(f"units saw variants that the experiment does not have: {', '.join(strangers)}; they are left out")
    if crossovers:
        flags.append(f"{crossovers} units saw two variants and are left out")
    return flags
