"""What another policy would have earned on logged decisions: IPS, SNIPS, DR and SWITCH-DR with intervals.

Dudik, Langford and Li 2011, "Doubly Robust Policy Evaluation and Learning"; Swaminathan and Joachims 2015, "The
Self-Normalized Estimator"; Wang, Agarwal and Dudik 2017, "Optimal and Adaptive Off-policy Evaluation" (SWITCH).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
import numpy as np
from scipy import special

from engine.analysis.stats.effects import critical_t
from engine.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


class Estimate(msgspec.Struct, frozen=True):
    """A policy's value per decision with its interval.

    `ess` is the effective sample size, (sum of weights)^2 / sum of squared weights (Kong 1992): below some hundreds
    the interval itself is not to be trusted. `mean_weight` is one if the logged propensities are right.
    """

    value: float
    low: float
    high: float
    ess: float
    mean_weight: float
    largest_weight: float


def _checked(reward: ArrayLike, propensity: ArrayLike, target: ArrayLike) -> tuple[Floats, Floats]:
    """The rewards (n,) and the importance weights (n,)."""
    named = {"reward": reward, "propensity": propensity, "target": target}
    rewards, logged, wanted = (_numbers(name, values) for name, values in named.items())
    if not rewards.shape == logged.shape == wanted.shape or rewards.ndim != 1:
        shapes = f"{rewards.shape}, {logged.shape} and {wanted.shape}"
        raise BadInput(f"reward, propensity and target have shapes {shapes}; give three arrays of one length")
    if len(rewards) < 2:
        raise BadInput(f"{len(rewards)} decisions are too few; an interval needs two")
    if not (np.all(logged > 0) and np.all(logged <= 1)):
        worst = logged[~((logged > 0) & (logged <= 1))][0]
        raise BadInput(f"propensity {worst} is not in (0, 1]; only decisions logged with their probability can be used")
    if not (np.all(wanted >= 0) and np.all(wanted <= 1)):
        raise BadInput("a target probability is not between 0 and 1")
    if not np.all(np.isfinite(rewards)):
        raise BadInput("a reward is NaN or infinite; leave out decisions without one")
    return rewards, wanted / logged


def _numbers(name: str, values: ArrayLike) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} holds what is no number ({error}); give an array of numbers") from error


def _expected(name: str, values: ArrayLike, decisions: int) -> Floats:
    """What a reward model says (n,)."""
    expected = _numbers(name, values)
    if expected.shape != (decisions,):
        raise BadInput(f"{name} has shape {expected.shape}; give one number for each of the {decisions:,} decisions")
    if not np.all(np.isfinite(expected)):
        raise BadInput(f"{name} is NaN or infinite somewhere; the model must say what it expects of every decision")
    return expected


class Spread(NamedTuple):
    """How a mean spreads: its standard error, and the skewness of the `groups` sums it is made of.

    `interval` and `p` are those of t after Hall's transformation (1992, "On the Removal of Skewness by
    Transformation"): rare rewards and large weights are skewed, and symmetric intervals miss high values more often
    than low ones.
    """

    se: float
    skewness: float
    groups: int

    @classmethod
    def of(cls, influence: Floats, cluster: ArrayLike | None = None) -> Self:
        """That of the mean of influence values (n,), which are summed per cluster.

        Raises:
            BadInput: if there is one cluster, or not one label for each value.
        """
        sums: Floats = influence
        if cluster is not None:
            labels = np.asarray(cluster)
            if labels.shape != influence.shape:
                rule = f"give one label for each of the {len(influence):,} decisions"
                raise BadInput(f"cluster has shape {labels.shape}; {rule}")
            index = np.unique(labels, return_inverse=True)[1]
            sums = np.bincount(index, weights=influence).astype(np.float64)
        groups = len(sums)
        if groups < 2:
            raise BadInput("all decisions are of one cluster; an interval needs two")
        centred = sums - sums.mean()
        sd = float(np.sqrt(centred @ centred / (groups - 1)))
        skewness = float(np.mean(centred**3)) / sd**3 if sd > 0 else 0.0
        return cls(sd * groups**0.5 / len(influence), skewness, groups)

    def interval(self, mean: float, alpha: float) -> tuple[float, float]:
        """The ends of the interval around a mean."""
        reach, root = critical_t(alpha, self.groups - 1), self.groups**0.5
        above, below = (self._untransformed(side / root) * root * self.se for side in (reach, -reach))
        return mean - above, mean - below

    def p(self, mean: float) -> float:
        """How likely a mean so far from 0 is if 0 is true, two-sided: below alpha where the interval leaves 0 out."""
        t, a = mean / self.se / self.groups**0.5, self.skewness
        transformed = t + a * t**2 / 3 + a**2 * t**3 / 27 + a / (6 * self.groups)
        return 2 * float(special.stdtr(self.groups - 1, -abs(transformed) * self.groups**0.5))

    def _untransformed(self, y: float) -> float:
        """Where Hall's g(t) = t + a t² / 3 + a² t³ / 27 + a / 6n is y; `a` is the skewness."""
        a = self.skewness
        if abs(a) < 1e-6:
            return y
        return 3 / a * (float(np.cbrt(1 + a * (y - a / (6 * self.groups)))) - 1)


