"""Simulated outcomes of an experiment's arm, read daily, for thousands of runs at once.

A world is the cumulative sums of each day; a unit without an outcome is only counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from engine.analysis.stats.distributions import normal_cdf

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Sums (runs, looks, k) of an arm's columns and of their products, its units, and those whose value is not 0."""

    n: Floats
    sums: Floats
    products: Floats
    nonzero: Floats
    size: Floats | None = None

    def scaled(self, by: float) -> World:
        """The arm with its first column multiplied."""
        factor = np.ones(self.sums.shape[-1])
        factor[0] = by
        size = None if self.size is None else self.size * by
        return World(self.n, self.sums * factor, self.products * factor[:, None] * factor[None, :], self.nonzero, size)


Draw = Callable[[np.random.Generator, float, int, int, float], World]


def accumulate(*parts: Floats) -> World:
    """The world of daily sums, in the order of its fields."""
    return World(*(np.cumsum(part, axis=1).astype(np.float64) for part in parts))


def converts(share: float) -> Draw:
    """Whether a unit converts; an effect raises the share."""

    def draw(rng: np.random.Generator, per_day: float, runs: int, days: int, effect: float) -> World:
        n = rng.poisson(per_day, (runs, days))
        k = rng.binomial(n, share * (1 + effect))[..., None].astype(np.float64)
        return accumulate(n, k, k[..., None], k[..., 0])

    return draw


def per_day(values: Floats, counts: NDArray[np.int_]) -> Floats:
    """Sums of consecutive runs of `values`, `counts` of them each."""
    ends = np.concatenate([[0], np.cumsum(counts.ravel())])
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.diff(total[ends]).reshape(counts.shape)


def buys(share: float, sigma: float, *, more_buyers: bool = False, cap: float = math.inf) -> Draw:
    """Log-normal revenue of a share of units, at most `cap`; an effect raises amounts, or the share of buyers."""

    def draw(rng: np.random.Generator, daily: float, runs: int, days: int, effect: float) -> World:
        n = rng.poisson(daily, (runs, days))
        k = rng.binomial(n, share * (1 + effect if more_buyers else 1))
        x = np.exp(sigma * rng.standard_normal(int(k.sum()))) * (1 if more_buyers else 1 + effect)
        x = np.minimum(x, cap)
        return accumulate(n, per_day(x, k)[..., None], per_day(x**2, k)[..., None, None], k)

    return draw


def pays(share: float, amounts: Callable[[np.random.Generator, int], Floats], refunds: float = 0.0) -> Draw:
    """Amounts of a share of units, of which a share `refunds` are negative; an effect multiplies them."""

    def draw(rng: np.random.Generator, daily: float, runs: int, days: int, effect: float) -> World:
        n = rng.poisson(daily, (runs, days))
        k = rng.binomial(n, share)
        x = amounts(rng, int(k.sum())) * np.where(rng.random(int(k.sum())) < refunds, -1, 1) * (1 + effect)
        sums, products = per_day(x, k)[..., None], per_day(x**2, k)[..., None, None]
        return accumulate(n, sums, products, k, *([per_day(np.abs(x), k)] if refunds else []))

    return draw


def poisson_counts(rate: float) -> Draw:
    """Numbers of events of a unit; an effect raises their rate."""
    values = np.arange(12.0)

    def draw(rng: np.random.Generator, daily: float, runs: int, days: int, effect: float) -> World:
        chance = stats.poisson.pmf(values, rate * (1 + effect))
        n = rng.poisson(daily * chance, (runs, days, len(values))).astype(np.float64)
        sums, products = (n @ values)[..., None], (n @ values**2)[..., None, None]
        return accumulate(n.sum(-1), sums, products, n[..., 1:].sum(-1))

    return draw


