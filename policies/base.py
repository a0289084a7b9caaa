"""The base of every policy: frozen statistics over named arms, exact propensities out, observations in.

Invariants:

- A policy never changes: `update` and `with_arms` return another one, so a server can decide while a learner learns.
- `probabilities` is a function of the policy and its arguments alone, so a logged propensity can be computed again.
- Statistics are sums over observations. They add up across batches and learners, and taking an observation out is
  adding it with weight -1.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Protocol, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.batches import LARGEST, LONGEST, UNUSABLE, Batch, Floats, Ints, discount_weights, read_batch

ArmPositions = Ints | slice
"""Distinct positions (n,) of arms, or `EVERY` for all of them without a copy."""
EVERY = slice(None)
CACHED_CONTEXTS = 8192
"""Contexts whose propensities a policy caches: many visitors have the same one, and the policy does not change."""


class Policy(Protocol):
    """The interface of a policy that the engine uses."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the order of every array."""

    @property
    def dim(self) -> int:
        """Length of a context; 0 if the policy ignores it."""

    @property
    def seen(self) -> int:
        """The number of observations learnt, which serves as the policy's version."""

    def probabilities(
        self, x: ArrayLike | None, mask: ArrayLike | None = None, *, candidates: Ints | None = None
    ) -> Floats:
        """The exact propensities; see `Bandit.probabilities`."""

    def expected(self, x: ArrayLike | None = None, *, candidates: Ints | None = None) -> Floats:
        """The expected rewards; see `Bandit.expected`."""

    def update(
        self,
        x: ArrayLike | None,
        arm: ArrayLike | SupportsIndex,
        reward: ArrayLike,
        p: ArrayLike,
        weight: ArrayLike | None = None,
    ) -> Self:
        """The policy after these observations; see `Bandit.update`."""


