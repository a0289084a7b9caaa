"""Moments of all metrics from one aggregate query over a unit frame: per group counts, centred sums and products.

Beside them are the outcomes of each metric and covariate: the units with a value other than zero, and their sizes.
Columns are centred at a pilot mean before they are summed: sums of squares of large values would cancel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.design.metrics import Term
from engine.analysis.stats.moments import Moments, Outcomes, is_well_centred, moments_from_shifted_sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    import ibis.expr.types as ir

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.duckdb_expressions import SqlValue
    from engine.analysis.sources.engines import Cell, Engine, Frame

VARIANT, CROSSED, STRATUM = "variant__", "crossed__", "stratum__"  # a table may have a column 'variant' of its own
PILOT_ROWS = 10_000
MISSING = -1  # the count of a measure that lacks a value in some unit of the group
ROUNDED = 1e-9  # of its centre, below which a value that was summed about it is zero


class Group(msgspec.Struct, frozen=True):
    """A group of units (a variant, or a variant on a day): their number, and the moments of each measure by name.

    `outcomes` are those of the metric, then those of each covariate, where they are known.
    """

    units: int
    moments: Mapping[str, Moments] = msgspec.field(default_factory=dict)
    outcomes: Mapping[str, tuple[Outcomes, ...]] = msgspec.field(default_factory=dict)

    def __add__(self, other: Group) -> Group:
        moments, outcomes = {**self.moments, **other.moments}, {**self.outcomes, **other.outcomes}
        for name in self.moments.keys() & other.moments.keys():
            moments[name] = self.moments[name] + other.moments[name]
        for name in self.outcomes.keys() & other.outcomes.keys():
            outcomes[name] = tuple(a + b for a, b in zip(self.outcomes[name], other.outcomes[name], strict=True))
        return Group(self.units + other.units, moments, outcomes)


Groups = dict[tuple["Cell", ...], Group]


class _Sums(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a pass: the columns' centre, the terms whose outcomes it counts, and those with both signs.

    Of others the size of all values is that of their sum. `is_masked`: a measure counts the units that have its values.
    """

    centre: Centre
    counted: AbstractSet[Term]
    signed: AbstractSet[Term]
    is_masked: bool = False
    complete: AbstractSet[str] = frozenset()


class Centre(msgspec.Struct, frozen=True):
    """The values by which columns are centred: one per column, or per column and value of the first key."""

    key: str
    means: Mapping[str, Mapping[Cell, float]]
    everywhere: Mapping[str, float] = msgspec.field(default_factory=dict)

    def of(self, column: str, value: Cell) -> float:
        """The centre of a column in a group."""
        return self.everywhere[column] if column in self.everywhere else self.means[column][value]

    def expression(self, frame: Frame, column: str) -> ir.Value | SqlValue | float:
        """The centre of a column as an expression over the frame."""
        if column in self.everywhere:
            return self.everywhere[column]
        known = [(value, mean) for value, mean in self.means[column].items() if value is not None]
        missing = self.means[column].get(None, 0.0)
        return frame[self.key].cases(*known, else_=missing) if known else missing


def aggregate_groups(
    engine: Engine,
    frame: Frame,
    keys: Sequence[str],
    measures: Sequence[Measure],
    pilot: Mapping[str, float] | None = None,
    *,
    complete: AbstractSet[str] = frozenset(),
) -> Groups:
    """Moments of every measure in every group of `keys`, from one pass over the frame.

    `pilot` has rough means of the columns; by default they are computed from the first rows. `complete` are columns
    known to have a value in every row, which need not be counted.

    A second pass reads only the measures that need it: those for which some unit lacks a value, which are computed over
    the units that have all of their columns, and those whose pilot mean was far from the mean.
    """
    terms = {measure.name: (measure.y, *measure.covariates) for measure in measures}
    columns = {measure.name: measure.columns for measure in measures}
    signed = {term for own in terms.values() for term in own}
    if pilot is None:
        pilot, signed = _read_pilot(engine, frame, sorted(signed, key=str))
    counted = {measure.y for measure in measures if not measure.rules.is_share}
    found = _pass(
        engine,
        frame,
        keys,
        terms,
        _Sums(centre=Centre(keys[0], {}, pilot), counted=counted, signed=signed, complete=complete),
    )
    repeated = {
        name: terms[name]
        for name, names in columns.items()
        if any(
            group.moments[name].n == MISSING or not is_well_centred(group.moments[name], names, pilot)
            for group in found.values()
        )
    }
    if not repeated:
        return found
    masked, masks, means = _masked(frame, keys[0], repeated, found)
    every = {term for own in masks.values() for term in own}
    sums = _Sums(centre=means, counted=every, signed=every, is_masked=True)
    second = _pass(engine, masked, keys, masks, sums)
    return {
        key: Group(
            group.units,
            {**group.moments, **second[key].moments},
            {**group.outcomes, **second[key].outcomes},
        )
        for key, group in found.items()
    }


