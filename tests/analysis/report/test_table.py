"""Anyone's table: what it may hold, and the one clear line when it cannot answer."""

from collections.abc import Callable
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from engine.analysis import Report, analyze_table
from engine.analysis.render.terminal import notes, render
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(kind: str = "parquet", **columns: Any) -> str:
        path = tmp_path / f"shop.{kind}"
        table = pa.table(columns)
        if kind == "csv":
            pc.write_csv(table, path)
        else:
            pq.write_table(table, path)
        return str(path)

    return write


def analyzed(path: str, *metrics: str, **more: Any) -> Report:
    given: dict[str, Any] = {"variant": "variant", "control": "a", "method": "fixed"} | more
    return analyze_table(path, metrics=metrics or ("mean:y",), **given)


def reason(report: Report) -> str:
    absolute = report.metrics[0].absolute
    assert isinstance(absolute, NotEstimable)
    return absolute.not_estimable


AB = ["a", "b"] * 50
Y = np.random.default_rng(2).normal(5, 1, 100)


def test_csv_and_parquet_say_the_same(save: Save) -> None:
    both = [analyzed(save(kind, variant=AB, y=Y)).metrics for kind in ("csv", "parquet")]
    assert both[0] == both[1]


def test_a_missing_column_names_those_there_are(save: Save) -> None:
    path = save(variant=AB, y=Y)
    with pytest.raises(BadInput, match="has no column 'revenue'; it has variant, y"):
        analyzed(path, "mean:revenue")
    with pytest.raises(BadInput, match="has no column 'arm'"):
        analyzed(path, variant="arm")


def test_text_among_numbers_is_shown(save: Save) -> None:
    path = save("csv", variant=AB, y=[*["1.5"] * 99, "n/a"])
    with pytest.raises(BadInput, match="column 'y' contains text, for example 'n/a'; a metric needs numbers"):
        analyzed(path)


def test_a_decimal_that_duckdb_reads_wrong_is_no_number(save: Save) -> None:
    wide = pa.array([Decimal(at) / 4 for at in range(100)], pa.decimal256(40, 2))
    path = save(variant=AB, y=Y, wide=wide)
    with pytest.raises(
        BadInput, match=r"'wide' contains values of type decimal\(40, 2\); .* numbers, of 38 digits at most"
    ):
        analyzed(path, "mean:wide")
    assert isinstance(analyzed(path, "mean:y", "quantile:y@0.5").metrics[1].absolute, Effect)
    right = save(variant=AB, y=wide.cast(pa.decimal256(76, 38)))
    assert analyzed(right).metrics[0].mean == {"a": pytest.approx(12.25), "b": pytest.approx(12.5)}


def test_a_folder_called_like_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "week [1] *"
    folder.mkdir()
    pq.write_table(pa.table({"variant": AB, "y": Y}), folder / "it's [2].parquet")
    assert analyzed(str(folder)).units == {"a": 50, "b": 50}


def test_one_variant_and_unknown_control(save: Save) -> None:
    with pytest.raises(BadInput, match="has one variant only, 'a'"):
        analyzed(save(variant=["a"] * 100, y=Y))
    with pytest.raises(BadInput, match="no row has variant = 'z', the control; the variants are a, b"):
        analyzed(save(variant=AB, y=Y), control="z")


def test_zero_variance_is_not_estimable(save: Save) -> None:
    assert reason(analyzed(save(variant=AB, y=[0.1] * 100))) == "y does not vary in either variant"
    one_sided = analyzed(save(variant=AB, y=[3.0, 4.0] * 49 + [3.0, 5.0])).metrics[0]
    assert isinstance(one_sided.absolute, Effect)


def test_three_rows(save: Save) -> None:
    said = reason(analyzed(save(variant=["a", "a", "b"], y=[1.0, 2.0, 4.0])))
    assert said == "the variant has 1 unit with a value, a variance needs two"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_invent_nothing(save: Save, value: float) -> None:
    report = analyzed(save(variant=AB, y=[*Y[:99], value], z=Y), "mean:y", "mean:z")
    assert reason(report) == "y has values that are NaN or infinite"
    assert isinstance(report.metrics[1].absolute, Effect)


def test_missing_values_are_left_out_and_counted(save: Save) -> None:
    values: list[float | None] = [None if i % 10 == 0 else float(v) for i, v in enumerate(Y)]
    report = analyzed(save(variant=AB, y=values, z=Y), "mean:y", "mean:z")
    assert report.metrics[0].units == {"a": 40, "b": 50}
    assert report.metrics[1].units == {"a": 50, "b": 50}
    assert "y: 10 units lack a value and are left out" in report.quality.flags
    known = np.array([v for v in values[::2] if v is not None])
    assert report.metrics[0].mean["a"] == pytest.approx(known.mean())


