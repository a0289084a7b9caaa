"""Every figure our report has in common with independent libraries, on their data; skipped where that is absent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, analyze_table
from engine.analysis.design.methods import Inference
from engine.analysis.offpolicy.estimators import dr, ips, snips, switch_dr
from engine.analysis.report.model import MetricReport
from engine.analysis.stats.adaptive import estimate_arm_value, value_interval, weighted_value
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.power import Baseline, compute_power, least_detectable_effect, sample_size

FOLDER = Path(__file__).resolve().parents[3].parent / "shared" / "reference" / "stats"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference data is not beside the checkout")
CLOSE = {"rel": 1e-8, "abs": 1e-12}


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / "reference.json").read_text())
    return read


def analyzed(*metrics: str, file: str = "users", **more: Any) -> Report:
    return analyze_table(str(FOLDER / f"{file}.parquet"), variant="variant", control="0", metrics=metrics, **more)


def first(report: Report) -> tuple[MetricReport, Effect, Effect]:
    metric = report.metrics[0]
    assert isinstance(metric.absolute, Effect)
    assert isinstance(metric.relative, Effect)
    return metric, metric.absolute, metric.relative


METRICS = {
    "mean:revenue": "mean:revenue",
    "mean:orders": "mean:orders",
    "mean:converted": "proportion:converted",
    "ratio:orders/sessions": "ratio:orders/sessions",
    "ratio:revenue/sessions": "ratio:revenue/sessions",
    "cuped:revenue|pre_revenue": "mean:revenue|pre_revenue",
    "cuped:orders|pre_orders": "mean:orders|pre_orders",
    "cuped:converted|pre_converted": "proportion:converted|pre_converted",
    "cuped-ratio:orders/sessions|pre_orders/pre_sessions": "ratio:orders/sessions|pre_orders/pre_sessions",
}


@pytest.mark.parametrize("unit", [None, "user_id"])
@pytest.mark.parametrize("name", METRICS)
def test_welch_cuped_and_ratios_agree_with_tea_tasting(reference: dict[str, Any], name: str, unit: str | None) -> None:
    expected = reference["tea"][name]
    metric, absolute, _ = first(analyzed(METRICS[name], method="fixed", unit=unit))
    assert metric.mean == pytest.approx({"0": expected["control"], "1": expected["treatment"]}, **CLOSE)
    assert absolute.estimate == pytest.approx(expected["effect_size"], **CLOSE)
    assert [absolute.low, absolute.high] == pytest.approx(
        [expected["effect_size_ci_lower"], expected["effect_size_ci_upper"]], **CLOSE
    )
    assert absolute.p == pytest.approx(expected["pvalue"], **CLOSE)


@pytest.mark.parametrize("name", ["mean:revenue", "mean:orders", "ratio:orders/sessions", "ratio:revenue/sessions"])
def test_relative_scales_agree_with_the_closed_forms(reference: dict[str, Any], name: str) -> None:
    expected = reference["formulas"][name]
    for how, key in (("fieller", "rel_ci_fieller_z"), ("log", "rel_ci_log_z"), ("linear", "rel_ci_delta_z")):
        _, _, relative = first(analyzed(METRICS[name], method="bayesian"))
        assert relative.estimate == pytest.approx(expected["rel"], **CLOSE)
        assert relative.se == pytest.approx(expected["rel_se_delta"], **CLOSE)
        _, _, fixed = first(analyzed(METRICS[name], method="fixed", relative=how))  # type: ignore[arg-type]
        assert [fixed.low, fixed.high] == pytest.approx(expected[key], rel=1e-3)  # t with 19,000 df, not normal


def test_linear_delta_agrees_with_gbstats(reference: dict[str, Any]) -> None:
    for name in ("mean:revenue", "mean:orders", "ratio:orders/sessions", "ratio:revenue/sessions"):
        for method, ours in (("t", "fixed"), ("seq5000", "sequential")):
            expected = reference["gbstats"][f"{name}:absolute:{method}"]
            _, absolute, _ = first(analyzed(METRICS[name], method=ours, relative="linear"))  # type: ignore[arg-type]
            assert [absolute.low, absolute.high] == pytest.approx(expected["ci"], **CLOSE)
            assert absolute.p == pytest.approx(expected["p"], **CLOSE)
        expected = reference["gbstats"][f"{name}:relative:seq5000"]
        _, _, relative = first(analyzed(METRICS[name], relative="linear"))
        assert [relative.low, relative.high] == pytest.approx(expected["ci"], **CLOSE)
        assert relative.p == pytest.approx(expected["p"], **CLOSE)


@pytest.mark.parametrize(("prior", "key"), [(None, "flat"), ((0.0, 0.3), "n0_sd03"), ((0.01, 0.05), "n001_sd005")])
def test_bayes_agrees_with_gbstats(reference: dict[str, Any], prior: tuple[float, float] | None, key: str) -> None:
    for name in ("mean:revenue", "mean:orders", "ratio:orders/sessions"):
        expected = reference["gbstats"][f"{name}:relative:bayes:{key}"]
        metric, _, relative = first(analyzed(METRICS[name], method="bayesian", prior=prior))
        assert relative.estimate == pytest.approx(expected["expected"], **CLOSE)
        assert [relative.low, relative.high] == pytest.approx(expected["ci"], **CLOSE)
        assert not hasattr(metric.bayes, "not_estimable")
        assert metric.bayes.chance_to_win == pytest.approx(expected["chance_to_win"], **CLOSE)  # type: ignore[union-attr]
        assert metric.bayes.expected_loss == pytest.approx(expected["risk[ctrl,trt]"][1], rel=1e-7)  # type: ignore[union-attr]


def test_rows_of_one_unit_are_clustered(reference: dict[str, Any]) -> None:
    expected = reference["statsmodels"]["cluster-robust mean:latency (user clusters)"]
    _, absolute, _ = first(analyzed("mean:latency_ms", file="latency", unit="user_id", method="fixed"))
    assert absolute.estimate == pytest.approx(expected["effect"], **CLOSE)
    assert absolute.se == pytest.approx(expected["se"], rel=2e-4)  # statsmodels corrects over both arms at once


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_clustered_quantiles(reference: dict[str, Any], level: float) -> None:
    expected = reference["formulas"][f"quantile:latency:{level}"]
    report = analyzed(f"quantile:latency_ms@{level}", file="latency", unit="user_id", method="bayesian")
    metric, absolute, _ = first(report)
    assert list(metric.mean.values()) == pytest.approx(
        [expected[side]["quantile_linear"] for side in ("control", "treatment")], **CLOSE
    )
    assert absolute.estimate == pytest.approx(expected["diff"], **CLOSE)
    assert absolute.se == pytest.approx(expected["se_diff"], **CLOSE)


def test_power_agrees_within_its_formulas(reference: dict[str, Any]) -> None:
    formulas, tea = reference["formulas"]["mean:revenue"], reference["tea"]
    revenue = Baseline("mean", formulas["mean"][0], formulas["var_ddof1"][0] ** 0.5)
    fixed = Inference(method="fixed")
    assert sample_size(revenue, 0.05, fixed).units == pytest.approx(tea["power:revenue:n_obs"]["n_obs"], abs=4)  # t
    assert compute_power(revenue, 0.05, 20_000, fixed) == pytest.approx(tea["power:revenue:power"]["power"], rel=1e-4)
    found = least_detectable_effect(revenue, 20_000, fixed).mde
    assert found == pytest.approx(tea["power:revenue:rel_effect_size"]["rel_effect_size"], rel=1e-4)
    known = reference["statsmodels"]["power"]
    small = Baseline("mean", 1.0, 1.0)
    assert sample_size(small, 0.1, fixed).units == pytest.approx(2 * known["z_n1_d0p1"], abs=2)
    assert compute_power(small, 0.05, 10_000, fixed) == pytest.approx(known["z_power_d0p05_n5000"], **CLOSE)


def bandit() -> dict[str, np.ndarray]:
    table = pq.read_table(FOLDER / "bandit.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def test_adaptive_weights_agree_with_hadad_et_al(reference: dict[str, Any]) -> None:
    data = bandit()
    kept = data["context"] == 0
    reward, action = data["reward"][kept].astype(float), data["action"][kept]
    expected = reference["adaptive_ci"]
    values: list[tuple[float, Any]] = []
    for arm in range(3):
        p = data[f"p{arm}"][kept]
        for allocation, name in ((p, "constant_allocation(sqrt e)"), (np.ones(len(p)), "uniform(AIPW)")):
            value = estimate_arm_value(reward, action == arm, p, allocation)
            assert isinstance(value, Effect)
            assert value.estimate == pytest.approx(expected[f"arm values: {name}"]["estimate"][arm], **CLOSE)
            assert value.se == pytest.approx(expected[f"arm values: {name}"]["stderr"][arm], **CLOSE)
        values.append(weighted_value(reward, action == arm, p, p))
    differences = expected["contrasts arm2-arm0, arm2-arm1: constant_allocation(sqrt e)"]
    for other in (0, 1):
        found = value_interval(values[2][0] - values[other][0], values[2][1] - values[other][1])
        assert isinstance(found, Effect)
        assert found.estimate == pytest.approx(differences["estimate"][other], **CLOSE)
        assert found.se == pytest.approx(differences["stderr"][other], **CLOSE)


def test_off_policy_values_agree_with_obp_and_vowpal(reference: dict[str, Any]) -> None:
    data = bandit()
    reward, action, context = data["reward"].astype(float), data["action"], data["context"]
    propensity = np.choose(action, [data["p0"], data["p1"], data["p2"]])
    means = reference["obp"]["qhat_cell_means"]
    model = np.array([[means[f"{x},{a}"] for a in range(3)] for x in (0, 1)])
    targets = {
        "uniform": np.full((len(action), 3), 1 / 3),
        "always_arm2": np.tile([0.0, 0.0, 1.0], (len(action), 1)),
        "best_by_context(arm2|x0,arm0|x1)": np.where(context[:, None] == 0, [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]),
    }
    for name, target in targets.items():
        expected = reference["obp"]["ope:" + name]
        taken = target[np.arange(len(action)), action]
        logged, mean = model[context, action], (model[context] * target).sum(axis=1)
        assert ips(reward, propensity, taken).value == pytest.approx(expected["IPS"], **CLOSE)
        assert snips(reward, propensity, taken).value == pytest.approx(expected["SNIPS"], **CLOSE)
        assert dr(reward, propensity, taken, logged, mean).value == pytest.approx(expected["DR"], **CLOSE)
        for threshold in (2.0, 5.0, 10.0):
            found = switch_dr(reward, propensity, taken, logged, mean, threshold=threshold)
            assert found.value == pytest.approx(expected[f"SwitchDR(lambda={threshold})"], **CLOSE)
    estimate = ips(reward, propensity, targets["uniform"][:, 0])
    gaussian = reference["vw_estimators"]["ope:uniform"]["gaussian_ci95"]
    assert [estimate.low, estimate.high] == pytest.approx(gaussian, abs=2e-5)  # it divides by n, not n - 1
