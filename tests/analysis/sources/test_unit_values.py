"""Units with several rows: `sum` and `any` are figures of units, equal to those of a table with one row per unit."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, aa_table, analyze_table
from engine.analysis.report.past_experiments import baseline_of_table
from engine.analysis.stats.estimate import Effect
from engine.errors import BadInput

RNG = np.random.default_rng(77)
UNITS = 600
ARM = RNG.integers(0, 2, UNITS)
ROWS = np.repeat(np.arange(UNITS), 1 + RNG.poisson(2 + ARM, UNITS))
REVENUE = np.where(RNG.random(ROWS.size) < 0.3, RNG.gamma(2.0, 10.0, ROWS.size), 0.0)
PRE = RNG.gamma(2.0, 10.0, UNITS)


def table(folder: Path, *, mask: Any = None, name: str = "rows.parquet") -> str:
    columns = {
        "user": ROWS,
        "arm": np.where(ARM[ROWS], "new", "control"),
        "revenue": pa.array(REVENUE, mask=mask),
        "pre": PRE[ROWS],
    }
    pq.write_table(pa.table(columns), folder / name)
    return str(folder / name)


def summed(folder: Path) -> str:
    """The table with one row per unit."""
    total = np.bincount(ROWS, REVENUE)
    columns = {"arm": np.where(ARM, "new", "control"), "total": total, "bought": total > 0, "pre": PRE}
    pq.write_table(pa.table(columns), folder / "units.parquet")
    return str(folder / "units.parquet")


def analyzed(path: str, *metrics: str, unit: str | None = "user", **options: Any) -> Report:
    given = {"method": "fixed"} | options
    return analyze_table(path, variant="arm", control="control", unit=unit, metrics=metrics, **given)


def figures(report: Report) -> list[float]:
    found: list[float] = []
    for row in report.metrics:
        assert isinstance(row.absolute, Effect), row
        effect = row.absolute
        found += [effect.estimate, effect.se, effect.low, effect.high, *row.mean.values(), *row.units.values()]
    return found


@pytest.mark.parametrize("covariate", ["", "|pre"])
def test_sum_and_any_are_figures_of_units(tmp_path: Path, covariate: str) -> None:
    rows = analyzed(table(tmp_path), f"sum:revenue{covariate}", f"any:revenue{covariate}")
    units = analyzed(summed(tmp_path), f"mean:total{covariate}", f"proportion:bought{covariate}", unit=None)
    assert figures(rows) == pytest.approx(figures(units), rel=1e-9, abs=1e-12)
    assert [row.metric for row in rows.metrics] == ["sum:revenue", "any:revenue"]
    assert [row.kind for row in rows.metrics] == ["mean", "proportion"]
    assert [row.bayes for row in rows.metrics][1] == pytest.approx([row.bayes for row in units.metrics][1])
    assert rows.quality.flags == []


def test_a_mean_of_repeated_rows_says_what_it_is(tmp_path: Path) -> None:
    path = table(tmp_path)
    plain, explicit = analyzed(path, "mean:revenue"), analyzed(path, "per-row mean:revenue")
    assert figures(plain) == figures(explicit)
    (flag,) = plain.quality.flags
    assert flag == (
        f"revenue: {ROWS.size} rows of {UNITS} units, so it is the mean per row; for sums per unit write sum:revenue, "
        "for the share of units with any any:revenue, to confirm per-row mean:revenue"
    )
    assert explicit.quality.flags == []
    together = analyzed(path, "mean:revenue", "sum:revenue", "any:revenue")
    assert [row.metric for row in together.metrics] == ["revenue", "sum:revenue", "any:revenue"]
    assert figures(together)[:8] == pytest.approx(figures(plain), rel=1e-12)


def test_less_may_be_better_and_segments_and_strata_apply(tmp_path: Path) -> None:
    path = table(tmp_path)
    report = analyzed(path, "-any:revenue", segment="arm")
    assert report.metrics[0].direction == "decrease"
    assert report.segments


def test_without_a_unit_a_row_is_one(tmp_path: Path) -> None:
    report = analyzed(table(tmp_path), "sum:revenue", "any:revenue", unit=None)
    assert report.metrics[1].mean["new"] == pytest.approx((REVENUE[ARM[ROWS] == 1] > 0).mean())
    assert sum(report.units.values()) == ROWS.size


def test_rows_without_a_value_add_nothing_and_units_without_any_are_left_out(tmp_path: Path) -> None:
    lacking = (ROWS < 10) | (RNG.random(ROWS.size) < 0.1)
    report = analyzed(table(tmp_path, mask=lacking), "sum:revenue", "any:revenue")
    valued = np.bincount(ROWS, ~lacking) > 0
    total = np.bincount(ROWS, np.where(lacking, 0.0, REVENUE))
    assert report.metrics[0].mean["new"] == pytest.approx(total[valued & (ARM == 1)].mean())
    assert report.metrics[1].mean["new"] == pytest.approx((total[valued & (ARM == 1)] > 0).mean())
    assert f"sum:revenue: {(~valued).sum()} units lack a value and are left out" in report.quality.flags


def test_checks_and_baselines_take_them_too(tmp_path: Path) -> None:
    path, total = table(tmp_path), np.bincount(ROWS, REVENUE)
    checks = aa_table(path, metrics=["sum:revenue", "any:revenue"], unit="user", runs=200)
    assert [check.units for check in checks] == [UNITS, UNITS]
    assert baseline_of_table(path, "sum:revenue", unit="user").value == pytest.approx(total.mean())
    assert baseline_of_table(path, "any:revenue", unit="user").value == pytest.approx((total > 0).mean())


def test_what_they_cannot_be_is_refused(tmp_path: Path) -> None:
    for spec in ("sum:revenue/pre", "any:", "sum", "total:revenue", "per-row:revenue"):
        with pytest.raises(BadInput, match="metric"):
            analyzed(table(tmp_path), spec)
    with pytest.raises(BadInput, match="any:COL is computed from the rows"):
        analyzed(str(tmp_path), "any:revenue", unit=None, partials=str(tmp_path / "parts"))
