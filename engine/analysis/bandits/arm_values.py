"""Values of a placement's offers from the choices of its policies: their means over the log's time, by customer.

The score of an offer in a choice is AIPW's (`adaptive.aipw_scores`): unbiased for its reward there, whatever the
policies did, because the logged propensity is exact. An offer's value is the weighted mean of its scores.

- *Policies.* Each policy's rows have the weight 1 / mean(1 / p) of that policy in a twentieth of the rows, p being the
  offer's probability. This is the inverse of the score's variance, so that a uniform slice counts for what it tells,
  and not for its rows alone. Over the whole log p would depend on the rewards that it weighs: a policy whose first
  rewards of an offer were lucky shows it more, and arms of two policies would be too large by a quarter of an error.
- *Time.* In each twentieth of the rows the weights add up to the same. A value is therefore the mean over the time of
  the log, also where rewards drift. Weights that follow the policy through time ("constant allocation rate", Hadad et
  al. 2021) are about 7 % narrower, and estimate no mean over time at all where rewards drift.
- *Customers.* Errors are added per customer before they are squared (`clusters`). The policy learns from every
  customer, but each of many moves it little, so their sums are independent in all but name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.stats.adaptive import FEWEST_SHOWN, aipw_scores, running_means
from engine.analysis.stats.clusters import ClusteredMean, match_freedom
from engine.analysis.stats.effects import two_sided_t_p
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.analysis.stats.moments import Floats
    from policies.batches import Ints

    Flags = NDArray[np.bool_]

BINS = 20
FEWEST_CUSTOMERS = 10.0
"""The least effective number of customers for which the t limit holds."""
FEWEST_IN_A_QUARTER = 3
"""The least number of times in each quarter of the rows: a mean over time needs rewards of all of it."""
LEAST_WEIGHT = 0.6
"""The least mean weight, which is 1 in expectation: below it the offer was not shown in much of the log."""


@dataclass(frozen=True)
class ArmScores:
    """One offer's scores in the m rows of the log in which it was a candidate."""

    rows: Ints
    """(m,) positions in the log, rising."""
    scores: Floats
    """(m,)."""
    weights: Floats
    """(m,) 0 or more; 0 where the row's policy never showed the offer."""
    taken: Flags
    """(m,) whether it was shown."""
    propensity: Floats
    """(m,) its probability where it was shown."""
    customer: Ints
    """(m,) numbered from 0."""
    customers: int
    """The customers of the log."""

    @property
    def shown(self) -> int:
        """The number of rows in which it was shown."""
        return int(np.count_nonzero(self.taken))

    def select(self, chosen: Flags) -> ArmScores:
        """The scores in the `chosen` rows (m,), with the same weights."""
        return ArmScores(
            rows=self.rows[chosen],
            scores=self.scores[chosen],
            weights=self.weights[chosen],
            taken=self.taken[chosen],
            propensity=self.propensity[chosen],
            customer=self.customer[chosen],
            customers=self.customers,
        )

    @cached_property
    def mean(self) -> ClusteredMean:
        """The value, clustered by customer; needs a row with weight."""
        return ClusteredMean.of_rows(self.scores, self.weights, self.customer, self.customers)

    @cached_property
    def refusal(self) -> NotEstimable | None:
        """The reason why the value cannot be estimated; None if it can."""
        if self.shown < FEWEST_SHOWN:
            return NotEstimable(f"it was shown {self.shown} times; {FEWEST_SHOWN} are needed")
        quarter = np.arange(len(self.rows)) * 4 // len(self.rows)
        if np.bincount(quarter, weights=self.taken, minlength=4).min() < FEWEST_IN_A_QUARTER:
            return NotEstimable(
                f"it was shown less than {FEWEST_IN_A_QUARTER} times in one quarter of the decisions",
                remedy="A higher floor of the policy would change this.",
            )
        used = np.where(self.taken, self.weights / np.where(self.taken, self.propensity, 1.0), 0.0)
        weight = float(used.sum() / self.weights.sum())
        if weight < LEAST_WEIGHT:
            return NotEstimable(
                f"its probability was so low that it was hardly shown in {1 - weight:.0%} of the decisions",
                remedy="A higher floor of the policy would change this.",
            )
        if self.mean.effective < FEWEST_CUSTOMERS:
            return NotEstimable(
                f"few customers make most of its decisions: they tell as much as {self.mean.effective:.1f} customers "
                f"with equally many; {FEWEST_CUSTOMERS:.0f} are needed",
                remedy="More customers would change this.",
            )
        return None

    def value(self, alpha: float) -> Effect | NotEstimable:
        """The expected reward of showing the offer in all these rows."""
        return self.refusal or self.mean.effect(alpha)