@dataclass(frozen=True, eq=False)
class Bandit(ABC):
    """The base of all policies: checks, floor, mask, discount and the arithmetic of statistics.

    A new kind sets `kind` and implements `chances`; with statistics of its own also `shapes` and `absorb`.

    Args:
        arms: distinct names, at least one.
        dim: length of a context; policies without context ignore it.
        seed: of the posterior draws, for policies that use any.
        floor: least propensity of an arm that may be shown; among n arms at most 1/n. Zero is allowed, but an arm
            whose propensity is zero cannot be evaluated off-policy.
        discount: the factor by which one observation reduces the weight of all earlier ones, in (0, 1]; 1 keeps it.
        seen: the number of observations learnt.
        statistics: what was learnt, additive arrays by name; empty before the first observation.
    """

    kind: ClassVar[str]
    """The name in YAML and in stored states."""
    contextual: ClassVar[bool] = False
    common: ClassVar[frozenset[str]] = frozenset()
    """Statistics that belong to no arm."""

    arms: tuple[str, ...]
    dim: int = 0
    seed: int = field(default=0, kw_only=True)
    floor: float = field(default=1e-4, kw_only=True)
    discount: float = field(default=1.0, kw_only=True)
    seen: int = field(default=0, kw_only=True)
    statistics: Mapping[str, Floats] = field(default_factory=dict, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms are {self.arms}; give at least one name, each once")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor {self.floor} is not between 0 and 1; it is the least probability of one arm")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount {self.discount} is not in (0, 1]; 0.999 forgets half in 700 observations")
        for name in ("dim", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 0:
                raise ValueError(f"{name} {value!r} is not a whole number from 0 up")
        if self.contextual and self.dim < 1:
            raise ValueError(f"dim is {self.dim}; {self.kind} learns from a context of at least one number")
        if not self.statistics:
            object.__setattr__(self, "statistics", {n: np.zeros(s) for n, s in self.shapes().items()})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each statistic; the arms are the first axis of all but those in `common`."""
        return {"count": (len(self.arms),), "total": (len(self.arms),)}

    @abstractmethod
    def chances(self, x: Floats, among: ArmPositions) -> Floats:
        """Propensities (n,) over the arms in `among`, before the floor."""

    def expected(self, x: ArrayLike | None = None, *, candidates: Ints | None = None) -> Floats:
        """Expected rewards (arms,), or (n,) for candidates, at context x (dim,); 0 for an arm without observations.

        Raises:
            ValueError: as in `probabilities`.
        """
        if candidates is not None:
            self._check_candidates(candidates)
        return self.means(self._context(x), EVERY if candidates is None else candidates)

    def means(self, x: Floats, among: ArmPositions) -> Floats:  # noqa: ARG002 - the same verb for every policy
        """Expected rewards (n,) of the arms in `among`."""
        return self.statistics["total"][among] / np.maximum(self.statistics["count"][among], 1e-9)

    def absorb(self, batch: Batch, into: dict[str, Floats]) -> None:
        """Add the batch's weighted statistics to the arrays of `into`, which only the caller owns."""
        np.add.at(into["count"], batch.arm, batch.weight)
        np.add.at(into["total"], batch.arm, batch.weight * batch.reward)

    def probabilities(
        self, x: ArrayLike | None = None, mask: ArrayLike | None = None, *, candidates: Ints | None = None
    ) -> Floats:
        """The propensities: exactly the probabilities with which the arms must be drawn.

        Args:
            x: context, float64 (dim,); ignored where dim is 0.
            mask: bool (arms,), the arms that may be shown now; None means all.
            candidates: distinct positions (n,) of the arms that may be shown, instead of a mask; the cost follows n.

        Returns:
            float64 (arms,), or (n,) for candidates; sums to 1, exactly zero outside the mask, at least
            min(floor, 1/n) within. Read-only where it is cached.

        Raises:
            ValueError: no arm may be shown, a mask or a context of another shape, or a context that is not finite.
        """
        if candidates is not None and mask is not None:
            raise ValueError("mask and candidates were both given; they mean the same, so give one")
        if candidates is not None or mask is None:
            return self._cached_probabilities(x, candidates)
        context = self._context(x)
        allowed = np.asarray(mask)
        if allowed.shape != (len(self.arms),) or allowed.dtype != np.bool_:
            raise ValueError(
                f"mask is {allowed.dtype} {allowed.shape}; give bool ({len(self.arms)},), one for each arm"
            )
        shown = np.flatnonzero(allowed)
        self._check_candidates(shown)
        out = np.zeros(len(self.arms))
        out[shown] = self._floored(self.chances(context, shown))
        return out

    def update(
        self,
        x: ArrayLike | None,
        arm: ArrayLike | SupportsIndex,
        reward: ArrayLike,
        p: ArrayLike,
        weight: ArrayLike | None = None,
    ) -> Self:
        """The policy after these observations; this one stays unchanged.

        >>> from policies import EpsilonGreedy
        >>> policy = EpsilonGreedy(("a", "b"), epsilon=0.2, floor=0.0)
        >>> policy.update(None, [0, 1], [1.0, 0.0], [0.5, 0.5]).probabilities().tolist()
        [0.9, 0.1]

        Args:
            x: contexts (n, dim), or (dim,) for one; ignored where dim is 0.
            arm: positions of the arms shown, integers (n,).
            reward: (n,), of size 1e12 at most.
            p: logged propensities (n,), in (0, 1]; for a single arm also the whole result of `probabilities`, (arms,).
            weight: (n,), by default 1. Weight -1 takes an earlier observation out again.

        Raises:
            ValueError: a row cannot be learnt; none of the batch was.
        """
        batch = read_batch(x, arm, reward, p, weight, arms=len(self.arms), dim=self.dim)
        self.check_rewards(batch.reward)
        return self.learn(batch) if batch.arm.size else self

    def learn(self, batch: Batch) -> Self:
        """The policy after a batch of at least one checked observation."""
        factor, effective = discount_weights(self.discount, batch.weight)
        statistics = {n: v.copy() if factor == 1.0 else factor * v for n, v in self.statistics.items()}
        self.absorb(replace(batch, weight=effective), statistics)
        return replace(self, seen=self.seen + batch.arm.size, statistics=statistics)

    def after_merge(self) -> Self:
        """The policy with its estimates recomputed, after a learner's statistics were added."""
        return self

    def check_rewards(self, reward: Floats) -> None:
        """Raise ValueError for rewards outside the range of the policy's model."""
        largest = float(np.abs(reward).max(initial=0.0))
        if not largest <= LARGEST:
            raise ValueError(f"reward {largest:g} is beyond {LARGEST:.0e}; is it an amount in the shop's currency?")

    def with_arms(self, arms: tuple[str, ...], traits: Mapping[str, tuple[float, ...]] | None = None) -> Self:
        """The policy over a new set of arms: common arms keep what they learnt, new ones start at the prior."""
        if traits is not None:
            raise ValueError(f"{self.kind} has no traits of arms; they are for contextual policies")
        empty = replace(self, arms=arms, statistics={})
        places = {arm: place for place, arm in enumerate(self.arms)}
        new = [place for place, arm in enumerate(arms) if arm in places]
        old = [places[arms[place]] for place in new]
        statistics = dict(self.statistics)
        for name in empty.statistics.keys() - self.common:
            statistics[name] = np.array(empty.statistics[name])
            statistics[name][new] = self.statistics[name][old]
        return replace(empty, statistics=statistics)

    @cached_property
    def _cache(self) -> dict[tuple[bytes, bytes], Floats]:
        return {}

    def _cached_probabilities(self, x: ArrayLike | None, candidates: Ints | None) -> Floats:
        """The floored propensities of these candidates, cached for repeated contexts."""
        key = (x.tobytes() if isinstance(x, np.ndarray) else b"", b"" if candidates is None else candidates.tobytes())
        cached = self._cache.get(key) if key[0] else None
        if cached is not None:
            return cached
        context = self._context(x)
        if candidates is not None:
            self._check_candidates(candidates)
        out = self._floored(self.chances(context, EVERY if candidates is None else candidates))
        if key[0] and context is x:  # x was float64 (dim,) already, so its bytes name the context
            out.setflags(write=False)
            if len(self._cache) >= CACHED_CONTEXTS:
                self._cache.clear()
            self._cache[key] = out
        return out

    def _context(self, x: ArrayLike | None) -> Floats:
        """The context as float64 (dim,), checked; empty for a policy without context."""
        if not self.contextual:
            return np.empty(0)
        context: NDArray[np.float64] = np.asarray(x, dtype=np.float64)
        if context.shape != (self.dim,):
            raise ValueError(f"x has shape {context.shape}; {self.kind} needs a context of shape ({self.dim},)")
        if not float(context @ context) <= LONGEST**2:
            raise ValueError(UNUSABLE)
        return context

    def _check_candidates(self, candidates: Ints) -> None:
        if not candidates.size:
            raise ValueError("no arm may be shown: the mask is False everywhere; answer the fallback instead")
        if candidates.min() < 0 or candidates.max() >= len(self.arms):
            raise ValueError(
                f"candidates {candidates} are not all between 0 and {len(self.arms) - 1}; give positions of arms"
            )

    def _floored(self, chances: Floats) -> Floats:
        """Mix the chances (n,) with equal shares, so that each is at least the floor and they still sum to 1."""
        floor = min(self.floor, 1 / chances.size)
        floored = chances * (1 - chances.size * floor) + floor
        return np.asarray(floored / floored.sum())


def share_best(scores: Floats) -> Floats:
    """Chances (n,) of a rule that shows the best score; ties share equally."""
    best = scores == scores.max()
    return np.asarray(best / best.sum())
