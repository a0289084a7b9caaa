"""Every arm alike: the baseline, and the slice of traffic that never learns."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies.base import Among, Bandit
from policies.batches import Floats


@dataclass(frozen=True, eq=False)
class Uniform(Bandit):
    """Draws each arm that may be shown with the same probability; counts what it sees, without using it."""

    kind: ClassVar[str] = "uniform"

    def chances(self, x: Floats, among: Among) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """Propensities (n,), all 1/n."""
        shown = len(self.arms) if isinstance(among, slice) else among.size
        return np.full(shown, 1 / shown)