def test_rows_without_a_variant_are_left_out(save: Save) -> None:
    report = analyzed(save(variant=[*AB[:98], None, None], y=Y))
    assert report.units == {"a": 49, "b": 49}
    assert "2 units without a variant are left out" in report.quality.flags


def test_duplicated_units_are_taken_together(save: Save) -> None:
    units = [f"u{i % 20}" for i in range(100)]
    report = analyzed(save(variant=[("a", "b")[i % 20 % 2] for i in range(100)], unit=units, y=Y), unit="unit")
    assert report.units == {"a": 10, "b": 10}
    assert (
        "y: 100 rows of 20 units, so it is the mean per row; for sums per unit write sum:y, "
        "for the share of units with any any:y, to confirm per-row mean:y"
    ) in report.quality.flags
    exact = analyzed(save(variant=AB, unit=list(range(100)), y=Y), unit="unit")
    rowwise = analyzed(save(variant=AB, y=Y))
    one, other = exact.metrics[0].absolute, rowwise.metrics[0].absolute
    assert isinstance(one, Effect)
    assert isinstance(other, Effect)
    assert one.se == pytest.approx(other.se, rel=1e-12)


def test_units_in_two_variants_are_crossovers(save: Save) -> None:
    units = [*range(98), 0, 0]
    report = analyzed(save(variant=AB, unit=units, y=Y), unit="unit")
    assert report.quality.crossovers == 1
    assert sum(report.units.values()) == 97


def test_two_hundred_variants(save: Save) -> None:
    rng = np.random.default_rng(4)
    variants = [f"v{i % 200:03}" for i in range(20_000)]
    report = analyzed(save(variant=variants, y=rng.normal(10, 1, 20_000)), control="v000")
    assert len(report.metrics) == 199
    assert all(isinstance(metric.absolute, Effect) for metric in report.metrics)
    assert report.recommendation.verdict == "keep running"
    assert sum(m.chance_best or 0.0 for m in report.metrics) < 1


def test_a_proportion_must_be_one(save: Save) -> None:
    assert (
        reason(analyzed(save(variant=AB, y=Y), "proportion:y")) == "y has values other than 0 and 1; ask for its mean"
    )


def test_a_ratio_without_denominator_mass(save: Save) -> None:
    report = analyzed(save(variant=AB, y=Y, d=[0.0] * 100), "ratio:y/d")
    assert reason(report) == "the denominator of y/d is zero"


def test_a_covariate_that_says_it_all(save: Save) -> None:
    constant = analyzed(save(variant=AB, y=Y, x=[2.0] * 100), "mean:y|x").metrics[0]
    plain = analyzed(save(variant=AB, y=Y)).metrics[0]
    assert isinstance(constant.absolute, Effect)
    assert isinstance(plain.absolute, Effect)
    assert constant.absolute.se == pytest.approx(plain.absolute.se)
    twice = analyzed(save(variant=AB, y=Y, x=Y + np.arange(100), z=Y + np.arange(100)), "mean:y|x,z").metrics[0]
    assert isinstance(twice.absolute, Effect)


