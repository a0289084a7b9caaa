"""Change points: a test for a change in an arm's rewards that may be repeated without raising its error."""

from dataclasses import dataclass

import numpy as np

from policies import special
from policies.batches import Floats, Ints


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """The most likely change: the first bucket after it, the means on both sides, and its evidence and threshold."""

    at: int
    before: float
    after: float
    evidence: float
    threshold: float

    @property
    def found(self) -> bool:
        """Whether the evidence exceeds the threshold."""
        return self.evidence > self.threshold


def detect_change(count: Floats, total: Floats, error: float = 0.01, *, kind: Ints | None = None) -> ChangePoint | None:
    """Generalized likelihood ratio test for one change of mean (Besson, Kaufmann, Maillard and Seznec 2022, eq. 8).

    Observations are grouped in buckets of time (minutes, days), and the change may be between any two. The probability
    of ever finding one where there is none is at most `error`, however often the test is repeated.

    Where buckets are of several kinds (hours of the day), each kind is compared with itself. Both sides' means are
    those of a common mix of kinds, each weighing n m / (n + m) with n observations before and m after (Cochran 1954),
    with effective sample sizes. The mix varies at least as much as its parts, so the test is conservative.

    Args:
        count: observations in each bucket (b,), oldest first.
        total: the sum of their rewards (b,), each in [0, 1]. A residual r - expected enters as (1 + residual) / 2.
        error: probability of a false alarm over all time.
        kind: of each bucket (b,), integers from 0; None where all are alike.

    Returns:
        The most likely change; None where fewer than two buckets have observations, or no kind has some on both sides.

    Raises:
        ValueError: totals that are not sums of rewards in [0, 1].
    """
    if count.shape != total.shape or (total < -1e-9).any() or (total > count + 1e-9).any():
        raise ValueError("a bucket's total is not between 0 and its count; scale rewards to [0, 1]")
    filled = np.flatnonzero(count > 0)
    if filled.size < 2:
        return None
    kinds = np.zeros(filled.size, np.intp) if kind is None else kind[filled]
    by_kind = np.zeros((filled.size, 2, int(kinds.max()) + 1))  # counts and totals of each bucket, in its kind's column
    by_kind[np.arange(filled.size), :, kinds] = np.column_stack([count[filled], total[filled]])
    until = np.cumsum(by_kind, axis=0)
    (left, earned), (right, more) = until[:-1].swapaxes(0, 1), (until[-1] - until[:-1]).swapaxes(0, 1)
    left, right = np.maximum(left, 0), np.maximum(right, 0)
    share = left * right / np.maximum(left + right, 1e-9)
    comparable = share.sum(axis=1) > 0  # splits with observations of one kind on both sides
    if not comparable.any():
        return None
    n = float(count.sum())
    (before, lower), (after, upper) = _mixed_means(share, left, earned), _mixed_means(share, right, more)
    mean = (lower * before + upper * after) / np.maximum(lower + upper, 1e-9)
    evidence = np.where(comparable, lower * _divergence(before, mean) + upper * _divergence(after, mean), 0.0)
    split = int(evidence.argmax())
    threshold = (1 + 1 / n) * np.log(3 * n * np.sqrt(n) / error)
    return ChangePoint(
        at=int(filled[split + 1]),
        before=float(before[split]),
        after=float(after[split]),
        evidence=float(evidence[split]),
        threshold=float(threshold),
    )


def _mixed_means(share: Floats, count: Floats, total: Floats) -> tuple[Floats, Floats]:
    """The mean (b,) of a mix of kinds with shares (b, k), and its effective sample size (b,)."""
    weight, size = share.sum(axis=1), np.maximum(count, 1e-9)
    mean = (share * total / size).sum(axis=1) / np.maximum(weight, 1e-9)
    return np.clip(mean, 0, 1), weight**2 / np.maximum((share**2 / size).sum(axis=1), 1e-9)


def _divergence(p: Floats, q: Floats) -> Floats:
    """The Kullback-Leibler divergence of Bernoulli distributions, kl(p, q)."""
    return np.asarray(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))
