"""Linear regression that explores by a confidence bound."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from policies.base import ArmPositions, share_best
from policies.batches import Floats
from policies.linear.regression import Linear


@dataclass(frozen=True, eq=False)
class LinUCB(Linear):
    """LinUCB (Li, Chu, Langford and Schapire 2010, algorithm 1) with a width that grows for arms left behind.

    Shows the arm with the greatest mean + √(alpha log(1 + t / n)) s √(xᵀ A⁻¹ x). Of t observations n are this arm's, as
    in KL-UCB+ (Garivier and Cappé 2011, section 4). s² is the noise variance estimated from the residuals, so one alpha
    fits rewards of any scale. The rule is deterministic; its propensities come from the floor, and ties share.

    Args:
        alpha: width of the bound; the original's constant width w corresponds to alpha log(1 + t / n) = w².
    """

    kind: ClassVar[str] = "linucb"

    alpha: float = field(default=0.3, kw_only=True)
    between: float = field(default=1.0, kw_only=True)

    def chances(self, x: Floats, among: ArmPositions) -> Floats:
        """Propensities (n,): 1 for the greatest bound."""
        at, known = self.predict(x, among), self.posterior
        shape, rate = known.noise
        count = np.maximum(self.statistics["count"], 0)
        width = np.sqrt(self.alpha * np.log1p(count.sum() / np.maximum(count[among], 1)) * rate / shape)
        return share_best(at.mean + width * at.spread(known.common_cover))
