"""Has an arm changed? A test on its rewards over time that may be looked at as often as one likes."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from policies.batches import Floats


@dataclass(frozen=True, slots=True)
class Change:
    """The most likely change: before which bucket, the means on both sides, and the evidence beside its threshold."""

    at: int
    before: float
    after: float
    evidence: float
    threshold: float

    @property
    def found(self) -> bool:
        """Whether the evidence passes the threshold."""
        return self.evidence > self.threshold


def latest_change(count: Floats, total: Floats, error: float = 0.01) -> Change | None:
    """Generalized likelihood ratio test for one change of mean (Besson, Kaufmann, Maillard and Seznec 2022, eq. 8).

    Observations are grouped in buckets of time (minutes, days); a change is looked for between any two. The
    probability of ever finding one where there is none is at most `error`, however often the test is repeated.

    Args:
        count: observations in each bucket (b,), oldest first.
        total: their rewards, each in [0, 1], summed (b,). Residuals r - expected come in as (1 + residual) / 2.
        error: probability of a false alarm over all time.

    Returns:
        The most likely change, None where fewer than two buckets hold anything.

    Raises:
        ValueError: totals that are no sums of rewards in [0, 1].
    """
    if count.shape != total.shape or (total < -1e-9).any() or (total > count + 1e-9).any():
        raise ValueError("a bucket's total is not between 0 and its count; scale rewards to [0, 1]")
    held = np.flatnonzero(count > 0)
    if held.size < 2:
        return None
    left, right = np.cumsum(count[held])[:-1], np.cumsum(count[held][::-1])[::-1][1:]
    before = np.clip(np.cumsum(total[held])[:-1] / left, 0, 1)
    after = np.clip(np.cumsum(total[held][::-1])[::-1][1:] / right, 0, 1)
    n = float(count.sum())
    mean = float(np.clip(total.sum() / n, 0, 1))
    evidence = left * _divergence(before, mean) + right * _divergence(after, mean)
    split = int(evidence.argmax())
    threshold = (1 + 1 / n) * np.log(3 * n * np.sqrt(n) / error)
    return Change(
        int(held[split + 1]), float(before[split]), float(after[split]), float(evidence[split]), float(threshold)
    )


def _divergence(p: Floats, q: float) -> Floats:
    """Kl of Bernoulli distributions."""
    return np.asarray(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))
