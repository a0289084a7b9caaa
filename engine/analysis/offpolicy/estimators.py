"""Off-policy estimators: a target policy's value per logged decision by IPS, SNIPS, DR and SWITCH-DR, with intervals.

With rewards r, weights w = target's / logged probability of the chosen arm, a reward model q and its mean under the
target q_t, the values are means over the n logged decisions of these scores:

    IPS        w r                               Horvitz and Thompson 1952
    SNIPS      w r / mean(w)                     Swaminathan and Joachims 2015, "The Self-Normalized Estimator for
                                                 Counterfactual Learning"
    DR         q_t + w (r - q)                   Dudik, Langford and Li 2011, "Doubly Robust Policy Evaluation and
                                                 Learning"
    SWITCH-DR  q_t + w [w <= threshold] (r - q)  Wang, Agarwal and Dudik 2017, "Optimal and Adaptive Off-policy
                                                 Evaluation in Contextual Bandits"

    from engine.analysis.offpolicy import ips
    ips(reward=[1, 0, 1, 0], propensity=[0.5, 0.25, 0.5, 0.8], target_probability=[0.25, 0.5, 0.5, 0.4]).value  # 0.375
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
import numpy as np

from engine.analysis.stats.clusters import apply_hall, invert_hall
from engine.analysis.stats.effects import critical_t, two_sided_t_p
from engine.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from policies.batches import Floats

SLIGHT_SKEWNESS = (0.15, 0.25)
"""The skewness of a mean below which a symmetric interval is used, and above which it is corrected in full."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's value per decision with its interval."""

    value: float
    low: float
    high: float
    ess: float
    """The effective sample size; below some hundreds the interval itself is not to be trusted."""
    mean_weight: float
    """1 in expectation if the logged propensities are right."""
    largest_weight: float


def effective_sample_size(weights: Floats) -> float:
    """(sum of w)^2 / sum of w^2 of weights (n,); 0 if all are 0 (Kong 1992)."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _check_log(reward: ArrayLike, propensity: ArrayLike, target: ArrayLike) -> tuple[Floats, Floats]:
    """The rewards (n,) and the importance weights (n,); raises BadInput if the arrays cannot be used."""
    named = {"reward": reward, "propensity": propensity, "target": target}
    rewards, logged, targets = (_to_floats(name, values) for name, values in named.items())
    if not rewards.shape == logged.shape == targets.shape or rewards.ndim != 1:
        shapes = f"{rewards.shape}, {logged.shape} and {targets.shape}"
        raise BadInput(f"reward, propensity and target have shapes {shapes}; give three arrays of one length")
    if len(rewards) < 2:
        raise BadInput(f"{len(rewards)} decisions are too few; give at least two for an interval")
    if not (np.all(logged > 0) and np.all(logged <= 1)):
        worst = logged[~((logged > 0) & (logged <= 1))][0]
        raise BadInput(f"propensity {worst} is not in (0, 1]; give the probability with which its arm was drawn")
    if not (np.all(targets >= 0) and np.all(targets <= 1)):
        worst = targets[~((targets >= 0) & (targets <= 1))][0]
        raise BadInput(
            f"target probability {worst} is not between 0 and 1; give the policy's probability of the logged arm"
        )
    if not np.all(np.isfinite(rewards)):
        raise BadInput("a reward is NaN or infinite; leave out decisions without one")
    return rewards, targets / logged


def _to_floats(name: str, values: ArrayLike) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} contains a value that is not a number ({error}); give an array of numbers") from error


def _check_predictions(name: str, values: ArrayLike, decisions: int) -> Floats:
    """A reward model's predictions (n,); raises BadInput if one is missing or not a number."""
    predictions = _to_floats(name, values)
    if predictions.shape != (decisions,):
        raise BadInput(f"{name} has shape {predictions.shape}; give one number for each of the {decisions:,} decisions")
    if not np.all(np.isfinite(predictions)):
        raise BadInput(f"{name} contains NaN or infinity; the model must predict a reward for every decision")
    return predictions


