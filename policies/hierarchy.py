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

SmallFloats = NDArray[np.float32]
ParentEvidence = Callable[[Floats, Floats], tuple[float, float]]
CONSTANT_PRIOR = 1e-6
_GRID = 2.0 ** np.arange(-4, 11)
_PRIOR_WEIGHTS = 1 / (np.sqrt(_GRID) + 1 / np.sqrt(_GRID))
"""Half-Cauchy prior of the deviations' size, in units of the noise's (Gelman 2006, section 5), on the grid of logs."""


@dataclass(frozen=True, slots=True, eq=False)
class CoefficientLevel:
    """Members' coefficients around their parents'.

    Attributes:
        shrink: precision of the deviations, in units of the noise's.
        cover: covariances of members given their parents (..., dim, dim), by unit noise.
        pull: means, were parents zero (..., dim).
        tilt: how a member's mean falls when the common constant rises (..., dim).
    """

    shrink: float
    cover: Floats
    pull: Floats
    tilt: Floats

    def around(self, parents: Floats, constant: float) -> Floats:
        """Members' means (..., dim) given their parents' (..., dim) and the common constant."""
        return self.pull - self.tilt * constant + self.shrink * (self.cover @ parents[..., None])[..., 0]


def fit_level(gram: Floats, moment: Floats, shrink: float) -> CoefficientLevel:
    """Members with data over contexts that end in a 1: Gram (..., dim + 1, dim + 1) and moment (..., dim + 1)."""
    ridge = shrink * np.eye(moment.shape[-1] - 1)
    cover = np.broadcast_to(np.eye(moment.shape[-1] - 1) / shrink, gram[..., :-1, :-1].shape).copy()
    informed = gram[..., -1, -1] != 0
    cover[informed] = np.linalg.inv(gram[informed][..., :-1, :-1] + ridge)
    return CoefficientLevel(shrink, cover, *_multiply(cover, moment[..., :-1], gram[..., :-1, -1]))


def _multiply(cover: Floats, *vectors: Floats) -> list[Floats]:
    return [(cover @ vector[..., None])[..., 0] for vector in vectors]


def messages_to_parents(gram: Floats, moment: Floats, cover: Floats) -> tuple[Floats, Floats]:
    """What members tell of their parents and the constant, as data: Gram and moment of the members' own shapes."""
    towards = gram[..., :-1] @ cover
    return gram - towards @ gram[..., :-1, :], moment - (towards @ moment[..., :-1, None])[..., 0]


def message_to_constant(gram: Floats, moment: Floats, members: CoefficientLevel) -> tuple[Floats, Floats]:
    """What members without traits tell of the common constant, in all: Gram (1, 1) and moment (1,)."""
    along = gram[..., :-1, -1]
    whole = gram[..., -1, -1].sum() - (along * members.tilt).sum()
    return np.full((1, 1), whole), np.full(1, moment[..., -1].sum() - (along * members.pull).sum())


def sum_messages(gram: Floats, moment: Floats, traits: Floats) -> tuple[Floats, Floats]:
    """Arms' messages (n, dim + 1, dim + 1), (n, dim + 1) summed over traits (n, q).

    Returns:
        Gram and moment of the common coefficients: (q, dim) flattened, then the constant.
    """
    dim, q = moment.shape[1] - 1, traits.shape[1]
    size = q * dim + 1
    whole, shift = np.empty((size, size)), np.empty(size)
    blocks = np.einsum("np,nq,nij->piqj", traits, traits, gram[:, :-1, :-1], optimize=True)
    whole[:-1, :-1] = blocks.reshape(size - 1, size - 1)
    whole[-1, :-1] = whole[:-1, -1] = (traits.T @ gram[:, -1, :-1]).ravel()
    whole[-1, -1] = gram[:, -1, -1].sum()
    shift[:-1], shift[-1] = (traits.T @ moment[:, :-1]).ravel(), moment[:, -1].sum()
    return whole, shift


