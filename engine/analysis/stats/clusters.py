"""Weighted means over dependent rows: each cluster's contribution, and a leave-one-out interval.

Rows of one customer are not independent, and customers differ in how many they have. The variance is the jackknife's:
the sum of squares of what leaving a cluster out changes (Bell and McCaffrey 2002, "Bias Reduction in Standard Errors
for Linear Regression with Multi-Stage Samples"; later named CR3). Without it a customer with many rows hides their own
variance, because the mean follows them. The degrees of freedom come from the same sums' fourth moment, and are
below the effective number of clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.stats.effects import critical_t, two_sided_t_p
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.analysis.stats.moments import Floats

LEAST_SKEWNESS = 1e-9  # Hall's inverse divides by the skewness
SKEWED = (0.2, 0.3)
"""The skewness of a mean below which its interval is symmetric, and above which it leans in full."""
LEAN = 1 / 3
"""The share of Hall's correction. The degrees of freedom respond to the same few large errors, and the skewness of few
clusters is itself uncertain: with the whole of it intervals of contrasts cover 97 to 98 %."""


@dataclass(frozen=True)
class ClusteredMean:
    """A weighted mean, or a difference of two, over rows of the same G clusters."""

    value: float
    changes: Floats
    """(G,) the value minus what it is without the cluster; infinite where no other has weight."""
    clusters: int
    """The number of clusters that have weight."""
    effective: float
    """The number of clusters of equal weight that tell as much: 1 / sum of squared shares (Kish 1965)."""

    @classmethod
    def of_rows(cls, scores: Floats, weights: Floats, cluster: NDArray[np.intp], clusters: int) -> ClusteredMean:
        """The weighted mean of scores (n,) with weights (n,), not all 0, in clusters numbered from 0.

        Leaving out a cluster with the share s of the weights and the error e changes the mean by e / (1 - s).
        """
        total = float(weights.sum())
        value = float(weights @ scores) / total
        error = np.bincount(cluster, weights=weights * (scores - value), minlength=clusters) / total
        share = np.bincount(cluster, weights=weights, minlength=clusters) / total
        rest = 1 - share
        changes = np.where(share > 0, error / np.where(rest > 0, rest, np.nan), 0.0)
        changes = np.where(np.isnan(changes), np.inf, changes)
        return cls(value, changes, int(np.count_nonzero(share)), 1 / float(share @ share))

    def __sub__(self, other: ClusteredMean) -> ClusteredMean:
        """The difference of two means over the same clusters, paired by cluster."""
        clusters, effective = max(self.clusters, other.clusters), min(self.effective, other.effective)
        return ClusteredMean(self.value - other.value, self.changes - other.changes, clusters, effective)

    def effect(self, alpha: float) -> Effect | NotEstimable:
        """The value with its t interval, asymmetric if the mean is skewed (`SKEWED`)."""
        if self.clusters < 2 or not np.all(np.isfinite(self.changes)):
            return NotEstimable("one customer only; an interval needs two")
        variance = float(self.changes @ self.changes) * (1 - 1 / self.clusters)
        if variance == 0:
            return NotEstimable("every reward is the same; an interval needs some that differ")
        # The fourth moment of few clusters is itself too small: without the factor 12 to 35 of them cover 93 %.
        se = math.sqrt(variance) * self.effective / max(self.effective - 1, 0.5)
        df = max(min(match_freedom(self.changes, self.clusters), self.effective - 1), 1.0)
        skewness = float(np.sum(self.changes**3)) / variance**1.5
        slight, marked = SKEWED
        skewness *= LEAN * min(max((abs(skewness) - slight) / (marked - slight), 0.0), 1.0)
        reach = critical_t(alpha, df)
        above, below = (invert_hall(side, skewness) * se for side in (reach, -reach))
        p = two_sided_t_p(apply_hall(self.value / se, skewness), df)
        return Effect(self.value, self.value - above, self.value - below, se, p)


def apply_hall(t: float, skewness: float) -> float:
    """Hall's transformation of a studentized mean: t + a t² / 3 + a² t³ / 27 + a / 6, `a` being the mean's skewness.

    Hall 1992, "On the Removal of Skewness by Transformation".
    """
    return t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6


def invert_hall(y: float, skewness: float) -> float:
    """The t whose Hall transformation is y; `skewness` is the mean's."""
    if abs(skewness) < LEAST_SKEWNESS:
        return y
    return 3 / skewness * (float(np.cbrt(1 + skewness * (y - skewness / 6))) - 1)


def match_freedom(errors: Floats, count: int) -> float:
    """Degrees of freedom of a sum of squares with heavy tails, by matching its first two moments (Satterthwaite 1946).

    Few and large errors determine the variance less well than their number says: an arm that is shown rarely has such
    errors, and so have customers with many rows. With normal quantiles the interval would be too short.

    Args:
        errors: the values whose squares are added, shape (n,); zeros do not matter.
        count: the number of independent errors.
    """
    squares = errors**2
    total = float(squares.sum())
    spread = float(squares @ squares) - total**2 / count
    return max(2 * total**2 / spread, 1.0) if spread > 0 else math.inf
