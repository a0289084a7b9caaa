"""Coverage and error rates of the report's intervals, by simulation with fixed seeds.

RUNS runs each. Coverage at a fixed horizon is judged by its stated band of 94 to 96 %, other rates by their nominal
value and three binomial standard errors. `make calibrate` prints the same figures from ten times the runs.
"""

import math

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.analysis.design.methods import Inference, Relative
from engine.analysis.design.metrics import parse_measure
from engine.analysis.report.sample_ratio import SEQUENTIAL_GATE, sequential_ratio, sequential_ratio_of_periods
from engine.analysis.stats.bayes import Prior, normal_posterior
from engine.analysis.stats.effects import (
    IntervalScale,
    absolute_effect,
    group_bound,
    interval_scale,
    linear_delta_effect,
    relative_effect,
)
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.inference import Arm, estimate_arms
from engine.analysis.stats.moments import Moments, sample_moments
from engine.analysis.stats.multiplicity import benjamini_hochberg
from engine.analysis.stats.sequential import Spending, asymptotic_multiplier, group_boundaries, spent_error

RUNS = 2000
Floats = NDArray[np.float64]


def slack(rate: float, runs: int = RUNS) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / runs)


def width(control: Arm, treatment: Arm, settings: Inference) -> IntervalScale:
    found = interval_scale(control, treatment, settings)
    assert isinstance(found, IntervalScale)
    return found


def shop(rng: np.random.Generator, n: int, lift: float) -> Floats:
    """Columns revenue, sessions, habit and earlier sessions of n units; half of them buy nothing."""
    habit = rng.gamma(1.5, 10.0, n)
    sessions = 1.0 + rng.poisson(habit / 8)
    bought = rng.random(n) < 0.5
    revenue = bought * rng.gamma(2.0, 1.0, n) * (5 + 0.6 * habit) * (1 + lift)
    return np.column_stack([revenue, sessions, habit, 1.0 + rng.poisson(habit / 8)])


def truth(lift: float) -> tuple[float, float, float, float]:
    """Control's revenue and revenue per session, and the differences a lift makes to them."""
    revenue = 0.5 * 2.0 * (5 + 0.6 * 15)
    per_session = revenue / (1 + 15 / 8)
    return revenue, per_session, revenue * lift, per_session * lift


def take(moments: Moments, columns: list[int]) -> Moments:
    return Moments(moments.n, moments.mean[columns], moments.comoment[np.ix_(columns, columns)])


def fixed_coverage(n: tuple[int, int], lift: float, seed: int, runs: int) -> dict[str, float]:
    """How often each fixed-horizon interval holds the truth; `naive` is the absolute one over control's mean."""
    rng = np.random.default_rng(seed)
    lin = {"adjust": "lin"}
    measures = {
        "mean": (parse_measure("mean:y"), [0]),
        "cuped": (parse_measure("mean:y|x"), [0, 2]),
        "lin": (msgspec.structs.replace(parse_measure("mean:y|x"), **lin), [0, 2]),
        "ratio": (parse_measure("ratio:y/s"), [0, 1]),
        "ratio cuped": (parse_measure("ratio:y/s|x/p"), [0, 1, 2, 3]),
    }
    _, _, more, more_per_session = truth(lift)
    hits: dict[str, int] = {}
    scales: tuple[Relative, ...] = ("fieller", "log", "linear")
    for _ in range(runs):
        control, treatment = sample_moments(shop(rng, n[0], 0.0)), sample_moments(shop(rng, n[1], lift))
        for name, (measure, columns) in measures.items():
            found = estimate_arms(take(control, columns), take(treatment, columns), measure)
            assert isinstance(found, tuple)
            at = width(found[0], found[1], Inference(method="fixed"))
            effect = absolute_effect(found[0], found[1], at)
            target = more_per_session if "ratio" in name else more
            hits[name] = hits.get(name, 0) + (effect.low <= target <= effect.high)
            if name == "mean":
                naive = (effect.low / found[0].value, effect.high / found[0].value)
                hits["naive"] = hits.get("naive", 0) + (naive[0] <= lift <= naive[1])
            for how in scales:
                share = relative_effect(found[0], found[1], at, how)
                assert isinstance(share, Effect)
                key = f"{name} {how}"
                hits[key] = hits.get(key, 0) + (share.low <= lift <= share.high)
    return {name: count / runs for name, count in hits.items()}


