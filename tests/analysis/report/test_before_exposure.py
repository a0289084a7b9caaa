"""Covariates are from before any exposure, their balance is tested, and a ratio's parts stand beside it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment, analyze_table
from engine.analysis.design.methods import Inference, Method
from engine.analysis.render.terminal import notes
from engine.analysis.stats.estimate import Effect, NotEstimable

Write = Callable[..., Path]
START, HOUR, DAY = 1_793_491_200.0, 3_600.0, 86_400.0
NOW = datetime.fromtimestamp(START + 30 * DAY, UTC)
REVENUE = MeasuredMetric(
    name="revenue", kind="mean", event="purchase", value="revenue", window=5 * DAY, covariate_window=7 * DAY
)
QUESTION = ExperimentQuestion(
    key="checkout",
    control="control",
    weights={"control": 0.5, "new": 0.5},
    primary="revenue",
    inference=Inference(method="fixed"),
)
Tables = dict[str, list[dict[str, Any]]]


def shown(tables: Tables, customer: str, variant: str, at: float) -> None:
    row = {"decision_id": f"{customer}-{at}", "time": at, "customer": customer}
    tables["decisions"].append(row | {"variant": variant})
    tables["exposures"].append(row)


def bought(tables: Tables, customer: str, at: float, revenue: float) -> None:
    row = {"message_id": f"{customer}-{at}", "time": at, "customer": customer, "event": "purchase"}
    tables["events"].append(row | {"revenue": revenue})


def restarted(customers: int = 400) -> Tables:
    """A first run from day 0, in which `new` lifted revenue by 5; a restart on day 10, in which it lifts nothing."""
    rng = np.random.default_rng(11)
    tables: Tables = {"decisions": [], "exposures": [], "events": []}
    for at in range(customers):
        customer, variant = f"c{at}", ("control", "new")[at % 2]
        habit = float(rng.gamma(4.0, 5.0))
        bought(tables, customer, -2 * DAY, habit + float(rng.normal(0, 3)))
        shown(tables, customer, variant, 0.0)
        bought(tables, customer, 5 * DAY, habit + float(rng.normal(0, 3)) + (5.0 if variant == "new" else 0.0))
        shown(tables, customer, variant, 10 * DAY)
        bought(tables, customer, 11 * DAY, habit + float(rng.normal(0, 3)))
    return tables


@pytest.mark.parametrize("method", ["fixed", "sequential"])
def test_a_restart_takes_covariates_from_before_the_first_run(write_log: Write, method: Method) -> None:
    question = msgspec.structs.replace(QUESTION, start=START + 9 * DAY, inference=Inference(method=method))
    report = analyze_experiment(question, [REVENUE], write_log(**restarted()), as_of=NOW)
    row = report.metrics[0]
    assert isinstance(row.absolute, Effect)
    assert row.absolute.low < 0 < row.absolute.high
    assert abs(row.absolute.estimate) < 3 * row.absolute.se
    assert row.variance_reduction is not None
    assert row.variance_reduction > 0.5
    assert all(one.ok for one in report.quality.balance)
    assert "400 customers saw the experiment before its start" in "; ".join(report.quality.flags)


@pytest.mark.parametrize("method", ["fixed", "sequential", "bayesian"])
def test_a_covariate_that_differs_before_the_exposure_is_a_fault(write_log: Write, method: Method) -> None:
    rng = np.random.default_rng(12)
    tables: Tables = {"decisions": [], "exposures": [], "events": []}
    for at in range(600):
        customer, variant = f"c{at}", ("control", "new")[at % 2]
        habit = float(rng.gamma(4.0, 5.0)) + (6.0 if variant == "new" else 0.0)
        bought(tables, customer, -DAY, habit)
        shown(tables, customer, variant, 0.0)
        bought(tables, customer, DAY, habit + float(rng.normal(0, 3)))
    question = msgspec.structs.replace(QUESTION, inference=Inference(method=method))
    report = analyze_experiment(question, [REVENUE], write_log(**tables), as_of=NOW)
    (found,) = report.quality.balance
    assert not found.ok
    assert found.mean["new"] - found.mean["control"] == pytest.approx(6.0, abs=2.5)
    assert report.recommendation.verdict == "fix the data"
    assert "already before the exposure" in report.recommendation.why
    assert any("before the exposure new differs from control in revenue" in flag for flag in report.quality.flags)


def test_a_ratio_says_what_its_denominator_did(tmp_path: Path) -> None:
    """Orders rise by 19 %, sessions by 67 %: the ratio falls by 29 %, and the verdict says why."""
    rng = np.random.default_rng(13)
    lines = ["variant,user,orders,sessions"]
    for at in range(4000):
        is_new = at % 2 == 1
        sessions = 1 + rng.poisson(4.0 if is_new else 2.0)
        orders = rng.poisson(0.6 * (1.19 if is_new else 1.0))
        lines.append(f"{('control', 'new')[at % 2]},u{at},{orders},{sessions}")
    file = tmp_path / "units.csv"
    file.write_text("\n".join(lines))
    report = analyze_table(
        str(file), variant="variant", control="control", metrics=["ratio:orders/sessions"], method="fixed"
    )
    parts = report.metrics[0].parts
    for name, truth in (("numerator", 0.19), ("denominator", 5 / 3 - 1)):
        part = parts[name]
        assert isinstance(part, Effect)
        assert part.estimate == pytest.approx(truth, abs=0.1)
    assert report.recommendation.verdict == "stop"
    assert "Its denominator moved: per unit, its numerator +" in report.recommendation.why
    assert any(note.startswith("orders/sessions of new: per unit, its numerator +") for note in notes(report))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("method", ["fixed", "sequential", "bayesian"])
def test_a_covariate_that_one_variant_lacks_is_a_fault(tmp_path: Path, share: float, method: Method) -> None:
    """The indicator of missing values would absorb the effect of the variant that lacks them."""
    rng, n = np.random.default_rng(2), 1000
    habit = rng.normal(10, 3, 2 * n)
    bought = habit + rng.normal(0, 1, 2 * n) + np.repeat([0.0, 1.5], n)
    lines = ["v,y,pre"]
    for at in range(2 * n):
        known = at < n or at % 1000 < share * 1000
        lines.append(f"{'ab'[at // n]},{bought[at]},{habit[at] if known else ''}")
    file = tmp_path / "units.csv"
    file.write_text("\n".join(lines))
    report = analyze_table(str(file), variant="v", control="a", metrics=["mean:y"], covariates=["pre"], method=method)
    assert report.recommendation.verdict == "fix the data"
    assert any("differs from control in y, share without pre" in flag for flag in report.quality.flags)


@pytest.mark.parametrize("method", ["fixed", "sequential"])
@pytest.mark.parametrize("more", [0.0, 0.2])
def test_rows_that_lack_a_covariate_are_compared_by_unit(more: float, method: Method) -> None:
    rng = np.random.default_rng(5)
    unit = np.arange(4000) // 4
    variant = np.where(rng.random(1000) < 0.5, "a", "b")[unit]
    x = rng.normal(0.0, 1.0, 4000)
    lacks = rng.random(4000) < 0.2 + np.where(variant == "b", more, 0.0)
    table = pa.table({"v": variant, "u": unit, "y": x + rng.normal(size=4000), "x": pa.array(x, mask=lacks)})
    report = analyze_table(table, variant="v", control="a", unit="u", metrics=["mean:y|x"], method=method)
    checked = {row.covariate: row.ok for row in report.quality.balance}
    assert checked == {"x": True, "x, missing": not more}
    assert (report.recommendation.verdict == "fix the data") == bool(more)


@pytest.mark.parametrize("method", ["fixed", "sequential"])
def test_a_covariate_with_a_mean_of_zero_is_compared(method: Method) -> None:
    rng = np.random.default_rng(6)
    variant = np.where(rng.random(4000) < 0.5, "a", "b")
    x = rng.normal(0.0, 1.0, 4000)
    for shift in (0.0, 0.3):
        table = pa.table({"v": variant, "y": x + rng.normal(size=4000), "x": x + np.where(variant == "b", shift, 0.0)})
        report = analyze_table(table, variant="v", control="a", metrics=["mean:y|x"], method=method)
        (row,) = report.quality.balance
        assert row.ok == (shift == 0.0)


def test_a_covariate_without_a_value_or_with_nan_is_named() -> None:
    rng = np.random.default_rng(7)
    variant, y = np.where(rng.random(400) < 0.5, "a", "b"), rng.normal(size=400)
    asked: dict[str, Any] = {"variant": "v", "control": "a", "metrics": ["mean:y|x"]}
    empty = analyze_table(pa.table({"v": variant, "y": y, "x": pa.nulls(400, pa.float64())}), **asked)
    plain = analyze_table(pa.table({"v": variant, "y": y}), **{**asked, "metrics": ["mean:y"]})
    assert empty.metrics[0].absolute == plain.metrics[0].absolute
    assert any("no unit has a value of the covariate x" in flag for flag in empty.quality.flags)
    broken = analyze_table(pa.table({"v": variant, "y": y, "x": np.full(400, np.nan)}), **asked).metrics[0].absolute
    assert isinstance(broken, NotEstimable)
    assert broken.not_estimable == "the covariate x of y has values that are NaN or infinite"
