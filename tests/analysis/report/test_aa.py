"""A/A checks of real units, and power: what is claimed happens as often as it says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import aa_table, analyze_table
from engine.analysis.aggregates.quantiles import sample_quantile
from engine.analysis.checks.random_splits import Rate
from engine.analysis.design.methods import Inference, Method
from engine.analysis.report.past_experiments import baseline_of_table
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import Arm
from engine.analysis.stats.power import (
    Baseline,
    Design,
    compute_power,
    least_detectable_effect,
    parse_baseline,
    sample_size,
    solve_design,
)
from engine.errors import BadInput


@pytest.fixture
def shop(tmp_path: Path) -> str:
    rng = np.random.default_rng(7)
    spend = rng.gamma(0.7, 20.0, 4000) * (rng.random(4000) < 0.5)
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table({"who": np.arange(4000) // 4, "spend": spend, "one": np.ones(4000)}), path)
    return str(path)


def test_real_units_raise_no_more_alarms_than_they_should(shop: str) -> None:
    (check,) = aa_table(shop, metrics=["mean:spend"], runs=1000)
    assert isinstance(check.false_positives, Rate)
    assert isinstance(check.coverage, Rate)
    assert isinstance(check.relative_coverage, Rate)
    assert check.runs == 1000
    assert check.units == 4000
    assert check.false_positives.ok
    assert check.coverage.ok
    assert check.false_positives.share + check.coverage.share == pytest.approx(1.0)
    (clustered,) = aa_table(shop, metrics=["mean:spend"], unit="who", runs=300)
    assert clustered.units == 1000


@pytest.mark.parametrize("unit", [None, "who"])
def test_a_quantile_is_checked_by_what_a_report_would_claim(shop: str, tmp_path: Path, unit: str | None) -> None:
    """The runs' figures are those of a report on the same split; a count of them is no more than alpha allows."""
    mean, p90 = aa_table(shop, metrics=["mean:spend", "quantile:spend@0.9"], unit=unit, runs=300)
    assert (mean.metric, p90.metric) == ("spend", "spend@0.9")
    assert isinstance(p90.false_positives, Rate)
    assert isinstance(p90.coverage, Rate)
    assert isinstance(p90.relative_coverage, Rate)
    assert (p90.runs, p90.units, p90.ok) == (300, mean.units, True)
    assert p90.false_positives.share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    table = pq.read_table(shop)
    spend, who = table["spend"].to_numpy(), table["who"].to_numpy()
    units = who if unit else np.arange(4000)
    side = np.random.default_rng(3).random(4000)[units] < 0.5
    pq.write_table(table.append_column("v", pa.array(np.where(side, "a", "b"))), tmp_path / "split.parquet")
    asked = {"variant": "v", "control": "a", "metrics": ["quantile:spend@0.9"], "unit": unit, "method": "fixed"}
    effect = analyze_table(str(tmp_path / "split.parquet"), **asked).metrics[0].absolute
    assert isinstance(effect, Effect)
    order = np.argsort(spend)
    arms = [sample_quantile(spend[order][own], units[order][own], 0.9, label="") for own in (side[order], ~side[order])]
    a, b = (arm for arm in arms if isinstance(arm, Arm))
    assert b.value - a.value == pytest.approx(effect.estimate, rel=1e-12)
    assert math.sqrt(a.variance + b.variance) == pytest.approx(effect.se, rel=1e-12)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fixed", {"share": 0.1}),
        ("sequential", {"share": 0.1}),
        ("sequential", {"unit": "who"}),
        ("group_sequential", {"looks": 2}),
    ],
)
def test_uneven_arms_and_several_looks_keep_their_level(shop: str, method: Method, options: dict[str, Any]) -> None:
    runs = 20 if method == "group_sequential" else 200  # whose p-values are slow
    (check,) = aa_table(shop, metrics=["mean:spend"], runs=runs, method=method, **options)
    assert check.ok
    assert check.estimated == 1.0
    assert check.share == options.get("share", 0.5)
    assert check.looks == {"fixed": 1, "sequential": 15, "group_sequential": 2}[method]
    assert isinstance(check.false_positives, Rate)
    assert check.false_positives.share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_bayesian_rule_ships_what_does_nothing_by_a_flat_prior(tmp_path: Path) -> None:
    """With 15 looks at 4,000 units: a sceptical prior hardly ever ships, a flat one too often."""
    rng = np.random.default_rng(8)
    pq.write_table(pa.table({"y": rng.exponential(10.0, 4000)}), tmp_path / "y.parquet")
    shares = {}
    for name, prior in (("flat", (0.0, 1000.0)), ("sceptical", (0.0, 0.02))):
        asked = {"metrics": ["mean:y"], "runs": 200, "method": "bayesian", "prior": prior, "looks": 15}
        (check,) = aa_table(str(tmp_path / "y.parquet"), **asked)
        assert isinstance(check.false_ships, Rate)
        shares[name] = check.false_ships.share
        assert check.ok == check.false_ships.ok
    assert shares["sceptical"] < shares["flat"]


