"""The report of one experiment from the log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.compare import Evidence, compare, compare_all
from engine.analysis.report.experiment_units import gather
from engine.analysis.report.model import Novelty, Quality, Report, SegmentReport
from engine.analysis.report.money import Traffic, money_per_month
from engine.analysis.report.novelty import faded, per_day
from engine.analysis.report.quality import broken_parts, exposure_check, faults, sample_ratio
from engine.analysis.report.segments import by_segment
from engine.analysis.report.verdict import decide, judged, leader
from engine.analysis.sources.aggregate import Group, Groups, aggregate_groups
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import (
    DAY,
    SECOND,
    count_assigned_customers,
    count_exposure_faults,
    list_traits,
    metric_values,
)
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.quantiles import estimate_quantiles
from engine.analysis.sources.strata import poststratify
from engine.analysis.stats.moments import empty_moments
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.report.model import MetricReport
    from engine.analysis.sources.engines import Cell

WHALE = 0.05  # a unit that holds more of its variant's total decides alone what the mean is


def analyze_experiment(
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    log_dir: Path | str,
    *,
    as_of: datetime | None = None,
    segment: str | None = None,
) -> Report:
    """Compares an experiment's variants with control, from the exposures and events of the log.

    Args:
        question: the experiment's design.
        metrics: every metric it names (others are left aside).
        log_dir: the folder that holds `decisions/`, `exposures/` and `events/`.
        as_of: count only what happened until then; now if left out.
        segment: also report effects by this trait of the decision's context, or by `channel`.

    Raises:
        BadInput: if a metric it names is missing, no decision has the segment's trait, or the log is no log.
    """
    with lock_log_for_reading(Path(log_dir)):
        return _report(question, metrics, Path(log_dir), as_of, segment)


def _report(
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    log_dir: Path,
    as_of: datetime | None,
    segment: str | None,
) -> Report:
    source = DuckDB()
    trait = segment or question.inference.stratum
    data = gather(source, question, metrics, log_dir, as_of, trait)
    moment, folder, specs, trend = data.moment, data.folder, data.specs, data.trend
    members, units, measures = data.members, data.units, data.measures
    found = aggregate_groups(source, units, ("variant", "crossed", "segment"), measures)
    quantiles = {
        spec.name: estimate_quantiles(
            source, metric_values(source, folder, members, spec, moment), "x", spec.quantile or 0.5, label=spec.name
        )
        for spec in specs
        if not spec.rules.has_moments
    }
    stratified = question.inference.stratum is not None and trait == question.inference.stratum
    asked = _roles(question, specs, measures, stratified=stratified)
    totals = _totals(found, question, measures)
    weighted = _stratified(found, question, measures) if stratified else totals
    evidence = Evidence(question.control, weighted, quantiles, totals if stratified else {})
    counts = {name: evidence.groups[name].units for name in question.weights}
    if trait is not None and found and all(key[2] is None for key in found):
        known = ", ".join(["channel", *list_traits(source, folder, question)])
        raise BadInput(f"no decision of {question.key} in the log has the trait {trait!r}; it has {known}")
    days = _days(source, units)
    rises = _novelty(question, trend, measures, evidence)
    sequential = question.inference.method == "sequential"
    exposure = exposure_check(
        count_assigned_customers(source, folder, question, moment),
        counts if question.unit == "customer" else _customers(source, members),
        *count_exposure_faults(source, folder, question, moment),
        sequential=sequential,
    )
    quality = Quality(
        sample_ratio(counts, question.weights, daily=_looks(days) if sequential else None),
        sum(group.units for key, group in found.items() if key[1]),
        [*_flags(source, units, asked, found, question, days, segment), *faults(exposure), *faded(rises)],
        exposure,
        rises,
    )
    reports = judged(_explained(compare_all(asked, list(question.weights), evidence, question.inference), specs))
    ran = _ran(source, units, moment)
    money = money_per_month(
        reports,
        {spec.name: spec.money for spec in specs if spec.money is not None},
        leader(reports),
        evidence,
        {measure.name: measure for measure in asked},
        Traffic(ran, question.coverage),
    )
    return Report(
        experiment=question.key,
        as_of=datetime.fromtimestamp(moment / SECOND, UTC).isoformat(timespec="seconds"),
        control=question.control,
        alpha=question.inference.alpha,
        units=counts,
        quality=quality,
        metrics=reports,
        decision=decide(reports, quality, question.inference, money=money, days=ran, min_days=question.min_days),
        segments=_segments(segment, asked, found, question, measures) if segment else [],
        days=ran,
    )


def _explained(reports: Sequence[MetricReport], specs: Sequence[MeasuredMetric]) -> list[MetricReport]:
    """The covariates in people's words."""
    before = {
        spec.name: [f"{spec.name} in the {spec.covariate_window * SECOND / DAY:g} days before"]
        for spec in specs
        if spec.covariate_window
    }
    return [msgspec.structs.replace(row, covariates=before.get(row.metric, [])) for row in reports]


def _ran(source: DuckDB, units: ir.Table, moment: int) -> float:
    """Days from the first exposure to the report, or to the last exposure if that is over a day older."""
    first, last = source.rows(units.aggregate(first=units["first"].min(), last=units["first"].max()))[0]
    if first is None or last is None:
        return 0.0
    end = moment if moment - int(last) < DAY else int(last)
    return (end - int(first)) / DAY


