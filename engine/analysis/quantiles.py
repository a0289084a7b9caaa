"""Quantiles of single rows (latencies, basket values), whose rows come in clusters: the unit is what was assigned.

Deng, Knoblich and Lu 2018, "Applying the Delta Method in Metric Analytics", section 4: the order statistics around
the quantile give its standard error for independent rows without estimating a density; the share of rows at or below
it, a ratio over units, gives by how much clustering inflates that variance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.analysis.aggregate import groups
from engine.analysis.distributions import normal_quantile
from engine.analysis.estimate import NotEstimable
from engine.analysis.inference import Arm, single
from engine.analysis.metrics import Measure, Term

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from engine.analysis.sources import Engine

Quantiles = dict[str, "Arm | NotEstimable"]
_Z = normal_quantile(0.975)


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
        elif n * min(level, 1 - level) < 5:
            found[name] = NotEstimable(
                f"{n} rows of {said} are too few for the {level:g} quantile; its order statistics need more"
            )
        else:
            usable[name] = (n, value)
    if not usable:
        return found
    around = _order_statistics(engine, kept, usable, level)
    inflation = _inflation(engine, kept, usable, level)
    for name, (n, value) in usable.items():
        units, factor = inflation[name]
        se = (around[name][1] - around[name][0]) / (2 * _Z) * math.sqrt(factor)
        tied = NotEstimable(f"{n} rows of {said} are tied around the {level:g} quantile")
        found[name] = Arm(units, value, se * se) if se > 0 else tied
    return found


def _order_statistics(
    engine: Engine, kept: ir.Table, usable: dict[str, tuple[int, float]], level: float
) -> dict[str, tuple[float, float]]:
    """The outer values 1.96 of the level's own standard errors below and above the quantile, per variant."""
    sizes: dict[int, list[str]] = {}
    for name, (n, _) in usable.items():
        sizes.setdefault(n, []).append(name)
    wanted = {}
    for index, (n, names) in enumerate(sizes.items()):
        reach = _Z * math.sqrt(level * (1 - level) / n)
        ranks = max(math.floor(n * (level - reach)) - 1, 0), min(math.ceil(n * (level + reach)), n - 1)
        for side, rank in zip(("low", "high"), ranks, strict=True):
            wanted[f"{side}{index}"] = kept["x"].quantile(rank / (n - 1), where=kept["variant"].isin(names))
    at = {n: index for index, n in enumerate(sizes)}
    ends = {str(row[0]): row[1:] for row in engine.rows(kept.group_by("variant").aggregate(**wanted))}
    found = {}
    for name, (n, _) in usable.items():
        low, high = ends[name][2 * at[n] : 2 * at[n] + 2]
        found[name] = float(low or 0.0), float(high or 0.0)
    return found


def _inflation(
    engine: Engine, kept: ir.Table, usable: dict[str, tuple[int, float]], level: float
) -> dict[str, tuple[int, float]]:
    """Units per variant, and the clustered over the independent variance of the share at or below the quantile."""
    own = kept.group_by("variant").aggregate(q=kept["x"].quantile(level))
    flagged = kept.inner_join(own, "variant")
    flagged = flagged.select("variant", "unit", below=(flagged["x"] <= flagged["q"]).cast("float64"))
    per_unit = flagged.group_by("variant", "unit").aggregate(below=flagged["below"].sum(), rows=flagged.count())
    share = Measure("share", "ratio", Term("below", "rows"))
    per_variant = groups(engine, per_unit, ("variant",), [share])
    result = {}
    for name, (n, _) in usable.items():
        moments = per_variant[(name,)].moments["share"]
        arm = single(moments, share) if moments.n > 1 else None
        clustered = arm.variance if arm else math.nan
        result[name] = (moments.n, clustered / (level * (1 - level) / n))
    return result