def buys_by_habit(share: float, sigma: float) -> Draw:
    """Revenue and a covariate: units of habit 0 to 4 buy for an amount in proportion to 1 + habit."""
    habits = np.arange(5.0)

    def draw(rng: np.random.Generator, daily: float, runs: int, days: int, effect: float) -> World:
        n = rng.poisson(daily / 5, (runs, days, 5))
        k = rng.binomial(n, share)
        x = np.exp(sigma * rng.standard_normal(int(k.sum())))
        unit = (1 + habits) * (1 + effect)
        y, yy = per_day(x, k) * unit, per_day(x**2, k) * unit**2
        sums = np.stack([y.sum(-1), (n * habits).sum(-1)], axis=-1)
        yx, xx = (y * habits).sum(-1), (n * habits**2).sum(-1)
        products = np.stack([np.stack([yy.sum(-1), yx], -1), np.stack([yx, xx], -1)], -2)
        return accumulate(n.sum(-1), sums, products, k.sum(-1))

    return draw


def orders_per_session(rate: float) -> Draw:
    """Orders and sessions: one to eight sessions (geometric), each with an order or none."""
    kinds = [(d, y) for d in range(1, 9) for y in range(d + 1)]
    sessions, orders = (np.array(part, dtype=np.float64) for part in zip(*kinds, strict=True))

    def draw(rng: np.random.Generator, daily: float, runs: int, days: int, effect: float) -> World:
        p = rate * (1 + effect)
        often = 0.5**sessions / sum(0.5**d for d in range(1, 9))
        chance = [math.comb(d, y) * p**y * (1 - p) ** (d - y) for d, y in kinds]
        n = rng.poisson(daily * often * np.array(chance), (runs, days, len(kinds))).astype(np.float64)
        columns = np.stack([orders, sessions], axis=-1)
        products = (columns[:, :, None] * columns[:, None, :]).reshape(-1, 4)
        return accumulate(n.sum(-1), n @ columns, (n @ products).reshape(runs, days, 2, 2), n @ (orders > 0))

    return draw


@dataclass(frozen=True)
class Outcome:
    """A metric's world: its mean without an effect, and how its sides are estimated."""

    draw: Draw
    mean: float
    kind: str = "mean"  # or share, ratio, cuped
    scales: bool = False  # an effect multiplies the values, so that one world serves all effects


def log_mean(sigma: float) -> float:
    return math.exp(sigma**2 / 2)


def capped_log_mean(sigma: float, cap: float) -> float:
    """The mean of a log-normal value, at most `cap`."""
    at = math.log(cap) / sigma
    return log_mean(sigma) * normal_cdf(at - sigma) + cap * normal_cdf(-at)


CAP = 12.0
OUTCOMES = {
    **{f"conversion {p:.1%}": Outcome(converts(p), p, "share") for p in (0.003, 0.03, 0.3)},
    **{
        f"revenue, {p:.1%} buy, sigma {s:g}": Outcome(buys(p, s), p * log_mean(s), scales=True)
        for p in (0.005, 0.03, 0.1)
        for s in (1.0, 1.5)
    },
    "revenue, 10 % buy, sigma 1, more buyers": Outcome(buys(0.1, 1.0, more_buyers=True), 0.1 * log_mean(1.0)),
    "revenue, 10 % buy, sigma 1.5, capped": Outcome(
        buys(0.1, 1.5, more_buyers=True, cap=CAP), 0.1 * capped_log_mean(1.5, CAP), kind="mean"
    ),
    "revenue with CUPED": Outcome(buys_by_habit(0.1, 1.0), 0.3 * log_mean(1.0), "cuped", scales=True),
    "orders per session": Outcome(orders_per_session(0.1), 0.1, "ratio"),
    "orders per customer": Outcome(poisson_counts(0.3), 0.3),
    "revenue, 10 % buy, Pareto 2.5": Outcome(
        pays(0.1, lambda rng, k: 1 + rng.pareto(2.5, k)), 0.1 * 2.5 / 1.5, scales=True
    ),
    "revenue, 10 % buy, 10 % of it refunds": Outcome(
        pays(0.1, lambda rng, k: np.exp(rng.standard_normal(k)), 0.1), 0.08 * log_mean(1.0), scales=True
    ),
    "gains and losses of 10 %": Outcome(
        pays(0.1, lambda rng, k: np.exp(rng.standard_normal(k)), 0.45), 0.01 * log_mean(1.0), scales=True
    ),
}
SPLITS = [0.5, 0.2, 0.8, 0.1, 0.9, 0.05, 0.95, 0.01, 0.99]
TRAFFIC = [3, 50, 500, 2000]
