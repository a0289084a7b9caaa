"""Regressions of reward on context, one for each arm and all of them related, from additive statistics."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from policies.base import Among, Bandit
from policies.batches import Batch, Floats, Ints
from policies.hierarchy import (
    Level,
    Posterior,
    Prediction,
    below_arms,
    below_common,
    gathered,
    level,
    noise_of,
    tuned,
)

_JUDGED = 256


def next_tuning(seen: int) -> int:
    """How many observations, beyond `seen`, make the next tuning due: a fixed ladder in steps of a quarter."""
    due = 24
    while due <= seen:
        due += due // 4
    return due


@dataclass(frozen=True, eq=False)
class Linear(Bandit):
    """Bayesian linear regression for related arms; a context carries its own constant 1.

    An arm's coefficients deviate from common ones, Σ_i trait_i B_i, by an amount the data set, so that a new arm
    starts from what similar ones taught. With `pool` groups the last number of a context is the group's position (a
    channel's, say; anything else means another group) and each group's coefficients deviate from the arm's.

    Args:
        prior: precision of the common coefficients before the first observation, in units of the noise's.
        traits: of every arm, all of one length; start each with 1 for what all arms have in common. Empty means that 1
            alone.
        pool: number of groups, 0 for none.
        between: how much arms shrink to the common coefficients, a precision in units of the noise's.
        within: how much groups shrink to their arm, likewise.
        tune: whether `between` and `within` are set anew by the data whenever these have grown by a quarter.
    """

    contextual: ClassVar[bool] = True
    common: ClassVar[frozenset[str]] = frozenset({"left_gram", "left_moment", "left_noise"})
    noise_known: ClassVar[bool] = False

    prior: float = field(default=1.0, kw_only=True)
    traits: Mapping[str, tuple[float, ...]] = field(default_factory=dict, kw_only=True)
    pool: int = field(default=0, kw_only=True)
    between: float = field(default=1.0, kw_only=True)
    within: float = field(default=4.0, kw_only=True)
    tune: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("prior", "between", "within"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not positive; it is a precision of coefficients")
        if self.pool < 0 or (self.pool and self.dim < 2):
            raise ValueError(
                f"pool {self.pool} with dim {self.dim}: a context ends with its group, after other numbers"
            )
        lengths = {len(self.traits.get(arm, ())) for arm in self.arms}
        if self.traits and (len(lengths) > 1 or 0 in lengths):
            raise ValueError(f"traits have lengths {sorted(lengths)}; give every arm equally many, at least one")
        super().__post_init__()

    @property
    def features(self) -> int:
        """How many numbers of a context are regressed on."""
        return self.dim - 1 if self.pool else self.dim

    @cached_property
    def _traits(self) -> Floats:
        return np.array([self.traits.get(arm, (1.0,)) for arm in self.arms], dtype=np.float64)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Gram, moment, square and count of the arms (and groups), and what arms that left told of the common."""
        arms, n = len(self.arms), self.features
        cells = (arms, self.pool + 1) if self.pool else (arms,)
        told = self._traits.shape[1] * n
        own = {"gram": (*cells, n, n), "moment": (*cells, n), "square": (arms,), "count": (arms,)}
        return {**own, "left_gram": (told, told), "left_moment": (told,), "left_noise": (2,)}

    def split(self, x: Floats) -> tuple[Floats, Ints]:
        """Contexts (n, dim) as regressors (n, features) and positions of groups (n,)."""
        if not self.pool:
            return x, np.zeros(x.shape[0], np.intp)
        group = x[:, -1]
        known = (group >= 0) & (group < self.pool) & (group == np.floor(group))
        return x[:, :-1], np.where(known, group, self.pool).astype(np.intp)

    def absorb(self, batch: Batch, into: dict[str, Floats]) -> None:
        """Adds x xᵀ, r x, r² and 1 of each observation, weighted."""
        x, group = self.split(batch.x)
        gram = into["gram"].reshape(-1, self.features, self.features)
        moment = into["moment"].reshape(-1, self.features)
        weighted = batch.weight * batch.reward
        for cell, rows in batch.cells(batch.arm * (self.pool + 1) + group if self.pool else batch.arm):
            gram[cell] += x[rows].T @ (x[rows] * batch.weight[rows, None])
            moment[cell] += weighted[rows] @ x[rows]
        np.add.at(into["square"], batch.arm, weighted * batch.reward)
        np.add.at(into["count"], batch.arm, batch.weight)

    def learn(self, batch: Batch) -> Self:
        """Learns in pieces that end where tuning is due, so that it does not matter how batches are cut."""
        policy, start = self, 0
        while start < batch.arm.size:
            due = next_tuning(policy.seen) - policy.seen if self.tune else batch.arm.size
            policy = policy._learn_piece(batch.rows(slice(start, start + due)))
            start += due
            if self.tune and start <= batch.arm.size:
                policy = policy._tuned()  # noqa: SLF001 - this very class
        return policy

    def _learn_piece(self, batch: Batch) -> Self:
        after = super().learn(batch)
        known, stale = self.__dict__.get("posterior"), frozenset[int]()
        if known is None:
            known, stale = self.__dict__.get("_earlier", (None, stale))
        if known is not None and self.discount == 1.0:
            after.__dict__["_earlier"] = (known, stale | frozenset(batch.arm.tolist()))
        return after

    def _tuned(self) -> Self:
        count, square = self._moments_of_rewards()
        noise = None if self.noise_known else (count, square)
        most = np.sort(np.argsort(-self.statistics["count"], kind="stable")[:_JUDGED])
        gram, moment = self.statistics["gram"][most], self.statistics["moment"][most]
        precision = self.prior * np.eye(self.statistics["left_moment"].size) + self.statistics["left_gram"]
        within = self.within
        if self.pool:
            parents = self._traits[most] @ self.posterior.common.reshape(-1, self.features)
            within = tuned(gram, moment, below_arms(self.between, parents), noise)
            gram, moment = (told.sum(axis=1) for told in level(gram, moment, within).upwards())
        above = below_common(self._traits[most], precision, self.statistics["left_moment"])
        return replace(self, between=tuned(gram, moment, above, noise), within=within)

    def _moments_of_rewards(self) -> tuple[float, float]:
        left = self.statistics["left_noise"]
        count, square = self.statistics["count"].sum() + left[0], self.statistics["square"].sum() + left[1]
        return float(count), float(square)

    @cached_property
    def posterior(self) -> Posterior:
        """What is known of all coefficients, once per version."""
        gram, moment = self.statistics["gram"], self.statistics["moment"]
        groups = level(gram, moment, self.within) if self.pool else None
        explained = 0.0
        if groups is not None:
            explained += float((groups.pull * moment).sum())
            gram, moment = (told.sum(axis=1) for told in groups.upwards())
        arms = self._arms(gram, moment)
        precision, shift = gathered(*arms.upwards(), self._traits)
        precision = precision + self.statistics["left_gram"] + self.prior * np.eye(shift.size)
        shift = shift + self.statistics["left_moment"]
        common_cover = np.asarray(np.linalg.inv(precision), np.float64)
        common = common_cover @ shift
        explained += float((arms.pull * moment).sum() + common @ shift)
        mean = arms.around(self._traits @ common.reshape(-1, self.features))
        group_cover = None
        if groups is not None:
            mean = groups.around(mean[:, None, :]).swapaxes(0, 1)
            group_cover = np.ascontiguousarray(groups.cover.swapaxes(0, 1), np.float32)
        return Posterior(
            arms=arms,
            common=common,
            common_cover=common_cover,
            noise=noise_of(*self._moments_of_rewards(), explained),
            mean=np.ascontiguousarray(mean, np.float32),
            arm_cover=arms.cover.astype(np.float32),
            group_cover=group_cover,
        )

    def _arms(self, gram: Floats, moment: Floats) -> Level:
        """The arms' level; arms that saw nothing new are carried over from the version before."""
        known, stale = self.__dict__.pop("_earlier", (None, frozenset()))
        if known is None or self.pool or known.arms.shrink != self.between or 2 * len(stale) > len(self.arms):
            return level(gram, moment, self.between)
        changed = sorted(stale)
        anew = level(gram[changed], moment[changed], self.between)
        cover, pull = known.arms.cover.copy(), known.arms.pull.copy()
        cover[changed], pull[changed] = anew.cover, anew.pull
        return Level(self.between, cover, pull)

    def predict(self, x: Floats, among: Among) -> Prediction:
        """Expected rewards of the arms in `among` at context x (dim,)."""
        known, n = self.posterior, self.features
        if known.group_cover is None:
            lean = x.astype(np.float32)
            mean = known.mean[among] @ lean
            towards = (known.arm_cover[among].reshape(-1, n) @ lean).reshape(-1, n)
            own = towards @ lean
        else:
            regressors, group = self.split(x[None])
            lean = regressors[0].astype(np.float32)
            mean = known.mean[group[0]][among] @ lean
            reached = (known.group_cover[group[0]][among].reshape(-1, n) @ lean).reshape(-1, n)
            own = reached @ lean
            reached *= np.float32(self.within)
            towards = (known.arm_cover[among] @ reached[:, :, None])[:, :, 0]
            own += (towards * reached).sum(axis=1)
        towards *= np.float32(self.between)
        if self._traits.shape[1] > 1:
            traits = self._traits[among].astype(np.float32)
            towards = (traits[:, :, None] * towards[:, None, :]).reshape(traits.shape[0], -1)
        return Prediction(mean, np.maximum(own, 0), towards)

    def with_arms(self, arms: tuple[str, ...], traits: Mapping[str, tuple[float, ...]] | None = None) -> Self:
        """As in `Bandit.with_arms`; what leaving arms told of the common coefficients stays."""
        after = replace(super().with_arms(arms), traits=self.traits if traits is None else traits, statistics={})
        moved = dict(super().with_arms(arms).statistics)
        if after._traits.shape[1] != self._traits.shape[1]:  # noqa: SLF001 - this very class
            raise ValueError("traits of another length need a policy of their own; what was learnt does not fit them")
        gone = [position for position, arm in enumerate(self.arms) if arm not in set(arms)]
        if gone:
            gram, moment = self.statistics["gram"][gone], self.statistics["moment"][gone]
            square = self.statistics["square"][gone].sum()
            if self.pool:
                groups = level(gram, moment, self.within)
                square -= (groups.pull * moment).sum()
                gram, moment = (told.sum(axis=1) for told in groups.upwards())
            leaving = level(gram, moment, self.between)
            square -= (leaving.pull * moment).sum()
            told, shift = gathered(*leaving.upwards(), self._traits[gone])
            moved["left_gram"] = moved["left_gram"] + told
            moved["left_moment"] = moved["left_moment"] + shift
            moved["left_noise"] = moved["left_noise"] + [self.statistics["count"][gone].sum(), square]
        return replace(after, statistics=moved)