def _columns(terms: Sequence[Term]) -> tuple[str, ...]:
    return tuple(column for term in terms for column in term.columns)


def _masked(
    frame: Frame, key: str, repeated: Mapping[str, tuple[Term, ...]], found: Groups
) -> tuple[Frame, dict[str, tuple[Term, ...]], Centre]:
    """A copy of each measure's columns that is null where any of them is, with its means by value of the first key."""
    masks: dict[str, tuple[Term, ...]] = {}
    means: dict[str, dict[Cell, float]] = {}
    for index, (name, terms) in enumerate(repeated.items()):
        names = _columns(terms)
        complete = frame[names[0]].notnull()
        for column in names[1:]:
            complete = complete & frame[column].notnull()
        copies = {column: f"masked{index}__{column}" for column in names}
        masks[name] = tuple(
            msgspec.structs.replace(term, num=copies[term.num], den=copies[term.den] if term.den else None)
            for term in terms
        )
        frame = frame.mutate(**{copy: complete.ifelse(frame[column], None) for column, copy in copies.items()})
        for at, copy in enumerate(_columns(masks[name])):
            means[copy] = {
                value: _pooled_mean([found[other].moments[name] for other in found if other[0] == value], at)
                for value in {other[0] for other in found}
            }
    return frame, masks, Centre(key, means)


def _pooled_mean(moments: list[Moments], at: int) -> float:
    weights = np.array([abs(part.n) for part in moments], dtype=float)
    values = np.array([part.mean[at] for part in moments])
    known = np.isfinite(values)
    return float(values[known] @ weights[known] / weights[known].sum()) if known.any() else 0.0


def pilot_means(engine: Engine, frame: Frame, columns: Sequence[str]) -> dict[str, float]:
    """Means of the columns over the first rows; zero for a column without a value in them."""
    return _read_pilot(engine, frame, [Term(column) for column in columns])[0]


def _read_pilot(engine: Engine, frame: Frame, terms: Sequence[Term]) -> tuple[dict[str, float], set[Term]]:
    """The means of the terms' columns in the first rows, and the terms with a value below zero there."""
    if not terms:
        return {}, set()
    columns = sorted({column for term in terms for column in term.columns})
    first = frame.select(*columns).limit(PILOT_ROWS)
    sums = {f"a{at}": first[name].mean() for at, name in enumerate(columns)}
    sums |= {f"b{at}": _value(first, term).min() for at, term in enumerate(terms)}
    (row,) = engine.rows(first.aggregate(**sums))
    means = {
        name: float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
        for name, value in zip(columns, row, strict=False)
    }
    least = zip(terms, row[len(columns) :], strict=True)
    return means, {term for term, value in least if value is not None and float(value) < 0}


