"""Error rates of what stands beside the main intervals: covariates at every look, strata, clusters, segments, gates."""

import math

import numpy as np
import pytest

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.aggregates.strata import poststratify
from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import parse_measure
from engine.analysis.report.quality import exposure_check
from engine.analysis.report.sample_ratio import SEQUENTIAL_GATE, flag_broken_splits
from engine.analysis.report.segments import shrink
from engine.analysis.stats import proportions
from engine.analysis.stats.bayes import pool_effects
from engine.analysis.stats.effects import IntervalScale, absolute_effect, interval_scale
from engine.analysis.stats.inference import estimate_arms
from engine.analysis.stats.moments import sample_moments
from engine.analysis.stats.sequential import asymptotic_multiplier

RUNS = 2000


def slack(rate: float, runs: int = RUNS) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / runs)


def test_anytime_intervals_hold_at_all_of_100_looks_with_a_covariate() -> None:
    """The regression in closed form over all runs at once; the first look of one run is checked to be the report's."""
    rng, looks, batch = np.random.default_rng(21), 100, 100
    sums: list[dict[str, np.ndarray]] = []
    samples: list[np.ndarray] = []
    for _ in range(2):
        parts = {name: np.zeros((RUNS, looks)) for name in ("y", "x", "yy", "xx", "xy")}
        for look in range(looks):
            x = rng.gamma(0.5, 20.0, (RUNS, batch)) - 10.0
            y = 0.7 * x + rng.gamma(0.5, 10.0, (RUNS, batch)) - 5.0
            for name, value in (("y", y), ("x", x), ("yy", y * y), ("xx", x * x), ("xy", x * y)):
                parts[name][:, look] = value.sum(axis=1)
            if look == 0:
                samples.append(np.column_stack([y[0], x[0]]))
        sums.append({name: np.cumsum(value, axis=1) for name, value in parts.items()})
    n = batch * np.arange(1, looks + 1)
    both = {name: sums[0][name] + sums[1][name] for name in sums[0]}
    theta = (both["xy"] - both["x"] * both["y"] / (2 * n)) / (both["xx"] - both["x"] ** 2 / (2 * n))
    difference, variance = 0.0, 0.0
    for sign, of in zip((-1, 1), sums, strict=True):
        yy, xx = of["yy"] - of["y"] ** 2 / n, of["xx"] - of["x"] ** 2 / n
        xy = of["xy"] - of["x"] * of["y"] / n
        difference = difference + sign * (of["y"] - theta * of["x"]) / n
        variance = variance + (yy - 2 * theta * xy + theta**2 * xx) / (n - 1) / n
    found = estimate_arms(*map(sample_moments, samples), parse_measure("mean:y|x"))
    assert isinstance(found, tuple)
    assert found[1].value - found[0].value == pytest.approx(difference[0, 0])
    assert found[0].variance + found[1].variance == pytest.approx(variance[0, 0])
    bound = np.array([asymptotic_multiplier(int(2 * units), 5000, 0.05) for units in n])
    z = np.abs(difference) / np.sqrt(variance)
    assert np.mean((z > bound).any(axis=1)) <= 0.05
    assert np.mean((z > 1.96).any(axis=1)) > 0.3


@pytest.mark.parametrize(("p", "n"), [(0.02, 300), (0.3, 60)])
def test_exact_intervals_of_small_counts_cover(p: float, n: int) -> None:
    rng = np.random.default_rng(22)
    lift, hits, claims = 0.02, 0, 0
    for _ in range(RUNS):
        one, other = int(rng.binomial(n, p)), int(rng.binomial(n, p + lift))
        low, high = proportions.difference_interval((one, other), (n, n), 0.05)
        hits += low <= lift <= high
        claims += proportions.fisher_p((one, int(rng.binomial(n, p))), (n, n)) <= 0.05
    assert 0.94 <= hits / RUNS <= 0.97
    assert claims / RUNS <= 0.05


