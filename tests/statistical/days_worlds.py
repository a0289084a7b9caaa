"""Days until a verdict in simulated worlds: predicted from a history, beside those of experiments that run there.

A world has regular customers, who visit on some days, and new ones. Its history gives the arrivals and the baseline.
Then 400 experiments run from an empty start, with a look each day; their median (of a fixed look, the day of the units
that a power of 0.8 takes) is the truth. `python -m tests.statistical.days_worlds [WORLDS]`.
"""

import math
import sys
from typing import NamedTuple

import numpy as np

from engine.analysis.design.methods import Inference, Method
from engine.analysis.planning.verdict_days import Arrivals, estimate_verdict_days
from engine.analysis.stats.power import Baseline, sample_size
from engine.analysis.stats.sequential import asymptotic_multiplier

EXPERIMENTS, DAYS = 400, 400
METHODS: tuple[Method, ...] = ("fixed", "sequential")
WITHIN = 0.2


class World(NamedTuple):
    """What the simulation knows and the prediction does not."""

    regulars: int
    visits: float
    new: float
    rate: float
    spend: float
    effect: float
    window: float


class Outcome(NamedTuple):
    method: Method
    predicted: float
    true: float

    @property
    def is_close(self) -> bool:
        return abs(self.predicted / self.true - 1) <= WITHIN

    @property
    def is_a_day_off(self) -> bool:
        """Whether it is not close, and yet by a day at most: days are whole, and of two days one is half."""
        return not self.is_close and abs(self.predicted - self.true) <= 1


def draw_world(rng: np.random.Generator) -> World:
    return World(
        regulars=int(rng.integers(2_000, 20_000)),
        visits=float(rng.uniform(0.03, 0.3)),
        new=float(rng.uniform(200, 1_500)),
        rate=float(rng.uniform(0.05, 0.4)),
        spend=float(rng.choice([0.0, 1.0])),
        effect=float(rng.uniform(0.05, 0.12)),
        window=float(rng.choice([0, 1, 7])),
    )


def arrivals(world: World, days: int, rng: np.random.Generator, runs: int = 1) -> np.ndarray:
    """New units by day (runs, days): regulars at their first visit, and new customers."""
    chances = world.visits * (1 - world.visits) ** np.arange(days)
    left = np.full(runs, world.regulars)
    found = np.zeros((runs, days))
    for day in range(days):
        first = rng.binomial(left, chances[day] / max(1 - chances[:day].sum(), 1e-9))
        left -= first
        found[:, day] = first + rng.poisson(world.new, runs)
    return found


def totals(world: World, n: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """The sums of so many units' values: 1 for a buyer, or what the buyer spends (gamma with shape 2)."""
    buyers = rng.binomial(n.astype(int), rate)
    return rng.gamma(2.0 * buyers, 0.5) if world.spend else buyers.astype(float)


def moments(world: World, rate: float) -> tuple[float, float]:
    """The mean and the variance of a unit's value."""
    second = rate * 1.5 if world.spend else rate
    return rate, second - rate**2


def run_world(seed: int) -> list[Outcome]:
    rng = np.random.default_rng([11, seed])
    world = draw_world(rng)
    history = arrivals(world, 28, rng)[0]
    closed = int(history[: 28 - int(world.window)].sum())
    buyers = rng.random(closed) < world.rate
    values = np.where(buyers, rng.gamma(2.0, 0.5, closed), 0.0) if world.spend else buyers.astype(float)
    sd = float(values.std(ddof=1)) if world.spend else None
    baseline = Baseline("mean" if world.spend else "proportion", float(values.mean()), sd)
    found = []
    for method in METHODS:
        inference = Inference(method=method)
        predicted = estimate_verdict_days(
            Arrivals(history), baseline, inference, effect=world.effect, window_days=world.window
        )
        true = true_days(world, inference, rng)
        if predicted.days is not None and not math.isinf(true):
            found.append(Outcome(method, predicted.days, true))
    return found


def true_days(world: World, inference: Inference, rng: np.random.Generator) -> float:
    new = arrivals(world, DAYS, rng, EXPERIMENTS)
    closed = np.concatenate([np.zeros((EXPERIMENTS, int(world.window))), new], axis=1)[:, :DAYS]
    mean, variance = moments(world, world.rate)
    if inference.method == "fixed":
        exact = Baseline("mean" if world.spend else "proportion", mean, math.sqrt(variance) if world.spend else None)
        needed = sample_size(exact, world.effect, inference).units
        return float(np.median((np.cumsum(closed, axis=1) >= needed).argmax(axis=1) + 1.0))
    half = rng.binomial(closed.astype(int), 0.5)
    sides = []
    for n, rate in ((half, world.rate), (closed - half, world.rate * (1 + world.effect))):
        sides.append((np.cumsum(totals(world, n, rate, rng), axis=1), np.cumsum(n, axis=1), moments(world, rate)[1]))
    (s0, n0, v0), (s1, n1, v1) = sides
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(s1 / n1 - s0 / n0) / np.sqrt(v0 / n0 + v1 / n1)
    units = np.unique((n0 + n1).astype(int))
    bounds = {int(one): asymptotic_multiplier(max(int(one), 1), inference.planned, inference.alpha) for one in units}
    crossed = z > np.vectorize(bounds.__getitem__)((n0 + n1).astype(int))
    first = np.where(crossed.any(axis=1), crossed.argmax(axis=1) + 1.0, np.inf)
    return float(np.median(first))


def main() -> None:
    worlds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    outcomes = [one for seed in range(worlds) for one in run_world(seed)]
    for method in METHODS:
        own = [one for one in outcomes if one.method == method]
        ratios = np.array([one.predicted / one.true for one in own])
        close = sum(one.is_close for one in own)
        off = sum(one.is_a_day_off for one in own)
        days = ", ".join(f"{np.quantile([one.true for one in own], level):.0f}" for level in (0.1, 0.5, 0.9))
        middle = f"predicted / true: median {np.median(ratios):.3f}, from {ratios.min():.3f} to {ratios.max():.3f}"
        sys.stdout.write(
            f"{method}: {close} of {len(own)} worlds within 20 %, {off} more within a day\n"
            f"  {middle}; true days (10, 50, 90 %): {days}\n"
        )


if __name__ == "__main__":
    main()