def _pass(
    engine: Engine, frame: Frame, keys: Sequence[str], terms: Mapping[str, tuple[Term, ...]], how: _Sums
) -> Groups:
    columns = {name: _columns(several) for name, several in terms.items()}
    singles = sorted({name for names in columns.values() for name in names})
    pairs = sorted({(min(a, b), max(a, b)) for names in columns.values() for a in names for b in names})
    counted, signed = ([term for term in _distinct(terms) if term in chosen] for chosen in (how.counted, how.signed))
    index = {name: f"q{i}" for i, name in enumerate(singles)}
    sizes = {term: f"v{i}" for i, term in enumerate(_distinct(terms)) if term in counted or term in signed}
    shifted = frame.select(
        *keys,
        **{index[name]: frame[name].cast("float64") - how.centre.expression(frame, name) for name in singles},
        **{name: _value(frame, t).abs() if t in signed else _value(frame, t) for t, name in sizes.items()},
    )
    totals = {"units": shifted.count()}
    partial = [name for name in singles if name not in how.complete]
    totals |= {f"n{i}": shifted[index[name]].count() for i, name in enumerate(partial)}
    totals |= {f"s{i}": shifted[index[name]].sum() for i, name in enumerate(singles)}
    totals |= {f"p{i}": (shifted[index[a]] * shifted[index[b]]).sum() for i, (a, b) in enumerate(pairs)}
    # A sum of truth values is slow on DuckDB, which adds integers of 128 bits.
    totals |= {f"k{i}": _is_outcome(shifted[sizes[t]], t).ifelse(1.0, None).count() for i, t in enumerate(counted)}
    totals |= {f"a{i}": shifted[sizes[t]].sum() for i, t in enumerate(signed)}
    found: Groups = {}
    for row in engine.rows(shifted.group_by(*keys).aggregate(**totals)):
        key, units, rest = row[: len(keys)], _count(row[len(keys)]), iter(row[len(keys) + 1 :])
        counts = dict.fromkeys(singles, units) | {name: _count(next(rest)) for name in partial}
        sums = {name: _number(next(rest)) for name in singles}
        products = {pair: _number(next(rest)) for pair in pairs}
        own, size = {term: _count(next(rest)) for term in counted}, {term: _number(next(rest)) for term in signed}
        at = {name: how.centre.of(name, key[0]) for name in singles}
        moments = {
            name: _moments(
                counts[names[0]] if how.is_masked else units, names, counts, centre=at, sums=sums, products=products
            )
            for name, names in columns.items()
        }
        outcomes = {name: _outcomes(moments[name], several, own, size) for name, several in terms.items()}
        found[key] = Group(units, moments, outcomes)
    return found


def _distinct(terms: Mapping[str, tuple[Term, ...]]) -> list[Term]:
    return list(dict.fromkeys(term for own in terms.values() for term in own))


def _outcomes(
    moments: Moments, terms: Sequence[Term], counted: Mapping[Term, int], sizes: Mapping[Term, float]
) -> tuple[Outcomes, ...]:
    """The outcomes of a measure's terms; if all values have one sign, their size is that of the sum."""
    found, at = [], 0
    for term in terms:
        per_unit = moments.mean[at + 1] if term.den is not None else 1.0
        total = abs(float(moments.mean[at]) + term.offset * float(per_unit)) * moments.n
        found.append(Outcomes(counted.get(term), sizes.get(term, total)))
        at += len(term.columns)
    return tuple(found)


def _is_outcome(size: ir.Value | SqlValue, term: Term) -> ir.BooleanValue | SqlValue:
    return size > abs(term.offset) * ROUNDED


def _value(frame: Frame, term: Term) -> SqlValue:
    """A term's numerator in each unit, without centring."""
    value = frame[term.num].cast("float64")
    if term.offset:
        value = value + (frame[term.den].cast("float64") * term.offset if term.den else term.offset)
    return value


def _moments(
    units: int,
    names: tuple[str, ...],
    counts: Mapping[str, int],
    centre: Mapping[str, float],
    sums: Mapping[str, float],
    products: Mapping[tuple[str, str], float],
) -> Moments:
    if all(counts[name] == units for name in names):
        return moments_from_shifted_sums(units, names, centre, sums, products)
    means = np.array([centre[name] + sums[name] / max(counts[name], 1) for name in names])
    return Moments(MISSING, means, np.zeros((len(names), len(names))))


def _count(value: Cell) -> int:
    return int(value or 0)


def _number(value: Cell) -> float:
    return float(value) if value is not None else 0.0
