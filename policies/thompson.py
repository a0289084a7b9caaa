"""Thompson sampling without context, its propensities by quadrature instead of by draws."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy import special

from policies.base import EVERY, Among, Bandit
from policies.batches import Floats
from policies.propensities import best_of_independent, shared_nodes


def beta_best(a: Floats, b: Floats) -> Floats:
    """P(arm k has the greatest success probability), (n,), for independent Beta(a, b) posteriors, a and b from 0.5 up.

    Integrated over the angle φ with t = sin² φ, which makes the arms' spreads nearly equal and takes the poles from
    densities at 0 and 1.
    """
    angle = np.arcsin(np.sqrt(a / (a + b)))
    phi, weights = shared_nodes(angle, 0.5 / np.sqrt(a + b + 1), 0.0, np.pi / 2)
    left, right = a[:, None], b[:, None]
    constant = special.betaln(left, right)

    def density(t: Floats) -> Floats:
        return np.asarray(np.exp(special.xlogy(left - 1, t) + special.xlog1py(right - 1, -t) - constant))

    nodes = np.sin(phi) ** 2, weights * np.sin(2 * phi)
    return best_of_independent(density, lambda t: np.asarray(special.betainc(left, right, t)), nodes)


@dataclass(frozen=True, eq=False)
class BetaThompson(Bandit):
    """Thompson sampling for rewards in [0, 1] (Thompson 1933; Agrawal and Goyal 2012).

    A reward r counts as r of a success and 1 - r of a failure.

    Args:
        prior: successes and failures believed before the first observation, both positive.
    """

    kind: ClassVar[str] = "beta_thompson"

    prior: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.prior) != 2 or min(self.prior) <= 0:
            raise ValueError(
                f"prior {self.prior} is not two positive numbers: successes and failures believed beforehand"
            )

    def check_rewards(self, reward: Floats) -> None:
        """Rewards are shares of a success."""
        if reward.size and (reward.min() < 0 or reward.max() > 1):
            raise ValueError(
                f"reward reaches from {reward.min()} to {reward.max()}, outside [0, 1]; "
                "divide by the greatest possible one, or use gaussian_thompson"
            )

    @cached_property
    def _posterior(self) -> tuple[Floats, Floats]:
        count, total = self.statistics["count"], self.statistics["total"]
        return np.maximum(total, 0) + self.prior[0], np.maximum(count - total, 0) + self.prior[1]

    @cached_property
    def _all(self) -> Floats:
        return beta_best(*self._posterior)

    def chances(self, x: Floats, among: Among) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """P(best) (n,) under the posterior."""
        if among is EVERY:
            return self._all
        a, b = self._posterior
        return beta_best(a[among], b[among])
