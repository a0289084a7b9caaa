"""Linear regression that explores by the inverse of the predicted gap."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from policies.base import ArmPositions
from policies.batches import Floats
from policies.linear.regression import Linear


@dataclass(frozen=True, eq=False)
class SquareCB(Linear):
    """SquareCB: propensities fall with the inverse of the predicted gap (Foster and Rakhlin 2020, algorithm 1).

    p_k = 1 / (n + gamma √t gap_k); the best arm gets the rest. The oracle is ridge regression; gaps are in standard
    deviations of the noise.

    Args:
        gamma: how fast propensities fall with the gap, after one observation.
    """

    kind: ClassVar[str] = "squarecb"

    gamma: float = field(default=10.0, kw_only=True)

    def chances(self, x: Floats, among: ArmPositions) -> Floats:
        """Propensities (n,) by inverse gap weighting."""
        mean = self.predict(x, among).mean.astype(np.float64)
        shape, rate = self.posterior.noise
        greed = self.gamma * np.sqrt(max(self.statistics["count"].sum(), 0.0) * shape / rate)
        best = int(mean.argmax())
        chances = 1 / (mean.size + greed * (mean[best] - mean))
        chances[best] += 1 - chances.sum()
        return np.asarray(chances)