def test_clusters_and_strata_cover() -> None:
    rng = np.random.default_rng(23)
    hits = {"clusters": 0, "rows": 0, "strata": 0}
    for _ in range(RUNS):
        sides, plain = [], []
        for effect in (0.0, 2.0):
            sizes = rng.integers(5, 40, 40)  # customers of a store
            level = rng.normal(20, 4, 40) + effect
            sums = level * sizes + rng.normal(0, 5, 40) * np.sqrt(sizes)
            sides.append(sample_moments(np.column_stack([sums, sizes]).astype(float)))
            rows = np.repeat(level, sizes) + rng.normal(0, 5, int(sizes.sum()))
            plain.append(sample_moments(rows[:, None]))
        hits["clusters"] += covers(estimate_arms(sides[0], sides[1], parse_measure("ratio:y/n")), 2.0)
        hits["rows"] += covers(estimate_arms(plain[0], plain[1], parse_measure("mean:y")), 2.0)
        tiers = rng.integers(0, 3, (2, 300))
        spent = 20.0 * tiers + rng.gamma(2.0, 3.0, (2, 300)) + np.array([[0.0], [2.0]])
        parts = [
            {
                side: Group(0, {"y": sample_moments(spent[at][tiers[at] == tier][:, None])})
                for at, side in enumerate("ab")
            }
            for tier in range(3)
        ]
        weighted = poststratify(parts, ["y"]).weighted
        found = estimate_arms(weighted["a"].moments["y"], weighted["b"].moments["y"], parse_measure("mean:y"))
        hits["strata"] += covers(found, 2.0)
    assert 0.94 <= hits["clusters"] / RUNS <= 0.96
    assert 0.94 <= hits["strata"] / RUNS <= 0.96
    assert hits["rows"] / RUNS < 0.8  # what taking customers for units would claim


def covers(found: object, truth: float) -> bool:
    assert isinstance(found, tuple)
    width = interval_scale(found[0], found[1], Inference(method="fixed"))
    assert isinstance(width, IntervalScale)
    effect = absolute_effect(found[0], found[1], width)
    return effect.low <= truth <= effect.high


@pytest.mark.parametrize(("segments", "between"), [(3, 0.0), (3, 1.0), (10, 0.5), (10, 2.0)])
def test_shrunken_effects_cover_where_an_estimated_spread_would_not(segments: int, between: float) -> None:
    rng = np.random.default_rng(24)
    ours = plugged = 0
    few = RUNS // 5  # of what is wrong by far
    for run in range(RUNS):
        errors = rng.uniform(0.5, 1.5, segments)
        truth = rng.normal(1.0, between, segments)
        seen = truth + rng.normal(0, errors)
        for effect, value in zip(shrink(seen.tolist(), errors.tolist(), 0.05), truth, strict=True):
            ours += effect.low <= value <= effect.high
        if run < few:
            mean, tau, error = pool_effects(seen.tolist(), errors.tolist())
            keep = tau**2 / (tau**2 + errors**2)
            reach = 1.96 * np.sqrt(keep * errors**2 + (1 - keep) ** 2 * error**2)
            plugged += int((np.abs(keep * seen + (1 - keep) * mean - truth) <= reach).sum())
    assert ours / RUNS / segments >= 0.925
    if between:
        assert plugged / few < ours / RUNS


def test_gates_stay_quiet_under_daily_looks() -> None:
    rng, days = np.random.default_rng(25), 20
    split = lost = 0
    weights = {"a": 0.5, "b": 0.5}
    for _ in range(RUNS):
        channels = np.cumsum(rng.multinomial(40, [1 / 6] * 6, size=days), axis=0)
        assigned = np.cumsum(rng.multinomial(200, [0.5, 0.5], size=days), axis=0)
        exposed = np.cumsum(rng.binomial(np.diff(assigned, axis=0, prepend=0), 0.8), axis=0)
        broken = missing = False
        for day in range(days):
            row = channels[day]
            parts = {str(at): {"a": int(row[2 * at]), "b": int(row[2 * at + 1])} for at in range(3)}
            broken = broken or bool(
                flag_broken_splits({name: (part, weights) for name, part in parts.items()}, {}, sequential=True)
            )
            seen = [dict(zip("ab", map(int, of[day]), strict=True)) for of in (assigned, exposed)]
            missing = missing or exposure_check(seen[0], seen[1], 0, 0, sequential=True).p < 0.001
        split, lost = split + broken, lost + missing
    assert split / RUNS <= SEQUENTIAL_GATE
    assert lost / RUNS <= 0.001 + slack(0.001)
    lossy = exposure_check({"a": 2000, "b": 2000}, {"a": 1800, "b": 1600}, 0, 0, sequential=True)
    assert lossy.p < 1e-6
