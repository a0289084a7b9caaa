"""Thompson sampling without context; propensities by quadrature instead of draws."""

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from policies import special
from policies.base import ArmPositions, Bandit
from policies.batches import Batch, Floats
from policies.propensities import best_of_independent, shared_nodes

_CACHED_SETS = 512
_VARIANCE_PRIOR = 20.0
"""The weight of a variance's prior in observations."""


def beta_best(a: Floats, b: Floats) -> Floats:
    """P(arm k has the greatest success probability), (n,), for independent Beta(a, b) posteriors, a and b from 0.5 up.

    Integrated over the angle φ with t = sin² φ, which makes the arms' spreads nearly equal and removes the poles of the
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


def student_best(location: Floats, scale: Floats, freedom: Floats) -> Floats:
    """P(arm k has the greatest mean), (n,), for independent Student posteriors with `freedom` >= 2 degrees."""
    centre, spread, nu = location[:, None], scale[:, None], freedom[:, None]
    constant = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2) - np.log(nu * np.pi) / 2 - np.log(spread)

    def density(t: Floats) -> Floats:
        return np.asarray(np.exp(constant - (nu + 1) / 2 * np.log1p(((t - centre) / spread) ** 2 / nu)))

    nodes = shared_nodes(location, scale, reach=20_000.0)
    return best_of_independent(density, lambda t: np.asarray(special.stdtr(nu, (t - centre) / spread)), nodes)


def check_shares(reward: Floats) -> None:
    """Raise ValueError for rewards outside [0, 1]."""
    if reward.size and (reward.min() < 0 or reward.max() > 1):
        raise ValueError(
            f"reward reaches from {reward.min()} to {reward.max()}, outside [0, 1]; "
            "divide by the greatest possible one, or use gaussian_thompson"
        )


@dataclass(frozen=True, eq=False)
class _Thompson(Bandit):
    """Propensities from P(best), cached by the set of arms."""

    @abstractmethod
    def best(self, among: ArmPositions) -> Floats:
        """P(best) (n,) among these arms under the posterior."""

    @cached_property
    def _best_of(self) -> dict[bytes, Floats]:
        """P(best) by the positions of the arms."""
        return {}

    def chances(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """P(best) (n,) under the posterior."""
        key = b"" if isinstance(among, slice) else among.tobytes()
        chances = self._best_of.get(key)
        if chances is None:
            if len(self._best_of) >= _CACHED_SETS:
                self._best_of.clear()
            chances = self._best_of[key] = self.best(among)
        return chances


@dataclass(frozen=True, eq=False)
class BetaThompson(_Thompson):
    """Thompson sampling for rewards in [0, 1] (Thompson 1933; Agrawal and Goyal 2012).

    A reward r counts as r of a success and 1 - r of a failure.

    Args:
        prior: successes and failures of the prior, both at least 0.5.
    """

    kind: ClassVar[str] = "beta_thompson"

    prior: tuple[float, float] = field(default=(1.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.prior) != 2 or min(self.prior) < 0.5:
            raise ValueError(f"prior {self.prior} is not two numbers from 0.5 up: successes and failures")

    def check_rewards(self, reward: Floats) -> None:
        """Raise ValueError for rewards outside [0, 1]."""
        check_shares(reward)

    def best(self, among: ArmPositions) -> Floats:
        """P(best) (n,) of Beta posteriors."""
        count, total = self.statistics["count"][among], self.statistics["total"][among]
        return beta_best(np.maximum(total, 0) + self.prior[0], np.maximum(count - total, 0) + self.prior[1])


@dataclass(frozen=True, eq=False)
class GaussianThompson(_Thompson):
    """Thompson sampling for rewards of any size, mean and variance of each arm unknown (Honda and Takemura 2014).

    Normal-inverse-gamma posteriors. The prior mean is one observation at the mean of all rewards (a unit information
    prior, Kass and Wasserman 1995), so nothing depends on the currency. The prior variance is that of all rewards and
    worth 20 observations: where most rewards are zero, an arm's first ones say little about their variance.
    """

    kind: ClassVar[str] = "gaussian_thompson"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Counts, totals and totals of squares, (arms,) each."""
        return {**super().shapes(), "square": (len(self.arms),)}

    def absorb(self, batch: Batch, into: dict[str, Floats]) -> None:
        """Add 1, r and r² of each observation, weighted."""
        super().absorb(batch, into)
        np.add.at(into["square"], batch.arm, batch.weight * batch.reward**2)

    @cached_property
    def _prior(self) -> tuple[float, float]:
        """Mean and variance of all rewards; variance 1 where they do not vary."""
        count = max(float(self.statistics["count"].sum()), 1e-9)
        mean = float(self.statistics["total"].sum()) / count
        variance = float(self.statistics["square"].sum()) / count - mean**2
        return mean, max(variance, 1e-12 * mean**2) or 1.0

    def best(self, among: ArmPositions) -> Floats:
        """P(best) (n,) of Student posteriors."""
        centre, variance = self._prior
        count = np.maximum(self.statistics["count"][among], 0)
        offset = self.statistics["total"][among] - count * centre
        around = self.statistics["square"][among] - 2 * centre * self.statistics["total"][among] + count * centre**2
        shape = (_VARIANCE_PRIOR + count) / 2
        rate = (variance * _VARIANCE_PRIOR + np.maximum(around - offset**2 / (1 + count), 0)) / 2
        return student_best(centre + offset / (1 + count), np.sqrt(rate / shape / (1 + count)), 2 * shape)


@dataclass(frozen=True, eq=False)
class TopTwoThompson(BetaThompson):
    """Top-two Thompson sampling: identifies the best arm sooner, at some cost meanwhile (Russo 2020, section 3.4).

    The arm that is best in a first posterior draw is shown with probability `lead`, otherwise the best of the next draw
    in which another arm is best. With b the chances of being best,
    ψ_k = b_k (lead + (1 - lead) Σ_{j≠k} b_j / (1 - b_j)).

    Args:
        lead: probability of showing the first arm, in [0, 1]; 1 is plain Thompson sampling.
    """

    kind: ClassVar[str] = "top_two_thompson"

    lead: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.lead <= 1:
            raise ValueError(f"lead {self.lead} is not between 0 and 1; it is the probability of showing the first arm")

    def best(self, among: ArmPositions) -> Floats:
        """ψ (n,): the chance of each arm to be the one shown of the drawn pair."""
        best = super().best(among)
        if best.size == 1:
            return best
        first = int(best.argmax())
        others = best.sum() - best
        others[first] = np.delete(best, first).sum()
        if others[first] <= 0:  # one arm is surely best: the second draw would never end, so it is uniform
            second = np.full(best.size, 1 / (best.size - 1))
            second[first] = 0.0
        else:
            odds = best / others
            second = best * (odds.sum() - odds)
        shown = self.lead * best + (1 - self.lead) * second
        return np.asarray(shown / shown.sum())