@pytest.mark.parametrize(("n", "lift"), [((2000, 2000), 0.1), ((3000, 500), 0.3)])
def test_fixed_horizon_intervals_cover(n: tuple[int, int], lift: float) -> None:
    coverage = fixed_coverage(n, lift, 1, RUNS)
    naive = coverage.pop("naive")
    # An unbalanced and much larger treatment is where the linear scale starts to fail; it is offered, not the default.
    judged = {name: rate for name, rate in coverage.items() if lift < 0.2 or "linear" not in name}
    assert {name: rate for name, rate in judged.items() if not 0.94 <= rate <= 0.96} == {}
    if lift > 0.2:
        assert naive < coverage["mean fieller"]


def daily_sums(rng: np.random.Generator, runs: int, looks: int, per_look: int) -> tuple[Floats, Floats]:
    """Running means and variances (runs, looks) of skewed revenue, `per_look` units a look."""
    total, squares = np.zeros((runs, looks)), np.zeros((runs, looks))
    for look in range(looks):
        part = rng.gamma(0.5, 20.0, (runs, per_look)) - 10.0
        total[:, look], squares[:, look] = part.sum(axis=1), (part**2).sum(axis=1)
    n = per_look * np.arange(1, looks + 1)
    mean = np.cumsum(total, axis=1) / n
    return mean, (np.cumsum(squares, axis=1) / n - mean**2) * n / (n - 1)


def test_anytime_intervals_hold_at_all_of_100_looks_where_fixed_ones_do_not() -> None:
    rng = np.random.default_rng(11)
    looks, per_look = 100, 100
    (a, va), (b, vb) = daily_sums(rng, RUNS, looks, per_look), daily_sums(rng, RUNS, looks, per_look)
    n = per_look * np.arange(1, looks + 1)
    z = np.abs(b - a) / np.sqrt(va / n + vb / n)
    bound = np.array([asymptotic_multiplier(int(2 * units), 5000, 0.05) for units in n])
    assert np.mean((z > bound).any(axis=1)) <= 0.05
    assert np.mean((z > 1.96).any(axis=1)) > 0.3


@pytest.mark.parametrize("kind", ["obrien_fleming", "pocock"])
def test_group_sequential_looks_spend_their_error(kind: str) -> None:
    rng = np.random.default_rng(12)
    fractions = [look / 5 for look in range(1, 6)]
    bounds = np.array(group_boundaries(fractions, [spent_error(kind, at, 0.05) for at in fractions]))  # type: ignore[arg-type]
    paths = np.cumsum(rng.normal(size=(20_000, 5)), axis=1) / np.sqrt(np.arange(1, 6))
    assert np.mean((np.abs(paths) > bounds).any(axis=1)) == pytest.approx(0.05, abs=slack(0.05, 20_000))


@pytest.mark.parametrize("kind", ["obrien_fleming", "pocock"])
@pytest.mark.parametrize("looks", [1, 2, 5])
def test_a_table_read_daily_and_beyond_its_plan_keeps_its_level(kind: Spending, looks: int) -> None:
    runs, rng = 20_000, np.random.default_rng(14)
    plan = Inference(method="group_sequential", planned=5000, looks=looks, spending=kind)
    units = np.arange(20, 5000 * (1 + 0.5 / looks) + 1, 20)
    paths = np.abs(np.cumsum(rng.normal(0, math.sqrt(20), (runs, units.size)), axis=1)) / np.sqrt(units)
    rates = [
        float(np.mean((paths > [group_bound(int(n), own) or np.inf for n in units]).any(axis=1)))
        for own in (plan, msgspec.structs.replace(plan, between_looks=True))
    ]
    assert rates[1] <= 0.055 + slack(0.055, runs)
    assert rates[1] < rates[0] - 0.005  # with the boundaries of the planned looks at every day


