"""Checks a table before its report: columns, weights and variants; flags rows that were left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.analysis.aggregates.aggregate import CROSSED, STRATUM, VARIANT
from engine.analysis.aggregates.clustered import LAST, OWN_ENDINGS, UNIT, WITH, count_clustered_rows
from engine.analysis.aggregates.covariates import IMPUTED, MISSING_VALUE, count_missing, is_indicator
from engine.analysis.report.quality import exposure_check
from engine.analysis.report.verdict import EXPOSURE_GATE
from engine.analysis.sources.engines import DuckDB
from engine.analysis.stats.inference import not_a_share
from engine.analysis.stats.sequential import asymptotic_multiplier, is_planned_look
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.aggregates.aggregate import Group
    from engine.analysis.design.methods import Inference
    from engine.analysis.design.metrics import Measure, Term
    from engine.analysis.report.compare import Evidence
    from engine.analysis.report.table import TableQuestion
    from engine.analysis.sources.engines import Engine, Table
    from engine.analysis.stats.estimate import NotEstimable
    from engine.analysis.stats.moments import Moments

LEAST_WIDER = 1.05
"""A sequential interval that is wider by this factor than one planned for the units seen is flagged."""
RESERVED = {VARIANT, CROSSED, STRATUM, UNIT, LAST}


def check_columns(
    source: Engine,
    table: Table,
    measures: Sequence[Measure],
    *,
    path: str,
    variant: str,
    unit: str | None,
    stratum: str | None = None,
) -> None:
    """Raises BadInput if a column is missing, or holds text where a metric needs numbers."""
    schema = table.schema()
    numbers = {column for measure in measures for column in measure.columns}
    for column in [variant, *(name for name in (unit, stratum) if name), *sorted(numbers)]:
        if column not in schema:
            raise BadInput(f"{path} has no column {column!r}; it has {', '.join(schema)}")
    for column in sorted(numbers):
        if column in RESERVED or _is_reserved(column, unit):
            raise BadInput(f"{path}: column {column!r} has a name that the report uses itself; give it another name")
        if not (schema[column].is_numeric() or schema[column].is_boolean()):
            raise BadInput(f"{path}: column {column!r} contains {_describe_text(source, table, column)}")


def _is_reserved(column: str, unit: str | None) -> bool:
    return column.endswith((IMPUTED, MISSING_VALUE)) or (
        unit is not None and (column.endswith(OWN_ENDINGS) or WITH in column)
    )


def _describe_text(source: Engine, table: Table, column: str) -> str:
    """The type of a non-numeric column, with an example value and the rule."""
    declared = table.schema()[column]
    text = table[column].cast("string")
    is_number = text.try_cast("float64").notnull()
    found = source.rows(table.filter(text.notnull() & ~is_number).select(example=text).limit(1))
    if not found and not source.rows(table.filter(text.notnull()).select(example=text).limit(1)):
        return "no value; a metric needs numbers"
    what = "text" if declared == "string" else f"values of type {declared}"
    example = f", for example {found[0][0]!r}" if found else ""
    most = ", of 38 digits at most" if declared.startswith("decimal") else ""
    return f"{what}{example}; a metric needs numbers{most}"


def check_weights(weights: Mapping[str, float], variants: Mapping[str, Group]) -> None:
    """Raises BadInput if a share is not a number from 0 up, all are 0, or a variant has none."""
    for name, share in weights.items():
        if not (math.isfinite(share) and share >= 0):
            raise BadInput(
                f"weights: the share {share:g} of {name!r} is not a number from 0 up; write control=0.9,new=0.1"
            )
    if not any(weights.values()):
        raise BadInput("weights: every share is 0; write control=0.9,new=0.1")
    missing = sorted(set(variants) - set(weights))
    if missing:
        raise BadInput(f"weights: {missing[0]!r} has none; give every variant its share")


def check_variants(path: str, variant: str, control: str, *, groups: Mapping[str, Group], crossovers: int) -> None:
    """Raises BadInput if the table has no control or no other variant."""
    if not groups and crossovers:
        raise BadInput(f"{path}: all {crossovers} units were seen in two variants of {variant}; none can be compared")
    if not groups:
        raise BadInput(f"{path} has no row with a {variant}; a comparison needs two variants")
    if control not in groups:
        seen = ", ".join(sorted(groups)[:10]) or "none"
        raise BadInput(f"{path}: no row has {variant} = {control!r}, the control; the variants are {seen}")
    if len(groups) < 2:
        raise BadInput(f"{path}: {variant} has one variant only, {control!r}; a comparison needs two")


def count_rows_without_unit(source: Engine, table: Table, *, path: str, unit: str | None) -> int:
    """The number of rows that belong to no unit.

    Raises:
        BadInput: if no row belongs to one.
    """
    if unit is None:
        return 0
    column = table[unit]
    owned, every = (int(n or 0) for n in source.rows(table.aggregate(owned=column.count(), every=table.count()))[0])
    if every and not owned:
        raise BadInput(f"{path}: column {unit!r} has no value; name the column of the unit, or leave --unit out")
    return every - owned


def invalid_shares(
    source: Engine, table: Table, unit: str | None, measures: Sequence[Measure]
) -> dict[str, NotEstimable]:
    """The proportions with values other than 0 and 1; if rows are units, their variance shows that later."""
    invalid = {}
    for measure in measures:
        if unit is not None and measure.rules.is_share and measure.per_unit is None:
            value = table[measure.y.num].cast("float64")
            if source.rows(table.filter((value * (value - 1.0)) != 0.0).select(x=value).limit(1)):
                invalid[measure.name] = not_a_share(measure)
    return invalid


def flag_missing_values(groups: Mapping[str, Group], measures: Sequence[Measure], *, sequential: bool) -> list[str]:
    """Per measure the missing values and covariates, shares of values that differ by variant, and clustered rows."""
    flags = []
    units = {name: group.units for name, group in groups.items()}
    for measure in measures:
        if not measure.rules.has_moments:
            continue
        sides = [group.moments[measure.name] for group in groups.values()]
        known = dict(zip(groups, (side.n for side in sides), strict=True))
        short = sum(units.values()) - sum(known.values())
        if short:
            flags.append(f"{measure.name}: {short} units lack a value and are left out")
        valued = exposure_check(units, known, 0, 0, sequential=sequential)
        if valued.p < EXPOSURE_GATE:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in valued.shares.items())
            flags.append(
                f"{measure.name}: the share with a value differs between variants ({shares}), so they do not compare"
            )
        flags += _flag_covariates(measure, dict(zip(groups, sides, strict=True)), sequential=sequential)
        rows = count_clustered_rows(measure, sides)
        if rows > sum(known.values()) and measure.per_unit is None:
            flags.append(_describe_rows(measure, rows, sum(known.values())))
    return flags


def _describe_rows(measure: Measure, rows: int, units: int) -> str:
    """Describes a metric's meaning for units with several rows, and how to choose another one."""
    column = measure.name
    if measure.rules.is_share:
        return (
            f"{column}: {rows} rows of {units} units, so it is the share of rows; "
            f"for the share of units with any write any:{column}"
        )
    return (
        f"{column}: {rows} rows of {units} units, so it is the mean per row; for sums per unit write sum:{column}, "
        f"for the share of units with any any:{column}, to confirm per-row mean:{column}"
    )


