"""The report of one experiment from the log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.aggregates.aggregate import Group, Groups, aggregate_groups
from engine.analysis.aggregates.quantiles import estimate_quantiles
from engine.analysis.aggregates.strata import family_of, join_thin_slots, poststratify
from engine.analysis.checks.balance import check_balance, flag_imbalance
from engine.analysis.checks.count_uncounted import count_uncounted_events
from engine.analysis.checks.open_windows import refuse_open_windows
from engine.analysis.checks.periods import describe_ramp, find_period, share_let_in, with_ramp_history
from engine.analysis.checks.planned_looks import flag_planned_looks
from engine.analysis.checks.ratio_parts import add_ratio_parts
from engine.analysis.design.log_times import DAY, SECOND, iso_time
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.compare import Evidence, compare, compare_all
from engine.analysis.report.experiment_flags import count_daily_units, count_responses, experiment_flags
from engine.analysis.report.experiment_units import ExperimentUnits, read_experiment_units
from engine.analysis.report.guardrails import classify_guardrails, share_level
from engine.analysis.report.model import Novelty, Quality, Report, SegmentReport
from engine.analysis.report.money import Traffic, money_per_month
from engine.analysis.report.novelty import daily_effect, novelty_flags
from engine.analysis.report.quality import exposure_check, exposure_flags
from engine.analysis.report.segments import NO_SEGMENT, compare_segments
from engine.analysis.report.verdict import describe_cumulated, leading_variant, recommend
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import find_end, list_traits
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.metric_sums import Members, metric_values
from engine.analysis.sources.traced_traits import find_split
from engine.analysis.stats.moments import empty_moments
from engine.analysis.values.customer_cells import count_exposures
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.report.model import MetricReport
    from engine.analysis.sources.engines import Cell


@dataclass(frozen=True, kw_only=True)
class _Statistics:
    """The statistics of one report: `groups` by variant, crossover and trait, and the requested measures.

    `segment` is the trait by which effects are reported as well.
    """

    question: ExperimentQuestion
    data: ExperimentUnits
    groups: Groups
    asked: list[Measure]
    evidence: Evidence
    segment: str | None

    @property
    def units(self) -> dict[str, int]:
        """The units of each variant, crossovers left out."""
        found = dict.fromkeys(self.question.weights, 0)
        for (variant, crossed, _, _), group in self.groups.items():
            if not crossed and variant in found:
                found[str(variant)] += group.units
        return found


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
        metrics: every metric it names (others are ignored).
        log_dir: the folder that holds `decisions/`, `exposures/` and `events/`.
        as_of: count only what happened until then; now if left out, or when the experiment was decided.
        segment: also report effects by this trait of the decision, by `channel`, by a segment of the question, or by
            whether a condition holds, in YAML as in an audience.

    Raises:
        BadInput: if a metric it names is missing, no decision has the segment's trait, or the log is no log.
    """
    with lock_log_for_reading(Path(log_dir)):
        source = DuckDB()
        trait, split = segment or question.inference.stratum, find_split(question, segment)
        until = as_of or find_end(source, Path(log_dir), question)
        question = with_ramp_history(source, Path(log_dir), question, until)
        data = read_experiment_units(source, question, metrics, Path(log_dir), until, segment=split)
        return _report(source, _aggregate(source, question, data, trait=trait, segment=segment))


def _aggregate(
    source: DuckDB, question: ExperimentQuestion, data: ExperimentUnits, *, trait: str | None, segment: str | None
) -> _Statistics:
    """The moments and quantiles of each variant.

    Raises:
        BadInput: if no decision has the trait.
    """
    groups = aggregate_groups(source, data.units, ("variant", "crossed", "segment", "period"), data.measures)
    groups = join_thin_slots(groups, list(question.weights))
    if trait is not None and groups and all(key[2] is None for key in groups):
        known = ", ".join(["channel", *list_traits(source, data.log_dir, question)])
        raise BadInput(f"no decision of {question.key} in the log has the trait {trait!r}; it has {known}")
    quantiles = {
        spec.name: estimate_quantiles(
            source,
            metric_values(source, data.log_dir, _members_until(data, spec.name), spec, data.as_of),
            "x",
            spec.quantile or 0.5,
            label=spec.name,
        )
        for spec in data.specs
        if not spec.rules.has_moments
    }
    stratified = question.inference.stratum is not None and trait == question.inference.stratum
    weighted = stratified or len(data.allocation.shares) > 1
    compared = data.allocation.select_compared(groups)
    totals = _total_groups(compared, question, data.measures)
    return _Statistics(
        question=question,
        data=data,
        groups=groups,
        asked=_assign_roles(question, data, stratified=weighted),
        evidence=Evidence(
            control=question.control,
            groups=_poststratify_groups(compared, question, data.measures, by_trait=stratified) if weighted else totals,
            quantiles=quantiles,
            whole=totals if weighted else {},
            refused=refuse_open_windows(data.open_windows, question.control),
        ),
        segment=segment,
    )


