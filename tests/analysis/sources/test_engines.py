"""The same figures from every engine; run where the engine is installed."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, analyze_table
from engine.analysis.stats.estimate import Effect
from engine.errors import BadInput

spark = pytest.mark.skipif(not find_spec("pyspark") or not shutil.which("java"), reason="needs pyspark and Java")
clickhouse = pytest.mark.skipif(not find_spec("chdb") or not find_spec("clickhouse_connect"), reason="needs chdb")
ENGINES = [pytest.param("spark", marks=spark), pytest.param("clickhouse", marks=clickhouse)]
METRICS = (
    "mean:revenue|pre_revenue",
    "proportion:converted",
    "ratio:orders/sessions|pre_revenue",
    "mean:patchy",
    "mean:offset",
    "quantile:revenue@0.9",
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(9)
    n = 20_000
    arm = rng.integers(0, 2, n)
    habit = rng.gamma(2.0, 8.0, n)
    table = {
        "user": rng.integers(0, 15_000, n),
        "arm": np.where(arm, "b", "a"),
        "pre_revenue": habit,
        "revenue": habit * 0.4 + rng.gamma(2.0, 6.0 + 0.4 * arm),
        "orders": rng.poisson(1.1, n),
        "sessions": 1 + rng.poisson(4.0, n),
        "converted": rng.random(n) < 0.6 + 0.02 * arm,
        "patchy": pa.array(rng.normal(3, 1, n), mask=rng.random(n) < 0.1),
        "offset": 1e8 + rng.normal(0, 1, n),
    }
    path = tmp_path_factory.mktemp("shop") / "shop.parquet"
    pq.write_table(pa.table(table), path)
    return str(path)


def figures(report: Report) -> list[float]:
    found = [float(count) for count in report.units.values()] + [float(report.quality.crossovers)]
    for metric in report.metrics:
        assert isinstance(metric.absolute, Effect), metric
        effect = metric.absolute
        found += [*metric.mean.values(), effect.estimate, effect.low, effect.high, effect.se, *metric.units.values()]
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("unit", [None, "user"])
def test_engines_agree_with_duckdb(shop: str, engine: str, unit: str | None) -> None:
    metrics = METRICS if unit is None else METRICS[:4]
    ours, theirs = (
        analyze_table(shop, variant="arm", control="a", unit=unit, metrics=metrics, method="fixed", engine=name)
        for name in ("duckdb", engine)
    )
    assert figures(theirs) == pytest.approx(figures(ours), rel=1e-9, abs=1e-9)
    assert theirs.quality.flags == ours.quality.flags


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("unit", [None, "user"])
def test_figures_of_units_and_missing_covariates_agree(shop: str, engine: str, unit: str | None) -> None:
    metrics = ("sum:revenue|patchy", "any:orders", "mean:revenue|patchy/sessions")
    ours, theirs = (
        analyze_table(shop, variant="arm", control="a", unit=unit, metrics=metrics, method="fixed", engine=name)
        for name in ("duckdb", engine)
    )
    # Sums of a covariate and of its indicator per user are nearly collinear: their slopes magnify rounding.
    assert figures(theirs) == pytest.approx(figures(ours), rel=1e-7, abs=1e-9)
    assert theirs.quality.flags == ours.quality.flags


@pytest.mark.parametrize("engine", ENGINES)
def test_offset_does_not_cost_digits_anywhere(tmp_path: Path, engine: str) -> None:
    y = 1e8 + np.random.default_rng(6).normal(0, 1, 1_000_000)
    arm = np.where(np.arange(1_000_000) % 2, "b", "a")
    path = str(tmp_path / "offset.parquet")
    pq.write_table(pa.table({"arm": arm, "y": y}), path)
    report = analyze_table(path, variant="arm", control="a", metrics=["mean:y"], method="fixed", engine=engine)
    effect = report.metrics[0].absolute
    assert isinstance(effect, Effect)
    parts = [y[::2] - 1e8, y[1::2] - 1e8]
    assert effect.se**2 == pytest.approx(sum(np.var(part, ddof=1) / len(part) for part in parts), rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, engine: str) -> None:
    with pytest.raises(BadInput, match="cannot be read") as error:
        analyze_table(str(tmp_path / "gone.parquet"), variant="a", control="b", metrics=["mean:y"], engine=engine)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_names_in_a_csv_keep_their_spelling_on_every_engine(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "it's a shop.csv"
    rows = "".join(f"{('1.0', '1.00')[at % 2]},{('01', '1', '1.0')[at % 3]}{at // 3},{at % 7}\n" for at in range(60))
    path.write_text("arm,the user,y\n" + rows)
    for unit in (None, "the user"):
        ours, theirs = (
            analyze_table(str(path), variant="arm", control="1.0", unit=unit, metrics=["mean:y"], engine=name)
            for name in ("duckdb", engine)
        )
        assert theirs.units == ours.units == {"1.0": 30, "1.00": 30}


def test_an_unknown_engine() -> None:
    with pytest.raises(BadInput, match="engine 'oracle' is unknown"):
        analyze_table("x.parquet", variant="a", control="b", metrics=["mean:y"], engine="oracle")
