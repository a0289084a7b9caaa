"""Thompson sampling on related linear regressions; propensities are counted over joint posterior draws."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from policies import special
from policies.base import ArmPositions
from policies.batches import Floats
from policies.joint_draws import DRAWS, MANY, Arms, Leaders, Pool, count_winners, joint_winners, normal_pool
from policies.linear.regression import Linear

_COMMON = 1


@dataclass(frozen=True, eq=False)
class Drawing(Linear):
    """Propensities from 256 joint posterior draws of all coefficients and the noise.

    Given the common coefficients, the arms' expected rewards at a context are independent normals. So a draw of one
    costs one number instead of a coefficient vector, and the draws of the common coefficients are one small pool.

    Args:
        scale: factor on the posterior's spread (Chapelle and Li 2011, section 4, 'posterior reshaping'); 1 is Thompson
            sampling proper, less explores less.
        optimistic: whether a draw below an arm's mean counts as the mean (May, Korda, Lee and Leslie 2012, algorithm
            1, optimistic Bayesian sampling), so that uncertainty only ever favours an arm. A thousandth of the
            difference is subtracted all the same, to break ties.
    """

    scale: float = field(default=0.5, kw_only=True)
    optimistic: bool = field(default=True, kw_only=True)

    @cached_property
    def _noises(self) -> Pool:
        """Standard deviation of the noise in each draw (256, 1), times scale."""
        if self.noise_known:
            return np.full((DRAWS, 1), self.scale, np.float32)
        shape, rate = self.posterior.noise
        variance = rate / special.gammaincinv(shape, (np.arange(DRAWS) + 0.5) / DRAWS)
        return np.asarray(self.scale * np.sqrt(variance), np.float32)[:, None]

    @cached_property
    def _common_draws(self) -> Pool:
        """Deviations of the common coefficients from their mean, (256, q dim)."""
        cover = self.posterior.common_cover
        standard = normal_pool(self.seed, self.seen, cover.shape[0], stream=_COMMON)
        return np.ascontiguousarray(standard * self._noises @ np.linalg.cholesky(cover).T.astype(np.float32))

    @cached_property
    def _own_draws(self) -> list[tuple[Pool, Leaders | None]]:
        """At most one pool of standard normal draws times the noise, as wide as the most candidates so far."""
        return []

    def chances(self, x: Floats, among: ArmPositions) -> Floats:
        """Share of the joint draws in which each arm is best, (n,)."""
        at = self.predict(x, among)
        columns = at.mean.size
        if not self._own_draws or self._own_draws[-1][0].shape[1] < columns:
            widest = normal_pool(self.seed, self.seen, columns) * self._noises
            self._own_draws[:] = [(widest, Leaders.of(widest) if columns >= MANY else None)]
        standard, leaders = self._own_draws[-1]
        arms = Arms(at.mean, np.sqrt(at.own), at.loading, self.optimistic)
        winners = joint_winners(arms, standard, self._common_draws, leaders if columns >= MANY else None)
        return count_winners(winners, columns)


@dataclass(frozen=True, eq=False)
class LinearThompson(Drawing):
    """Thompson sampling on Bayesian linear regression with unknown noise.

    Normal-inverse-gamma posterior, the noise common to the arms (Riquelme, Tucker and Snoek 2018, section 3, 'linear
    full posterior'; Agrawal and Goyal 2013), arms related as in `Linear`.
    """

    kind: ClassVar[str] = "linear_thompson"

    between: float = field(default=4.0, kw_only=True)