def score_arm(candidate: Flags, taken: Flags, propensity: Floats, reward: Floats, owners: RowOwners) -> ArmScores:
    """Scores one offer.

    Args:
        candidate: (n,) whether it could be chosen, in the order of the decisions.
        taken: (n,) whether it was.
        propensity: (n,) the logged probability of the offer that was chosen.
        reward: (n,).
        owners: the policy and the customer of each row.

    Raises:
        BadInput: if a propensity of the offer is not in (0, 1].
    """
    rows = np.flatnonzero(candidate)
    own, p, earned = taken[rows], propensity[rows], reward[rows]
    weights = weigh_policies(own, p, owners.policy[rows])
    return ArmScores(
        rows=rows,
        scores=aipw_scores(earned, own, p, running_means(earned, own)),
        weights=even_out_time(weights),
        taken=own,
        propensity=p,
        customer=owners.customer[rows],
        customers=owners.customers,
    )


@dataclass(frozen=True)
class RowOwners:
    """The policy and the customer of each of n rows."""

    policy: Ints
    """(n,) numbered from 0."""
    customer: Ints
    """(n,) numbered from 0."""
    customers: int


def weigh_policies(taken: Flags, propensity: Floats, policy: Ints) -> Floats:
    """Each row's weight (m,): the harmonic mean of the offer's probability under the row's policy at that time.

    The log has the offer's probability where it was taken alone. There `1 / p^2` over `1 / p` is the mean of `1 / p`,
    without noise where p is the same in all rows of a time. A time in which it was not taken has the weight before.
    """
    bins = np.arange(len(taken)) * BINS // max(len(taken), 1)
    place = policy * BINS + bins
    inverse = np.where(taken, 1 / np.where(taken, propensity, 1.0), 0.0)
    cells = (int(policy.max(initial=-1)) + 1) * BINS
    once, twice = (np.bincount(place, weights=inverse**power, minlength=cells).reshape(-1, BINS) for power in (1, 2))
    known = once > 0
    last = np.maximum.accumulate(np.where(known, np.arange(BINS), -1), axis=1)
    source = np.where(last >= 0, last, known.argmax(axis=1)[:, None])
    cost = np.take_along_axis(twice / np.where(known, once, 1.0), source, axis=1)
    return np.asarray(np.where(cost > 0, 1 / np.maximum(cost, 1.0), 0.0).ravel()[place])


def even_out_time(weights: Floats) -> Floats:
    """The weights (m,), rescaled so that each twentieth of the rows has a total weight equal to its rows.

    Where the share of the policies changes and rewards drift, the times of one policy would count for more otherwise.
    """
    bins = np.arange(len(weights)) * BINS // max(len(weights), 1)
    rows, sums = np.bincount(bins, minlength=BINS), np.bincount(bins, weights=weights, minlength=BINS)
    return np.asarray(weights * np.where(sums > 0, rows / np.where(sums > 0, sums, 1.0), 0.0)[bins])


def contrast_arms(one: ArmScores, other: ArmScores, alpha: float) -> Effect | NotEstimable:
    """The value of `one` minus that of `other`, in rows in which both were candidates."""
    if not np.array_equal(one.rows, other.rows):
        both = np.intersect1d(one.rows, other.rows, assume_unique=True)
        one, other = (arm.select(np.isin(arm.rows, both, assume_unique=True)) for arm in (one, other))
    refused = one.refusal or other.refusal
    if refused:
        return NotEstimable(f"one of the two: {refused.not_estimable}", remedy=refused.remedy)
    return (one.mean - other.mean).effect(alpha)


def contrast_customers(arm: ArmScores, chosen: Flags, alpha: float) -> Effect | NotEstimable:
    """The value of an offer for the `chosen` customers (customers,), minus its value for all others."""
    own = chosen[arm.customer]
    one, other = arm.select(own), arm.select(~own)
    return one.refusal or other.refusal or (one.mean - other.mean).effect(alpha)


def trend_p_value(arm: ArmScores) -> float | None:
    """The p-value of no linear trend of an offer's reward over the log; None if it cannot be estimated.

    The slope of the weighted regression of its scores on their rank in time, with errors by customer.
    """
    if arm.refusal is not None:
        return None
    weights = arm.weights / arm.weights.sum()
    time = np.linspace(-1, 1, len(weights))
    time -= float(weights @ time)
    spread = float(weights @ time**2)
    slope = float(weights @ (time * arm.scores)) / spread
    residuals = arm.scores - arm.mean.value - slope * time
    parts = weights * time * residuals / spread
    errors = np.bincount(arm.customer, weights=parts, minlength=arm.customers).astype(np.float64)
    variance = float(errors @ errors)
    if variance == 0:
        return None
    return two_sided_t_p(slope / variance**0.5, match_freedom(errors, int(np.count_nonzero(errors))))
