"""Values of a bandit's arms from its own log, where plain means are biased: AIPW with adaptive weights.

An arm that looked bad by chance is shown less and stays looking bad, so its mean is too low and its interval covers
too little (Nie, Tian, Taylor and Zou 2018). Scores weighted by the logged propensity are unbiased whatever the policy
did; weights that were fixed before each score keep their sum normal (Hadad, Hirshberg, Zhan, Wager and Athey 2021,
"Confidence Intervals for Policy Evaluation in Adaptive Experiments").
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.stats.clusters import match_freedom
from engine.analysis.stats.effects import critical_t, two_sided_t_p
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.sequential import asymptotic_multiplier, asymptotic_p
from engine.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.analysis.stats.moments import Floats

    Flags = NDArray[np.bool_]
    Labels = NDArray[np.str_] | NDArray[np.int64]

FEWEST_SHOWN = 30  # the least number of rounds of an arm for which the normal limit holds


def running_means(reward: Floats, taken: Flags) -> Floats:
    """The arm's mean reward before each round (zero before its first), so that no later reward is used."""
    own = np.where(taken, reward, 0.0)
    before: NDArray[np.int64] = np.cumsum(taken) - taken.astype(np.int64)
    earned = np.cumsum(own) - own
    return np.where(before > 0, earned / np.maximum(before, 1), 0.0)


def aipw_scores(reward: Floats, taken: Flags, propensity: Floats, model: Floats) -> Floats:
    """AIPW scores (T,) of one arm: `model + taken (reward - model) / propensity` (Hadad et al. eq. 5).

    `propensity` is the arm's where it was taken and is not read elsewhere.
    """
    bad = taken & ~((propensity > 0) & (propensity <= 1))
    if bad.any():
        raise BadInput(
            f"propensity {propensity[bad][0]} is not in (0, 1]; give the probability with which its arm was drawn"
        )
    return model + np.where(taken, (reward - model) / np.where(taken, propensity, 1.0), 0.0)


def lagged_allocation(taken: Flags, propensity: Floats, snapshot: Labels, arms: int) -> Floats:
    """The arm's harmonic mean propensity in the previous snapshot; one over `arms` in the first.

    A weight may use only what was known before the round. The log holds the propensity of the arm that was taken
    alone, so `taken / propensity^2` of the last snapshot, whose mean is that of `1 / propensity` over its contexts,
    stands for the present one.
    """
    edges = np.flatnonzero(np.concatenate(([True], snapshot[1:] != snapshot[:-1])))
    lengths = np.diff(np.concatenate((edges, [len(taken)])))
    inverse = np.where(taken, 1.0 / np.where(taken, propensity, 1.0) ** 2, 0.0)
    cost = np.add.reduceat(inverse, edges) / lengths
    known = np.where(cost > 0, 1.0 / np.maximum(cost, 1.0), np.nan)
    allocation = np.empty(len(edges))
    last = 1.0 / arms
    for at in range(len(edges)):
        allocation[at] = last
        last = known[at] if math.isfinite(known[at]) else last
    return np.repeat(allocation, lengths)


def weighted_value(reward: Floats, taken: Flags, propensity: Floats, allocation: Floats) -> tuple[float, Floats]:
    """An arm's value, and each round's part (T,) of its error, whose squares sum to the variance.

    Args:
        reward: (T,) in the order of the decisions.
        taken: (T,) whether the arm was the one shown.
        propensity: (T,) its probability, where it was.
        allocation: (T,) its share of traffic as far as it was known before each round; the square roots are the
            weights ("constant allocation rate", Hadad et al. eq. 17).

    Raises:
        BadInput: if a propensity is not in (0, 1].
    """
    score = aipw_scores(reward, taken, propensity, running_means(reward, taken))
    weight = np.sqrt(allocation)
    value = float(weight @ score / weight.sum())
    return value, weight * (score - value) / weight.sum()


def estimate_arm_value(
    reward: Floats,
    taken: Flags,
    propensity: Floats,
    allocation: Floats,
    *,
    alpha: float = 0.05,
    planned: int | None = None,
) -> Effect | NotEstimable:
    """The arm's mean reward if it were always shown, with its interval.

    The first four arguments and the errors are those of `weighted_value`. `planned` is the number of rounds at which
    the interval is narrowest if it must hold at every look, None for a fixed horizon.
    """
    shown = int(np.count_nonzero(taken))
    if shown < FEWEST_SHOWN:
        return NotEstimable(f"it was shown {shown} times; {FEWEST_SHOWN} are needed")
    value, errors = weighted_value(reward, taken, propensity, allocation)
    return value_interval(value, errors, alpha=alpha, planned=planned)


def value_interval(
    value: float, errors: Floats, *, alpha: float = 0.05, planned: int | None = None
) -> Effect | NotEstimable:
    """The interval of a value, or of the difference of two arms' values and errors from `weighted_value`."""
    se = math.sqrt(float(errors @ errors))
    if se == 0:
        return NotEstimable("every reward is the same; an interval needs some that differ")
    if planned is None:
        df = match_freedom(errors, len(errors))
        reach, p = critical_t(alpha, df), two_sided_t_p(value / se, df)
    else:
        reach = asymptotic_multiplier(len(errors), planned, alpha)
        p = asymptotic_p(value / se, len(errors), planned, alpha)
    return Effect(value, value - reach * se, value + reach * se, se, p)
