"""Rows of one unit are taken together: exact digits at any offset, and nothing else where each unit has one row."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, analyze_table
from engine.analysis.report.aa import aa_table
from engine.analysis.report.past_experiments import baseline_of_table
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

RNG = np.random.default_rng(31)
UNITS = 600
SIZES = RNG.integers(1, 6, UNITS)
OF = np.repeat(np.arange(UNITS), SIZES)
VARIANT = RNG.integers(0, 2, UNITS)[OF]
X = RNG.normal(0, 1, UNITS)[OF] + RNG.normal(0, 1, OF.size)


def saved(folder: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def analyzed(path: str, *metrics: str, **more: Any) -> Report:
    given: dict[str, Any] = {"variant": "v", "control": "0", "method": "fixed", "unit": "u"} | more
    return analyze_table(path, metrics=metrics, **given)


def cluster_robust(x: np.ndarray) -> float:
    """The standard error of the difference from each unit's sum of residuals."""
    variance = 0.0
    for side in (0, 1):
        own = side == VARIANT
        units = np.unique(OF[own])
        residuals = np.bincount(OF[own], weights=x[own] - x[own].mean())[units]
        variance += residuals @ residuals * units.size / (units.size - 1) / own.sum() ** 2
    return float(np.sqrt(variance))


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e8])
def test_an_offset_costs_no_digits(tmp_path: Path, offset: float) -> None:
    path = saved(tmp_path, u=OF, v=VARIANT, x=X + offset, pre=X * 0.5 + offset)
    effect = analyzed(path, "mean:x").metrics[0].absolute
    assert isinstance(effect, Effect)
    assert effect.se == pytest.approx(cluster_robust((X + offset) - offset), rel=1e-6)
    assert effect.estimate == pytest.approx(X[VARIANT == 1].mean() - X[VARIANT == 0].mean(), abs=3e-16 * offset + 1e-9)
    assert isinstance(analyzed(path, "mean:x", covariates=["pre"]).metrics[0].absolute, NotEstimable)
    assert baseline_of_table(path, "mean:x", unit="u").value == pytest.approx(offset + X.mean(), rel=1e-12, abs=1e-12)
    assert aa_table(path, metrics=["mean:x"], unit="u", runs=200)[0].units == UNITS


def test_units_of_one_row_are_rows(tmp_path: Path) -> None:
    """Fisher's test and the beta posterior of small counts, slopes and figures: all as without a unit."""
    n = 60
    y = RNG.normal(20, 5, n)
    columns = {"u": np.arange(n), "v": np.arange(n) % 2, "y": y, "pre": y + RNG.normal(0, 3, n), "d": y * y}
    path = saved(tmp_path, **columns, c=(np.arange(n) % 7 == 1).astype(int))
    metrics = ["mean:y|pre", "proportion:c", "ratio:y/d"]
    alone, named = analyzed(path, *metrics, unit=None), analyzed(path, *metrics)
    for one, other in zip(alone.metrics, named.metrics, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-9, abs=1e-12)
        assert (one.covariates, one.interpretation) == (other.covariates, other.interpretation)
    assert named.metrics[1].bayes.model == "beta-binomial"  # type: ignore[union-attr] # it has one
    assert named.quality.flags == []


def numbers(row: Any) -> list[float]:
    parts = [msgspec.to_builtins(part) for part in (row.absolute, row.relative, row.bayes)]
    return [value for part in parts for value in part.values() if isinstance(value, float)]


def test_covariates_are_called_as_they_were_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, u=OF, v=VARIANT, x=X, pre=RNG.normal(size=X.size), d=SIZES[OF])
    report = analyzed(path, "mean:x", "ratio:x/d", covariates=["pre"])
    assert [row.covariates for row in report.metrics] == [["pre"], ["pre"]]


def test_a_proportion_of_other_values_is_none(tmp_path: Path) -> None:
    report = analyzed(saved(tmp_path, u=OF, v=VARIANT, x=X), "proportion:x")
    assert report.metrics[0].absolute == NotEstimable("x has values other than 0 and 1; ask for its mean", fault=True)
    assert report.recommendation.verdict == "fix the data"


def test_rows_without_a_unit_are_told(tmp_path: Path) -> None:
    owners = pa.array([None if at % 10 == 0 else int(of) for at, of in enumerate(OF)], pa.int64())
    report = analyzed(saved(tmp_path, u=owners, v=VARIANT, x=X), "mean:x", "quantile:x@0.5")
    assert f"{owners.null_count} rows without a u are left out" in report.quality.flags
    with pytest.raises(BadInput, match="column 'u' has no value; name the column of the unit, or leave --unit out"):
        analyzed(saved(tmp_path, u=pa.nulls(OF.size, pa.int64()), v=VARIANT, x=X), "mean:x")


