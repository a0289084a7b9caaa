"""The upper confidence bound that fits rewards in [0, 1]."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy import special

from policies.base import Among, Bandit, share_best
from policies.batches import Floats
from policies.thompson import check_shares


def upper_bounds(mean: Floats, allowance: Floats) -> Floats:
    """Greatest q with kl(mean, q) <= allowance for Bernoulli distributions (n,), to 1e-9.

    By Newton's steps from Pinsker's bound above, from where they only ever come down, kl being convex in q.
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
    else 0, n being what the arm has seen of t among K arms. Its regret is at once asymptotically optimal and minimax,
    and well below that of KL-UCB's log t (Garivier and Cappé 2011), because an arm known better than its share of the
    observations is given no bonus. The rule is deterministic; its propensities come from the floor, and ties share.
    """

    kind: ClassVar[str] = "kl_ucb"

    def check_rewards(self, reward: Floats) -> None:
        """Rewards are shares of a success."""
        check_shares(reward)

    @cached_property
    def _bounds(self) -> Floats:
        count = np.maximum(self.statistics["count"], 0)
        tried = np.maximum(count, 1e-9)
        mean = np.clip(self.statistics["total"] / tried, 0, 1)
        owed = np.log(np.maximum(count.sum() / (len(self.arms) * tried), 1))
        allowance = (owed + np.log1p(owed**2)) / tried
        return np.where(count > 0.5, upper_bounds(mean, allowance), np.inf)

    def chances(self, x: Floats, among: Among) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """Propensities (n,): 1 for the greatest bound."""
        return share_best(self._bounds[among])
