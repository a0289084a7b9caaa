"""Posteriors on sufficient statistics: a normal prior on the relative effect, and many experiments together."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.stats.distributions import normal_cdf, normal_quantile
from engine.analysis.stats.estimate import Bayes
from engine.analysis.stats.quadrature import gauss_legendre

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.analysis.stats.moments import Floats


class Prior(msgspec.Struct, frozen=True, array_like=True):
    """A normal prior of the relative effect, with mean and standard deviation."""

    mean: float = 0.0
    sd: float = math.inf


def _loss(mean: float, sd: float) -> float:
    """E[max(-effect, 0)] of a normal effect."""
    z = mean / sd
    return max(sd * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - mean * normal_cdf(-z), 0.0)


def update_normal(estimate: float, se: float, prior: Prior) -> tuple[float, float]:
    """Mean and standard deviation of a normal effect after an estimate with standard error `se`."""
    if math.isinf(prior.sd):
        return estimate, se
    precision = 1 / se**2 + 1 / prior.sd**2
    return (estimate / se**2 + prior.mean / prior.sd**2) / precision, math.sqrt(1 / precision)


def normal_posterior(
    estimate: float, se: float, prior: Prior, alpha: float, *, good: float = 1.0, rope: float = 0.0
) -> Bayes:
    """The posterior of a normal effect: chance to win, expected loss, interval, chance to lie within ±`rope`.

    `good` is 1 where more is better, -1 where less is.
    """
    mean, sd = update_normal(estimate, se, prior)
    reach = normal_quantile(1 - alpha / 2) * sd
    return Bayes(
        chance_to_win=normal_cdf(good * mean / sd),
        expected_loss=_loss(good * mean, sd),
        forgone=_loss(-good * mean, sd),
        low=mean - reach,
        high=mean + reach,
        rope=normal_cdf((rope - mean) / sd) - normal_cdf((-rope - mean) / sd) if rope else None,
        within=rope,
    )


def chances_to_be_best(means: Sequence[float], sds: Sequence[float]) -> list[float]:
    """The probability that each of several independent normal values is the largest, by quadrature."""
    centre, spread = np.asarray(means, dtype=float), np.asarray(sds, dtype=float)
    chances = np.zeros(len(centre))
    for grid, weight, below in _pieces(centre, spread):
        z = (grid - centre[:, None]) / spread[:, None]
        density = np.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * spread[:, None])
        others = np.divide(np.prod(below, axis=0), below, out=np.zeros_like(below), where=below > 0)
        chances += density * others @ weight
    return [float(chance) for chance in chances]


def expected_losses(means: Sequence[float], sds: Sequence[float]) -> list[float]:
    """The expected loss of choosing each of several independent normal values, against the largest of them.

    The mean of the largest is the range's end less the integral of the product of the distribution functions. Unlike
    the loss against control alone, it grows with the number of variants, so a lucky one of many does not win.
    """
    centre, spread = np.asarray(means, dtype=float), np.asarray(sds, dtype=float)
    largest = float(np.max(centre + 9 * spread))
    for _, weight, below in _pieces(centre, spread):
        largest -= float(np.prod(below, axis=0) @ weight)
    return [max(largest - float(mean), 0.0) for mean in centre]


def _pieces(centre: Floats, spread: Floats) -> Iterator[tuple[Floats, Floats, Floats]]:
    """Quadrature over the range of the largest: nodes (128,), weights and distribution functions (k, 128) by piece.

    The values may be far apart, and their errors may differ a thousandfold. So each step of a distribution function
    has pieces of its own.
    """
    from scipy.special import ndtr  # noqa: PLC0415 # see distributions

    edges = np.unique(np.concatenate([centre - 9 * spread, centre, centre + 9 * spread]))
    x, w = gauss_legendre()
    for low, high in pairwise(edges[edges >= np.max(centre - 9 * spread)]):
        grid = low + (high - low) * (x + 1) / 2
        yield grid, w * (high - low) / 2, ndtr((grid - centre[:, None]) / spread[:, None])


def estimate_prior(estimates: Sequence[float], ses: Sequence[float]) -> Prior:
    """The prior estimated from past experiments: the mean and spread of their true relative effects.

    Paule and Mandel 1982, "Consensus Values and Weighting Factors": the spread at which the weighted squares around
    the weighted mean equal their degrees of freedom. The mean of few experiments is uncertain, so its error is added.
    With fewer than three the prior is flat.
    """
    if len(estimates) < 3:
        return Prior()
    mean, between, error = pool_effects(estimates, ses)
    return Prior(mean, math.hypot(between, error))


def pool_effects(estimates: Sequence[float], ses: Sequence[float]) -> tuple[float, float, float]:
    """Mean, between-group standard deviation and the mean's standard error of a normal random-effects model."""
    values, errors = np.asarray(estimates, dtype=float), np.asarray(ses, dtype=float)

    def excess(between: float) -> float:
        weights = 1 / (errors**2 + between)
        mean = weights @ values / weights.sum()
        return float(weights @ (values - mean) ** 2) - (len(values) - 1)

    low, high = 0.0, max(float(np.var(values)) * 10, 1e-300)
    if excess(0.0) <= 0:
        high = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    weights = 1 / (errors**2 + high)
    return float(weights @ values / weights.sum()), math.sqrt(high), float(weights.sum()) ** -0.5
