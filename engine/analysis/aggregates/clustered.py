"""Aggregates rows by unit: a mean over rows is a ratio, over units, of the unit's sum to its number of rows.

The delta method of that ratio gives the cluster-robust standard error. Sums are centred at a rough mean of the rows,
since the ratio of large sums to their sizes would lose the digits of the variation. A ratio of two columns is computed
over the rows that have both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.aggregates.aggregate import CROSSED, STRATUM, VARIANT, Group, Groups, pilot_means
from engine.analysis.design.metrics import Term
from engine.analysis.stats.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.engines import Engine, Frame, Table

UNIT, LAST = "unit__", "last__"
ABOUT, ROWS, WITH = "__about", "__rows", "__with__"
SUM, ANY, AVERAGE = "__sum", "__any", "__average"
OWN_ENDINGS = (ABOUT, ROWS, SUM, ANY, AVERAGE)
"""Endings of the columns of a unit frame."""


def row_centres(source: Engine, table: Frame, unit: str | None, measures: Sequence[Measure]) -> dict[str, float]:
    """Rough means of the columns that are aggregated by unit; empty if rows are units."""
    if unit is None:
        return {}
    columns = sorted(
        {term.num for measure in measures for term in _terms(measure) if term.den is None and not _is_of_unit(measure)}
    )
    frame = table.select(**{column: table[column].cast("float64") for column in columns})
    return pilot_means(source, frame, columns)


def build_unit_frame(
    table: Frame,
    variant: str,
    unit: str | None,
    measures: Sequence[Measure],
    stratum: str | None = None,
    *,
    about: Mapping[str, float],
) -> tuple[Frame, list[Measure]]:
    """The table with one row per unit, its columns VARIANT, CROSSED and STRATUM, and the measures over it.

    Where rows are units, the measures of sums and of `any` are those of single rows.

    `about` is the result of `row_centres` for the same arguments. Rows without a unit are excluded.
    """
    table, measures = _with_any(table, measures)
    if unit is None:
        columns = sorted({column for measure in measures for term in _terms(measure) for column in term.columns})
        strata = {STRATUM: table[stratum].cast("string")} if stratum else {}
        own = {VARIANT: table[variant].cast("string"), CROSSED: False}
        values = {column: table[column].cast("float64") for column in columns}
        return table.select(**own, **strata, **values), list(measures)
    rows = table.filter(table[unit].notnull())
    strata = {STRATUM: rows[stratum].cast("string")} if stratum else {}
    own = {UNIT: rows[unit], VARIANT: rows[variant].cast("string")}
    values = {
        f"{column}{WITH}{other}": rows[other].notnull().ifelse(rows[column].cast("float64"), None)
        for num, den in _ratios(measures)
        for column, other in ((num, den), (den, num))
    }
    values |= {f"{column}{ABOUT}": rows[column].cast("float64") - centre for column, centre in about.items()}
    per_unit_columns = _unit_columns(measures)
    raw = {column: rows[column].cast("float64") for column in {column for column, _ in per_unit_columns.values()}}
    rows = rows.select(**own, **strata, **values, **raw)
    sums = {column: rows[column].sum() for column in values}
    for name, (column, ending) in per_unit_columns.items():
        value = rows[column]
        sums[name] = value.sum() if ending == SUM else value.max() if ending == ANY else value.mean()
    sizes = {f"{column}{ROWS}": rows[f"{column}{ABOUT}"].count() for column in about}
    ends = {VARIANT: rows[VARIANT].min(), LAST: rows[VARIANT].max()}
    least = {STRATUM: rows[STRATUM].min()} if stratum else {}
    per_unit = rows.group_by(UNIT).aggregate(**ends, **least, **sums, **sizes)
    frame = per_unit.mutate(**{CROSSED: (per_unit[VARIANT] != per_unit[LAST]).fill_null(False)})
    return frame, [_clustered(measure, about) for measure in measures]


def flag_half_rows(source: Engine, table: Table, unit: str | None, measures: Sequence[Measure]) -> list[str]:
    """Warnings about rows with only one part of a ratio; if rows are units, these count as missing values."""
    own = [msgspec.structs.replace(measure, covariates=()) for measure in measures]  # covariates are imputed
    pairs = _ratios(own) if unit is not None else []
    if not pairs:
        return []
    present = [(table[num], table[den], table[den].notnull().ifelse(table[num], None)) for num, den in pairs]
    counts = {f"n{at}_{part}": value.count() for at, values in enumerate(present) for part, value in enumerate(values)}
    row = [int(n or 0) for n in source.rows(table.aggregate(**counts))[0]]
    partial = [n + d - 2 * both for n, d, both in zip(row[::3], row[1::3], row[2::3], strict=True)]
    return [
        f"{num}/{den}: {rows} rows lack one of the two and are left out; write 0 where none is meant"
        for (num, den), rows in zip(pairs, partial, strict=True)
        if rows
    ]


def unwrap_single_rows(
    found: Groups, framed: Sequence[Measure], plain: Sequence[Measure]
) -> tuple[Groups, list[Measure]]:
    """The groups and measures, as in `plain` if every unit has one row, since its mean is no ratio.

    A share of rows is then a share of units, which has exact intervals.
    """
    measures = []
    for clustered, own in zip(framed, plain, strict=True):
        terms = _terms(clustered)
        sides = [group.moments[clustered.name] for group in found.values() if clustered.rules.has_moments]
        if clustered == own or not all(_single_rows(side, terms) for side in sides):
            measures.append(clustered)
            continue
        measures.append(own)
        found = {
            key: Group(group.units, {**group.moments, own.name: _plain(group.moments[own.name], terms)}, group.outcomes)
            for key, group in found.items()
        }
    return found, measures


def count_clustered_rows(measure: Measure, sides: Sequence[Moments]) -> int:
    """The number of rows of a clustered measure; 0 if rows are units."""
    if measure.y.den is None or not measure.y.den.endswith(ROWS):
        return 0
    return round(sum(float(side.mean[1]) * side.n for side in sides if side.n))


def _clustered(measure: Measure, about: Mapping[str, float]) -> Measure:
    def per_row(term: Term) -> Term:
        if term.den is not None:
            return Term(f"{term.num}{WITH}{term.den}", f"{term.den}{WITH}{term.num}")
        return Term(f"{term.num}{ABOUT}", f"{term.num}{ROWS}", about[term.num])

    if not measure.rules.has_moments:
        return measure
    if _is_of_unit(measure):
        ending = SUM if measure.per_unit == "sum" else ANY
        covariates = tuple(Term(f"{t.num}{AVERAGE}") if t.den is None else per_row(t) for t in measure.covariates)
        return msgspec.structs.replace(measure, y=Term(f"{measure.y.num}{ending}"), covariates=covariates)
    covariates = tuple(per_row(term) for term in measure.covariates)
    return msgspec.structs.replace(measure, y=per_row(measure.y), covariates=covariates)


def _terms(measure: Measure) -> tuple[Term, ...]:
    return (measure.y, *measure.covariates) if measure.rules.has_moments else ()


def _is_of_unit(measure: Measure) -> bool:
    """Whether the metric has one value per unit, whatever the unit's rows."""
    return measure.per_unit in {"sum", "any"}