def flag_unfit_plan(evidence: Evidence, inference: Inference) -> list[str]:
    """A flag if the units differ from the plan, so that intervals are wider than necessary.

    Sequential ones are if far more units were seen, group-sequential ones between two planned looks.
    """
    control = evidence.groups[evidence.control].units
    units = control + max((g.units for name, g in evidence.groups.items() if name != evidence.control), default=0)
    if inference.method == "group_sequential":
        return _flag_unplanned_look(units, inference)
    if inference.method != "sequential" or inference.tau is not None:
        return []
    wider = asymptotic_multiplier(units, inference.planned, inference.alpha) / asymptotic_multiplier(
        units, units, inference.alpha
    )
    if units <= inference.planned or wider < LEAST_WIDER:
        return []
    why = f"{units:,} units were compared where {inference.planned:,} were planned, so intervals are {wider - 1:.0%}"
    remedy = "name the units planned beforehand, or method fixed if this is the only look"
    return [f"{why} wider than with planned {units:,}; {remedy}"]


def _flag_unplanned_look(units: int, inference: Inference) -> list[str]:
    step = inference.planned / inference.looks
    if units < step or is_planned_look(units, inference.planned, inference.looks):
        return []
    seen = f"{units:,} units are not one of the {inference.looks} looks planned every {step:,.0f} units"
    wider = "intervals are wider and hold at any number of such looks"
    return [f"{seen}, so {wider}; name planned {units:,} if this is the only look"]


def _flag_covariates(measure: Measure, sides: Mapping[str, Moments], *, sequential: bool) -> list[str]:
    """Each covariate's share of missing values, and whether it differs between variants."""
    flags = []
    for term in filter(is_indicator, measure.covariates):
        missing = {name: count_missing(side, measure, term) for name, side in sides.items()}
        covariate, what = term.num.partition(MISSING_VALUE)[0], "units" if term.den is None else "rows"
        if all(_lacks_all(side, measure, term) for side in sides.values()):
            flags.append(
                f"{measure.name}: no {what[:-1]} has a value of the covariate {covariate}, so it adjusts nothing; "
                "check the column, or leave it out"
            )
            continue
        flags.append(
            f"{measure.name}: {sum(missing.values())} {what} lack the covariate {covariate}; "
            "they count with its mean and an indicator"
        )
        if term.den is None:
            known = {name: side.n - missing[name] for name, side in sides.items()}
            if exposure_check({n: s.n for n, s in sides.items()}, known, 0, 0, sequential=sequential).p < EXPOSURE_GATE:
                flags.append(
                    f"{measure.name}: {covariate} is missing more often in one variant; is it from after the exposure?"
                )
    return flags


def _lacks_all(side: Moments, measure: Measure, indicator: Term) -> bool:
    """Whether all units of a side, or all their rows, lack the indicator's covariate."""
    at = measure.columns.index(indicator.num)
    rows = float(side.mean[at + 1]) if indicator.den is not None else 1.0
    return side.n == 0 or count_missing(side, measure, indicator) == round(rows * side.n)


def check_addable(source: Engine, asked: TableQuestion) -> DuckDB:
    """The engine of a report that adds up single files' statistics.

    Raises:
        BadInput: if the report cannot be computed from these.
    """
    if asked.unit:
        raise BadInput(
            f"partials: rows of one {asked.unit} may lie in several files, whose statistics do not add up per unit; "
            "leave --partials out, or have one row per unit and leave --unit out"
        )
    quantile = next((measure.name for measure in asked.measures if not measure.rules.has_moments), None)
    if quantile:
        raise BadInput(
            f"partials: the quantile {quantile} cannot be computed from the statistics of single files; leave one out"
        )
    if any(measure.per_unit == "any" for measure in asked.measures):
        raise BadInput("partials: any:COL is computed from the rows; leave --partials out, or write proportion:COL")
    if asked.part:
        option = "--segment" if asked.segment else "--stratum"
        raise BadInput(
            f"partials: statistics are stored by variant, not by {asked.part}; leave --partials or {option} out"
        )
    if not isinstance(source, DuckDB):
        raise BadInput("partials: statistics of files are stored by duckdb alone; leave --partials or --engine out")
    return source