def _interval(value: float, influence: Floats, weights: Floats, cluster: ArrayLike | None, alpha: float) -> Estimate:
    """The estimate with a t interval from its influence values (n,)."""
    if not 0 < alpha < 1:
        raise BadInput(f"alpha {alpha} is not between 0 and 1; 0.05 gives 95% intervals")
    spread = Spread.of(influence, cluster)
    reach = critical_t(alpha, spread.groups - 1) * spread.se
    squares = float(weights @ weights)
    ess = float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
    return Estimate(value, value - reach, value + reach, ess, float(weights.mean()), float(weights.max()))


def ips(
    reward: ArrayLike,
    propensity: ArrayLike,
    target_probability: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Inverse propensity scores: the mean of `reward * target_probability / propensity`; unbiased, noisy.

    Args:
        reward: (n,) of the logged action.
        propensity: (n,) in (0, 1], the probability with which it was chosen.
        target_probability: (n,) the evaluated policy's probability of the same action.
        cluster: (n,) labels of decisions that are not independent (the customer).
        alpha: one minus the interval's coverage.

    Raises:
        BadInput: if the arrays do not fit, a propensity is not in (0, 1] or alpha not between 0 and 1.
    """
    rewards, weights = _checked(reward, propensity, target_probability)
    value = float(np.mean(weights * rewards))
    return _interval(value, weights * rewards - value, weights, cluster, alpha)


def snips(
    reward: ArrayLike,
    propensity: ArrayLike,
    target_probability: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Self-normalized IPS: the weighted mean of the rewards; a little biased, less noisy, within the rewards' range.

    Arguments as in `ips`; its interval is that of a ratio of means (delta method).

    Raises:
        BadInput: as `ips`, and if the target never takes a logged action.
    """
    rewards, weights = _checked(reward, propensity, target_probability)
    total = float(weights.sum())
    if total == 0:
        raise BadInput("the evaluated policy never takes a logged action; the log says nothing about it")
    value = float(weights @ rewards) / total
    return _interval(value, weights * (rewards - value) / (total / len(rewards)), weights, cluster, alpha)


def dr(
    reward: ArrayLike,
    propensity: ArrayLike,
    target_probability: ArrayLike,
    predicted_logged: ArrayLike,
    predicted_target: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Doubly robust: a reward model's value of the target, corrected by IPS of the model's errors.

    Args:
        reward: (n,) of the logged action.
        propensity: (n,) of the logged action.
        target_probability: (n,) of the logged action under the target.
        predicted_logged: (n,) the model's reward of the logged action.
        predicted_target: (n,) the model's mean reward under the target's probabilities.
        cluster: as in `ips`.
        alpha: as in `ips`.

    Raises:
        BadInput: as `ips`, and if the model says nothing, or no number, of some decision.
    """
    return switch_dr(
        reward,
        propensity,
        target_probability,
        predicted_logged,
        predicted_target,
        threshold=np.inf,
        cluster=cluster,
        alpha=alpha,
    )


def switch_dr(  # the log's columns, the model's, and the threshold
    reward: ArrayLike,
    propensity: ArrayLike,
    target_probability: ArrayLike,
    predicted_logged: ArrayLike,
    predicted_target: ArrayLike,
    *,
    threshold: float,
    cluster: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """DR that trusts the model alone where the weight is above `threshold`: less noise, some bias.

    Arguments and errors as in `dr`; a threshold is not negative.
    """
    rewards, weights = _checked(reward, propensity, target_probability)
    model = _expected("predicted_logged", predicted_logged, len(rewards))
    target = _expected("predicted_target", predicted_target, len(rewards))
    if not threshold >= 0:
        raise BadInput(f"threshold {threshold} is no weight; give 0 (the model alone) or more")
    used = np.where(weights <= threshold, weights, 0.0)
    scores = target + used * (rewards - model)
    value = float(scores.mean())
    return _interval(value, scores - value, weights, cluster, alpha)