@pytest.mark.parametrize(
    "spec", ["revenue", "total:y", "mean:y/d", "ratio:y", "quantile:y", "quantile:y@2", "mean:", "quantile:y@0.0.1"]
)
def test_a_metric_that_is_none(save: Save, spec: str) -> None:
    with pytest.raises(BadInput, match="metric"):
        analyzed(save(variant=AB, y=Y), spec)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        analyzed(str(tmp_path / "gone.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadInput, match="cannot be read"):
        analyzed(str(tmp_path / "bad.parquet"))
    with pytest.raises(BadInput, match="alpha 5"):
        analyzed(str(tmp_path / "bad.parquet"), alpha=5)


def test_offset_does_not_cost_digits(save: Save) -> None:
    y = np.random.default_rng(6).normal(0, 1, 1_000_000)
    shifted = 1e8 + y
    variant = np.where(np.arange(1_000_000) % 2, "b", "a")
    report = analyzed(save(variant=variant, y=shifted))
    effect = report.metrics[0].absolute
    assert isinstance(effect, Effect)
    split = [shifted[::2] - 1e8, shifted[1::2] - 1e8]
    assert effect.se**2 == pytest.approx(sum(np.var(part, ddof=1) / len(part) for part in split), rel=1e-6)


def test_a_pilot_far_from_the_mean_is_taken_again(save: Save) -> None:
    y = np.concatenate([np.zeros(10_000), 1e9 + np.random.default_rng(6).normal(0, 1, 50_000)])
    variant = ["c"] * 10_000 + ["a", "b"] * 25_000
    effect = next(m for m in analyzed(save(variant=variant, y=y)).metrics if m.variant == "b").absolute
    assert isinstance(effect, Effect)
    parts = [y[10_000::2] - 1e9, y[10_001::2] - 1e9]
    assert effect.se**2 == pytest.approx(sum(np.var(part, ddof=1) / len(part) for part in parts), rel=1e-6)


def test_the_report_is_the_contracts_json(save: Save) -> None:
    decoded = msgspec.json.decode(analyzed(save(variant=AB, y=Y), method="sequential").json())
    assert set(decoded) >= {"experiment", "as_of", "control", "units", "quality", "metrics", "decision"}
    assert set(decoded["quality"]) >= {"srm", "crossovers", "flags"}
    metric = decoded["metrics"][0]
    assert set(metric) >= {"metric", "kind", "variant", "method", "mean", "absolute", "relative", "bayes", "adjusted_p"}
    assert set(metric["absolute"]) == {"estimate", "low", "high", "se", "p"}
    assert set(metric["bayes"]) >= {"chance_to_win", "expected_loss", "low", "high"}
    assert decoded["decision"]["money_per_month"] == {"not_estimable": "no metric of this report is in money"}


@pytest.mark.parametrize("name", ["variant", "crossed", "unit", "last", "stratum", "units", "q0"])
def test_a_column_may_have_any_name(save: Save, name: str) -> None:
    who = np.arange(100) // 4 * 2 + np.arange(100) % 2
    for unit in (None, "who"):
        named, plain = (
            analyzed(save(arm=AB, who=who, **{column: Y}), f"mean:{column}", variant="arm", unit=unit).metrics[0]
            for column in (name, "y")
        )
        assert msgspec.structs.replace(named, metric="y") == plain


def test_a_missing_value_leaves_its_unit_out_and_a_missing_covariate_does_not(save: Save) -> None:
    y, x = [None, *Y[1:]], [*Y[:2], None, *Y[3:]]
    metric = analyzed(save(variant=AB, pre__y=x, y__now=y), "mean:y__now|pre__y").metrics[0]
    assert metric.units == {"a": 49, "b": 50}


def test_the_scale_that_is_decided_on_is_named(save: Save) -> None:
    """Log and linear delta have a p-value of their own; the one in the table is the one that is adjusted."""
    path = save(variant=AB, y=Y)
    alike = analyzed(path, "mean:y")
    assert not [note for note in notes(alike) if "p-values" in note]
    other = analyzed(path, "mean:y", relative="linear")
    effect, share = other.metrics[0].absolute, other.metrics[0].relative
    assert isinstance(effect, Effect)
    assert isinstance(share, Effect)
    said = (
        "p-values are of the absolute effect, on which the verdict rests; "
        f"the p-value of y's relative effect is {share.p:.3g}."
    )
    assert said in notes(other)
    console = Console(width=160, record=True, file=StringIO())
    console.print(render(other))
    assert f"{effect.p:.3g}" in console.export_text()


@pytest.mark.parametrize("unit", [None, "u"])
def test_nan_names_no_variant(save: Save, unit: str | None) -> None:
    path = save(variant=[0.0, 1.0, np.nan] * 40, y=np.arange(120.0), u=np.arange(120))
    report = analyzed(path, control="0.0", unit=unit)
    assert report.units == {"0.0": 40, "1.0": 40}
    assert "40 units without a variant are left out" in report.quality.flags


def test_a_column_called_as_one_of_the_reports_own(save: Save) -> None:
    with pytest.raises(BadInput, match="column 'crossed__' has a name that the report uses itself; give it another"):
        analyzed(save(variant=AB, crossed__=Y), "mean:crossed__")
    path = save(variant=AB, y=Y, y__rows=Y * Y, u=np.arange(100))
    with pytest.raises(BadInput, match="column 'y__rows' has a name that the report uses itself"):
        analyzed(path, "mean:y", "ratio:y/y__rows", unit="u")
    assert isinstance(analyzed(path, "mean:y", "ratio:y/y__rows").metrics[1].absolute, Effect)