def test_a_row_with_half_a_ratio_counts_in_neither_half(tmp_path: Path) -> None:
    """As if the row were not there, for every ratio by itself: another one of the same denominator keeps it."""
    gap = RNG.random((3, OF.size)) < 0.1
    a, b, den = RNG.normal(5, 2, OF.size), RNG.normal(2, 1, OF.size), RNG.integers(1, 9, OF.size).astype(float)
    pre = RNG.normal(3, 1, OF.size)
    arrays = {"a": pa.array(a, mask=gap[0]), "b": pa.array(b, mask=gap[1]), "den": pa.array(den, mask=gap[2])}
    path = saved(tmp_path, u=OF, v=VARIANT, pre=pre, **arrays)
    report = analyzed(path, "ratio:a/den|pre/den", "ratio:b/den", "mean:a")
    for at, num, rows in ((0, a, ~gap[0] & ~gap[2]), (1, b, ~gap[1] & ~gap[2])):
        metric = ("ratio:x/d|x0/d0", "ratio:x/d")[at]
        own = ~gap[2]
        beside = {"x0": pa.array(pre, mask=~own), "d0": pa.array(den, mask=~own)}
        whole = {"x": pa.array(num, mask=~rows), "d": pa.array(den, mask=~rows)}
        cut = analyzed(saved(tmp_path, u=OF, v=VARIANT, **whole, **beside), metric)
        assert numbers(cut.metrics[0]) == pytest.approx(numbers(report.metrics[at]), rel=1e-10)
        assert not any("lack one" in flag for flag in cut.quality.flags)
    missing = {"a/den": gap[0] != gap[2], "b/den": gap[1] != gap[2]}
    assert [flag for flag in report.quality.flags if "lack one" in flag] == [
        f"{name}: {rows.sum()} rows lack one of the two and are left out; write 0 where none is meant"
        for name, rows in missing.items()
    ]
    assert any("rows lack the covariate pre/den; they count" in flag for flag in report.quality.flags)
    path = saved(tmp_path, u=OF, v=VARIANT, **arrays)
    sums = {name: np.bincount(OF, np.where(gap[0] | gap[2], 0.0, x)) for name, x in (("a", a), ("den", den))}
    assert baseline_of_table(path, "ratio:a/den", unit="u").value == pytest.approx(sums["a"].sum() / sums["den"].sum())


def test_units_of_one_row_are_rows_where_some_lack_a_value(tmp_path: Path) -> None:
    n = 300
    share = pa.array(RNG.random(n) < 0.4, mask=RNG.random(n) < 0.3)
    path = saved(
        tmp_path, u=np.arange(n), v=np.arange(n) % 2, y=pa.array(RNG.normal(9, 1, n), mask=np.arange(n) < 20), c=share
    )
    alone, named = analyzed(path, "proportion:c", "mean:y", unit=None), analyzed(path, "proportion:c", "mean:y")
    for one, other in zip(alone.metrics, named.metrics, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-9, abs=1e-12)
    assert named.metrics[0].bayes.model == "beta-binomial"  # type: ignore[union-attr] # it has one
    assert named.quality.flags == alone.quality.flags


def test_a_variant_without_any_success_has_no_posterior(tmp_path: Path) -> None:
    """What is left of its sums by rounding is no variance, and no share of control."""
    won = np.where(VARIANT == 1, 0.0, (X > 0.3).astype(float))
    rare = np.where(RNG.random(OF.size) < 0.03, won, 0.0)
    row = analyzed(saved(tmp_path, u=OF, v=VARIANT, y=won), "proportion:y").metrics[0]
    assert row.mean["1"] == 0
    assert row.bayes == NotEstimable("every value of the variant is zero, so the relative effect has no standard error")
    assert isinstance(row.absolute, Effect)
    # The variant's zero is no exact knowledge: it has the variance of both per unit, not none.
    assert 1.1 * cluster_robust(won) < row.absolute.se < 3 * cluster_robust(won)
    few = analyzed(saved(tmp_path, u=OF, v=VARIANT, y=rare), "proportion:y").metrics[0]
    assert few.mean["1"] == 0
    assert isinstance(few.absolute, NotEstimable)
    assert few.absolute.not_estimable.startswith("too few outcomes: 290 units in 0 make about")


def test_units_that_a_quantile_halves_alike_give_it_no_error(tmp_path: Path) -> None:
    """Of two units with two and eight rows each has half below the median: their shares do not vary."""
    units = np.array([1, 1, *[4] * 8, *range(10, 40)])
    halved = [0.2, 1.9, 0.5, 0.9, 0.91, 1.2, 1.3, 1.4, 1.41, 1.6]
    path = saved(tmp_path, u=units, v=(units > 5).astype(int), y=[*halved, *RNG.normal(size=30)])
    assert analyzed(path, "quantile:y@0.5").metrics[0].absolute == NotEstimable(
        "the 2 units of y have equal shares of rows below the 0.5 quantile"
    )
