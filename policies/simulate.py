"""Simulated shops: environments with known expected rewards, and runs of policies in them."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from policies.base import Bandit
from policies.batches import Floats, Ints


@dataclass(frozen=True, eq=False)
class Environment:
    """A simulated environment, drawn in advance, so that every policy meets the same visitors.

    Attributes:
        arms: names (k,).
        x: contexts (rounds, dim); dim 0 where there are none.
        means: expected rewards (rounds, k), in [0, 1].
        luck: uniform numbers (rounds,); an arm's reward is 1 where luck is below its mean.
        shown: which arms may be shown (rounds, k), or None for all.
        known: the round before which each reward is known (rounds,); round + 1 means at once.
        traits: of the arms, for policies that take them.
    """

    arms: tuple[str, ...]
    x: Floats
    means: Floats
    luck: Floats
    shown: NDArray[np.bool_] | None = None
    known: Ints | None = None
    traits: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """The number of decisions."""
        return self.luck.size

    @property
    def best(self) -> Floats:
        """The greatest expected reward among the arms that may be shown, (rounds,)."""
        allowed = self.means if self.shown is None else np.where(self.shown, self.means, -np.inf)
        return np.asarray(allowed.max(axis=1))

    def reward(self, at: int, arm: int) -> float:
        """The reward of an arm in a round, 1 or 0."""
        return float(self.luck[at] < self.means[at, arm])


@dataclass(frozen=True, eq=False)
class Run:
    """The course of a policy: arms (rounds,), their propensities and rewards, and the regret of each round."""

    arm: Ints
    propensity: Floats
    reward: Floats
    regret: Floats
    policy: Bandit


def _arm_names(k: int) -> tuple[str, ...]:
    return tuple(f"offer_{i}" for i in range(k))


def bernoulli(chances: tuple[float, ...], rounds: int = 10_000, seed: int | tuple[int, ...] = 0) -> Environment:
    """Arms with fixed chances and no context."""
    luck = np.random.default_rng(seed).random(rounds)
    means = np.broadcast_to(np.array(chances), (rounds, len(chances)))
    return Environment(_arm_names(len(chances)), np.empty((rounds, 0)), means, luck)


def linear(rounds: int = 10_000, arms: int = 10, dim: int = 10, seed: int | tuple[int, ...] = 0) -> Environment:
    """Chances linear in a context (1, z), z uniform on the sphere: b_k + 0.3 z·w_k, b_k from U(.35, .65), |w_k| = 1."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(rounds, dim - 1))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    w = random.normal(size=(arms, dim - 1))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    means = random.uniform(0.35, 0.65, arms) + 0.3 * z @ w.T
    return Environment(_arm_names(arms), np.column_stack([np.ones(rounds), z]), means, random.random(rounds))


def logistic(rounds: int = 10_000, arms: int = 10, dim: int = 10, seed: int | tuple[int, ...] = 0) -> Environment:
    """Clicks at a shop's rates: logits b_k + x·w_k around -2.5 with normal contexts (1, z)."""
    random = np.random.default_rng(seed)
    x = np.column_stack([np.ones(rounds), random.normal(size=(rounds, dim - 1))])
    w = random.normal(size=(arms, dim)) * np.append(0.5, np.full(dim - 1, 0.6 / np.sqrt(dim - 1)))
    means = 1 / (1 + np.exp(2.5 - x @ w.T))
    return Environment(_arm_names(arms), x, means, random.random(rounds))


def drifting(
    rounds: int = 10_000, arms: int = 10, change: float = 1e-3, seed: int | tuple[int, ...] = 0
) -> Environment:
    """Arms with chances from Beta(4, 4), each replaced by a new one with probability `change` a round."""
    random = np.random.default_rng(seed)
    fresh = random.beta(4, 4, size=(rounds, arms))
    replaced = random.random((rounds, arms)) < change
    replaced[0] = True
    since = np.maximum.accumulate(np.where(replaced, np.arange(rounds)[:, None], 0), axis=0)
    means = np.take_along_axis(fresh, since, axis=0)
    return Environment(_arm_names(arms), np.empty((rounds, 0)), means, random.random(rounds))


