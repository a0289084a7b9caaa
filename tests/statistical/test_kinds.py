"""Coverage of the report's intervals for each kind of metric: quantiles, ratios, counts, retention, winsorized revenue.

RUNS runs each, fixed seeds. Fixed-horizon intervals are judged by their band of 94 to 96 %, but those of quantiles,
whose outer order statistics cover more than they say in small samples, by its lower end; anytime-valid ones by how many
runs they lose at any look. Quantiles are taken over all runs at once, and the first of them checked to be the report's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from engine.analysis.aggregates.quantiles import estimate_quantiles
from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.sources.engines import DuckDB, ibis_table
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.effects import IntervalScale, absolute_effect, interval_scale, relative_effect
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.inference import Arm, estimate_arms
from engine.analysis.stats.moments import sample_moments
from engine.analysis.stats.sequential import asymptotic_multiplier

RUNS = 2000
CHECKED = 20  # runs whose quantiles are also asked of the report
LIFT = 0.15
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantile:
    """One quantile per run: the value, its variance, and the units and rows behind it."""

    value: Floats
    variance: Floats
    units: NDArray[np.int_]

    def arm(self, run: int) -> Arm:
        return Arm(int(self.units[run]), float(self.value[run]), float(self.variance[run]))


def latencies(rng: np.random.Generator, runs: int, units: int, rows: int, factor: float) -> Floats:
    """Lognormal times (runs, units, rows); with several rows a unit's are alike, and NaN stands for those it lacks."""
    alike = 0.6 if rows > 1 else 0.0
    spread = np.sqrt(1 - alike**2)
    z = alike * rng.normal(size=(runs, units, 1)) + spread * rng.normal(size=(runs, units, rows))
    sizes = rng.integers(1, rows + 1, (runs, units, 1))
    return np.where(np.arange(rows) < sizes, factor * np.exp(z), np.nan)


def quantiles(x: Floats, level: float) -> Quantile:
    """As `quantile_arms`, for many runs of (runs, units, rows) at once."""
    runs, units, _ = x.shape
    flat = np.sort(x.reshape(runs, -1), axis=1)  # NaN last
    n = np.isfinite(flat).sum(axis=1)

    def at(rank: Floats) -> Floats:
        below = np.floor(rank).astype(int)
        low, high = (np.take_along_axis(flat, np.minimum(i, n - 1)[:, None], axis=1)[:, 0] for i in (below, below + 1))
        return low + (high - low) * (rank - below)

    value = at((n - 1) * level)
    reach = 1.959963984540054 * np.sqrt(level * (1 - level) / n)
    low, high = np.maximum(np.floor(n * (level - reach)) - 1, 0), np.minimum(np.ceil(n * (level + reach)), n - 1)
    se = (at(high) - at(low)) / (2 * 1.959963984540054)
    sizes = np.isfinite(x).sum(axis=2)
    under = (x <= value[:, None, None]).sum(axis=2)
    residuals = under - under.sum(axis=1, keepdims=True) / n[:, None] * sizes
    clustered = (residuals**2).sum(axis=1) * units / (units - 1) / n**2
    return Quantile(value, se**2 * clustered / (level * (1 - level) / n), np.full(runs, units))


def is_the_reports(x: Floats, level: float, ours: Quantile) -> None:
    """Each of the first runs as a variant of a table whose quantiles the report takes."""
    run, unit, row = np.nonzero(np.isfinite(x[:CHECKED]))
    source = DuckDB()
    table = pa.table({"variant": run.astype(str), "unit": run * 1_000_000 + unit, "x": x[run, unit, row]})
    source.connection.register("rows", table)
    found = estimate_quantiles(source, ibis_table(source.view("made", "SELECT * FROM rows")), "x", level, label="x")
    for at in range(CHECKED):
        arm, mine = found[str(at)], ours.arm(at)
        assert isinstance(arm, Arm)
        assert arm.n == mine.n
        assert (mine.value, mine.variance) == pytest.approx((arm.value, arm.variance), rel=1e-9)


