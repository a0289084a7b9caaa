"""Epsilon-greedy: the best mean so far, and any arm with a small probability."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from policies.base import ArmPositions, Bandit, share_best
from policies.batches import Floats


@dataclass(frozen=True, eq=False)
class EpsilonGreedy(Bandit):
    """Epsilon-greedy (Sutton and Barto 2018, section 2.2).

    Args:
        epsilon: probability of drawing any arm, in [0, 1].
        optimism: prior mean of an arm, worth one observation.
    """

    kind: ClassVar[str] = "epsilon_greedy"

    epsilon: float = field(default=0.1, kw_only=True)
    optimism: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon {self.epsilon} is not between 0 and 1; it is the probability of exploring")

    @cached_property
    def _means(self) -> Floats:
        """Means (arms,) with the prior observation."""
        count, total = self.statistics["count"], self.statistics["total"]
        return np.asarray((total + self.optimism) / np.maximum(count + 1, 1e-9))

    def chances(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """Propensities (n,): epsilon is shared by all arms, the rest by those with the best mean."""
        best = share_best(self._means[among])
        return best * (1 - self.epsilon) + self.epsilon / best.size
