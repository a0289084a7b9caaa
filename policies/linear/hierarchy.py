"""A hierarchy of regression coefficients: common ones, each arm's, and each arm's in a group (a channel).

common coefficients -> arms -> groups. A member deviates from its parent by independent normals of variance 1/shrink, in
units of the noise variance. Integrating the members out leaves a Gram matrix and a moment for their parents, so each
level is a regression like the one below it (Lindley and Smith 1972). How much to shrink is estimated from the marginal
likelihood of the data (empirical Bayes, Efron and Morris 1975).

Shapes: `dim` numbers of a context, followed by a 1 for the constant that all arms share; `q` traits of an arm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from policies.batches import Floats

SmallFloats = NDArray[np.float32]
"""float32, for the arrays that a decision reads: half the memory traffic."""
ParentEvidence = Callable[[Floats, Floats], tuple[float, float]]
"""Gram and moment of the members' messages -> the log-determinant part and the explained squares of their parents."""
CONSTANT_PRIOR = 1e-6
"""Precision of the common constant before the first observation: next to nothing is known of it."""
_GRID = 2.0 ** np.arange(-4, 11)
"""Candidates for shrink."""
_PRIOR_WEIGHTS = 1 / (np.sqrt(_GRID) + 1 / np.sqrt(_GRID))
"""The half-Cauchy prior of the deviations' standard deviation, in units of the noise's (Gelman 2006, section 5), on the
logarithmic grid."""


@dataclass(frozen=True, slots=True, eq=False)
class CoefficientLevel:
    """The coefficients of one level's members, given their parents'.

    Attributes:
        shrink: precision of the deviations, in units of the noise's.
        cover: covariances of the members given their parents (..., dim, dim), for noise of variance 1.
        pull: means of the members if their parents were zero (..., dim).
        tilt: how much a member's mean falls per unit of the common constant (..., dim).
    """

    shrink: float
    cover: Floats
    pull: Floats
    tilt: Floats

    def around(self, parents: Floats, constant: float) -> Floats:
        """The members' means (..., dim), given their parents' (..., dim) and the common constant."""
        return self.pull - self.tilt * constant + self.shrink * (self.cover @ parents[..., None])[..., 0]


def fit_level(gram: Floats, moment: Floats, shrink: float) -> CoefficientLevel:
    """The level of members with these Gram matrices (..., dim + 1, dim + 1) and moments (..., dim + 1)."""
    ridge = shrink * np.eye(moment.shape[-1] - 1)
    cover = np.broadcast_to(np.eye(moment.shape[-1] - 1) / shrink, gram[..., :-1, :-1].shape).copy()
    informed = gram[..., -1, -1] != 0
    cover[informed] = np.linalg.inv(gram[informed][..., :-1, :-1] + ridge)
    return CoefficientLevel(shrink, cover, *_multiply(cover, moment[..., :-1], gram[..., :-1, -1]))


def _multiply(cover: Floats, *vectors: Floats) -> list[Floats]:
    """The product of each member's covariance and its vectors."""
    return [(cover @ vector[..., None])[..., 0] for vector in vectors]


def messages_to_parents(gram: Floats, moment: Floats, cover: Floats) -> tuple[Floats, Floats]:
    """The data that integrated-out members leave for their parents and the constant, in the members' shapes."""
    towards = gram[..., :-1] @ cover
    return gram - towards @ gram[..., :-1, :], moment - (towards @ moment[..., :-1, None])[..., 0]


def message_to_constant(gram: Floats, moment: Floats, members: CoefficientLevel) -> tuple[Floats, Floats]:
    """The summed data that arms without traits leave for the common constant: Gram (1, 1), moment (1,)."""
    along = gram[..., :-1, -1]
    whole = gram[..., -1, -1].sum() - (along * members.tilt).sum()
    return np.full((1, 1), whole), np.full(1, moment[..., -1].sum() - (along * members.pull).sum())


def sum_messages(gram: Floats, moment: Floats, traits: Floats) -> tuple[Floats, Floats]:
    """Messages of arms, Gram (n, dim + 1, dim + 1) and moment (n, dim + 1), weighted by their traits (n, q) and summed.

    Returns:
        Gram and moment of the common coefficients: (q, dim) flattened, then the constant.
    """
    dim, q = moment.shape[1] - 1, traits.shape[1]
    size = q * dim + 1
    whole, shift = np.empty((size, size)), np.empty(size)
    # `np.einsum("np,nq,nij->piqj")` as one product of matrices: to find that path each time took most of an update.
    pairs = (traits[:, :, None] * traits[:, None, :]).reshape(len(traits), q * q)
    blocks = (pairs.T @ gram[:, :-1, :-1].reshape(len(traits), dim * dim)).reshape(q, q, dim, dim)
    whole[:-1, :-1] = blocks.swapaxes(1, 2).reshape(size - 1, size - 1)
    whole[-1, :-1] = whole[:-1, -1] = (traits.T @ gram[:, -1, :-1]).ravel()
    whole[-1, -1] = gram[:, -1, -1].sum()
    shift[:-1], shift[-1] = (traits.T @ moment[:, :-1]).ravel(), moment[:, -1].sum()
    return whole, shift


