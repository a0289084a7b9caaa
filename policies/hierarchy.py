"""Coefficients in levels: what all arms share, each arm's own, and its own in each group (a channel, a segment).

Every level deviates from the one above it by independent normals of variance 1/shrink, in units of the noise. Members
send what they know upwards as a Gram matrix and a moment, so that a level above is a regression like the one below
(Lindley and Smith 1972). How much to shrink is read from the data by its evidence (empirical Bayes, Efron and Morris
1975).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from policies.batches import Floats

Lean = NDArray[np.float32]
Above = Callable[[Floats, Floats], tuple[float, float]]
NOISE_PRIOR = (1.0, 0.25)
_GRID = 4.0 ** np.arange(-2, 6)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Members' covariances around their parents, by unit noise (..., dim, dim), and these times their moments."""

    shrink: float
    cover: Floats
    pull: Floats

    def upwards(self) -> tuple[Floats, Floats]:
        """What each member tells of its parent: Gram (..., dim, dim) and moment (..., dim)."""
        return self.shrink * (np.eye(self.pull.shape[-1]) - self.shrink * self.cover), self.shrink * self.pull

    def around(self, parents: Floats) -> Floats:
        """Members' means (..., dim) given their parents' (..., dim)."""
        return self.pull + self.shrink * (self.cover @ parents[..., None])[..., 0]


def level(gram: Floats, moment: Floats, shrink: float) -> Level:
    """Members with their own data, Gram (..., dim, dim) and moment (..., dim)."""
    cover = np.asarray(np.linalg.inv(gram + shrink * np.eye(moment.shape[-1])), np.float64)
    return Level(shrink, cover, (cover @ moment[..., None])[..., 0])


def gathered(gram: Floats, moment: Floats, traits: Floats) -> tuple[Floats, Floats]:
    """Arms' messages (n, dim, dim), (n, dim), summed over traits (n, q): Gram (q dim, q dim) and moment (q dim,)."""
    n, dim = moment.shape
    q = traits.shape[1]
    pairs = (traits[:, :, None] * traits[:, None, :]).reshape(n, q * q)
    blocks = (pairs.T @ gram.reshape(n, dim * dim)).reshape(q, q, dim, dim)
    return blocks.transpose(0, 2, 1, 3).reshape(q * dim, q * dim), (traits.T @ moment).ravel()


def noise_of(count: float, square: float, explained: float) -> tuple[float, float]:
    """Shape and rate of the inverse-gamma posterior of the noise variance."""
    return NOISE_PRIOR[0] + max(count, 0.0) / 2, NOISE_PRIOR[1] + max(square - explained, 0.0) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """All coefficients, covariances by unit noise; the lean arrays are what a decision reads.

    Attributes:
        arms: arms around the common coefficients.
        common: mean of the common coefficients (q dim,).
        common_cover: their covariance (q dim, q dim).
        noise: shape and rate of the noise variance.
        mean: coefficients (arms, dim), or (groups, arms, dim).
        arm_cover: (arms, dim, dim).
        group_cover: groups around their arm (groups, arms, dim, dim); None without groups.
    """

    arms: Level
    common: Floats
    common_cover: Floats
    noise: tuple[float, float]
    mean: Lean
    arm_cover: Lean
    group_cover: Lean | None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Rewards expected at a context: means and own variances (n,), loadings on the common coefficients (n, q dim)."""

    mean: Lean
    own: Lean
    loading: Lean

    def spread(self, common_cover: Floats) -> Floats:
        """Standard deviations by unit noise (n,)."""
        return np.asarray(np.sqrt(np.maximum(self.own + ((self.loading @ common_cover) * self.loading).sum(axis=1), 0)))


def below_common(traits: Floats, precision: Floats, shift: Floats) -> Above:
    """Judges messages to common coefficients that have this precision (q dim, q dim) and moment (q dim,) already."""

    def judge(gram: Floats, moment: Floats) -> tuple[float, float]:
        whole, moved = gathered(gram, moment, traits)
        whole, moved = whole + precision, moved + shift
        return -float(np.linalg.slogdet(whole)[1]) / 2, float(moved @ np.linalg.solve(whole, moved))

    return judge


def below_arms(shrink: float, parents: Floats) -> Above:
    """Judges groups' messages (arms, groups, ...) to arms that are expected at `parents` (arms, dim)."""

    def judge(gram: Floats, moment: Floats) -> tuple[float, float]:
        whole = gram.sum(axis=1) + shrink * np.eye(parents.shape[1])
        moved = moment.sum(axis=1) + shrink * parents
        explained = (moved * np.linalg.solve(whole, moved[..., None])[..., 0]).sum() - shrink * (parents**2).sum()
        return -float(np.linalg.slogdet(whole)[1].sum()) / 2, float(explained)

    return judge


def tuned(gram: Floats, moment: Floats, above: Above, noise: tuple[float, float] | None) -> float:
    """The shrinkage of members around their parents: the geometric mean of a grid, weighted by evidence.

    Args:
        gram: members' Gram matrices (..., dim, dim).
        moment: members' moments (..., dim).
        above: judges what members tell of their parents: log-determinants and squares explained.
        noise: count and sum of squares of the rewards, the noise being integrated out; None where it is known to be 1.
    """
    roots, vectors = np.linalg.eigh(gram)
    roots, back = np.maximum(roots, 0.0), vectors.swapaxes(-1, -2)
    turned = (back @ moment[..., None])[..., 0]
    scores = []
    for shrink in _GRID:
        held = shrink / (roots + shrink)
        told = (vectors @ (held * turned)[..., None])[..., 0]
        logs, explained = above((vectors * (roots * held)[..., None, :]) @ back, told)
        logs += float(np.log(held).sum()) / 2
        explained += float((turned**2 / (roots + shrink)).sum())
        if noise is None:
            scores.append(logs + explained / 2)
        else:
            shape, rate = noise_of(*noise, explained)
            scores.append(logs + lgamma(shape) - shape * float(np.log(rate)))
    weights = np.exp(np.asarray(scores) - max(scores))
    return float(np.exp(weights @ np.log(_GRID) / weights.sum()))