def covers(control: Arm, treatment: Arm, difference: float, lift: float) -> tuple[bool, bool]:
    """Whether the fixed-horizon intervals, absolute and relative, hold the truth."""
    width = interval_scale(control, treatment, Inference(method="fixed"))
    assert isinstance(width, IntervalScale)
    effect, share = absolute_effect(control, treatment, width), relative_effect(control, treatment, width, "fieller")
    assert isinstance(share, Effect)
    return effect.low <= difference <= effect.high, share.low <= lift <= share.high


def quantile_coverage(level: float, rows: int, units: tuple[int, int], seed: int, runs: int) -> tuple[float, float]:
    """The coverage of a quantile's absolute and relative interval."""
    rng = np.random.default_rng(seed)
    true = float(np.exp(normal_quantile(level)))
    held = np.zeros(2)
    for start in range(0, runs, 500):  # not all in memory at once
        samples = [
            latencies(rng, min(500, runs - start), n, rows, f) for n, f in zip(units, (1, 1 + LIFT), strict=True)
        ]
        sides = [quantiles(x, level) for x in samples]
        if start == 0:
            for x, side in zip(samples, sides, strict=True):
                is_the_reports(x, level, side)
        for run in range(len(samples[0])):
            held += covers(sides[0].arm(run), sides[1].arm(run), true * LIFT, LIFT)
    return float(held[0]) / runs, float(held[1]) / runs


QUANTILES = {
    "median, rows": (0.5, 1, (1000, 1000)),
    "p90, rows": (0.9, 1, (1000, 1000)),
    "p90, rows, uneven": (0.9, 1, (1500, 400)),
    "median, clusters": (0.5, 6, (300, 300)),
    "p90, clusters": (0.9, 6, (300, 300)),
}


@pytest.mark.parametrize("name", QUANTILES)
def test_quantiles_cover(name: str) -> None:
    level, rows, units = QUANTILES[name]
    for rate in quantile_coverage(level, rows, units, 41, RUNS):
        assert 0.94 <= rate <= 0.98


def test_clusters_taken_for_rows_would_not_cover() -> None:
    rng = np.random.default_rng(42)
    x = latencies(rng, 500, 300, 6, 1.0)
    rows = np.sort(x.reshape(500, 1, -1).transpose(0, 2, 1), axis=1)
    alone = [quantiles(part[: int(np.isfinite(part).sum())][None], 0.5) for part in rows]
    missed = np.mean([abs(float(q.value[0]) - 1) > 1.96 * float(q.variance[0]) ** 0.5 for q in alone])
    assert missed > 0.1


@pytest.mark.parametrize(("level", "rows"), [(0.5, 1), (0.9, 1), (0.9, 4)])
def test_anytime_intervals_of_quantiles_hold_at_every_look(level: float, rows: int) -> None:
    rng, looks, per_look = np.random.default_rng(43), 6, 60
    lost = 0
    for _ in range(0, RUNS, 500):
        x, y = (latencies(rng, 500, looks * per_look, rows, 1.0) for _ in range(2))
        wrong = np.zeros(500, dtype=bool)
        for look in range(1, looks + 1):
            a, b = (quantiles(part[:, : look * per_look], level) for part in (x, y))
            z = np.abs(b.value - a.value) / np.sqrt(a.variance + b.variance)
            wrong |= z > asymptotic_multiplier(2 * look * per_look, 5000, 0.05)
        lost += int(wrong.sum())
    assert lost / RUNS <= 0.05


Sample = Callable[[np.random.Generator, int, float], Floats]


def visits(rng: np.random.Generator, n: int, factor: float) -> Floats:
    """Orders and sessions per unit: some come often, and those buy more often."""
    often = rng.gamma(1.5, 2.0, n)
    sessions = 1.0 + rng.poisson(often)
    return np.column_stack([rng.binomial(sessions.astype(int), 0.2 * factor).astype(float), sessions])


def counts(rng: np.random.Generator, n: int, factor: float) -> Floats:
    """Purchases per unit, three quarters of which have none."""
    return rng.poisson(rng.gamma(0.3, 2.0, n) * factor).astype(float)[:, None]


