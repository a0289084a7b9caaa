"""Has an arm changed? A test on its rewards over time that may be looked at as often as one likes."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from policies.batches import Floats, Ints


@dataclass(frozen=True, slots=True)
class ChangePoint:
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


def detect_change(count: Floats, total: Floats, error: float = 0.01, *, kind: Ints | None = None) -> ChangePoint | None:
    """Generalized likelihood ratio test for one change of mean (Besson, Kaufmann, Maillard and Seznec 2022, eq. 8).

    Observations are grouped in buckets of time (minutes, days); a change is looked for between any two. The
    probability of ever finding one where there is none is at most `error`, however often the test is repeated.

    Where buckets are of several kinds (hours of the day), only those of a kind are compared: both sides' means are
    those of a common mix of kinds, each weighing n m / (n + m) with n observations before and m after (Cochran 1954),
    and their sizes are the effective ones. The mix varies at least as much as its parts, so this errs on the safe side.

    Args:
        count: observations in each bucket (b,), oldest first.
        total: their rewards, each in [0, 1], summed (b,). Residuals r - expected come in as (1 + residual) / 2.
        error: probability of a false alarm over all time.
        kind: of each bucket (b,), integers from 0; None where all are alike.

    Returns:
        The most likely change, None where fewer than two buckets hold anything or none has its like on the other side.

    Raises:
        ValueError: totals that are no sums of rewards in [0, 1].
    """
    if count.shape != total.shape or (total < -1e-9).any() or (total > count + 1e-9).any():
        raise ValueError("a bucket's total is not between 0 and its count; scale rewards to [0, 1]")
    held = np.flatnonzero(count > 0)
    if held.size < 2:
        return None
    of = np.zeros(held.size, np.intp) if kind is None else kind[held]
    spread = np.zeros((held.size, 2, int(of.max()) + 1))
    spread[np.arange(held.size), :, of] = np.column_stack([count[held], total[held]])
    until = np.cumsum(spread, axis=0)
    (left, earned), (right, more) = until[:-1].swapaxes(0, 1), (until[-1] - until[:-1]).swapaxes(0, 1)
    left, right = np.maximum(left, 0), np.maximum(right, 0)
    share = left * right / np.maximum(left + right, 1e-9)
    weight = share.sum(axis=1)
    alike = weight > 0
    if not alike.any():
        return None
    n = float(count.sum())
    (before, lower), (after, upper) = _mixed(share, left, earned), _mixed(share, right, more)
    mean = (lower * before + upper * after) / np.maximum(lower + upper, 1e-9)
    evidence = np.where(alike, lower * _divergence(before, mean) + upper * _divergence(after, mean), 0.0)
    split = int(evidence.argmax())
    threshold = (1 + 1 / n) * np.log(3 * n * np.sqrt(n) / error)
    return ChangePoint(
        int(held[split + 1]), float(before[split]), float(after[split]), float(evidence[split]), float(threshold)
    )


def _mixed(share: Floats, count: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Means (b,) of kinds (b, k) by their shares of the mix, and their effective sizes (b,)."""
    weight, held = share.sum(axis=1), np.maximum(count, 1e-9)
    mean = (share * total / held).sum(axis=1) / np.maximum(weight, 1e-9)
    return np.clip(mean, 0, 1), weight**2 / np.maximum((share**2 / held).sum(axis=1), 1e-9)


def _divergence(p: Floats, q: Floats) -> Floats:
    """Kl of Bernoulli distributions."""
    return np.asarray(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))
