"""The linear family: one regression of reward on context per arm, related across arms, from additive statistics.

Statistics, with x followed by a 1 and n = features + 1:

| name | shape | sum over observations of |
|---|---|---|
| `gram` | (arms, n, n), with groups (arms, groups + 1, n, n) | x xᵀ |
| `moment` | (arms, n), with groups (arms, groups + 1, n) | r x |
| `square`, `count` | (arms,) | r², 1 |
| `left_gram`, `left_moment`, `left_noise` | of the common coefficients; (4,) | the messages of arms that left |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from policies.base import EVERY, ArmPositions, Bandit
from policies.batches import Batch, Floats, Ints
from policies.linear.hierarchy import (
    CONSTANT_PRIOR,
    CoefficientLevel,
    Posterior,
    Prediction,
    Rewards,
    arm_evidence,
    common_evidence,
    fit_level,
    message_to_constant,
    messages_to_parents,
    sum_messages,
    tune_shrinkage,
)
from policies.linear.scaling import Scaling, map_common

_MOST_TUNED = 256


def next_tuning(seen: int, features: int) -> int:
    """The number of observations above `seen` at which tuning is due: a fixed ladder in steps of a quarter.

    The first is at four observations per number of a context: from fewer, every coefficient would look like zero.
    """
    due = 4 * max(features, 2)
    while due <= seen:
        due += due // 4
    return due


def next_scaling(seen: int, features: int) -> int:
    """The number of observations above `seen` at which scaling is due: powers of two, then with tuning."""
    return min(1 << seen.bit_length(), next_tuning(seen, features))


@dataclass(frozen=True, eq=False)
class Linear(Bandit):
    """Bayesian linear regression for related arms; a context has a 1 of its own where arms differ in level.

    A reward is a common constant plus x times the arm's coefficients. These deviate from zero, or for arms with traits
    from Σ_i trait_i B_i, by an amount estimated from the data: a new arm starts at the average, or from what similar
    arms taught. With `pool` groups the last number of a context is the group's position (of a channel, say; any other
    value is one more group), and each group's coefficients deviate from the arm's.

    The regressors are standardized (`Scaling`), so neither the unit nor the zero of a feature matters, nor a feature
    that never varies.

    Args:
        prior: precision of the common coefficients before the first observation, in units of the noise's.
        traits: one tuple per arm, all of one length; a leading 1 stands for what all arms have in common.
        pool: number of groups, 0 for none.
        between: how much arms shrink to the common coefficients, a precision in units of the noise's.
        within: how much groups shrink to their arm, likewise.
        tune: whether to estimate `between`, `within` and the scaling again whenever the data have grown by a quarter.
        scaling: as `Scaling.stored` gives it; empty before the first observation, and in states of earlier releases
            until their next one.
        trait_scaling: the same of the arms' traits, which are standardized as the regressors are.
    """

    contextual: ClassVar[bool] = True
    common: ClassVar[frozenset[str]] = frozenset({"left_gram", "left_moment", "left_noise"})
    noise_known: ClassVar[bool] = False

    prior: float = field(default=1.0, kw_only=True)
    traits: Mapping[str, tuple[float, ...]] = field(default_factory=dict, kw_only=True)
    pool: int = field(default=0, kw_only=True)
    between: float = field(default=2.0, kw_only=True)
    within: float = field(default=4.0, kw_only=True)
    tune: bool = field(default=True, kw_only=True)
    scaling: tuple[float, ...] = field(default=(), kw_only=True)
    trait_scaling: tuple[float, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for name in ("prior", "between", "within"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not positive; it is a precision of coefficients")
        if self.pool < 0 or (self.pool and self.dim < 2):
            raise ValueError(
                f"pool {self.pool} with dim {self.dim} leaves no feature before the group; give dim 2 or more"
            )
        lengths = {len(self.traits.get(arm, ())) for arm in self.arms}
        if self.traits and (len(lengths) > 1 or 0 in lengths):
            raise ValueError(f"traits have lengths {sorted(lengths)}; give every arm equally many, at least one")
        if self.scaling and len(self.scaling) != 1 + 2 * self.features:
            raise ValueError(
                f"scaling has {len(self.scaling)} numbers; {self.features} features need {1 + 2 * self.features}"
            )
        super().__post_init__()

    @property
    def features(self) -> int:
        """The number of regressors in a context."""
        return self.dim - 1 if self.pool else self.dim

    @cached_property
    def scaler(self) -> Scaling:
        """The map to the standardized regressors; the identity without scaling."""
        if self.scaling:
            return Scaling.of(self.scaling)
        return Scaling(-1, np.zeros(self.features), np.ones(self.features))

    @cached_property
    def _standardized(self) -> tuple[Floats, Floats]:
        """The arms' Gram matrices and moments of standardized regressors."""
        gram, moment = self.statistics["gram"], self.statistics["moment"]
        return self.scaler.standardize(gram, moment) if self.scaling else (gram, moment)

    @property
    def _left(self) -> tuple[Floats, Floats]:
        """The messages of departed arms, for standardized regressors."""
        gram, moment = self.statistics["left_gram"], self.statistics["left_moment"]
        if not (self.scaling and self.traits):
            return gram, moment
        return map_common(self._trait_scaler.matrix(), self.scaler.matrix(), gram, moment)

    @cached_property
    def _traits(self) -> Floats:
        """The arms' traits (arms, q), standardized; q is 0 without traits."""
        traits = np.array([self.traits.get(arm, ()) for arm in self.arms], dtype=np.float64)
        return self._trait_scaler.regressors(traits) if self.trait_scaling else traits

    @cached_property
    def _trait_scaler(self) -> Scaling:
        """The map to the standardized traits; the identity without scaling."""
        if self.trait_scaling:
            return Scaling.of(self.trait_scaling)
        length = len(next(iter(self.traits.values()), ()))
        return Scaling(-1, np.zeros(length), np.ones(length))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the table above."""
        arms, n = len(self.arms), self.features + 1
        cells = (arms, self.pool + 1) if self.pool else (arms,)
        common = self._traits.shape[1] * self.features + 1
        own = {"gram": (*cells, n, n), "moment": (*cells, n), "square": (arms,), "count": (arms,)}
        return {**own, "left_gram": (common, common), "left_moment": (common,), "left_noise": (4,)}

    def split(self, x: Floats) -> tuple[Floats, Ints]:
        """Contexts (n, dim) as regressors (n, features) and group positions (n,); an unknown group is the last."""
        if not self.pool:
            return x, np.zeros(x.shape[0], np.intp)
        group = x[:, -1]
        known = (group >= 0) & (group < self.pool) & (group == np.floor(group))
        return x[:, :-1], np.where(known, group, self.pool).astype(np.intp)

    def absorb(self, batch: Batch, into: dict[str, Floats]) -> None:
        """Add each observation's terms of the table above, weighted."""
        x, cell = self.cells(batch)
        gram, moment = into["gram"].reshape(-1, x.shape[1], x.shape[1]), into["moment"].reshape(-1, x.shape[1])
        weighted = batch.weight * batch.reward
        for at, rows in batch.cells(cell):
            gram[at] += x[rows].T @ (x[rows] * batch.weight[rows, None])
            moment[at] += weighted[rows] @ x[rows]
        np.add.at(into["square"], batch.arm, weighted * batch.reward)
        np.add.at(into["count"], batch.arm, batch.weight)

    def cells(self, batch: Batch) -> tuple[Floats, Ints]:
        """Regressors with a 1 appended (n, features + 1), and each row's cell (n,) among arms by groups."""
        x, group = self.split(batch.x)
        cell = batch.arm * (self.pool + 1) + group if self.pool else batch.arm
        return np.column_stack([x, np.ones(cell.size)]), cell

    def learn(self, batch: Batch) -> Self:
        """The policy after a batch, learnt in pieces that end where tuning is due, so that cuts change nothing."""
        if not self.tune:
            return self._learn_piece(batch)
        policy, start = self if self.scaling else self._rescaled(batch.rows(slice(0, 1))), 0
        while start < batch.arm.size:
            varying = int(np.count_nonzero(policy.scaler.gain))
            rows, tuning = batch.rows(slice(start, None)), next_tuning(policy.seen, varying)
            scaling = next_scaling(policy.seen, varying)
            change = policy.scaler.first_change(self.split(rows.x)[0])
            if change is not None:  # a regressor begins to vary: from here on its scale is known
                scaling = min(scaling, policy.seen + change + 1)
            due = min(tuning, scaling) - policy.seen
            policy = policy._learn_piece(rows.rows(slice(0, due)))  # noqa: SLF001 - this very class
            start += due
            if start <= batch.arm.size:
                policy = policy._rescaled()  # noqa: SLF001
                policy = policy._retuned() if policy.seen == tuning else policy  # noqa: SLF001
        return policy

    def _rescaled(self, first: Batch | None = None) -> Self:
        """The policy with its scaling estimated from its statistics, at the start from the first observation."""
        gram = self.statistics["gram"].reshape(-1, self.features + 1, self.features + 1).sum(axis=0)
        if first is not None and not self.seen:
            x = self.cells(first)[0]
            gram = x.T @ x
        scale = Scaling.estimate(gram)
        if scale is None:
            return self
        traits = np.array([(*own, 1.0) for _, own in sorted(self.traits.items())])
        of_traits = Scaling.estimate(traits.T @ traits) if self.traits else None
        return replace(self, scaling=scale.stored(), trait_scaling=of_traits.stored() if of_traits else ())

    def after_merge(self) -> Self:
        """The policy with the scaling of its statistics."""
        return self._rescaled() if self.tune and self.seen else self

    def _learn_piece(self, batch: Batch) -> Self:
        """The policy after observations without tuning; reuses the posterior, of which only their arms are stale."""
        after = super().learn(batch)
        known, stale = self.__dict__.get("posterior"), frozenset[int]()
        if known is None:
            known, stale = self.__dict__.get("_previous", (None, stale))
        if known is not None and self.discount == 1.0:
            after.__dict__["_previous"] = (known, stale | frozenset(batch.arm.tolist()))
        return after

    def _retuned(self) -> Self:
        """The policy with `between` and `within` estimated from its arms with the most observations."""
        most = np.sort(np.argsort(-self.statistics["count"], kind="stable")[:_MOST_TUNED])
        rewards = None if self.noise_known else self._rewards(most)
        explained = float(self.statistics["left_noise"][3])
        gram, moment = (of[most] for of in self._standardized)
        within = self.within
        if self.pool:
            common = self.posterior.common
            above = arm_evidence(self.between, self._parents(common)[most], float(common[-1]))
            within = tune_shrinkage(gram, moment, above, rewards, explained)
            groups = fit_level(gram, moment, within)
            explained += float((groups.pull * moment[..., :-1]).sum())
            gram, moment = _sum_groups(gram, moment, groups)
        left, shift = self._left
        above = common_evidence(self._traits[most], self._common_prior() + left, shift)
        return replace(self, between=tune_shrinkage(gram, moment, above, rewards, explained), within=within)

    def _parents(self, common: Floats) -> Floats:
        """The arms' expected coefficients (arms, features), given the common ones (q features + 1,)."""
        return self._traits @ common[:-1].reshape(self._traits.shape[1], self.features)

    def _rewards(self, among: ArmPositions = EVERY) -> Rewards:
        """All rewards of these arms and of departed ones."""
        count, total, square, _ = self.statistics["left_noise"]
        count += self.statistics["count"][among].sum()
        total += self.statistics["moment"][among][..., -1].sum()
        return Rewards(float(count), float(total), float(square + self.statistics["square"][among].sum()))

    def _common_prior(self) -> Floats:
        """The precision of the common coefficients before the first observation."""
        return np.diag(np.append(np.full(self._traits.shape[1] * self.features, self.prior), CONSTANT_PRIOR))

    @cached_property
    def posterior(self) -> Posterior:
        """The posterior of all coefficients, computed once per version."""
        gram, moment = self._standardized
        groups = fit_level(gram, moment, self.within) if self.pool else None
        explained = float(self.statistics["left_noise"][3])
        if groups is not None:
            explained += float((groups.pull * moment[..., :-1]).sum())
            gram, moment = _sum_groups(gram, moment, groups)
        arms = self._arms(gram, moment)
        precision, shift = self._common_message(gram, moment, arms)
        left, moved = self._left
        precision += left + self._common_prior()
        shift += moved
        common_cover = np.asarray(np.linalg.inv(precision), np.float64)
        common = common_cover @ shift
        explained += float((arms.pull * moment[:, :-1]).sum() + common @ shift)
        mean = arms.around(self._parents(common), common[-1])
        cover = tilt = rows = None
        if groups is not None:
            mean = groups.around(mean[:, None, :], common[-1]).swapaxes(0, 1)
            cover = np.ascontiguousarray(groups.cover.swapaxes(0, 1), np.float32)
            tilt = np.ascontiguousarray(groups.tilt.swapaxes(0, 1), np.float32)
        else:
            rows = np.concatenate([arms.cover, mean[:, None], arms.tilt[:, None]], axis=1, dtype=np.float32)
        return Posterior(
            arms=arms,
            common=common,
            common_cover=common_cover,
            noise=self._rewards().noise(explained),
            mean=np.ascontiguousarray(mean, np.float32),
            arm_cover=arms.cover.astype(np.float32),
            arm_tilt=arms.tilt.astype(np.float32),
            group_cover=cover,
            group_tilt=tilt,
            rows=rows,
        )

    def _common_message(
        self, gram: Floats, moment: Floats, arms: CoefficientLevel, which: ArmPositions | list[int] = EVERY
    ) -> tuple[Floats, Floats]:
        """The data that these arms leave for the common coefficients."""
        if not self.traits:
            return message_to_constant(gram, moment, arms)
        return sum_messages(*messages_to_parents(gram, moment, arms.cover), self._traits[which])

    def _arms(self, gram: Floats, moment: Floats) -> CoefficientLevel:
        """The arms' level; arms without new observations are reused from the previous version."""
        known, stale = self.__dict__.pop("_previous", (None, frozenset()))
        if known is None or self.pool or known.arms.shrink != self.between or 2 * len(stale) > len(self.arms):
            return fit_level(gram, moment, self.between)
        changed = sorted(stale)
        fresh = fit_level(gram[changed], moment[changed], self.between)
        cover, pull, tilt = known.arms.cover.copy(), known.arms.pull.copy(), known.arms.tilt.copy()
        cover[changed], pull[changed], tilt[changed] = fresh.cover, fresh.pull, fresh.tilt
        return CoefficientLevel(self.between, cover, pull, tilt)

    def predict(self, x: Floats, among: ArmPositions) -> Prediction:
        """The expected rewards of the arms in `among` at context x (dim,), without the common constant."""
        known, n = self.posterior, self.features
        if known.rows is not None:
            lean = self.scaler.regressors(x).astype(np.float32)
            at = (known.rows[among].reshape(-1, n) @ lean).reshape(-1, n + 2)
            towards, mean, constant = at[:, :n], at[:, n], 1 - at[:, n + 1]
            own = towards @ lean
        else:
            assert known.group_cover is not None and known.group_tilt is not None  # noqa: S101, PT018
            regressors, group = self.split(x[None])
            lean = self.scaler.regressors(regressors[0]).astype(np.float32)
            mean = known.mean[group[0]][among] @ lean
            reached = (known.group_cover[group[0]][among].reshape(-1, n) @ lean).reshape(-1, n)
            own = reached @ lean
            constant = 1 - known.group_tilt[group[0]][among] @ lean
            reached *= np.float32(self.within)
            towards = (known.arm_cover[among] @ reached[:, :, None])[:, :, 0]
            own += (towards * reached).sum(axis=1)
            constant -= (known.arm_tilt[among] * reached).sum(axis=1)
        loading = constant[:, None]
        if self.traits:
            traits = self._traits[among].astype(np.float32)
            towards *= np.float32(self.between)
            shared = (traits[:, :, None] * towards[:, None, :]).reshape(traits.shape[0], -1)
            loading = np.concatenate([shared, loading], axis=1)
        return Prediction(mean, np.maximum(own, 0), loading)

    def coefficients(self) -> tuple[Floats, Floats]:
        """The posterior means of the coefficients on unstandardized regressors.

        Returns:
            Those of the arms without the common constant, (arms, features) or (groups, arms, features), and the common
            ones: (q, features) flattened, then the constant.
        """
        common = self.posterior.common
        shared = common[:-1].reshape(self._traits.shape[1], self.features)
        own = self.scaler.coefficients(self._trait_scaler.matrix().T @ shared if self.traits else shared)
        mean = self.scaler.coefficients(np.asarray(self.posterior.mean, np.float64))
        return mean, np.append(own.ravel(), common[-1])

    def means(self, x: Floats, among: ArmPositions) -> Floats:
        """Expected rewards (n,) of the arms in `among`."""
        return np.asarray(self.predict(x, among).mean + self.posterior.common[-1], np.float64)

    def with_arms(self, arms: tuple[str, ...], traits: Mapping[str, tuple[float, ...]] | None = None) -> Self:
        """Changes the arms as `Bandit.with_arms` does; common coefficients keep what departed arms taught."""
        if traits is not None and any(len(own) != self._traits.shape[1] for own in traits.values()):
            raise ValueError("traits have another length than those learnt; make a new policy for them")
        known = self if traits is None else replace(self, traits={**self.traits, **traits})
        widened = super(Linear, known).with_arms(arms)
        after, moved = replace(widened, traits=traits or self.traits, statistics={}), dict(widened.statistics)
        gone = [position for position, arm in enumerate(self.arms) if arm not in set(arms)]
        if gone:
            gram, moment = (of[gone] for of in self._standardized)
            explained = 0.0
            if self.pool:
                groups = fit_level(gram, moment, self.within)
                explained += float((groups.pull * moment[..., :-1]).sum())
                gram, moment = _sum_groups(gram, moment, groups)
            leaving = fit_level(gram, moment, self.between)
            explained += float((leaving.pull * moment[:, :-1]).sum())
            message, shift = self._common_message(gram, moment, leaving, gone)
            if self.traits:  # stored about x, as all statistics are, whatever the scaling becomes
                message, shift = map_common(self._trait_scaler.inverse(), self.scaler.inverse(), message, shift)
            moved["left_gram"] = moved["left_gram"] + message
            moved["left_moment"] = moved["left_moment"] + shift
            sums = (self.statistics["count"], self.statistics["moment"][..., -1], self.statistics["square"])
            moved["left_noise"] = moved["left_noise"] + [*(float(of[gone].sum()) for of in sums), explained]
        return replace(after, statistics=moved)


def _sum_groups(gram: Floats, moment: Floats, groups: CoefficientLevel) -> tuple[Floats, Floats]:
    """The data that groups (arms, groups, ...) leave for their arms, (arms, ...)."""
    messages, shifts = messages_to_parents(gram, moment, groups.cover)
    return messages.sum(axis=1), shifts.sum(axis=1)