def returns(rng: np.random.Generator, n: int, factor: float) -> Floats:
    """Whether a unit came back."""
    return (rng.random(n) < 0.25 * factor).astype(float)[:, None]


def revenue(rng: np.random.Generator, n: int, factor: float) -> Floats:
    """Revenue per unit with a tail that nobody should decide by."""
    return ((rng.random(n) < 0.4) * rng.lognormal(2.5, 1.3, n) * factor)[:, None]


CAP = 0.98
KINDS: dict[str, tuple[Measure, Sample]] = {
    "ratio": (Measure("y", "ratio", Term("a", "b")), visits),
    "count": (Measure("y", "count", Term("a")), counts),
    "retention": (Measure("y", "retention", Term("a")), returns),
    "winsorized": (Measure("y", "mean", Term("a")), revenue),
}


def capped(samples: list[Floats], cap: float) -> list[Floats]:
    """Values above the pooled quantile count as it, as in the report's query."""
    most = float(np.quantile(np.concatenate(samples), cap))
    return [np.minimum(sample, most) for sample in samples]


def truth(kind: str) -> tuple[float, float]:
    """The difference and the relative effect: by arithmetic, or for a capped mean from four million units."""
    base = {"ratio": 0.2, "count": 0.6, "retention": 0.25}.get(kind)
    if base is not None:
        return base * LIFT, LIFT
    rng = np.random.default_rng(44)
    control, treatment = capped([revenue(rng, 2_000_000, 1.0), revenue(rng, 2_000_000, 1.0) * (1 + LIFT)], CAP)
    return float(treatment.mean() - control.mean()), float(treatment.mean() / control.mean() - 1)


def sampled(kind: str, rng: np.random.Generator, n: tuple[int, int]) -> list[Floats]:
    _, sample = KINDS[kind]
    found = [sample(rng, n[0], 1.0), sample(rng, n[1], 1 + LIFT)]
    return capped(found, CAP) if kind == "winsorized" else found


def compared(kind: str, samples: list[Floats]) -> tuple[Arm, Arm]:
    found = estimate_arms(sample_moments(samples[0]), sample_moments(samples[1]), KINDS[kind][0])
    assert isinstance(found, tuple)
    return found[0], found[1]


def kind_coverage(kind: str, seed: int, runs: int, n: tuple[int, int] = (800, 800)) -> tuple[float, float]:
    """The coverage of a kind's absolute and relative interval."""
    rng, (difference, lift), held = np.random.default_rng(seed), truth(kind), np.zeros(2)
    for _ in range(runs):
        held += covers(*compared(kind, sampled(kind, rng, n)), difference, lift)
    return float(held[0]) / runs, float(held[1]) / runs


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_cover(kind: str) -> None:
    for rate in kind_coverage(kind, 45, RUNS):
        assert 0.94 <= rate <= 0.96


@pytest.mark.parametrize("kind", KINDS)
def test_anytime_intervals_of_kinds_hold_at_every_look(kind: str) -> None:
    rng, looks = np.random.default_rng(46), (100, 200, 350, 500)
    lost = 0
    for _ in range(RUNS):
        samples = [KINDS[kind][1](rng, looks[-1], 1.0) for _ in range(2)]
        lost += any(_misses(kind, [sample[:look] for sample in samples]) for look in looks)
    assert lost / RUNS <= 0.05


def _misses(kind: str, samples: list[Floats]) -> bool:
    control, treatment = compared(kind, capped(samples, CAP) if kind == "winsorized" else samples)
    width = interval_scale(control, treatment, Inference())
    assert isinstance(width, IntervalScale)
    effect = absolute_effect(control, treatment, width)
    return not effect.low <= 0 <= effect.high


def figures(runs: int, seed: int) -> Iterator[tuple[str, float, float]]:
    """Name, absolute and relative coverage of every case above."""
    for name, (level, rows, units) in QUANTILES.items():
        yield name, *quantile_coverage(level, rows, units, seed, runs)
    for kind in KINDS:
        yield kind, *kind_coverage(kind, seed, runs)