@dataclass(frozen=True, slots=True)
class Rewards:
    """All rewards together: how many, their sum, and that of their squares."""

    count: float
    total: float
    square: float

    def noise(self, explained: float) -> tuple[float, float]:
        """Shape and rate of the inverse-gamma posterior of the noise variance, given the squares that are explained.

        The prior is worth two observations of the rewards' own variance, so that nothing depends on their unit; 1/4, a
        coin's, where they do not vary yet.
        """
        count = max(self.count, 0.0)
        around = self.square - self.total**2 / max(count, 1.0)
        variance = around / count if count > 1 and around > 1e-12 * self.square else 0.25
        return 1 + count / 2, variance + max(self.square - explained, 0.0) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """All coefficients, covariances by unit noise; the lean arrays are what a decision reads.

    Attributes:
        arms: arms around the common coefficients.
        common: mean of the common coefficients (q dim + 1,), the constant last.
        common_cover: their covariance (q dim + 1, q dim + 1).
        noise: shape and rate of the noise variance.
        mean: coefficients (arms, dim), or (groups, arms, dim), above the common constant.
        arm_cover: (arms, dim, dim).
        arm_tilt: (arms, dim).
        group_cover: groups around their arm (groups, arms, dim, dim); None without groups.
        group_tilt: (groups, arms, dim).
    """

    arms: CoefficientLevel
    common: Floats
    common_cover: Floats
    noise: tuple[float, float]
    mean: SmallFloats
    arm_cover: SmallFloats
    arm_tilt: SmallFloats
    group_cover: SmallFloats | None
    group_tilt: SmallFloats | None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Rewards expected at a context: means and own variances (n,), loadings on the common (n, q dim + 1)."""

    mean: SmallFloats
    own: SmallFloats
    loading: SmallFloats

    def spread(self, common_cover: Floats) -> Floats:
        """Standard deviations by unit noise (n,)."""
        return np.asarray(np.sqrt(np.maximum(self.own + ((self.loading @ common_cover) * self.loading).sum(axis=1), 0)))


def common_evidence(traits: Floats, precision: Floats, shift: Floats) -> ParentEvidence:
    """Judges messages to common coefficients that have this precision and moment already."""

    def judge(gram: Floats, moment: Floats) -> tuple[float, float]:
        whole, moved = sum_messages(gram, moment, traits)
        whole, moved = whole + precision, moved + shift
        return -float(np.linalg.slogdet(whole)[1]) / 2, float(moved @ np.linalg.solve(whole, moved))

    return judge


def arm_evidence(shrink: float, parents: Floats, constant: float) -> ParentEvidence:
    """Judges groups' messages (arms, groups, ...) to arms that are expected at `parents` (arms, dim)."""

    def judge(gram: Floats, moment: Floats) -> tuple[float, float]:
        told, shift = gram.sum(axis=1), moment.sum(axis=1)
        whole = told[:, :-1, :-1] + shrink * np.eye(parents.shape[1])
        moved = shift[:, :-1] - constant * told[:, :-1, -1] + shrink * parents
        explained = (moved * np.linalg.solve(whole, moved[..., None])[..., 0]).sum() - shrink * (parents**2).sum()
        explained += constant * (2 * shift[:, -1] - constant * told[:, -1, -1]).sum()
        return -float(np.linalg.slogdet(whole)[1].sum()) / 2, float(explained)

    return judge


def tune_shrinkage(
    gram: Floats, moment: Floats, above: ParentEvidence, rewards: Rewards | None, explained: float = 0.0
) -> float:
    """The shrinkage of members around their parents: the posterior mean of their variance, over a grid of it.

    A point estimate would call members equal as long as few rewards tell them apart; the mean over all that is still
    possible, under a prior with a long tail both ways, does not.

    Args:
        gram: members' Gram matrices (..., dim + 1, dim + 1).
        moment: members' moments (..., dim + 1).
        above: judges what members tell of their parents: log-determinants and squares explained.
        rewards: of all members, the noise being integrated out; None where it is known to be 1.
        explained: squares that others than these members explain.
    """
    roots, vectors = np.linalg.eigh(gram[..., :-1, :-1])
    roots, back = np.maximum(roots, 0.0), vectors.swapaxes(-1, -2)
    scores = []
    for shrink in _GRID:
        cover = (vectors / (roots + shrink)[..., None, :]) @ back
        (pull,) = _multiply(cover, moment[..., :-1])
        logs, squares = above(*messages_to_parents(gram, moment, cover))
        logs += float(np.log(shrink / (roots + shrink)).sum()) / 2
        squares += float((pull * moment[..., :-1]).sum()) + explained
        if rewards is None:
            scores.append(logs + squares / 2)
        else:
            shape, rate = rewards.noise(squares)
            scores.append(logs + lgamma(shape) - shape * float(np.log(rate)))
    weights = _PRIOR_WEIGHTS * np.exp(np.asarray(scores) - max(scores))
    return float(weights.sum() / (weights @ (1 / _GRID)))
