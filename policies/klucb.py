"""KL-UCB: an upper confidence bound for rewards in [0, 1]."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from policies import special
from policies.base import ArmPositions, Bandit, share_best
from policies.batches import Floats
from policies.thompson import check_shares


def upper_bounds(mean: Floats, allowance: Floats) -> Floats:
    """Greatest q with kl(mean, q) <= allowance for Bernoulli distributions (n,), to 1e-9.

    Newton's method starts at Pinsker's bound, which is above q, and decreases monotonically as kl is convex in q.
    """
    entropy = special.xlogy(mean, mean) + special.xlog1py(1 - mean, -mean)
    bound = np.minimum(mean + np.sqrt(allowance / 2) + 1e-12, 1 - 1e-12)
    for _ in range(40):
        excess = entropy - mean * np.log(bound) - (1 - mean) * np.log1p(-bound) - allowance
        step = excess * bound * (1 - bound) / np.maximum(bound - mean, 1e-12)
        bound = np.clip(bound - step, mean, 1 - 1e-12)
        if np.abs(step).max() < 1e-9:
            break
    return np.maximum(bound, mean)


@dataclass(frozen=True, eq=False)
class KLUCB(Bandit):
    """kl-UCB++ without horizon (Ménard and Garivier 2017; Garivier, Hadiji, Ménard and Stoltz 2022, section 3).

    Shows the arm with the greatest q such that n kl(mean, q) <= g(t / (K n)), g(y) = log(y (1 + log² y)) for y > 1 and
    else 0, where n of the t observations among K arms are the arm's. Its regret is both asymptotically optimal and
    minimax, and well below that of KL-UCB's log t (Garivier and Cappé 2011), because an arm with more than its share of
    the observations gets no bonus. The rule is deterministic; its propensities come from the floor, and ties share.
    """

    kind: ClassVar[str] = "kl_ucb"

    def check_rewards(self, reward: Floats) -> None:
        """Raise ValueError for rewards outside [0, 1]."""
        check_shares(reward)

    @cached_property
    def _bounds(self) -> Floats:
        """Upper bounds (arms,); infinite for an arm without observations, so that it is shown first."""
        count = np.maximum(self.statistics["count"], 0)
        tried = np.maximum(count, 1e-9)
        mean = np.clip(self.statistics["total"] / tried, 0, 1)
        log_share = np.log(np.maximum(count.sum() / (len(self.arms) * tried), 1))
        allowance = (log_share + np.log1p(log_share**2)) / tried
        return np.where(count > 0.5, upper_bounds(mean, allowance), np.inf)

    def chances(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """Propensities (n,): 1 for the greatest bound."""
        return share_best(self._bounds[among])
