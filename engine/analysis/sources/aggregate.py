"""One aggregate query for all metrics of a unit frame: counts, sums and products about a pilot mean, per group."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.stats.moments import Moments, is_well_centred, moments_from_shifted_sums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis.expr.types as ir

    from engine.analysis.design.metrics import Measure
    from engine.analysis.sources.duckdb_expressions import SqlValue
    from engine.analysis.sources.engines import Cell, Engine, Frame

VARIANT, CROSSED, STRATUM = "variant__", "crossed__", "stratum__"  # of a frame of units; anyone may have a 'variant'
PILOT_ROWS = 10_000
MISSING = -1  # the count of a measure whose columns do not all have a value in every unit


@dataclass(frozen=True)
class Group:
    """One group of units (a variant, or a variant on a day): its units, and the moments of each measure by name."""

    units: int
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def __add__(self, other: Group) -> Group:
        both = {**self.moments, **other.moments}
        for name in self.moments.keys() & other.moments.keys():
            both[name] = self.moments[name] + other.moments[name]
        return Group(self.units + other.units, both)


Groups = dict[tuple["Cell", ...], Group]


@dataclass(frozen=True)
class Centre:
    """What columns are centred at: one value each, or one by value of the first key."""

    key: str
    means: Mapping[str, Mapping[Cell, float]]
    everywhere: Mapping[str, float] = field(default_factory=dict)

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
) -> Groups:
    """Moments of every measure in every group of `keys`, from one pass over the frame.

    `pilot` holds rough means of the columns; the first rows are asked for them if it is left out.

    A second pass is made only for measures that the first shows to need it: some unit lacks a value (the measure is
    then taken over the units that have all of its columns) or the pilot mean was far off (taken again about the mean).
    """
    columns = {measure.name: measure.columns for measure in measures}
    if pilot is None:
        pilot = pilot_means(engine, frame, sorted({name for names in columns.values() for name in names}))
    centre = Centre(keys[0], {}, pilot)
    found = _pass(engine, frame, keys, columns, centre)
    again = {
        name: names
        for name, names in columns.items()
        if any(
            group.moments[name].n == MISSING or not is_well_centred(group.moments[name], names, pilot)
            for group in found.values()
        )
    }
    if not again:
        return found
    masked, masks, means = _masked(frame, keys[0], again, found)
    second = _pass(engine, masked, keys, masks, means, masked=True)
    return {key: Group(group.units, {**group.moments, **second[key].moments}) for key, group in found.items()}


def _masked(
    frame: Frame, key: str, again: Mapping[str, tuple[str, ...]], found: Groups
) -> tuple[Frame, dict[str, tuple[str, ...]], Centre]:
    """A copy of each measure's columns, null where one of them is, and its mean by value of the first key."""
    masks: dict[str, tuple[str, ...]] = {}
    means: dict[str, dict[Cell, float]] = {}
    for index, (name, names) in enumerate(again.items()):
        complete = frame[names[0]].notnull()
        for column in names[1:]:
            complete = complete & frame[column].notnull()
        masks[name] = tuple(f"masked{index}__{column}" for column in names)
        frame = frame.mutate(
            **{copy: complete.ifelse(frame[column], None) for copy, column in zip(masks[name], names, strict=True)}
        )
        for at, copy in enumerate(masks[name]):
            means[copy] = {
                value: _overall([found[other].moments[name] for other in found if other[0] == value], at)
                for value in {other[0] for other in found}
            }
    return frame, masks, Centre(key, means)


def _overall(moments: list[Moments], at: int) -> float:
    weights = np.array([abs(part.n) for part in moments], dtype=float)
    values = np.array([part.mean[at] for part in moments])
    known = np.isfinite(values)
    return float(values[known] @ weights[known] / weights[known].sum()) if known.any() else 0.0


def pilot_means(engine: Engine, frame: Frame, columns: Sequence[str]) -> dict[str, float]:
    """Means of the columns over the first rows, zero where those hold none."""
    if not columns:
        return {}
    first = frame.select(*columns).limit(PILOT_ROWS)
    row = engine.rows(first.aggregate(**{f"a{i}": first[name].mean() for i, name in enumerate(columns)}))[0]
    return {
        name: float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
        for name, value in zip(columns, row, strict=True)
    }


def _pass(
    engine: Engine,
    frame: Frame,
    keys: Sequence[str],
    columns: Mapping[str, tuple[str, ...]],
    centre: Centre,
    *,
    masked: bool = False,
) -> Groups:
    singles = sorted({name for names in columns.values() for name in names})
    pairs = sorted({(min(a, b), max(a, b)) for names in columns.values() for a in names for b in names})
    index = {name: f"q{i}" for i, name in enumerate(singles)}
    shifted = frame.select(
        *keys, **{index[name]: frame[name].cast("float64") - centre.expression(frame, name) for name in singles}
    )
    totals = {"units": shifted.count()}
    totals |= {f"n{i}": shifted[index[name]].count() for i, name in enumerate(singles)}
    totals |= {f"s{i}": shifted[index[name]].sum() for i, name in enumerate(singles)}
    totals |= {f"p{i}": (shifted[index[a]] * shifted[index[b]]).sum() for i, (a, b) in enumerate(pairs)}
    found: Groups = {}
    for row in engine.rows(shifted.group_by(*keys).aggregate(**totals)):
        key, units, rest = row[: len(keys)], _count(row[len(keys)]), row[len(keys) + 1 :]
        counts = {name: _count(value) for name, value in zip(singles, rest, strict=False)}
        sums = {name: _number(value) for name, value in zip(singles, rest[len(singles) :], strict=False)}
        products = {pair: _number(value) for pair, value in zip(pairs, rest[2 * len(singles) :], strict=True)}
        at = {name: centre.of(name, key[0]) for name in singles}
        found[key] = Group(
            units,
            {
                name: _moments(
                    counts[names[0]] if masked else units, names, counts, centre=at, sums=sums, products=products
                )
                for name, names in columns.items()
            },
        )
    return found


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