def test_a_split_with_too_few_outcomes_is_refused_in_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    spend = np.exp(rng.normal(size=3000)) * (rng.random(3000) < 0.02)
    pq.write_table(pa.table({"spend": spend}), tmp_path / "few.parquet")
    (check,) = aa_table(str(tmp_path / "few.parquet"), metrics=["mean:spend"], runs=50, share=0.05)
    assert isinstance(check.false_positives, NotEstimable)
    assert check.false_positives.not_estimable.startswith("too few outcomes")
    assert check.estimated < 0.05
    assert check.ok  # a report that claims nothing is not wrong
    with pytest.raises(BadInput, match="share 1 of control is not between 0 and 1"):
        aa_table(str(tmp_path / "few.parquet"), metrics=["mean:spend"], runs=50, share=1.0)


def test_a_quantile_that_no_split_can_have(shop: str) -> None:
    (few,) = aa_table(shop, metrics=["quantile:spend@0.9999"], runs=20)
    assert isinstance(few.coverage, NotEstimable)
    assert "are too few for the 0.9999 quantile" in few.coverage.not_estimable
    assert not few.ok
    (same,) = aa_table(shop, metrics=["quantile:one@0.5"], runs=20)
    assert isinstance(same.coverage, NotEstimable)
    assert "are tied around the 0.5 quantile" in same.coverage.not_estimable


def test_a_table_gives_the_baseline_of_the_next_experiment(shop: str) -> None:
    spend = pq.read_table(shop)["spend"].to_numpy()
    baseline = baseline_of_table(shop, "mean:spend")
    assert baseline == Baseline("mean", pytest.approx(spend.mean()), pytest.approx(spend.std(ddof=1)))
    clustered = baseline_of_table(shop, "mean:spend", unit="who")
    assert clustered.sd == pytest.approx(spend.reshape(-1, 4).mean(axis=1).std(ddof=1))
    with pytest.raises(BadInput, match="does not vary"):
        baseline_of_table(shop, "mean:one")


