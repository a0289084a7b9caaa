"""Quantiles of single rows (latencies, basket values), whose rows come in clusters: the unit is what was assigned.

Deng, Knoblich and Lu 2018, "Applying the Delta Method in Metric Analytics", section 4: the order statistics around
the quantile give its standard error for independent rows without estimating a density; the share of rows at or below
it, a ratio over units, gives by how much clustering inflates that variance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.design.metrics import Measure, Term
from engine.analysis.sources.aggregate import groups
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.estimate import NotEstimable
from engine.analysis.stats.inference import Arm, single
from engine.analysis.stats.moments import from_sample

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from numpy.typing import NDArray

    from engine.analysis.sources.engines import Engine
    from engine.analysis.stats.moments import Floats, Moments

    Ints = NDArray[np.intp]

Quantiles = dict[str, "Arm | NotEstimable"]
_Z = normal_quantile(0.975)
_SHARE = Measure("share", "ratio", Term("below", "rows"))


def quantile_arms(engine: Engine, rows: ir.Table, column: str, level: float, *, said: str) -> Quantiles:
    """Each variant's quantile and the variance of that, from `rows` with `variant`, `unit` and the value column.

    `said` is what people call the column.

    Rows without a value are left out. A null `unit` column type is not allowed; give each row its own unit if rows are
    independent.
    """
    kept = rows.filter(rows[column].notnull() & rows["variant"].notnull())
    kept = kept.select("variant", "unit", x=kept[column].cast("float64"))
    wild = (kept["x"].isnan() | kept["x"].isinf()).sum()  # an order among numbers says nothing of these
    first = kept.group_by("variant").aggregate(n=kept.count(), q=kept["x"].quantile(level), wild=wild)
    counts = {
        str(name): (int(n or 0), math.nan if unknown else float(q or 0.0)) for name, n, q, unknown in engine.rows(first)
    }
    found: Quantiles = {}
    usable = {}
    for name, (n, value) in counts.items():
        if not math.isfinite(value):
            found[name] = NotEstimable(f"{said} has values that are NaN or infinite", fault=True)
        elif few := _too_few(n, level, said):
            found[name] = few
        else:
            usable[name] = (n, value)
    if not usable:
        return found
    around = _order_statistics(engine, kept, usable, level)
    shares = _shares_below(engine, kept, level)
    for name, (n, value) in usable.items():
        found[name] = _arm(value, around[name], n, shares[name], level, said)
    return found


def sample_quantile(x: Floats, unit: Ints, level: float, *, said: str) -> Arm | NotEstimable:
    """One variant's quantile as `quantile_arms` has it, from its rows `x` (n,), rising, and their units (n,) from 0."""
    n = len(x)
    if few := _too_few(n, level, said):
        return few
    at = (n - 1) * level
    below, above = float(x[math.floor(at)]), float(x[math.ceil(at)])
    value = below + (at - math.floor(at)) * (above - below)
    low, high = (float(x[rank]) for rank in _ranks(n, level))
    rows = np.bincount(unit)
    own = rows > 0
    counts = np.column_stack([np.bincount(unit[: int(np.searchsorted(x, value, "right"))], minlength=rows.size), rows])
    return _arm(value, (low, high), n, from_sample(counts[own].astype(np.float64)), level, said)


def _too_few(n: int, level: float, said: str) -> NotEstimable | None:
    if n * min(level, 1 - level) >= 5:
        return None
    return NotEstimable(f"{n} rows of {said} are too few for the {level:g} quantile; its order statistics need more")


def _ranks(n: int, level: float) -> tuple[int, int]:
    """Positions of the outer rows 1.96 of the level's own standard errors below and above the quantile."""
    reach = _Z * math.sqrt(level * (1 - level) / n)
    return max(math.floor(n * (level - reach)) - 1, 0), min(math.ceil(n * (level + reach)), n - 1)


def _arm(
    value: float, around: tuple[float, float], n: int, share: Moments, level: float, said: str
) -> Arm | NotEstimable:
    """The quantile of `n` rows; `share` has the rows at or below it and the rows per unit."""
    if share.n < 2:
        return NotEstimable(f"all {n} rows of {said} are of one unit, a variance needs two")
    spread = (around[1] - around[0]) / (2 * _Z)
    if spread == 0:
        return NotEstimable(f"{n} rows of {said} are tied around the {level:g} quantile")
    clustered = single(share, _SHARE).variance / (level * (1 - level) / n)
    if clustered == 0:
        return NotEstimable(f"the {share.n} units of {said} have one share of rows below the {level:g} quantile each")
    return Arm(share.n, value, spread**2 * clustered)


def _order_statistics(
    engine: Engine, kept: ir.Table, usable: dict[str, tuple[int, float]], level: float
) -> dict[str, tuple[float, float]]:
    """The values at `_ranks`, per variant."""
    sizes: dict[int, list[str]] = {}
    for name, (n, _) in usable.items():
        sizes.setdefault(n, []).append(name)
    wanted = {}
    for index, (n, names) in enumerate(sizes.items()):
        for side, rank in zip(("low", "high"), _ranks(n, level), strict=True):
            wanted[f"{side}{index}"] = kept["x"].quantile(rank / (n - 1), where=kept["variant"].isin(names))
    at = {n: index for index, n in enumerate(sizes)}
    ends = {str(row[0]): row[1:] for row in engine.rows(kept.group_by("variant").aggregate(**wanted))}
    found = {}
    for name, (n, _) in usable.items():
        low, high = ends[name][2 * at[n] : 2 * at[n] + 2]
        found[name] = float(low or 0.0), float(high or 0.0)
    return found


def _shares_below(engine: Engine, kept: ir.Table, level: float) -> dict[str, Moments]:
    """Moments over each variant's units of their rows at or below its quantile, and of their rows."""
    own = kept.group_by("variant").aggregate(q=kept["x"].quantile(level))
    flagged = kept.inner_join(own, "variant")
    flagged = flagged.select("variant", "unit", below=(flagged["x"] <= flagged["q"]).cast("float64"))
    per_unit = flagged.group_by("variant", "unit").aggregate(below=flagged["below"].sum(), rows=flagged.count())
    found = groups(engine, per_unit, ("variant",), [_SHARE])
    return {str(variant): group.moments[_SHARE.name] for (variant,), group in found.items()}