def _roles(
    question: ExperimentQuestion, specs: Sequence[MeasuredMetric], measures: Sequence[Measure], *, stratified: bool
) -> list[Measure]:
    """The measures that were asked for, quantiles among them, in the order of the specs."""
    roles = dict.fromkeys(question.secondary, "secondary")
    roles |= dict.fromkeys(question.guardrails, "guardrail") | {question.primary: "primary"}
    made = {measure.name: measure for measure in measures}
    for spec in specs:
        if not spec.rules.has_moments:
            level, direction = spec.quantile, spec.direction
            made[spec.name] = Measure(spec.name, spec.kind, Term("x"), (), level, direction, margin=spec.margin)
    adjust = question.inference.adjust
    return [
        msgspec.structs.replace(made[spec.name], role=roles[spec.name], adjust=adjust, stratified=stratified)
        for spec in specs
    ]


def _stratified(found: Groups, question: ExperimentQuestion, measures: Sequence[Measure]) -> dict[str, Group]:
    """As `_totals`, weighted over strata; plain where some variant has no units at all."""
    strata: dict[Cell, dict[str, Group]] = {}
    for (variant, crossed, part), group in found.items():
        if not crossed and variant in question.weights:
            strata.setdefault(part, {})[str(variant)] = group
    if not all(any(name in part for part in strata.values()) for name in question.weights):
        return _totals(found, question, measures)
    return poststratify([strata[part] for part in sorted(strata, key=str)], [m.name for m in measures]).weighted


def _totals(found: Groups, question: ExperimentQuestion, measures: Sequence[Measure]) -> dict[str, Group]:
    """Each variant's units over all segments, crossovers left out; a variant nobody saw has none."""
    none = Group(0, {measure.name: empty_moments(len(measure.columns)) for measure in measures})
    totals = dict.fromkeys(question.weights, none)
    for (variant, crossed, _), group in found.items():
        if not crossed and variant in totals:
            totals[str(variant)] = totals[str(variant)] + group
    return totals


def _segments(
    trait: str,
    asked: Sequence[Measure],
    found: Groups,
    question: ExperimentQuestion,
    measures: Sequence[Measure],
) -> list[SegmentReport]:
    parts: dict[str, Groups] = {}
    for key, group in found.items():
        parts.setdefault("(none)" if key[2] is None else str(key[2]), {})[key] = group
    evidence = {name: Evidence(question.control, _totals(part, question, measures)) for name, part in parts.items()}
    others = [name for name in question.weights if name != question.control]
    plain = [msgspec.structs.replace(measure, stratified=False) for measure in asked]
    return by_segment(trait, plain, others, evidence, question.inference)


def _novelty(
    question: ExperimentQuestion, trend: Sequence[MeasuredMetric], measures: Sequence[Measure], evidence: Evidence
) -> list[Novelty]:
    made = {measure.name: measure for measure in measures}
    return [
        Novelty(
            variant,
            spec.delay / 86_400,
            (spec.delay + (spec.window or 0.0)) / 86_400,
            per_day(compare(made[spec.name], variant, evidence, question.inference).absolute, spec.window or 1.0),
        )
        for variant in question.weights
        if variant != question.control
        for spec in trend
    ]


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


def _looks(days: Mapping[int, dict[str, int]]) -> list[dict[str, int]]:
    return [days[day] for day in sorted(days)]


def _customers(source: DuckDB, members: ir.Table) -> dict[str, int]:
    kept = members.group_by("variant").aggregate(n=members["customer"].nunique())
    return {str(variant): int(n or 0) for variant, n in source.rows(kept)}


def _flags(
    source: DuckDB,
    units: ir.Table,
    asked: Sequence[Measure],
    found: Groups,
    question: ExperimentQuestion,
    days: Mapping[int, dict[str, int]],
    segment: str | None,
) -> list[str]:
    """What a reader must know before the numbers, a sentence each."""
    flags, sequential = [], question.inference.method == "sequential"
    if question.inference.stratum is not None and segment not in {None, question.inference.stratum}:
        flags.append(
            f"the metrics are not stratified by {question.inference.stratum} while segments of {segment} are asked for"
        )
    strangers = sorted({str(key[0]) for key in found} - set(question.weights))
    if strangers:
        flags.append(f"units saw variants that the experiment does not have: {', '.join(strangers)}; they are left out")
    crossed = sum(group.units for key, group in found.items() if key[1])
    if crossed:
        flags.append(f"{crossed} units saw two variants and are left out")
    by_part: dict[str, dict[str, int]] = {}
    for (variant, is_crossed, part), group in found.items():
        if not is_crossed and part is not None:
            by_part.setdefault(str(part), {})[str(variant)] = group.units
    flags += [
        f"the split is off in segment {part}" for part in broken_parts(by_part, question.weights, sequential=sequential)
    ]
    dated = {datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d"): part for day, part in days.items()}
    flags += [f"the split is off on {day}" for day in broken_parts(dated, question.weights, sequential=sequential)]
    for measure in asked:
        if not measure.rules.has_dominant_units:
            continue
        column = units[measure.y.num]
        kept = units.filter(~units["crossed"])
        shares = kept.group_by("variant").aggregate(most=column.max(), total=column.sum(), n=kept.count())
        for variant, most, total, n in sorted(source.rows(shares), key=str):
            if total and int(n or 0) >= 100 and float(most or 0) / float(total) > WHALE:
                share = float(most or 0) / float(total)
                flags.append(f"one unit holds {share:.0%} of {measure.name} in {variant}; winsorize the metric")
    return flags
