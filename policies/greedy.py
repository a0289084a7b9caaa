"""Mostly the best mean so far, sometimes any arm."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from policies.base import Among, Bandit, share_best
from policies.batches import Floats


@dataclass(frozen=True, eq=False)
class EpsilonGreedy(Bandit):
    """Epsilon-greedy (Sutton and Barto 2018, section 2.2).

    Args:
        epsilon: probability of drawing any arm, in [0, 1].
        optimism: mean an arm is believed to have before it was shown, worth one observation.
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
        count, total = self.statistics["count"], self.statistics["total"]
        return np.asarray((total + self.optimism) / np.maximum(count + 1, 1e-9))

    def chances(self, x: Floats, among: Among) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """Propensities (n,): epsilon shared by all, the rest by the best means."""
        best = share_best(self._means[among])
        return best * (1 - self.epsilon) + self.epsilon / best.size
