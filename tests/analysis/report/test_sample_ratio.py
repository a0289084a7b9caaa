"""Sample ratio mismatch: table or log in, report out; known answers of the exact test and error rates of the gates."""

import itertools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from scipy.stats import binomtest, multinomial

from engine.analysis import ExperimentQuestion, MeasuredMetric, Report, analyze_experiment, analyze_table
from engine.analysis.design.methods import Inference, Method
from engine.analysis.render.html import report_html
from engine.analysis.render.terminal import render
from engine.analysis.report.sample_ratio import (
    FIXED_GATE,
    SEQUENTIAL_GATE,
    chi_square,
    exact_ratio_p,
    flag_broken_splits,
    ratio_p,
    sample_ratio,
    sequential_ratio,
)

DAY = 86_400.0
METHODS: tuple[Method, ...] = ("fixed", "sequential", "group_sequential", "bayesian")
NOW = datetime.fromtimestamp(1_793_491_200.0 + 40 * DAY, UTC)
REVENUE = MeasuredMetric(name="revenue", kind="mean", event="purchase", value="revenue")


def of_table(control: int, new: int, method: Method, **more: object) -> Report:
    rng = np.random.default_rng(1)
    table = pa.table({"v": ["control"] * control + ["new"] * new, "x": rng.normal(5, 1, control + new)})
    return analyze_table(table, variant="v", control="control", metrics=["mean:x"], method=method, **more)


def of_log(write_log: Callable[..., Path], variants: list[str], method: Method, days: int = 1) -> Report:
    rows = [(i, variant, i % days * DAY) for i, variant in enumerate(variants)]
    decisions = [{"decision_id": f"d{i}", "time": at, "customer": f"u{i}", "variant": v} for i, v, at in rows]
    exposures = [{"decision_id": f"d{i}", "time": at + 1, "customer": f"u{i}"} for i, _, at in rows]
    question = ExperimentQuestion(
        key="checkout",
        control="control",
        weights={"control": 0.5, "new": 0.5},
        primary="revenue",
        inference=Inference(method=method),
    )
    log = write_log(decisions=decisions, exposures=exposures, events=[])
    return analyze_experiment(question, [REVENUE], log, as_of=NOW)


def rendered(report: Report) -> str:
    text = StringIO()
    Console(file=text, width=200).print(render(report))
    return text.getvalue()


@pytest.mark.parametrize("method", METHODS)
def test_twice_the_units_in_one_variant_are_a_mismatch(method: Method) -> None:
    report = of_table(400, 200, method)
    assert not report.quality.srm.ok
    assert report.recommendation.verdict == "fix the data"
    assert "sample ratio MISMATCH (p = " in rendered(report)
    assert "The split is not the one asked for (p = " in report_html(report)
    assert of_table(400, 200, method, weights={"control": 2, "new": 1}).quality.srm.ok


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("units", [15, 250])
def test_all_units_in_one_variant_are_a_mismatch(write_log: Callable[..., Path], method: Method, units: int) -> None:
    report = of_log(write_log, ["control"] * units, method)
    assert report.units == {"control": units, "new": 0}
    assert not report.quality.srm.ok
    assert report.recommendation.verdict == "fix the data"
    assert " ok (" not in rendered(report)


def test_a_report_says_ok_only_beside_the_p_value_that_is() -> None:
    """The p-value of a report is that of the test that decides, so a low one is never called ok."""
    rng = np.random.default_rng(2)
    for _ in range(300):
        n, share = int(rng.integers(2, 3000)), float(rng.uniform(0.4, 0.6))
        units = dict(zip("ab", map(int, rng.multinomial(n, [share, 1 - share])), strict=True))
        for looks in (None, [units]):
            found = sample_ratio(units, {"a": 1, "b": 1}, looks=looks)
            assert found.ok == (found.p >= found.gate)
            assert found.gate == (FIXED_GATE if looks is None else SEQUENTIAL_GATE)


def test_exact_p_values_are_those_of_the_binomial() -> None:
    for count, n in itertools.product(range(8), (7, 12, 40)):
        both = exact_ratio_p([count, n - count], [1, 1])
        assert both == pytest.approx(binomtest(count, n, 0.5).pvalue, rel=1e-9)
        uneven = exact_ratio_p([count, n - count], [0.1, 0.9])
        tails = [binomtest(count, n, 0.1, alternative=side).pvalue for side in ("less", "greater")]
        assert uneven == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-9)
    assert ratio_p([9989, 10011], [1, 1]) == chi_square([9989, 10011], [1, 1])
    assert ratio_p([3, 0, 4], [1, 0, 1]) == exact_ratio_p([3, 4], [1, 1])
    assert ratio_p([3, 1, 4], [1, 0, 1]) == sequential_ratio([[3, 1, 4]], [1, 0, 1])[0] == 0.0


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.02, 0.98], [0.4, 0.4, 0.2]])
def test_the_gate_of_small_counts_is_exact(weights: list[float]) -> None:
    """Summed over all outcomes; chi-square breaks its level threefold where a variant expects a unit or two."""
    n = 60
    outcomes = [found for found in itertools.product(range(n + 1), repeat=len(weights)) if sum(found) == n]
    chances = multinomial(n, weights).pmf(outcomes)
    alarms = sum(
        chance for found, chance in zip(outcomes, chances, strict=True) if ratio_p(found, weights) < FIXED_GATE
    )
    assert alarms <= FIXED_GATE
    if min(weights) < 0.1:
        pearson = [chi_square(found, weights) < FIXED_GATE for found in outcomes]
        assert chances[np.array(pearson)].sum() > 3 * FIXED_GATE


def test_slight_mismatches_of_many_units_are_found_at_repeated_looks() -> None:
    rng = np.random.default_rng(3)
    looks = rng.multinomial(20_000, [0.51, 0.49], size=(100, 14))
    assert np.mean([sequential_ratio(run, [1, 1])[-1] < SEQUENTIAL_GATE for run in looks]) > 0.95
    assert sequential_ratio([[12, 0]], [1, 1])[0] < SEQUENTIAL_GATE


def test_days_are_flagged_by_their_own_split(write_log: Callable[..., Path]) -> None:
    variants = ["control" if i % 10 == 3 or i % 20 < 10 else "new" for i in range(4000)]
    report = of_log(write_log, variants, "sequential", days=10)
    flags = [flag for flag in report.quality.flags if flag.startswith("the split is wrong")]
    assert len(flags) == 1
    assert flags[0].startswith("the split is wrong on 2026-11-04: control 400, new 0 (p = ")


def test_the_gates_of_days_add_up_however_many_there_are() -> None:
    """At each look one more day: the chance that any day is ever flagged stays below the gate, at 50 units a day."""
    rng, runs, days = np.random.default_rng(4), 200, 60
    flagged = 0
    for _ in range(runs):
        split = rng.binomial(50, 0.5, size=days)
        parts = {f"{day:03d}": {"a": int(count), "b": 50 - int(count)} for day, count in enumerate(split)}
        flagged += bool(
            flag_broken_splits({}, {name: (part, {"a": 1, "b": 1}) for name, part in parts.items()}, sequential=True)
        )
    assert flagged / runs <= SEQUENTIAL_GATE + 3 * math.sqrt(SEQUENTIAL_GATE / runs)
    assert msgspec.json.encode(sample_ratio({}, {"a": 1, "b": 1}, looks=[]))
