"""The value of a policy on logged lists: the expected sum of the rewards of a list's items.

A reward may depend on the item and on those above it, not on those below (the cascade assumption). With w_j the
target's over the logged probability of the item at position j given those above it, and W_k = w_1 … w_k, the scores of
a list with rewards r_k are

    IPS   sum_k W_k r_k                      McInerney et al. 2020, "Counterfactual Evaluation of Slate Recommendations
                                             with Sequential Reward Interactions"
    SNIPS sum_k W_k r_k / mean(W_k)          the same, normalized at each position
    DR    sum_k W_k (r_k - Q_k) + W_(k-1) E[Q_k]   Kiyohara et al. 2022, "Doubly Robust Off-Policy Evaluation for
                                             Ranking Policies under the Cascade Behavior Model"

Q_k is what the reward model expects of the item at k plus a constant for the positions below: the mean of what it
expects of the target there. E is over the target's choice at k. Any Q_k that depends on the items up to k alone leaves
the value unbiased. For lists of one item the three are those of `estimators`.
"""

from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.analysis.offpolicy.crossfit import Predictions
from engine.analysis.offpolicy.estimators import Estimate, Spread, effective_sample_size, ips
from engine.analysis.offpolicy.logged_choices import LoggedChoices
from policies.batches import Floats, Ints


class ListScores(NamedTuple):
    """Scores of m lists, whose means are the values, and of each position (m, k) up to the longest list's k."""

    ips: Floats
    snips: Floats
    dr: Floats
    weights: Floats
    """(m,) the product of all positions' weights."""
    at_positions: Floats
    """(m, k) W_k r_k: the scores of IPS at each position."""


class PositionValue(msgspec.Struct, frozen=True, kw_only=True):
    """The value at one position of the list, by per-position IPS."""

    position: int
    logged: float
    """The mean reward there in the log."""
    ips: Estimate


def as_lists(log: LoggedChoices) -> LoggedChoices:
    """The log with one row per list: its first item's row, with the rewards of all items summed."""
    first, rows = _first_rows(log)
    totals = np.bincount(rows, weights=log.reward, minlength=first.size)
    lists = log.select_rows(first)
    return replace(lists, reward=np.asarray(totals, dtype=np.float64))


def score_lists(log: LoggedChoices, predictions: Predictions) -> ListScores:
    """The scores of each list of the log (n rows, m lists).

    Args:
        log: the evaluated rows only, the items of each list in their order.
        predictions: of these rows.
    """
    first, rows = _first_rows(log)
    shape = first.size, int(log.position.max())
    place = rows, log.position - 1
    # A position that a list does not have has weight 1 and earns nothing.
    ratio, reward = _spread(shape, place, predictions.target / log.propensity, 1.0), _spread(shape, place, log.reward)
    own = _spread(shape, place, predictions.of_logged)
    target = _spread(shape, place, predictions.of_target)
    upto = np.cumprod(ratio, axis=1)
    before = np.hstack([np.ones((first.size, 1)), upto[:, :-1]])
    means = target.mean(axis=0)
    below = means.sum() - np.cumsum(means)
    gained = upto * reward
    scale = np.maximum(upto.mean(axis=0), 1e-300)
    normalized = gained.mean(axis=0) / scale
    linearized = normalized + upto * (reward - normalized) / scale
    doubly = upto * (reward - own) + before * target + (before - upto) * below
    return ListScores(
        ips=np.asarray(gained.sum(axis=1), dtype=np.float64),
        snips=np.asarray(linearized.sum(axis=1), dtype=np.float64),
        dr=np.asarray(doubly.sum(axis=1), dtype=np.float64),
        weights=np.asarray(upto[:, -1], dtype=np.float64),
        at_positions=gained,
    )


def mean_of_scores(scores: Floats, weights: Floats, customer: Ints, alpha: float) -> Estimate:
    """The mean of scores (m,) with its interval by customer, and figures of the weights (m,)."""
    low, high = Spread.of_influence(scores - scores.mean(), customer).interval(float(scores.mean()), alpha)
    return Estimate(
        value=float(scores.mean()),
        low=low,
        high=high,
        ess=effective_sample_size(weights),
        mean_weight=float(weights.mean()),
        largest_weight=float(weights.max()),
    )


def value_positions(log: LoggedChoices, scores: ListScores, lists: LoggedChoices, alpha: float) -> list[PositionValue]:
    """The value at each position; `lists` is `as_lists(log)`."""
    ones = np.ones(len(lists))
    logged = np.bincount(log.position, weights=log.reward) / len(lists)
    return [
        PositionValue(
            position=at + 1,
            logged=float(logged[at + 1]),
            ips=ips(scores.at_positions[:, at], ones, ones, cluster=lists.customer, alpha=alpha),
        )
        for at in range(scores.at_positions.shape[1])
    ]


def _first_rows(log: LoggedChoices) -> tuple[Ints, Ints]:
    """The first row of each list (m,), and each row's list (n,), numbered in row order."""
    _, first, rows = np.unique(log.decision, return_index=True, return_inverse=True)
    return first, rows.ravel()


def _spread(
    shape: tuple[int, int], place: tuple[Ints, Ints], values: Floats, otherwise: float = 0.0
) -> NDArray[np.float64]:
    """Values (n,) of rows as a matrix of lists by positions."""
    matrix = np.full(shape, otherwise)
    matrix[place] = values
    return matrix
