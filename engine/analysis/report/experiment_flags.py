"""The flags of an experiment's report: sentences on faults of the split and dominant units."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from engine.analysis.design.log_times import DAY
from engine.analysis.report.quality import exposure_check
from engine.analysis.report.sample_ratio import flag_broken_splits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis.expr.types as ir

    from engine.analysis.aggregates.aggregate import Groups
    from engine.analysis.design.metrics import Measure
    from engine.analysis.design.question import ExperimentQuestion
    from engine.analysis.report.allocation import Allocation
    from engine.analysis.report.model import Winsorized
    from engine.analysis.sources.engines import DuckDB

    PeriodUnits = Mapping[int, Mapping[str, int]]  # by period of the allocation and variant
    DailyUnits = Mapping[int, PeriodUnits]  # by day since 1970

RESPONSE_GATE = 0.01
DOMINANT = 0.05  # the share of its variant's total above which one unit decides the mean
LEAST_UNITS = 100  # of a variant, below which any unit may hold a large share


def count_daily_units(source: DuckDB, units: ir.Table) -> dict[int, dict[int, dict[str, int]]]:
    """New units by day since 1970, period and variant, crossovers left out."""
    kept = units.filter(~units["crossed"])
    kept = kept.select("variant", "period", day=(kept["first"] // DAY).cast("int64"))
    days: dict[int, dict[int, dict[str, int]]] = {}
    for day, period, variant, count in source.rows(
        kept.group_by("day", "period", "variant").aggregate(units=kept.count()).order_by("day")
    ):
        days.setdefault(int(day or 0), {}).setdefault(int(period or 0), {})[str(variant)] = int(count or 0)
    return days


def experiment_flags(
    source: DuckDB,
    units: ir.Table,
    *,
    question: ExperimentQuestion,
    allocation: Allocation,
    measures: Sequence[Measure],
    groups: Groups,
    daily: DailyUnits,
    winsorized: Mapping[str, Winsorized],
) -> list[str]:
    """A sentence for each fault of the units and their split.

    Args:
        source: the engine that holds `units`.
        units: one row per unit.
        question: the experiment's design.
        allocation: the shares that were served.
        measures: of the report.
        groups: by variant, crossover, trait and period.
        daily: new units by day, period and variant.
        winsorized: the caps by metric.
    """
    flags = []
    unknown = sorted({str(key[0]) for key in groups} - set(question.weights))
    if unknown:
        flags.append(f"units saw variants that the experiment does not have: {', '.join(unknown)}; they are left out")
    crossed = sum(group.units for key, group in groups.items() if key[1])
    if crossed:
        flags.append(f"{crossed} units saw two variants and are left out")
    return [
        *flags,
        *_flag_periods(allocation),
        *_flag_broken_splits(question, allocation, groups, daily),
        *flag_responses(source, units, measures, sequential=question.inference.has_repeated_looks),
        *(
            flag
            for measure in measures
            if measure.rules.has_dominant_units
            for flag in _dominant(source, units, measure, winsorized.get(measure.name))
        ),
    ]


def _flag_periods(allocation: Allocation) -> list[str]:
    """A flag if shares changed while the experiment ran, with the report's correction."""
    if len(allocation.shares) == 1:
        return []
    changed = f"the weights changed while it ran ({allocation.describe()})"
    flags = [f"{changed}: variants are compared within each period, and periods weighted by their units"]
    left = len(allocation.shares) - len(allocation.compared)
    others = [name for name in allocation.shares[0] if name not in allocation.variants]
    if left:
        flags.append(
            f"{left} of {len(allocation.shares)} periods do not count, since a variant that has a share now had none"
        )
    if others:
        flags.append(f"{', '.join(others)}: not compared, since it had no share in a period that counts")
    return flags


def _flag_broken_splits(
    question: ExperimentQuestion, allocation: Allocation, groups: Groups, daily: DailyUnits
) -> list[str]:
    """The segments and days whose split differs from the served one."""
    parts: dict[str, dict[int, dict[str, int]]] = {}
    for (variant, is_crossed, part, period), group in groups.items():
        if not is_crossed and part is not None:
            parts.setdefault(str(part), {}).setdefault(int(period or 0), {})[str(variant)] = group.units
    dated = {datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d"): daily[day] for day in sorted(daily)}
    return flag_broken_splits(
        {name: (sum_periods(part), allocation.expected(part)) for name, part in parts.items()},
        {name: (sum_periods(part), allocation.expected(part)) for name, part in dated.items()},
        sequential=question.inference.has_repeated_looks,
    )


def sum_periods(units: PeriodUnits) -> dict[str, int]:
    """Units by variant over all periods."""
    total: dict[str, int] = {}
    for counts in units.values():
        for variant, count in counts.items():
            total[variant] = total.get(variant, 0) + count
    return total


def _dominant(source: DuckDB, units: ir.Table, measure: Measure, cap: Winsorized | None) -> list[str]:
    """The variants in which one unit holds more than its share of the metric's total, losses counted as gains."""
    remedy = "winsorize the metric" if cap is None else f"winsorize it at a lower quantile than {cap.level:g}"
    column = units[measure.y.num]
    kept = units.filter(~units["crossed"])
    totals = kept.group_by("variant").aggregate(most=column.abs().max(), total=column.abs().sum(), n=kept.count())
    return [
        f"one unit holds {share:.0%} of {measure.name} in {variant}; {remedy}"
        for variant, most, total, n in sorted(source.rows(totals), key=str)
        if total and int(n or 0) >= LEAST_UNITS and (share := float(most or 0) / float(total)) > DOMINANT
    ]


def count_responses(source: DuckDB, units: ir.Table, measure: Measure) -> dict[str, tuple[int, int]]:
    """The units that answered, and all counted units, by variant, without crossovers."""
    kept = units.filter(~units["crossed"])
    answers = kept[measure.y.den or measure.y.num]
    counts = kept.group_by("variant").aggregate(answered=(answers > 0).sum(), n=answers.count())
    return {str(variant): (int(answered or 0), int(n or 0)) for variant, answered, n in source.rows(counts)}


def flag_responses(source: DuckDB, units: ir.Table, measures: Sequence[Measure], *, sequential: bool) -> list[str]:
    """The metrics with unequal response rates of variants, since not answering may be an effect too."""
    flags = []
    for measure in measures:
        if not measure.rules.is_of_answers:
            continue
        counts = count_responses(source, units, measure)
        answered = {name: count for name, (count, _) in counts.items()}
        p = exposure_check({name: n for name, (_, n) in counts.items()}, answered, 0, 0, sequential=sequential).p
        if p < RESPONSE_GATE:
            rates = ", ".join(f"{name} {count / n:.1%}" for name, (count, n) in sorted(counts.items()) if n)
            flags.append(
                f"the shares that answered {measure.name} differ ({rates}, p = {p:.2g}): "
                "its mean compares those who answered, who may not be alike"
            )
    return flags
