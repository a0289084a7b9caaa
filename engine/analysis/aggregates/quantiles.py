"""Quantiles over rows (latencies, basket values) that are clustered by the unit of assignment.

Deng, Knoblich and Lu 2018, "Applying the Delta Method in Metric Analytics", section 4: the order statistics around
the quantile give its standard error for independent rows without estimating a density; the share of rows at or below
it, a ratio over units, gives the factor by which clustering inflates that variance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.analysis.aggregates.aggregate import aggregate_groups
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.estimate import NotEstimable
from engine.analysis.stats.inference import Arm, estimate_arm
from engine.analysis.stats.moments import sample_moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    import ibis.expr.types as ir
    from numpy.typing import NDArray

    from engine.analysis.sources.engines import Engine
    from engine.analysis.stats.moments import Floats, Moments

Quantiles = dict[str, "Arm | NotEstimable"]
"""Each variant's quantile with its variance, or the reason why it has none."""
_Z = normal_quantile(0.975)
_SHARE = Measure("share", "ratio", Term("below", "rows"))
FEWEST_BEYOND = 5  # rows on the shorter side of the quantile; with fewer the order statistics run out of rows


class _Sample(NamedTuple):
    """The number of a variant's rows, and their quantile."""

    rows: int
    value: float


def estimate_quantiles(engine: Engine, rows: ir.Table, column: str, level: float, *, label: str) -> Quantiles:
    """Each variant's quantile at `level`, and its variance.

    Args:
        engine: where `rows` are read.
        rows: a table with `variant`, `unit` and the value column. Rows without a value are excluded. The
            `unit` is not null; independent rows have a unit each.
        column: the value column.
        level: between 0 and 1.
        label: the column's name in the reasons of `NotEstimable`.
    """
    valued = rows.filter(rows[column].notnull() & rows["variant"].notnull())
    valued = valued.select("variant", "unit", x=valued[column].cast("float64"))
    not_finite = (valued["x"].isnan() | valued["x"].isinf()).sum()  # NaN has no rank
    sizes = valued.group_by("variant").aggregate(n=valued.count(), q=valued["x"].quantile(level), not_finite=not_finite)
    results: Quantiles = {}
    samples: dict[str, _Sample] = {}
    for variant, n, quantile, not_finite_rows in engine.rows(sizes):
        name, sample = str(variant), _Sample(int(n or 0), float(quantile or 0.0))
        if not_finite_rows or not math.isfinite(sample.value):
            results[name] = NotEstimable(f"{label} has values that are NaN or infinite", fault=True)
        elif refusal := _refuse_few_rows(sample.rows, level, label):
            results[name] = refusal
        else:
            samples[name] = sample
    if not samples:
        return results
    around = _read_order_statistics(engine, valued, samples, level)
    shares = _read_shares_below(engine, valued, level)
    for name, sample in samples.items():
        results[name] = _estimate_arm(sample, around[name], shares[name], level, label)
    return results


def sample_quantile(x: Floats, unit: NDArray[np.intp], level: float, *, label: str) -> Arm | NotEstimable:
    """The quantile of one variant's rows in memory, equal to `estimate_quantiles` for the same rows.

    Args:
        x: values (n,) in rising order.
        unit: the unit (n,) of each row, integers from 0.
        level: between 0 and 1.
        label: the name of the values in a reason.
    """
    n = len(x)
    if refusal := _refuse_few_rows(n, level, label):
        return refusal
    at = (n - 1) * level
    below, above = float(x[math.floor(at)]), float(x[math.ceil(at)])
    value = below + (at - math.floor(at)) * (above - below)
    low, high = (float(x[rank]) for rank in _outer_ranks(n, level))
    rows = np.bincount(unit)
    present = rows > 0
    counts = np.column_stack([np.bincount(unit[: int(np.searchsorted(x, value, "right"))], minlength=rows.size), rows])
    share = sample_moments(counts[present].astype(np.float64))
    return _estimate_arm(_Sample(n, value), (low, high), share, level, label)


def _refuse_few_rows(n: int, level: float, label: str) -> NotEstimable | None:
    if n * min(level, 1 - level) >= FEWEST_BEYOND:
        return None
    return NotEstimable(
        f"{n} rows of {label} are too few for the {level:g} quantile; a side of it has fewer than {FEWEST_BEYOND}"
    )


def _outer_ranks(n: int, level: float) -> tuple[int, int]:
    """Ranks, from 0, of the rows 1.96 binomial standard errors of the level below and above the quantile."""
    reach = _Z * math.sqrt(level * (1 - level) / n)
    return max(math.floor(n * (level - reach)) - 1, 0), min(math.ceil(n * (level + reach)), n - 1)


def _estimate_arm(
    sample: _Sample, around: tuple[float, float], share: Moments, level: float, label: str
) -> Arm | NotEstimable:
    """The quantile with its variance.

    Args:
        sample: the rows and their quantile.
        around: the values at `_outer_ranks`.
        share: moments over units of their rows at or below the quantile and of their rows.
        level: between 0 and 1.
        label: the name of the values in a reason.
    """
    n = sample.rows
    if share.n < 2:
        return NotEstimable(f"all {n} rows of {label} are of one unit, a variance needs two")
    spread = (around[1] - around[0]) / (2 * _Z)
    if spread == 0:
        return NotEstimable(
            f"{n} rows of {label} are tied around the {level:g} quantile",
            remedy="Another level, at which values differ, or the mean would change this.",
        )
    inflation = estimate_arm(share, _SHARE).variance / (level * (1 - level) / n)
    if inflation == 0:
        return NotEstimable(f"the {share.n} units of {label} have equal shares of rows below the {level:g} quantile")
    return Arm(share.n, sample.value, spread**2 * inflation)


def _read_order_statistics(
    engine: Engine, valued: ir.Table, samples: Mapping[str, _Sample], level: float
) -> dict[str, tuple[float, float]]:
    """The values at `_outer_ranks` by variant, in one query; variants with equal numbers of rows share its columns."""
    by_size: dict[int, list[str]] = {}
    for name, sample in samples.items():
        by_size.setdefault(sample.rows, []).append(name)
    columns = {}
    for index, (n, names) in enumerate(by_size.items()):
        for side, rank in zip(("low", "high"), _outer_ranks(n, level), strict=True):
            columns[f"{side}{index}"] = valued["x"].quantile(rank / (n - 1), where=valued["variant"].isin(names))
    index_of = {n: index for index, n in enumerate(by_size)}
    values = {str(row[0]): row[1:] for row in engine.rows(valued.group_by("variant").aggregate(**columns))}
    ends = {}
    for name, sample in samples.items():
        at = 2 * index_of[sample.rows]
        low, high = values[name][at : at + 2]
        ends[name] = float(low or 0.0), float(high or 0.0)
    return ends


def _read_shares_below(engine: Engine, valued: ir.Table, level: float) -> dict[str, Moments]:
    """Moments over each variant's units of their rows at or below its quantile, and of their rows."""
    quantiles = valued.group_by("variant").aggregate(q=valued["x"].quantile(level))
    flagged = valued.inner_join(quantiles, "variant")
    flagged = flagged.select("variant", "unit", below=(flagged["x"] <= flagged["q"]).cast("float64"))
    per_unit = flagged.group_by("variant", "unit").aggregate(below=flagged["below"].sum(), rows=flagged.count())
    by_variant = aggregate_groups(engine, per_unit, ("variant",), [_SHARE])
    return {str(variant): group.moments[_SHARE.name] for (variant,), group in by_variant.items()}
