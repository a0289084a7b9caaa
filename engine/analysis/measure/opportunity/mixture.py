"""A mixture model over numbers and categories: each group has its own normal numbers and categorical shares.

Expectation-maximization from several starts; the number of groups is that of the least BIC (Schwarz 1978). Within a
group the columns are independent (latent profile analysis, McLachlan and Peel 2000, "Finite Mixture Models", ch. 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from policies.batches import Floats

    Codes = NDArray[np.int64]

MOST_GROUPS: Final = 6
LEAST_SHARE: Final = 0.03
"""A group with a smaller share of the rows is not worth a name; such mixtures are not chosen."""
LEAST_VARIANCE: Final = 0.1
"""The least variance of a standardized column in a group: a value that many rows share is no group by itself."""
_STARTS, _STEPS, _CLOSE = 3, 200, 1e-6


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The groups' shares (k,), means and variances (k, d), and the shares of each categorical column (k, levels)."""

    weights: Floats
    means: Floats
    variances: Floats
    levels: list[Floats]

    def posterior(self, numbers: Floats, codes: Sequence[Codes]) -> Floats:
        """The probability of each group for each row (n, k)."""
        return self.expect(numbers, codes)[0]

    def expect(self, numbers: Floats, codes: Sequence[Codes]) -> tuple[Floats, float]:
        """The probability of each group for each row (n, k), and the log-likelihood of all rows."""
        joint = self._log_joint(numbers, codes)
        peak = joint.max(axis=1, keepdims=True)
        found = np.exp(joint - peak)
        total = found.sum(axis=1, keepdims=True)
        return np.asarray(found / total), float((peak + np.log(total)).sum())

    @property
    def parameters(self) -> int:
        """The number of free parameters."""
        free = self.weights.size - 1 + self.means.size + self.variances.size
        return int(free + sum(one.shape[0] * (one.shape[1] - 1) for one in self.levels))

    def _log_joint(self, numbers: Floats, codes: Sequence[Codes]) -> Floats:
        joint = np.log(self.weights) - 0.5 * np.log(2 * np.pi * self.variances).sum(axis=1)
        joint = joint - 0.5 * (
            (numbers**2) @ (1 / self.variances).T
            - 2 * numbers @ (self.means / self.variances).T
            + (self.means**2 / self.variances).sum(axis=1)
        )
        for code, level in zip(codes, self.levels, strict=True):
            joint += np.log(level).T[code]
        return np.asarray(joint)


def fit_mixture(numbers: Floats, codes: Sequence[Codes], sizes: Sequence[int], seed: int = 1) -> Mixture:
    """The mixture with the least BIC, with 1 to 6 groups.

    Args:
        numbers: (n, d) standardized columns.
        codes: categorical columns (n,), each from 0 to its size less 1.
        sizes: the number of levels of each.
        seed: of the starts.
    """
    rng = np.random.default_rng(seed)
    best, least = _fit(numbers, codes, sizes, np.ones((len(numbers), 1)))[0], np.inf
    for count in range(1, min(MOST_GROUPS, len(numbers)) + 1):
        found = [_fit(numbers, codes, sizes, _start(rng, numbers, count)) for _ in range(_STARTS if count > 1 else 1)]
        one, likelihood = max(found, key=lambda pair: pair[1])
        criterion = one.parameters * np.log(len(numbers)) - 2 * likelihood
        if criterion < least and one.weights.min() >= LEAST_SHARE:
            best, least = one, criterion
    return best


def _start(rng: np.random.Generator, numbers: Floats, count: int) -> Floats:
    """Responsibilities (n, k) by the nearest of k distant rows (k-means++)."""
    centres = [numbers[rng.integers(len(numbers))]]
    for _ in range(count - 1):
        far = np.min([((numbers - one) ** 2).sum(axis=1) for one in centres], axis=0)
        total = far.sum()
        at = rng.choice(len(numbers), p=far / total) if total > 0 else rng.integers(len(numbers))
        centres.append(numbers[at])
    nearest = np.argmin([((numbers - one) ** 2).sum(axis=1) for one in centres], axis=0)
    return np.asarray(np.eye(count)[nearest] * 0.9 + 0.1 / count)


def _fit(numbers: Floats, codes: Sequence[Codes], sizes: Sequence[int], shares: Floats) -> tuple[Mixture, float]:
    """The mixture that a start converges to, and its log-likelihood."""
    mixture, last = _maximize(numbers, codes, sizes, shares), -np.inf
    shares, now = mixture.expect(numbers, codes)
    for _ in range(_STEPS):
        if now - last < _CLOSE * abs(now):
            break
        last, mixture = now, _maximize(numbers, codes, sizes, shares)
        shares, now = mixture.expect(numbers, codes)
    return mixture, now


def _maximize(numbers: Floats, codes: Sequence[Codes], sizes: Sequence[int], shares: Floats) -> Mixture:
    total = shares.sum(axis=0) + 1e-9
    means = shares.T @ numbers / total[:, None]
    squares = shares.T @ numbers**2 / total[:, None]
    levels = []
    for code, size in zip(codes, sizes, strict=True):
        counts = np.stack([np.bincount(code, weights=column, minlength=size) for column in shares.T])
        levels.append((counts + 1 / size) / (total[:, None] + 1))
    return Mixture(
        weights=np.asarray(total / total.sum()),
        means=np.asarray(means),
        variances=np.asarray(np.maximum(squares - means**2, LEAST_VARIANCE)),
        levels=levels,
    )