class Spread(NamedTuple):
    """The sampling distribution of a mean: its standard error, and the skewness of the `groups` sums it averages.

    `interval` and `p_value` are those of t after Hall's transformation (1992, "On the Removal of Skewness by
    Transformation"). Rare rewards and large weights are skewed: a symmetric interval would miss high values more often
    than low ones. Sums of clusters are divided by the share of the rows that is not the cluster's own, which makes
    the variance the jackknife's (`stats.clusters`), and uneven clusters count as fewer even ones for t.
    """

    se: float
    skewness: float
    groups: int
    freedom: float
    """Degrees of freedom of t: one less than `groups`, or than the even clusters that tell as much (Kish 1965)."""

    @classmethod
    def of_influence(cls, influence: Floats, cluster: ArrayLike | None = None) -> Self:
        """The spread of a mean with influence values (n,), which are summed per cluster first.

        Raises:
            BadInput: if there is one cluster, or not one label for each value.
        """
        sums, rows, n = influence, np.ones(len(influence)), len(influence)
        if cluster is not None:
            labels = np.asarray(cluster)
            if labels.shape != influence.shape:
                rule = f"give one label for each of the {len(influence):,} decisions"
                raise BadInput(f"cluster has shape {labels.shape}; {rule}")
            index = np.unique(labels, return_inverse=True)[1]
            sums = np.bincount(index, weights=influence).astype(np.float64)
            rows = np.bincount(index).astype(np.float64)
        groups = len(sums)
        if groups < 2:
            raise BadInput("all decisions are of one cluster; an interval needs two")
        centred = (sums - sums.mean()) * (1 - 1 / groups) / (1 - rows / n)  # the factor is 1 for even clusters
        sd = float(np.sqrt(centred @ centred / (groups - 1)))
        skewness = float(np.mean(centred**3)) / sd**3 if sd > 0 else 0.0
        even = groups if np.ptp(rows) == 0 else n**2 / float(rows @ rows)
        return cls(sd * groups**0.5 / n, skewness, groups, even - 1)

    def ignoring_slight_skewness(self) -> Self:
        """The spread without skewness if the mean's is below 0.15, and with all of it above 0.25.

        Slight skewness costs a t interval less than half a percent of its coverage; other libraries' intervals are
        then met to their digits.
        """
        whole = abs(self.skewness) / self.groups**0.5
        slight, marked = SLIGHT_SKEWNESS
        return self._replace(skewness=self.skewness * min(max((whole - slight) / (marked - slight), 0.0), 1.0))

    def interval(self, mean: float, alpha: float) -> tuple[float, float]:
        """The ends of the interval around a mean."""
        reach, root = critical_t(alpha, self.freedom), self.groups**0.5
        whole = self.skewness / root
        above, below = (invert_hall(side, whole) * self.se for side in (reach, -reach))
        return mean - above, mean - below

    def p_value(self, mean: float) -> float:
        """The two-sided p-value of a zero mean; below alpha if the interval excludes 0."""
        return two_sided_t_p(apply_hall(mean / self.se, self.skewness / self.groups**0.5), self.freedom)


def _make_estimate(
    value: float, influence: Floats, weights: Floats, cluster: ArrayLike | None, alpha: float
) -> Estimate:
    """The estimate and its interval from influence values (n,)."""
    if not 0 < alpha < 1:
        raise BadInput(f"alpha {alpha} is not between 0 and 1; 0.05 gives 95% intervals")
    low, high = Spread.of_influence(influence, cluster).ignoring_slight_skewness().interval(value, alpha)
    return Estimate(
        value=value,
        low=low,
        high=high,
        ess=effective_sample_size(weights),
        mean_weight=float(weights.mean()),
        largest_weight=float(weights.max()),
    )


def ips(
    reward: ArrayLike,
    propensity: ArrayLike,
    target_probability: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Inverse propensity scores: the mean of `reward * target_probability / propensity`; unbiased, high variance.

    Args:
        reward: (n,) of the logged arm.
        propensity: (n,) in (0, 1], the probability with which it was chosen.
        target_probability: (n,) in [0, 1], the evaluated policy's probability of the same arm.
        cluster: (n,) labels of decisions that are not independent (the customer).
        alpha: one minus the interval's coverage.

    Raises:
        BadInput: if the arrays do not fit, a propensity is not in (0, 1] or alpha not between 0 and 1.
    """
    rewards, weights = _check_log(reward, propensity, target_probability)
    value = float(np.mean(weights * rewards))
    return _make_estimate(value, weights * rewards - value, weights, cluster, alpha)


def snips(
    reward: ArrayLike,
    propensity: ArrayLike,
    target_probability: ArrayLike,
    *,
    cluster: ArrayLike | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Self-normalized IPS: the weighted mean of the rewards. A little biased, but with less variance than IPS.

    It stays within the rewards' range. Arguments as in `ips`; the interval is that of a ratio of means (delta method).

    Raises:
        BadInput: as `ips`, and if the target never chooses a logged arm.
    """
    rewards, weights = _check_log(reward, propensity, target_probability)
    total = float(weights.sum())
    if total == 0:
        raise BadInput(
            "the evaluated policy never chooses a logged arm; evaluate one that chooses among the logged arms"
        )
    value = float(weights @ rewards) / total
    return _make_estimate(value, weights * (rewards - value) / (total / len(rewards)), weights, cluster, alpha)


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
    """Doubly robust: the reward model's value of the target, corrected by IPS of the model's errors.

    It is unbiased if either the propensities or the model are right.

    Args:
        reward: (n,) of the logged arm.
        propensity: (n,) of the logged arm.
        target_probability: (n,) of the logged arm under the target.
        predicted_logged: (n,) the model's reward of the logged arm.
        predicted_target: (n,) the model's mean reward under the target's probabilities.
        cluster: as in `ips`.
        alpha: as in `ips`.

    Raises:
        BadInput: as `ips`, and if a prediction is missing or no finite number.
    """
    return switch_dr(
        reward,
        propensity,
        target_probability,
        predicted_logged=predicted_logged,
        predicted_target=predicted_target,
        threshold=np.inf,
        cluster=cluster,
        alpha=alpha,
    )


def switch_dr(
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
    """DR that uses the model alone where the weight is above `threshold`: less variance, some bias.

    Arguments and errors as in `dr`; `threshold` is 0 (the model alone) or more.
    """
    rewards, weights = _check_log(reward, propensity, target_probability)
    model = _check_predictions("predicted_logged", predicted_logged, len(rewards))
    target = _check_predictions("predicted_target", predicted_target, len(rewards))
    if not threshold >= 0:
        raise BadInput(f"threshold {threshold} is negative or NaN; give a weight, 0 (the model alone) or more")
    used = np.where(weights <= threshold, weights, 0.0)
    scores = target + used * (rewards - model)
    value = float(scores.mean())
    return _make_estimate(value, scores - value, weights, cluster, alpha)
