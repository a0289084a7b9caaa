"""Rows of one unit taken together: a mean becomes the ratio of a unit's sum to its rows, over units.

The delta method of that ratio is the cluster-robust standard error. Sums are taken about a rough mean of the rows: the
ratio of large sums to their sizes would leave no digits for what varies around it. A ratio of two columns is one of
the rows that have both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.design.metrics import Term
from engine.analysis.sources.aggregate import CROSSED, STRATUM, VARIANT, Group, Groups, pilot_means
from engine.analysis.stats.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.engines import Engine, Frame, Table

UNIT, LAST = "unit__", "last__"
ABOUT, ROWS, WITH = "__about", "__rows", "__with__"


def row_centres(source: Engine, table: Table, unit: str | None, measures: Sequence[Measure]) -> dict[str, float]:
    """Rough means of the columns whose rows are to be taken together; none where rows are units."""
    if unit is None:
        return {}
    columns = sorted({term.num for measure in measures for term in _terms(measure) if term.den is None})
    frame = table.select(**{column: table[column].cast("float64") for column in columns})
    return pilot_means(source, frame, columns)


def build_unit_frame(
    table: Table,
    variant: str,
    unit: str | None,
    measures: Sequence[Measure],
    stratum: str | None = None,
    *,
    about: Mapping[str, float],
) -> tuple[Frame, list[Measure]]:
    """The table with one row per unit, its columns VARIANT, CROSSED and STRATUM, and the measures over it.

    `about` are the `row_centres` of the same arguments. Rows without a unit are left out.
    """
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
    rows = rows.select(**own, **strata, **values)
    sums = {column: rows[column].sum() for column in values}
    sizes = {f"{column}{ROWS}": rows[f"{column}{ABOUT}"].count() for column in about}
    ends = {VARIANT: rows[VARIANT].min(), LAST: rows[VARIANT].max()}
    least = {STRATUM: rows[STRATUM].min()} if stratum else {}
    per_unit = rows.group_by(UNIT).aggregate(**ends, **least, **sums, **sizes)
    frame = per_unit.mutate(**{CROSSED: (per_unit[VARIANT] != per_unit[LAST]).fill_null(False)})
    return frame, [_clustered(measure, about) for measure in measures]


def flag_half_rows(source: Engine, table: Table, unit: str | None, measures: Sequence[Measure]) -> list[str]:
    """What to say of the rows that have one part of a ratio alone; where rows are units they lack a value."""
    pairs = _ratios(measures) if unit is not None else []
    if not pairs:
        return []
    counted = [(table[num], table[den], table[den].notnull().ifelse(table[num], None)) for num, den in pairs]
    counts = {f"n{at}_{part}": value.count() for at, found in enumerate(counted) for part, value in enumerate(found)}
    row = [int(n or 0) for n in source.rows(table.aggregate(**counts))[0]]
    alone = [n + d - 2 * both for n, d, both in zip(row[::3], row[1::3], row[2::3], strict=True)]
    return [
        f"{num}/{den}: {rows} rows lack one of the two and are left out; write 0 where none is meant"
        for (num, den), rows in zip(pairs, alone, strict=True)
        if rows
    ]


def unwrap_single_rows(
    found: Groups, framed: Sequence[Measure], plain: Sequence[Measure]
) -> tuple[Groups, list[Measure]]:
    """The groups, and `plain` in the place of each measure whose units turn out to have one row: its mean is no ratio.

    A share is then one of units, for which there are exact intervals.
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
            key: Group(group.units, {**group.moments, own.name: _plain(group.moments[own.name], terms)})
            for key, group in found.items()
        }
    return found, measures


def count_clustered_rows(measure: Measure, sides: Sequence[Moments]) -> int:
    """How many rows a clustered measure's units have between them; 0 where rows are units."""
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
    covariates = tuple(per_row(term) for term in measure.covariates)
    return msgspec.structs.replace(measure, y=per_row(measure.y), covariates=covariates)


def _terms(measure: Measure) -> tuple[Term, ...]:
    return (measure.y, *measure.covariates) if measure.rules.has_moments else ()


def _ratios(measures: Sequence[Measure]) -> list[tuple[str, str]]:
    """Numerator and denominator of each ratio of two columns, once."""
    terms = [term for measure in measures for term in _terms(measure)]
    return sorted({(term.num, term.den) for term in terms if term.den is not None})


def _is_size(column: str | None) -> bool:
    return column is not None and column.endswith(ROWS)


def _single_rows(side: Moments, terms: Sequence[Term]) -> bool:
    names = [column for term in terms for column in term.columns]
    sizes = [at for at, name in enumerate(names) if _is_size(name)]
    return side.n == 0 or all(abs(side.mean[at] - 1) < 1e-9 and side.comoment[at, at] < 0.5 for at in sizes)


def _plain(side: Moments, terms: Sequence[Term]) -> Moments:
    """The moments without the sizes, which are all one, and about zero again."""
    names = [(column, term) for term in terms for column in term.columns]
    kept = [at for at, (name, _) in enumerate(names) if not _is_size(name)]
    start = np.array([names[at][1].offset for at in kept])
    return Moments(side.n, side.mean[kept] + start, side.comoment[np.ix_(kept, kept)])
