"""Maximum likelihood of a few positive parameters, with a covariance that is robust to slight misspecification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import optimize

from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    from policies.batches import Floats

LogLikelihoods = Callable[["Floats"], "Floats"]
"""The log-likelihoods of n observations at the logarithms of the parameters."""
_FAR = 15.0
"""A logarithm beyond which a parameter is at the edge of its range: the data do not determine it."""
_STEP = 1e-4
PART: Final = 4000
"""Observations by which a search begins where there are many."""
_NEWTON, _CLOSE = 8, 1e-7
"""Steps of Newton from where the quasi-Newton search ended, and the step that is small enough."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodFit:
    """The logarithms of the parameters (k,) and their sandwich covariance (k, k) (White 1982)."""

    theta: Floats
    covariance: Floats

    def relative_se(self, logarithm: Callable[[Floats], float]) -> float:
        """The standard error of a quantity's logarithm by the delta method."""
        gradient = np.array([_slope(logarithm, self.theta, at) for at in range(self.theta.size)])
        return float(np.sqrt(max(gradient @ self.covariance @ gradient, 0.0)))


def group_observations(*columns: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """The distinct observations of columns (n,), sorted, as rows of (columns, groups), and the weight of each.

    A sum over them does not depend on the order of the observations, not in its last digit either.
    """
    stacked = np.stack([*columns, weight])
    order = np.lexsort(stacked[::-1])
    rows, counts = stacked[:-1, order], weight[order]
    begins = np.ones(counts.size, dtype=bool)
    begins[1:] = np.any(rows[:, 1:] != rows[:, :-1], axis=0)
    return np.ascontiguousarray(rows[:, begins]), np.add.reduceat(counts, np.flatnonzero(begins)).astype(np.float64)


def maximize_likelihood(
    log_likelihoods: LogLikelihoods, starts: Sequence[Floats], weight: Floats
) -> LikelihoodFit | NotEstimable:
    """The best optimum reached from `starts`; `weight` (n,) is the count of each observation."""
    total = float(weight.sum())

    def loss(theta: Floats) -> float:
        return _loss(log_likelihoods, theta, weight, total)

    theta = _search(log_likelihoods, starts, weight)
    for _ in range(_NEWTON):
        if not loss(theta) < 1e9 or np.any(np.abs(theta) > _FAR):
            return NotEstimable("the likelihood has its maximum at the edge: the data do not determine the parameters")
        scores, bread = _derivatives(log_likelihoods, theta, weight)
        try:
            np.linalg.cholesky(bread)
        except np.linalg.LinAlgError:
            return NotEstimable("the likelihood is flat at its maximum: the data do not determine the parameters")
        step = np.linalg.solve(bread, scores @ weight)
        if np.abs(step).max() < _CLOSE or loss(theta + step) > loss(theta):
            break
        theta = theta + step
    inverse = np.linalg.inv(bread)
    return LikelihoodFit(theta=theta, covariance=np.asarray(inverse @ (scores * weight) @ scores.T @ inverse))


def narrow_starts(log_likelihoods: LogLikelihoods, starts: Sequence[Floats], weight: Floats) -> list[Floats]:
    """The best optimum for part of the observations, as a start for all of them."""
    return [_search(log_likelihoods, starts, weight)]


def _loss(log_likelihoods: LogLikelihoods, theta: Floats, weight: Floats, total: float) -> float:
    if np.any(np.abs(theta) > _FAR + 5):
        return 1e10
    value = -_sum(weight, log_likelihoods(theta)) / total
    return value if np.isfinite(value) else 1e10


def _sum(weight: Floats, values: Floats) -> float:
    """The matrix product without threads of a linear algebra library, which block each other on a busy machine."""
    return float(np.einsum("i,i->", weight, values))


def _search(log_likelihoods: LogLikelihoods, starts: Sequence[Floats], weight: Floats) -> Floats:
    total = float(weight.sum())
    found = [
        optimize.minimize(
            lambda theta: _loss(log_likelihoods, theta, weight, total),
            start,
            method="L-BFGS-B",
            options={"ftol": 1e-10},
        )
        for start in starts
    ]
    return np.asarray(min(found, key=lambda one: float(one.fun)).x, dtype=np.float64)


def _derivatives(log_likelihoods: LogLikelihoods, theta: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """The score of each observation (k, n), and the observed information of all (k, k), by central differences."""
    size = theta.size
    steps = np.eye(size) * _STEP
    scores = np.array([(log_likelihoods(theta + h) - log_likelihoods(theta - h)) / (2 * _STEP) for h in steps])
    bread = np.empty((size, size))
    for i in range(size):
        for j in range(i, size):
            across, along = steps[i] * 10, steps[j] * 10
            second = sum(
                one * other * _sum(weight, log_likelihoods(theta + one * across + other * along))
                for one in (1, -1)
                for other in (1, -1)
            ) / (400 * _STEP**2)
            bread[i, j] = bread[j, i] = -second
    return scores, bread


def _slope(function: Callable[[Floats], float], theta: Floats, at: int) -> float:
    step = np.zeros(theta.size)
    step[at] = _STEP
    return (function(theta + step) - function(theta - step)) / (2 * _STEP)