@dataclass(frozen=True, slots=True)
class Rewards:
    """All rewards together: their number, their sum and the sum of their squares."""

    count: float
    total: float
    square: float

    def noise(self, explained: float) -> tuple[float, float]:
        """Shape and rate of the inverse-gamma posterior of the noise variance, given the sum of squares explained.

        The prior is worth two observations of the rewards' own variance, so nothing depends on their unit. Where they
        do not vary yet it is 1/4, the variance of a coin.
        """
        count = max(self.count, 0.0)
        around = self.square - self.total**2 / max(count, 1.0)
        variance = around / count if count > 1 and around > 1e-12 * self.square else 0.25
        return 1 + count / 2, variance + max(self.square - explained, 0.0) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The posterior of all coefficients, covariances for noise of variance 1. A decision reads the float32 arrays.

    Attributes:
        arms: the level of the arms.
        common: mean of the common coefficients (q dim + 1,), the constant last.
        common_cover: their covariance (q dim + 1, q dim + 1).
        noise: shape and rate of the noise variance.
        mean: means of the coefficients (arms, dim), or (groups, arms, dim), without the common constant.
        arm_cover: covariances of the arms given the common coefficients (arms, dim, dim).
        arm_tilt: as in `CoefficientLevel` (arms, dim).
        group_cover: covariances of the groups given their arm (groups, arms, dim, dim); None without groups.
        group_tilt: as in `CoefficientLevel` (groups, arms, dim); None without groups.
        rows: each arm's covariance, mean and tilt as rows (arms, dim + 2, dim), so that one product with a context
            gives all that a decision needs of them; None with groups.
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
    rows: SmallFloats | None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The arms' expected rewards at a context, as random variables.

    Attributes:
        mean: their means, without the common constant (n,).
        own: their variances given the common coefficients (n,).
        loading: their coefficients on the common coefficients (n, q dim + 1).
    """

    mean: SmallFloats
    own: SmallFloats
    loading: SmallFloats

    def spread(self, common_cover: Floats) -> Floats:
        """The standard deviations of the scores (n,), for noise of variance 1."""
        return np.asarray(np.sqrt(np.maximum(self.own + ((self.loading @ common_cover) * self.loading).sum(axis=1), 0)))


def common_evidence(traits: Floats, precision: Floats, shift: Floats) -> ParentEvidence:
    """The evidence of messages to common coefficients that already have this precision and moment."""

    def evidence(gram: Floats, moment: Floats) -> tuple[float, float]:
        whole, moved = sum_messages(gram, moment, traits)
        whole, moved = whole + precision, moved + shift
        return -float(np.linalg.slogdet(whole)[1]) / 2, float(moved @ np.linalg.solve(whole, moved))

    return evidence


def arm_evidence(shrink: float, parents: Floats, constant: float) -> ParentEvidence:
    """The evidence of groups' messages (arms, groups, ...) to arms that are expected at `parents` (arms, dim)."""

    def evidence(gram: Floats, moment: Floats) -> tuple[float, float]:
        total, shift = gram.sum(axis=1), moment.sum(axis=1)
        whole = total[:, :-1, :-1] + shrink * np.eye(parents.shape[1])
        moved = shift[:, :-1] - constant * total[:, :-1, -1] + shrink * parents
        explained = (moved * np.linalg.solve(whole, moved[..., None])[..., 0]).sum() - shrink * (parents**2).sum()
        explained += constant * (2 * shift[:, -1] - constant * total[:, -1, -1]).sum()
        return -float(np.linalg.slogdet(whole)[1].sum()) / 2, float(explained)

    return evidence


def tune_shrinkage(
    gram: Floats, moment: Floats, above: ParentEvidence, rewards: Rewards | None, explained: float = 0.0
) -> float:
    """The shrinkage of members to their parents: one over the posterior mean of their variance, over a grid.

    A point estimate would make members equal while few rewards separate them. The posterior mean, under a prior with
    long tails both ways, does not.

    Args:
        gram: members' Gram matrices (..., dim + 1, dim + 1).
        moment: members' moments (..., dim + 1).
        above: the evidence of the members' messages to their parents.
        rewards: all rewards of the members, to integrate the noise variance out; None where it is known to be 1.
        explained: the sum of squares that is explained outside of these members.

    Returns:
        A precision, in units of the noise's.
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