def _with_any(table: Frame, measures: Sequence[Measure]) -> tuple[Frame, Sequence[Measure]]:
    """The table with a 0/1 column for each measure of `any`, and the measures over these columns."""
    names = {measure.y.num: f"{measure.y.num}{ANY}" for measure in measures if measure.per_unit == "any"}
    if not names:
        return table, measures
    values = {
        name: table[column].notnull().ifelse((table[column].cast("float64") != 0.0).ifelse(1.0, 0.0), None)
        for column, name in names.items()
    }
    return table.mutate(**values), [
        msgspec.structs.replace(measure, y=Term(names[measure.y.num])) if measure.per_unit == "any" else measure
        for measure in measures
    ]


def _unit_columns(measures: Sequence[Measure]) -> dict[str, tuple[str, str]]:
    """The unit frame's columns with one value per unit: the row column and its suffix, by name."""
    found: dict[str, tuple[str, str]] = {}
    for measure in filter(_is_of_unit, measures):
        ending = SUM if measure.per_unit == "sum" else ANY
        terms = [(measure.y.num, ending), *((t.num, AVERAGE) for t in measure.covariates if t.den is None)]
        found |= {f"{column}{ending}": (column, ending) for column, ending in terms}
    return found


def _ratios(measures: Sequence[Measure]) -> list[tuple[str, str]]:
    """The distinct numerators and denominators of two-column ratios."""
    terms = [term for measure in measures for term in _terms(measure)]
    return sorted({(term.num, term.den) for term in terms if term.den is not None})


def _is_size(column: str | None) -> bool:
    return column is not None and column.endswith(ROWS)


def _single_rows(side: Moments, terms: Sequence[Term]) -> bool:
    names = [column for term in terms for column in term.columns]
    sizes = [at for at, name in enumerate(names) if _is_size(name)]
    return side.n == 0 or all(abs(side.mean[at] - 1) < 1e-9 and side.comoment[at, at] < 0.5 for at in sizes)


def _plain(side: Moments, terms: Sequence[Term]) -> Moments:
    """The moments without the sizes, which are all 1, and with centres added again."""
    names = [(column, term) for term in terms for column in term.columns]
    columns = [at for at, (name, _) in enumerate(names) if not _is_size(name)]
    start = np.array([names[at][1].offset for at in columns])
    return Moments(side.n, side.mean[columns] + start, side.comoment[np.ix_(columns, columns)])