def digits(rounds: int = 10_000, seed: int | tuple[int, ...] = 0) -> Environment:
    """Handwritten digits; the arm is the guess, with reward 1 for the right one. Needs scikit-learn for its data."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped] # noqa: PLC0415 - a development dependency, used here alone

    data = load_digits()
    random = np.random.default_rng(seed)
    row = random.integers(0, len(data.target), rounds)
    x = np.column_stack([np.ones(rounds), data.data[row] / 16])
    return Environment(_arm_names(10), x, np.eye(10)[data.target[row]], random.random(rounds))


def delayed(environment: Environment, batch: int = 1000, delay: int = 0) -> Environment:
    """The same shop, with rewards known only in batches, each `delay` rounds after its last decision."""
    ends = (np.arange(environment.rounds) // batch + 1) * batch
    return replace(environment, known=ends + delay)


def coming_and_going(
    rounds: int = 10_000, arms: int = 60, shown: int = 10, dim: int = 6, seed: int | tuple[int, ...] = 0
) -> Environment:
    """Offers with traits, `shown` at a time; periodically the oldest is replaced by a new one.

    An offer's coefficients are its traits' (4 numbers) plus a little of its own.
    """
    random = np.random.default_rng(seed)
    traits = np.column_stack([np.ones(arms), random.normal(size=(arms, 3))])
    effect = random.normal(size=(4, dim)) * np.array([0.05, 0.12, 0.12, 0.12])[:, None] / np.sqrt(dim)
    own = random.normal(size=(arms, dim)) * 0.05 / np.sqrt(dim)
    x = np.column_stack([np.ones(rounds), random.normal(size=(rounds, dim - 1))])
    means = np.clip(0.3 + x @ (traits @ effect + own).T, 0.01, 0.99)
    first = np.arange(rounds) * (arms - shown + 1) // rounds
    there = np.arange(arms) - first[:, None]
    known_traits = {name: tuple(map(float, row)) for name, row in zip(_arm_names(arms), traits, strict=True)}
    shop = Environment(_arm_names(arms), x, means, random.random(rounds), (there >= 0) & (there < shown))
    return replace(shop, traits=known_traits)


def channels(
    rounds: int = 10_000, arms: int = 10, dim: int = 6, groups: int = 12, seed: int | tuple[int, ...] = 0
) -> Environment:
    """Channels that differ but resemble each other, of uneven frequency; a context's last number is the channel."""
    random = np.random.default_rng(seed)
    x = np.column_stack([np.ones(rounds), random.normal(size=(rounds, dim - 1))])
    common = random.normal(size=(arms, dim)) * 0.2 / np.sqrt(dim)
    own = random.normal(size=(groups, arms, dim)) * 0.12 / np.sqrt(dim)
    rate = 0.8 ** np.arange(groups)
    channel = random.choice(groups, rounds, p=rate / rate.sum())
    means = np.clip(0.3 + np.einsum("td,tkd->tk", x, common + own[channel]), 0.01, 0.99)
    return Environment(_arm_names(arms), np.column_stack([x, channel]), means, random.random(rounds))


def play(policy: Bandit, environment: Environment, seed: int = 0) -> Run:
    """Run a policy in an environment: arms are drawn from its propensities, rewards arrive when they are known."""
    rounds = environment.rounds
    arm, propensity, reward = np.zeros(rounds, np.intp), np.zeros(rounds), np.zeros(rounds)
    draws = np.random.default_rng((seed, rounds)).random(rounds)
    known = np.arange(1, rounds + 1) if environment.known is None else environment.known
    due: dict[int, list[int]] = {}
    for at in range(rounds):
        if at in due:
            rows = due.pop(at)
            policy = policy.update(environment.x[rows], arm[rows], reward[rows], propensity[rows])
        shown = None if environment.shown is None else np.flatnonzero(environment.shown[at])
        p = policy.probabilities(environment.x[at], candidates=shown)
        drawn = min(int(np.searchsorted(np.cumsum(p), draws[at], side="right")), p.size - 1)
        arm[at] = drawn if shown is None else shown[drawn]
        propensity[at] = p[drawn]
        reward[at] = environment.reward(at, int(arm[at]))
        due.setdefault(int(known[at]), []).append(at)
    regret = environment.best - environment.means[np.arange(rounds), arm]
    return Run(arm, propensity, reward, regret, policy)