def test_a_quantile_has_a_baseline_too(tmp_path: Path) -> None:
    """Of normal rows: p (1 - p) over the density squared, and over four for units of four rows."""
    rng = np.random.default_rng(9)
    level, density = 0.9, math.exp(-(1.2815515655446004**2) / 2) / math.sqrt(2 * math.pi)
    table = pa.table({"who": np.arange(80_000) // 4, "x": 10 + rng.normal(size=80_000)})
    pq.write_table(table, tmp_path / "x.parquet")
    alone = baseline_of_table(str(tmp_path / "x.parquet"), "quantile:x@0.9")
    assert (alone.kind, alone.value) == ("quantile", pytest.approx(11.28, abs=0.03))
    assert alone.sd == pytest.approx(math.sqrt(level * (1 - level)) / density, rel=0.1)
    of_four = baseline_of_table(str(tmp_path / "x.parquet"), "quantile:x@0.9", unit="who")
    assert of_four.sd == pytest.approx(alone.sd / 2, rel=0.05)
    with pytest.raises(BadInput, match=r"rows of x are too few for the .* quantile; .* a baseline needs a variance"):
        baseline_of_table(str(tmp_path / "x.parquet"), "quantile:x@0.9999999")


def test_nothing_is_claimed_of_a_constant(shop: str) -> None:
    (check,) = aa_table(shop, metrics=["mean:one"], runs=10)
    assert not isinstance(check.coverage, Rate)
    assert check.coverage.not_estimable == "one does not vary in either variant"


@pytest.mark.parametrize("method", ["fixed", "sequential", "group_sequential", "bayesian"])
def test_size_effect_and_power_are_one_relation(method: Method) -> None:
    settings = Inference(method=method)
    for baseline in (Baseline("proportion", 0.1), Baseline("mean", 16.0, 25.0)):
        found = sample_size(baseline, 0.1, settings)
        assert found.power >= 0.8
        assert compute_power(baseline, 0.1, found.units - 1, settings) < 0.8
        assert least_detectable_effect(baseline, found.units, settings).mde == pytest.approx(0.1, rel=1e-3)
        assert compute_power(baseline, 0.0, found.units, settings) == pytest.approx(0.05, abs=0.05)


def test_looking_costs_units_and_looking_always_costs_most() -> None:
    baseline = Baseline("mean", 16.0, 25.0)
    methods: tuple[Method, ...] = ("fixed", "group_sequential", "sequential")
    sizes = [sample_size(baseline, 0.05, Inference(method=method, planned=50_000)).units for method in methods]
    assert sizes[0] < sizes[1] < sizes[2] < 3 * sizes[0]


def test_group_sequential_power_by_simulation() -> None:
    settings = Inference(method="group_sequential")
    baseline = Baseline("mean", 10.0, 10.0)
    claimed = compute_power(baseline, 0.1, 3200, settings)
    rng = np.random.default_rng(5)
    drift = 1.0 / (10.0 * np.sqrt(4 / 3200))
    paths = np.cumsum(rng.normal(drift / 5, np.sqrt(1 / 5), size=(20_000, 5)), axis=1) / np.sqrt(np.arange(1, 6) / 5)
    bounds = [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]
    crossed = np.mean((np.abs(paths) > bounds).any(axis=1))
    assert crossed == pytest.approx(claimed, abs=3 * np.sqrt(claimed * (1 - claimed) / 20_000))


def test_the_question_may_be_asked_from_each_side() -> None:
    fixed = Inference(method="fixed")
    proportion = parse_baseline("proportion:0.1")
    asked: list[Design] = [
        solve_design(proportion, fixed, mde=0.1, units=None, power=None),
        solve_design(proportion, fixed, mde=None, units=29_497, power=None),
        solve_design(proportion, fixed, mde=0.1, units=29_497, power=None),
    ]
    assert {round(found.power, 3) for found in asked} == {0.8}
    assert asked[0].units == 29_497
    assert parse_baseline("mean:16.2,25.1") == Baseline("mean", 16.2, 25.1)


@pytest.mark.parametrize("text", ["proportion", "mean:3", "mean:3,0", "proportion:x", "total:1,2"])
def test_a_baseline_that_is_none(text: str) -> None:
    with pytest.raises(BadInput, match="has no baseline"):
        parse_baseline(text)


def test_what_power_cannot_answer() -> None:
    fixed, mean = Inference(method="fixed"), Baseline("mean", 16.0, 25.0)
    with pytest.raises(BadInput, match="leave out the one"):
        solve_design(mean, fixed, mde=0.1, units=10, power=0.5)
    with pytest.raises(BadInput, match="neither an effect nor a number"):
        solve_design(mean, fixed, mde=None, units=None, power=0.9)
    with pytest.raises(BadInput, match="an effect of 0"):
        sample_size(mean, 0.0, fixed)
    with pytest.raises(BadInput, match=r"power 1\.5"):
        sample_size(mean, 0.1, fixed, power=1.5)
    with pytest.raises(BadInput, match="is not between 0 and 1"):
        sample_size(Baseline("proportion", 0.9), 0.5, fixed)