def _members_until(data: ExperimentUnits, metric: str) -> Members:
    """The members up to the metric's last planned look, if it has one; after a change of weights those since then.

    A quantile has no strata: over periods of unlike shares it would have the periods' own changes.
    """
    look, table = data.looks.get(metric), data.members.table
    if len(data.allocation.shares) > 1:
        table = table.filter(data.allocation.period(table["plan"]) == data.allocation.last)
    return data.members._replace(table=table if look is None else table.filter(table["first"] <= look.last))


def _report(source: DuckDB, found: _Statistics) -> Report:
    question, data = found.question, found.data
    quality = _check_quality(source, found)
    reports = compare_all(found.asked, list(question.weights), found.evidence, question.inference)
    measures = {measure.name: measure for measure in found.asked}
    reports = add_ratio_parts(_annotate(source, reports, data), measures, found.evidence, question.inference)
    reports = share_level(reports, measures, found.evidence, question.inference)
    reports = classify_guardrails(reports)
    period = find_period(source, data.units, data.as_of)
    money = money_per_month(
        reports,
        {spec.name: spec.money for spec in data.specs if spec.money is not None},
        leading_variant(reports),
        evidence=found.evidence,
        measures=measures,
        traffic=Traffic(period.days, share_let_in(source, data.members.decisions, question)),
        alpha=question.inference.alpha,
    )
    return Report(
        experiment=question.key,
        as_of=iso_time(data.as_of / SECOND),
        control=question.control,
        alpha=question.inference.alpha,
        units=found.units,
        quality=quality,
        metrics=reports,
        recommendation=recommend(
            reports,
            quality,
            question.inference,
            experiment=question.key,
            money=money,
            days=period.days,
            min_days=question.min_days,
        ),
        segments=_compare_segments(found) if found.segment else [],
        days=period.days,
        method=question.inference.method,
        first_exposure=iso_time(period.first / SECOND) if period.first else None,
        last_exposure=iso_time(period.last / SECOND) if period.last else None,
        covers=list(question.covers),
        ramp=describe_ramp(source, data.units, question, period),
        cumulated=describe_cumulated(reports, question),
        **msgspec.structs.asdict(question.description),
    )


def _check_quality(source: DuckDB, found: _Statistics) -> Quality:
    """The sample ratio, the exposed shares, novelty, and the flags of the report."""
    question, data = found.question, found.data
    sequential = question.inference.has_repeated_looks
    exposures = count_exposures(source, data.log_dir, question, data.as_of, has_cells=data.has_cells)
    exposure = exposure_check(
        exposures.assigned,
        found.units if question.unit == "customer" else _count_customers(source, data.members.table),
        exposures.double,
        exposures.orphans,
        sequential=sequential,
    )
    daily = count_daily_units(source, data.units)
    novelty = _novelty_windows(found)
    looks = [daily[day] for day in sorted(daily)]
    flags = experiment_flags(
        source,
        data.units,
        question=question,
        allocation=data.allocation,
        measures=found.asked,
        groups=found.groups,
        daily=daily,
        winsorized=data.winsorized,
    )
    balance = check_balance(found.asked, found.evidence, question.inference)
    stratum = question.inference.stratum
    if stratum is not None and found.segment not in {None, stratum}:
        flags.append(f"the metrics are not stratified by {stratum}: segments of {found.segment} were asked for")
    return Quality(
        srm=data.allocation.test_split(_count_periods(found.groups), looks if sequential else None),
        crossovers=sum(group.units for key, group in found.groups.items() if key[1]),
        flags=[
            *flags,
            *flag_imbalance(balance),
            *data.notes,
            *flag_planned_looks(data.looks, question.inference),
            *exposure_flags(exposure, exposures.channels),
            *novelty_flags(novelty),
        ],
        exposure=exposure,
        novelty=novelty,
        balance=balance,
        uncounted=count_uncounted_events(
            source, data.log_dir, question, members=data.members.table, specs=data.specs, as_of=data.as_of
        ),
    )


def _annotate(source: DuckDB, reports: Sequence[MetricReport], data: ExperimentUnits) -> list[MetricReport]:
    """The rows with covariates described by metric and days, with caps and response rates."""
    response = {
        measure.name: {
            name: answered / n for name, (answered, n) in count_responses(source, data.units, measure).items() if n
        }
        for measure in data.measures
        if measure.rules.is_of_answers
    }
    before = {
        spec.name: [f"{spec.name} in the {spec.covariate_window * SECOND / DAY:g} days before"]
        for spec in data.specs
        if spec.covariate_window
    }
    return [
        msgspec.structs.replace(
            row,
            covariates=before.get(row.metric, []),
            winsorized=data.winsorized.get(row.metric),
            response=response.get(row.metric, {}),
            open_windows=data.open_windows.get(row.metric),
        )
        for row in reports
    ]


