"""Uniform choice: the baseline, and the share of traffic without learning."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import ArmPositions, Bandit
from policies.batches import Floats


@dataclass(frozen=True, eq=False)
class Uniform(Bandit):
    """Draws each arm that may be shown with the same probability; counts observations without using them."""

    kind: ClassVar[str] = "uniform"

    def chances(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """Propensities (n,), all 1/n."""
        shown = len(self.arms) if isinstance(among, slice) else among.size
        return np.full(shown, 1 / shown)
