"""What a person may get wrong on the command line of the reports, each refused in one line."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import aa_table, analyze_table, policy_report
from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import parse_measure
from engine.analysis.stats.bayes import Prior
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.power import parse_baseline, solve_design
from engine.cli.reports import TableOptions, aa, analyze, power
from engine.errors import BadInput


@pytest.mark.parametrize("alpha", [0.0, 1e-300, 1.0, 2.0, -0.1, math.nan])
def test_an_alpha_that_gives_no_interval(alpha: float) -> None:
    with pytest.raises(BadInput, match="is not between 1e-12 and 1"):
        Inference(alpha=alpha)


@pytest.mark.parametrize("prior", [(0, 0), (0, -1), (math.nan, 1), (0, math.nan), (math.inf, 1)])
def test_a_prior_that_is_no_distribution(prior: tuple[float, float]) -> None:
    with pytest.raises(BadInput, match="is not a finite mean with a standard deviation"):
        Inference(prior=Prior(*prior))


@pytest.mark.parametrize("units", [-4, 0, 3, 10**400])
def test_a_number_of_units_that_nobody_has(units: int) -> None:
    with pytest.raises(BadInput, match="are not between 4 and"):
        solve_design(parse_baseline("proportion:0.1"), Inference(method="fixed"), mde=None, units=units, power=None)


def test_effects_powers_and_baselines_are_finite() -> None:
    baseline = parse_baseline("mean:10,3")
    with pytest.raises(BadInput, match="effect nan is not a finite number"):
        solve_design(baseline, Inference(method="fixed"), mde=math.nan, units=None, power=None)
    with pytest.raises(BadInput, match="power 0 is not between 0 and 1"):
        solve_design(baseline, Inference(method="fixed"), mde=0.1, units=None, power=0.0)
    for text in ("mean:nan,1", "mean:1,inf", "mean:1e300,1e300", "proportion:nan"):
        with pytest.raises(BadInput, match="are not finite"):
            parse_baseline(text)


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., str]:
    def write(y: Sequence[float]) -> str:
        path = tmp_path / "shop.parquet"
        pq.write_table(pa.table({"variant": ["a", "b"] * (len(y) // 2), "y": y}), path)
        return str(path)

    return write


Y = list(np.random.default_rng(7).normal(10, 3, 200))


def test_an_aa_check_needs_metrics_and_runs(shop: Callable[..., str]) -> None:
    with pytest.raises(BadInput, match="no metric is named"):
        aa_table(shop(Y), metrics=[])
    for runs in (0, -4):
        with pytest.raises(BadInput, match="runs are too few"):
            aa_table(shop(Y), metrics=["mean:y"], runs=runs)


@pytest.mark.parametrize(
    ("y", "code"), [(Y, 0), ([1.5] * 200, 1), ([math.nan, *Y[1:]], 1)], ids=["usual", "constant", "nan"]
)
def test_an_aa_check_fails_exactly_when_it_says_so(shop: Callable[..., str], y: list[float], code: int) -> None:
    assert aa(table=shop(y), metric=["mean:y"], runs=200) == code
    (check,) = aa_table(shop(y), metrics=["mean:y"], runs=200)
    assert check.ok is (code == 0)


def test_what_an_experiments_file_says_is_not_ignored_on_the_command_line() -> None:
    with pytest.raises(BadInput, match="--unit, --metric: the experiment's file defines it"):
        analyze("checkout", columns=TableOptions(metric=["mean:y"], unit="customer"))
    with pytest.raises(BadInput, match="--as-of applies to the log only"):
        analyze(table="shop.parquet", as_of=datetime(2026, 11, 1, tzinfo=UTC))


def test_the_level_of_a_quantile_is_shown_as_it_must_be(shop: Callable[..., str]) -> None:
    with pytest.raises(BadInput, match=r"as in quantile:y@0\.9$"):
        analyze_table(shop(Y), variant="variant", control="a", metrics=["quantile:y@1.5"])


def test_reasons_name_what_is_wrong_and_keep_what_is_known(shop: Callable[..., str]) -> None:
    far = analyze_table(shop([y + 1e15 for y in Y]), variant="variant", control="a", metrics=["mean:y"], method="fixed")
    effect = far.metrics[0].absolute
    assert isinstance(effect, Effect)
    assert 0.3 < effect.se < 0.55
    huge = analyze_table(shop([y * 1e300 for y in Y]), variant="variant", control="a", metrics=["mean:y"])
    assert huge.metrics[0].absolute == NotEstimable(
        "y has values too large to be squared; divide the column first", fault=True
    )
    constant = analyze_table(shop([0.1] * 20_000), variant="variant", control="a", metrics=["mean:y"]).metrics[0]
    assert isinstance(constant.absolute, NotEstimable)
    assert constant.absolute.not_estimable == "y does not vary in either variant"
    assert constant.units == {"a": 10_000, "b": 10_000}
    assert constant.mean == pytest.approx({"a": 0.1, "b": 0.1})


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "head.csv").write_text("variant,y\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "folder").mkdir()
    for name, why in (
        ("head.csv", "contains no value"),
        ("empty.csv", "is empty"),
        ("folder", "without Parquet files"),
    ):
        with pytest.raises(BadInput, match=why):
            analyze_table(str(tmp_path / name), variant="variant", control="a", metrics=["mean:y"])


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ({"a": 0.5}, "'b' has none; give every variant its share"),
        ({"a": -1.0, "b": 2.0}, "the share -1 of 'a'"),
        ({"a": math.nan, "b": 1.0}, "the share nan of 'a'"),
        ({"a": 0.0, "b": 0.0}, "every share is 0"),
    ],
)
def test_shares_that_are_none(shop: Callable[..., str], weights: dict[str, float], why: str) -> None:
    with pytest.raises(BadInput, match=f"^weights: {why}"):
        analyze_table(shop(Y), variant="variant", control="a", metrics=["mean:y"], weights=weights)


def test_plans_of_looks_that_are_none() -> None:
    with pytest.raises(BadInput, match=r"^0 planned units are too few"):
        Inference(planned=0)
    with pytest.raises(BadInput, match=r"^2000 looks are not between 1 and 50"):
        Inference(looks=2000)


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf])
def test_a_quantile_among_values_that_are_no_numbers(shop: Callable[..., str], wild: float) -> None:
    report = analyze_table(shop([*Y[:-1], wild]), variant="variant", control="a", metrics=["quantile:y@0.5"])
    assert report.metrics[0].absolute == NotEstimable("y has values that are NaN or infinite", fault=True)
    assert report.recommendation.verdict == "fix the data"


def test_units_that_were_all_seen_twice(tmp_path: Path) -> None:
    table = pa.table({"variant": ["a", "b"] * 50, "unit": [i // 2 for i in range(100)], "y": [1.0, 2.0] * 50})
    pq.write_table(table, tmp_path / "both.parquet")
    with pytest.raises(BadInput, match="all 50 units were seen in two variants of variant; none can be compared"):
        analyze_table(str(tmp_path / "both.parquet"), variant="variant", control="a", metrics=["mean:y"], unit="unit")


@pytest.mark.parametrize(("option", "said"), [("planned", "0 planned units"), ("looks", "0 looks")])
def test_a_plan_of_nothing(option: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        power(metric="proportion:0.1", mde=0.05, **{option: 0})  # type: ignore[arg-type]


def test_a_metric_whose_parts_are_missing_or_too_many() -> None:
    for text, why in (
        ("ratio:y/", "a column has no name"),
        ("ratio:/y", "a column has no name"),
        ("mean:y|", "is not a metric"),
        ("mean:y|a,", "a column has no name"),
        ("quantile:y@0.5|a", "a quantile takes no covariate; leave |a out"),
    ):
        with pytest.raises(BadInput, match=re.escape(why)):
            parse_measure(text)


def test_a_table_of_no_name_and_a_date_for_a_number(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the table has no name; give a Parquet or CSV file"):
        analyze_table("", variant="variant", control="a", metrics=["mean:y"])
    days = pa.array([0, 1, 2, 3], pa.timestamp("us"))
    pq.write_table(pa.table({"variant": ["a", "b"] * 2, "y": days}), tmp_path / "days.parquet")
    with pytest.raises(BadInput, match=r"column 'y' contains values of type timestamp.*, for example '1970-01-01"):
        analyze_table(str(tmp_path / "days.parquet"), variant="variant", control="a", metrics=["mean:y"])


def test_a_folder_that_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "data" / "log").mkdir(parents=True)
    with pytest.raises(BadInput, match="has 'log' but no log; give the log's folder, which holds decisions/"):
        policy_report(tmp_path / "data", "hero")
    with pytest.raises(BadInput, match="has no exposed decision"):  # a log's own folder may still be empty
        policy_report(tmp_path / "data" / "log", "hero")
