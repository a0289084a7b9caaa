"""A unit without a covariate counts: the effect is that of all units, adjusted by an indicator of missing values."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, aa_table, analyze_table
from engine.analysis.report.past_experiments import baseline_of_table
from engine.analysis.stats.estimate import Effect

RNG = np.random.default_rng(12)
N = 8_000
ARM = RNG.integers(0, 2, N)
NEW = RNG.random(N) < 0.5  # without a history, and the only ones on whom the variant has an effect
PRE = RNG.gamma(2.0, 10.0, N)
VISITS = 1.0 + RNG.poisson(3.0, N)
Y = np.where(NEW, 5.0, PRE) + RNG.normal(0, 3, N) + 3.0 * (ARM * NEW)


def saved(folder: Path, *, rows: slice = slice(None), name: str = "shop.parquet", **more: Any) -> Path:
    columns = {"arm": np.where(ARM, "new", "control"), "user": np.arange(N), "y": Y, "visits": VISITS}
    columns |= {name: np.asarray(cells) for name, cells in more.items()}
    table = {name: cells[rows] for name, cells in columns.items()}
    table |= {"pre": pa.array(PRE[rows], mask=NEW[rows])}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), folder / name)
    return folder / name


def analyzed(path: Path, metric: str = "mean:y|pre", **options: Any) -> Report:
    return analyze_table(
        str(path), variant="arm", control="control", metrics=[metric], **({"method": "fixed"} | options)
    )


def effect(report: Report) -> Effect:
    (found,) = (row.absolute for row in report.metrics)
    assert isinstance(found, Effect)
    return found


def by_hand() -> tuple[float, float]:
    """CUPED on the imputed covariate and the indicator, by least squares over both arms."""
    covariates = np.column_stack([np.where(NEW, PRE[~NEW].mean(), PRE), NEW])
    centred = covariates - covariates.mean(axis=0)
    theta = np.linalg.lstsq(centred, Y - Y.mean(), rcond=None)[0]
    one, other = (Y - centred @ theta)[ARM == 1], (Y - centred @ theta)[ARM == 0]
    return float(one.mean() - other.mean()), float(
        np.sqrt(np.var(one, ddof=1) / one.size + np.var(other, ddof=1) / other.size)
    )


def test_a_unit_without_a_covariate_counts(tmp_path: Path) -> None:
    report = analyzed(saved(tmp_path))
    found = effect(report)
    estimate, se = by_hand()
    assert (found.estimate, found.se) == pytest.approx((estimate, se), rel=1e-9)
    assert abs(found.estimate - 1.5) < 4 * found.se
    assert found.se < 0.75 * effect(analyzed(saved(tmp_path), "mean:y")).se
    assert report.metrics[0].units == report.units
    assert report.metrics[0].covariates == ["pre"]
    assert report.quality.flags == [
        f"y: {NEW.sum()} units lack the covariate pre; they count with its mean and an indicator"
    ]


@pytest.mark.parametrize("options", [{"unit": "user"}, {"adjust": "lin"}, {"engine": "duckdb", "unit": "user"}])
def test_however_it_is_asked_for_the_effect_is_that_of_all(tmp_path: Path, options: dict[str, Any]) -> None:
    found = effect(analyzed(saved(tmp_path), **options))
    assert abs(found.estimate - 1.5) < 4 * found.se
    if "unit" in options:
        assert (found.estimate, found.se) == pytest.approx(by_hand(), rel=1e-9)


def test_partial_statistics_impute_too(tmp_path: Path) -> None:
    whole = analyzed(saved(tmp_path))
    for day, (start, end) in enumerate(((0, 3_000), (3_000, 3_001), (3_001, N))):
        saved(tmp_path / "days", rows=slice(start, end), name=f"{day}.parquet")
        report = analyzed(tmp_path / "days", partials=str(tmp_path / "store"))
    assert (effect(report).estimate, effect(report).se) == pytest.approx(by_hand(), rel=1e-9)
    assert report.quality.flags == whole.quality.flags


def test_rows_of_one_unit_and_ratios_are_imputed(tmp_path: Path) -> None:
    path = saved(tmp_path, user=np.arange(N) // 2 * 2, arm=np.where(np.repeat(ARM[::2], 2), "new", "control"))
    report = analyzed(path, "mean:y|pre,pre/visits", unit="user")
    assert report.metrics[0].units == report.units
    assert report.quality.flags[:2] == [
        f"y: {NEW.sum()} rows lack the covariate pre; they count with its mean and an indicator",
        f"y: {NEW.sum()} rows lack the covariate pre/visits; they count with its mean and an indicator",
    ]


def test_a_covariate_that_one_variant_lacks_is_flagged(tmp_path: Path) -> None:
    path = tmp_path / "shop.parquet"
    after = pa.array(PRE, mask=NEW & (ARM == 1))
    pq.write_table(pa.table({"arm": np.where(ARM, "new", "control"), "y": Y, "pre": after}), path)
    assert "y: pre is missing more often in one variant; is it from after the exposure?" in analyzed(path).quality.flags


def test_checks_and_baselines_impute_too(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (check,) = aa_table(str(path), metrics=["mean:y|pre"], runs=200)
    assert (check.units, check.ok) == (N, True)
    assert baseline_of_table(str(path), "mean:y|pre").value == pytest.approx(Y.mean())