@pytest.mark.parametrize("prior", [Prior(0.0, 0.05), Prior(0.02, 0.03)])
def test_bayesian_intervals_are_calibrated_under_their_prior(prior: Prior) -> None:
    rng = np.random.default_rng(13)
    covered, chances, wins, losses, regrets = 0, [], [], [], []
    for _ in range(RUNS):
        effect = rng.normal(prior.mean, prior.sd)
        control, treatment = rng.normal(20.0, 15.0, 2000), rng.normal(20.0 * (1 + effect), 15.0, 2000)
        sides = [Arm(2000, float(part.mean()), float(part.var(ddof=1)) / 2000) for part in (control, treatment)]
        found = linear_delta_effect(sides[0], sides[1])
        assert isinstance(found, tuple)
        posterior = normal_posterior(*found, prior, 0.05)
        covered += posterior.low <= effect <= posterior.high
        chances.append(posterior.chance_to_win)
        losses.append(posterior.expected_loss)
        wins.append(effect > 0)
        regrets.append(max(-effect, 0.0))
    assert covered / RUNS == pytest.approx(0.95, abs=slack(0.95))
    gap = np.array(wins) - np.array(chances)
    assert abs(gap.mean()) < 3 * gap.std() / math.sqrt(RUNS)
    sure = np.array(chances) > 0.9
    assert abs(gap[sure].mean()) < 3 * gap[sure].std() / math.sqrt(sure.sum())
    excess = np.array(regrets) - np.array(losses)
    assert abs(excess.mean()) < 3 * excess.std() / math.sqrt(RUNS)


def test_false_discoveries_stay_rare() -> None:
    rng = np.random.default_rng(14)
    shares = []
    for _ in range(RUNS):
        z = rng.normal(size=20)
        z[:4] += 3.0
        p = [math.erfc(abs(value) / math.sqrt(2)) for value in z]
        found = np.array(benjamini_hochberg(p)) <= 0.05
        shares.append(found[4:].sum() / max(found.sum(), 1))
    assert np.mean(shares) <= 0.05


def test_sample_ratio_alarms_stay_rare_under_daily_looks() -> None:
    rng = np.random.default_rng(15)
    weights = [0.5, 0.3, 0.2]
    days = rng.multinomial(1000, weights, size=(RUNS, 60))
    alarms = np.mean([sequential_ratio(run, weights)[-1] < SEQUENTIAL_GATE for run in days])
    assert alarms <= SEQUENTIAL_GATE
    broken = rng.multinomial(1000, [0.5, 0.27, 0.23], size=(200, 60))
    assert np.mean([sequential_ratio(run, weights)[-1] < SEQUENTIAL_GATE for run in broken]) > 0.99


@pytest.mark.parametrize(
    ("truth", "least", "most"),
    [
        ([0.5, 0.2, 0.4, 0.1, 0.5], 0.0, SEQUENTIAL_GATE),
        ([0.46, 0.16, 0.36, 0.07, 0.46], 0.7, 1.0),  # each edit keeps a slight mismatch: 0.2 by periods apart
        ([0.5, 0.2, 0.4, 0.05, 0.5], 0.9, 1.0),  # one of five has a mismatch
    ],
)
def test_the_evidence_of_five_edits_adds_up(truth: list[float], least: float, most: float) -> None:
    rng, shares = np.random.default_rng(16), [0.5, 0.2, 0.4, 0.1, 0.5]
    alarms = []
    for _ in range(300):
        counts = np.zeros((5, 30, 2), dtype=int)
        for period, share in enumerate(truth):
            counts[period, period * 6 : (period + 1) * 6] = rng.multinomial(200, [share, 1 - share], size=6)
        periods = [(counts[at].tolist(), [share, 1 - share]) for at, share in enumerate(shares)]
        alarms.append(sequential_ratio_of_periods(periods)[-1] < SEQUENTIAL_GATE)
    assert least <= np.mean(alarms) <= most
