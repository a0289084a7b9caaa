"""Imputes missing covariates, so that a unit without one counts in every metric.

A missing value becomes a constant, the mean over the rows, with an indicator of missing values as one more covariate
(Zhao and Ding 2024, "To adjust or not to adjust? Estimating the average treatment effect in randomized experiments with
missing covariates", section 3). Leaving such units out would compare other customers than those who were assigned. With
the indicator the estimate does not depend on the constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.design.metrics import Term
from engine.analysis.stats.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.duckdb_expressions import SqlValue
    from engine.analysis.sources.engines import Engine, Frame

IMPUTED, MISSING_VALUE = "__imputed", "__missing"


def covariate_terms(measures: Sequence[Measure]) -> list[Term]:
    """The distinct covariates of the measures, by name."""
    return sorted({term for measure in measures for term in measure.covariates}, key=str)


def impute_covariates(
    source: Engine, table: Frame, measures: Sequence[Measure], *, complete: AbstractSet[str] | None = None
) -> tuple[Frame, list[Measure]]:
    """The table and the measures with each covariate that lacks values imputed, and its indicator.

    Args:
        source: The engine that reads the table.
        table: One row for each unit or more.
        measures: What is estimated.
        complete: The columns known to have no missing value; None to count.
    """
    terms = covariate_terms(measures)
    columns = {column for term in terms for column in term.columns}
    if not terms or columns <= (find_complete_columns(source, table, columns) if complete is None else complete):
        return table, list(measures)
    rows, means = covariate_means(source, table, terms)
    lacking = [term for term in terms if rows[term] < rows[None]]  # without any value it is a constant, of no effect
    return add_imputed(table, measures, lacking, means) if lacking else (table, list(measures))


def find_complete_columns(source: Engine, table: Frame, columns: AbstractSet[str]) -> set[str]:
    """The columns without missing values, which DuckDB finds in a Parquet file's statistics."""
    if not columns:
        return set()
    names = sorted(columns)
    counts = {f"n{at}": table[name].count() for at, name in enumerate(names)}
    (row,) = source.rows(table.aggregate(rows=table.count(), **counts))
    return {name for name, count in zip(names, row[1:], strict=True) if count == row[0]}


def covariate_means(
    source: Engine, table: Frame, terms: Sequence[Term]
) -> tuple[dict[Term | None, int], dict[str, float]]:
    """The number of rows with a value by term (None: all rows), and the means by name of the imputed column."""
    sums = {"rows": table.count()} | {f"n{at}": _valued(table, term, term.num).count() for at, term in enumerate(terms)}
    names = [(term, column) for term in terms for column in term.columns]
    sums |= {f"m{at}": _valued(table, *name).mean() for at, name in enumerate(names)}
    (row,) = source.rows(table.aggregate(**sums))
    counts = dict(zip((None, *terms), (int(n or 0) for n in row), strict=False))
    means = (float(value or 0.0) for value in row[len(terms) + 1 :])
    return counts, {_imputed_name(*name): mean for name, mean in zip(names, means, strict=True)}


def add_imputed(
    table: Frame, measures: Sequence[Measure], terms: Sequence[Term], means: Mapping[str, float]
) -> tuple[Frame, list[Measure]]:
    """The table with imputed columns and an indicator per term, and the measures over these."""
    columns: dict[str, SqlValue] = {}
    for term in terms:
        for column in term.columns:
            name = _imputed_name(term, column)
            columns[name] = _valued(table, term, column).fill_null(means[name])
        columns[f"{term}{MISSING_VALUE}"] = _has_value(table, term).ifelse(0.0, 1.0)
    return table.mutate(**columns) if columns else table, imputed_measures(measures, terms)


def imputed_measures(measures: Sequence[Measure], terms: Sequence[Term]) -> list[Measure]:
    """The measures with each of the terms replaced by the imputed one and its indicator."""
    replaced: dict[Term, tuple[Term, ...]] = {}
    for term in terms:
        num, *den = (_imputed_name(term, column) for column in term.columns)
        replaced[term] = (Term(num, den[0] if den else None), Term(f"{term}{MISSING_VALUE}"))
    return [
        msgspec.structs.replace(
            measure, covariates=tuple(new for term in measure.covariates for new in replaced.get(term, (term,)))
        )
        for measure in measures
    ]


def drop_idle_indicators(
    groups: Mapping[str | None, Group], measures: Sequence[Measure]
) -> tuple[dict[str | None, Group], list[Measure]]:
    """The groups and measures without the indicators of covariates that no unit lacks."""
    kept, reduced = [], dict(groups)
    for measure in measures:
        idle = {
            term
            for term in measure.covariates
            if is_indicator(term)
            and not any(count_missing(group.moments[measure.name], measure, term) for group in groups.values())
        }
        columns = [at for at, column in enumerate(measure.columns) if column not in {term.num for term in idle}]
        for name, group in reduced.items():
            side = group.moments[measure.name]
            smaller = Moments(side.n, side.mean[columns], side.comoment[np.ix_(columns, columns)])
            own = group.outcomes.get(measure.name, ())
            kept_terms = tuple(
                of for of, term in zip(own, (measure.y, *measure.covariates), strict=False) if term not in idle
            )
            outcomes = {**group.outcomes, measure.name: kept_terms}
            reduced[name] = Group(group.units, {**group.moments, measure.name: smaller}, outcomes)
        covariates = tuple(term for term in measure.covariates if term not in idle)
        kept.append(msgspec.structs.replace(measure, covariates=covariates))
    return reduced, kept


def is_indicator(term: Term) -> bool:
    """Whether a term of a unit frame indicates missing values of a covariate."""
    return MISSING_VALUE in term.num


def count_missing(moments: Moments, measure: Measure, indicator: Term) -> int:
    """The number of units, or of their rows, without the indicator's covariate."""
    at = measure.columns.index(indicator.num)
    if moments.n <= 0:
        return 0
    rows = float(moments.mean[at + 1]) if indicator.den is not None else 1.0
    return round((float(moments.mean[at]) + indicator.offset * rows) * moments.n)


def _imputed_name(term: Term, column: str) -> str:
    """The name of an imputed column, which may be part of several ratios."""
    return f"{column}{IMPUTED}" if term.den is None else f"{column} of {term}{IMPUTED}"


def _has_value(table: Frame, term: Term) -> SqlValue:
    complete = table[term.num].notnull()
    return complete if term.den is None else complete & table[term.den].notnull()


def _valued(table: Frame, term: Term, column: str) -> SqlValue:
    """A column of a term; null if the term has no value."""
    return _has_value(table, term).ifelse(table[column].cast("float64"), None)
