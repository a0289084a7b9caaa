"""Mergeable sufficient statistics: count, mean and centred products of a metric's columns, per variant.

Sums are taken about a pilot mean (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance",
eq. 1.5), so that one pass of plain sums, the same on every engine, keeps its digits at any offset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ROUNDING = 4e-16  # relative to the mean; a smaller deviation is a constant's rounding error (two ulps)


class Moments(msgspec.Struct, frozen=True, eq=False):
    """The moments of `n` units: `mean` (k,) of k columns and `comoment` (k, k), the sums of products of deviations.

    `freedom` are the degrees of freedom of their variance, if other than n - 1.
    """

    n: int
    mean: Floats
    comoment: Floats
    freedom: float | None = None

    def __add__(self, other: Moments) -> Moments:
        """The moments of both samples together (Chan, Golub and LeVeque 1979, eq. 2.1)."""
        n = self.n + other.n
        if n == 0:
            return self
        delta = other.mean - self.mean
        with np.errstate(over="ignore", invalid="ignore"):
            between = np.outer(delta, delta) * (self.n * other.n / n)
        return Moments(n, self.mean + delta * (other.n / n), self.comoment + other.comoment + between)

    @property
    def covariance(self) -> Floats:
        """Sample covariance (k, k) with n - 1; needs two units."""
        return self.comoment / (self.n - 1)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Moments)
            and self.n == other.n
            and np.array_equal(self.mean, other.mean)
            and np.array_equal(self.comoment, other.comoment)
        )

    __hash__ = None  # type: ignore[assignment] # arrays inside


class Outcomes(msgspec.Struct, frozen=True):
    """The non-zero values of a metric: the number of units with one, and the sum of their sizes.

    The size of a value is what it is without its sign. Moments do not tell either: few large outcomes have the moments
    of many small ones, and refunds cancel orders in a mean. `units` is None where they were not counted.
    """

    units: int | None
    size: float

    def __add__(self, other: Outcomes) -> Outcomes:
        units = None if self.units is None or other.units is None else self.units + other.units
        return Outcomes(units, self.size + other.size)


def sample_moments(columns: Floats) -> Moments:
    """Moments of a sample (n, k)."""
    columns = np.asarray(columns, dtype=np.float64)
    n, k = columns.shape
    if n == 0:
        return Moments(0, np.zeros(k), np.zeros((k, k)))
    mean = columns.mean(axis=0)
    centred = columns - mean
    return Moments(n, mean, centred.T @ centred)


def merge_moments(n: Floats, mean: Floats, comoment: Floats) -> Moments:
    """The moments of many samples at once: `n` (p,), `mean` (p, k) and `comoment` (p, k, k), one row per sample.

    The same sum as adding them one by one (see `Moments.__add__`), each about the mean of all.
    """
    total = n.sum()
    if total == 0:
        return Moments(0, mean[0], comoment[0])
    with np.errstate(over="ignore", invalid="ignore"):
        centre = n @ mean / total
        off = mean - centre
        return Moments(int(total), centre, comoment.sum(axis=0) + (off * n[:, None]).T @ off)


def moments_from_shifted_sums(
    n: int,
    columns: Sequence[str],
    centre: Mapping[str, float],
    sums: Mapping[str, float],
    products: Mapping[tuple[str, str], float],
) -> Moments:
    """Moments from sums of shifted columns: `sums[c]` of (c - centre[c]), `products[a, b]` of their products."""
    shift = np.array([sums[name] for name in columns])
    raw = np.array([[products[min(a, b), max(a, b)] for b in columns] for a in columns])
    start = np.array([centre[name] for name in columns])
    if n == 0:
        return Moments(0, start, np.zeros_like(raw))
    if not np.all(np.isfinite(shift)):
        return Moments(n, np.where(np.isfinite(shift), start, np.nan), np.full_like(raw, np.nan))
    mean = start + shift / n
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # products above the largest float become infinite, which the estimates report
        comoment = raw - np.outer(shift, shift) / n
        constant = np.diagonal(comoment) <= n * (ROUNDING * mean) ** 2
    comoment[constant, :] = 0.0
    comoment[:, constant] = 0.0
    return Moments(n, mean, comoment)


def is_well_centred(moments: Moments, columns: Sequence[str], centre: Mapping[str, float]) -> bool:
    """Whether the pilot is within a thousand standard deviations, so that ten of sixteen digits remain."""
    if moments.n < 2 or not np.all(np.isfinite(moments.mean)):
        return True
    off = moments.mean - np.array([centre[name] for name in columns])
    with np.errstate(over="ignore", invalid="ignore"):
        rounding = moments.n * (1e-12 * moments.mean) ** 2
        return bool(np.all(moments.n * off**2 <= 1e6 * np.diagonal(moments.comoment) + rounding))


def empty_moments(columns: int) -> Moments:
    """The moments of no units."""
    return Moments(0, np.zeros(columns), np.zeros((columns, columns)))