def _assign_roles(question: ExperimentQuestion, data: ExperimentUnits, *, stratified: bool) -> list[Measure]:
    """The measures of the specs, quantiles among them, each with its role."""
    roles = dict.fromkeys(question.secondary, "secondary")
    roles |= dict.fromkeys(question.guardrails, "guardrail") | {question.primary: "primary"}
    measures = {measure.name: measure for measure in data.measures}
    for spec in data.specs:
        if not spec.rules.has_moments:
            measures[spec.name] = Measure(
                name=spec.name,
                kind=spec.kind,
                y=Term("x"),
                quantile=spec.quantile,
                direction=spec.direction,
                margin=spec.margin,
            )
    adjust = question.inference.adjust
    return [
        msgspec.structs.replace(measures[spec.name], role=roles[spec.name], adjust=adjust, stratified=stratified)
        for spec in data.specs
    ]


def _count_periods(groups: Groups) -> dict[int, dict[str, int]]:
    """The units by period and variant, crossovers left out."""
    counts: dict[int, dict[str, int]] = {}
    for (variant, crossed, _, period), group in groups.items():
        if not crossed:
            part = counts.setdefault(int(period or 0), {})
            part[str(variant)] = part.get(str(variant), 0) + group.units
    return counts


def _poststratify_groups(
    groups: Groups, question: ExperimentQuestion, measures: Sequence[Measure], *, by_trait: bool
) -> dict[str, Group]:
    """Totals groups as `_total_groups` does, weighted over allocation periods and the trait's values.

    A variant without units has an empty group.
    """
    strata: dict[tuple[Cell, Cell], dict[str, Group]] = {}
    for (variant, crossed, part, period), group in groups.items():
        if not crossed and variant in question.weights:
            stratum = strata.setdefault((part if by_trait else None, period), {})
            name = str(variant)
            stratum[name] = stratum[name] + group if name in stratum else group
    keys, totals = sorted(strata, key=str), _total_groups(groups, question, measures)
    names, families = [measure.name for measure in measures], [family_of(part) for part, _ in keys]
    return {**totals, **poststratify([strata[key] for key in keys], names, families).weighted} if keys else totals


def _total_groups(groups: Groups, question: ExperimentQuestion, measures: Sequence[Measure]) -> dict[str, Group]:
    """Each variant's units over all segments, crossovers left out; a variant without units has an empty group."""
    none = Group(0, {measure.name: empty_moments(len(measure.columns)) for measure in measures})
    totals = dict.fromkeys(question.weights, none)
    for (variant, crossed, _, _), group in groups.items():
        if not crossed and variant in totals:
            totals[str(variant)] = totals[str(variant)] + group
    return totals


def _compare_segments(found: _Statistics) -> list[SegmentReport]:
    """The effects within each value of the trait."""
    question = found.question
    parts: dict[str, Groups] = {}
    for key, group in found.data.allocation.select_compared(found.groups).items():
        parts.setdefault(NO_SEGMENT if key[2] is None else str(key[2]), {})[key] = group
    summed = partial(_poststratify_groups, by_trait=False) if len(found.data.allocation.shares) > 1 else _total_groups
    evidence = {
        name: Evidence(control=question.control, groups=summed(part, question, found.data.measures))
        for name, part in parts.items()
    }
    others = [name for name in question.weights if name != question.control]
    plain = [msgspec.structs.replace(measure, stratified=False) for measure in found.asked]
    return compare_segments(found.segment or "", plain, others, evidence, question.inference)


def _novelty_windows(found: _Statistics) -> list[Novelty]:
    """The primary metric's daily effect in each window of days since the exposure."""
    question = found.question
    measures = {measure.name: measure for measure in found.data.measures}
    return [
        Novelty(
            variant,
            spec.delay / 86_400,
            (spec.delay + (spec.window or 0.0)) / 86_400,
            daily_effect(
                compare(measures[spec.name], variant, found.evidence, question.inference).absolute, spec.window or 1.0
            ),
        )
        for variant in question.weights
        if variant != question.control
        for spec in found.data.trend
    ]


def _count_customers(source: DuckDB, members: ir.Table) -> dict[str, int]:
    per_variant = members.group_by("variant").aggregate(n=members["customer"].nunique())
    return {str(variant): int(n or 0) for variant, n in source.rows(per_variant)}
