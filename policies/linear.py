"""Linear rewards in a context: each arm's regression with the noise unknown, and Thompson sampling on it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from policies.base import Among, Bandit
from policies.batches import Batch, Floats
from policies.propensities import DRAWS, Pool, count_best, normal_pool


@dataclass(frozen=True, slots=True, eq=False)
class Regression:
    """Ridge regressions of all arms: means (arms, dim), covariances by unit noise (arms, dim, dim)."""

    mean: Floats
    cover: Floats
    lean_mean: NDArray[np.float32]
    lean_cover: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Linear(Bandit):
    """Per-arm ridge regression from additive statistics: Gram matrices, moments, squares and counts.

    Args:
        prior: precision of the coefficients before the first observation, in units of the noise's.
    """

    contextual: ClassVar[bool] = True

    prior: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior <= 0:
            raise ValueError(f"prior {self.prior} is not positive; it is the precision of the coefficients")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Gram (arms, dim, dim), moment (arms, dim), square and count (arms,)."""
        arms = len(self.arms)
        return {"gram": (arms, self.dim, self.dim), "moment": (arms, self.dim), "square": (arms,), "count": (arms,)}

    def absorb(self, batch: Batch, into: dict[str, Floats]) -> None:
        """Adds x xᵀ, r x, r² and 1 of each observation, weighted."""
        for arm, rows in batch.groups():
            x, weight = batch.x[rows], batch.weight[rows]
            weighted = weight * batch.reward[rows]
            into["gram"][arm] += x.T @ (x * weight[:, None])
            into["moment"][arm] += weighted @ x
            into["square"][arm] += weighted @ batch.reward[rows]
            into["count"][arm] += weight.sum()

    def update(
        self,
        x: ArrayLike | None,
        arm: ArrayLike | SupportsIndex,
        reward: ArrayLike,
        p: ArrayLike,
        weight: ArrayLike | None = None,
    ) -> Self:
        """As in `Bandit.update`; regressions of arms that saw nothing new are carried over."""
        after = super().update(x, arm, reward, p, weight)
        if self.discount == 1.0 and after is not self:
            known = self.__dict__.get("regression")
            stale: frozenset[int] = frozenset()
            if known is None:
                known, stale = self.__dict__.get("_earlier", (None, stale))
            if known is not None:
                changed = frozenset(np.unique(np.asarray(arm)).tolist())
                after.__dict__["_earlier"] = (known, stale | changed)
        return after

    @cached_property
    def regression(self) -> Regression:
        """Posterior means and unit-noise covariances, once per version."""
        gram, moment = self.statistics["gram"], self.statistics["moment"]
        ridge = self.prior * np.eye(self.dim)
        earlier, stale = self.__dict__.pop("_earlier", (None, frozenset()))
        if earlier is None or 2 * len(stale) > len(self.arms):
            cover = np.asarray(np.linalg.inv(gram + ridge), np.float64)
            mean = np.einsum("kij,kj->ki", cover, moment)
        else:
            cover, mean = earlier.cover.copy(), earlier.mean.copy()
            arms = sorted(stale)
            cover[arms] = np.linalg.inv(gram[arms] + ridge)
            mean[arms] = np.einsum("kij,kj->ki", cover[arms], moment[arms])
        flat = cover.reshape(len(self.arms), -1).astype(np.float32)
        return Regression(mean, cover, mean.astype(np.float32), flat)

    def predict(self, x: Floats, among: Among) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Means (n,) and standard deviations by unit noise (n,) of x's expected reward."""
        fit, lean = self.regression, x.astype(np.float32)
        spread = fit.lean_cover[among] @ np.outer(lean, lean).ravel()
        return fit.lean_mean[among] @ lean, np.sqrt(np.maximum(spread, 0))

    @cached_property
    def noise(self) -> tuple[float, float]:
        """Shape and scale of the inverse-gamma posterior of the noise variance, common to the arms."""
        count, square = self.statistics["count"].sum(), self.statistics["square"].sum()
        explained = float((self.regression.mean * self.statistics["moment"]).sum())
        shape = NOISE_PRIOR[0] + max(float(count), 0.0) / 2
        return shape, NOISE_PRIOR[1] + max(float(square) - explained, 0.0) / 2


NOISE_PRIOR = (1.0, 0.25)


@dataclass(frozen=True, eq=False)
class LinearThompson(Linear):
    """Thompson sampling on Bayesian linear regression with unknown noise.

    Normal-inverse-gamma posterior, the noise common to the arms (Riquelme, Tucker and Snoek 2018, section 3, 'linear
    full posterior'; Agrawal and Goyal 2013). The propensities are counted over 256 joint posterior draws: an arm's
    expected reward at x is normal given the noise, so a draw of it costs one number, not one coefficient vector.

    Args:
        scale: factor on the posterior's spread, 1 being Thompson sampling proper.
    """

    kind: ClassVar[str] = "linear_thompson"

    scale: float = field(default=1.0, kw_only=True)

    @cached_property
    def _draws(self) -> Callable[[int], Pool]:
        shape, rate = self.noise
        noise = np.sqrt(rate / special.gammaincinv(shape, (np.arange(DRAWS) + 0.5) / DRAWS)) * self.scale
        held: list[Pool] = []

        def draws(columns: int) -> Pool:
            if not held or held[-1].shape[1] < columns:
                held[:] = [normal_pool(self.seed, self.seen, columns) * noise[:, None].astype(np.float32)]
            return held[-1][:, :columns]

        return draws

    def chances(self, x: Floats, among: Among) -> Floats:
        """Share of the joint draws in which each arm is best, (n,)."""
        mean, spread = self.predict(x, among)
        return count_best(mean + spread * self._draws(mean.size))
