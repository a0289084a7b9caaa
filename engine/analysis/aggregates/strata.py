"""Post-stratification: compares variants within strata known before the exposure, which removes their noise.

Miratrix, Sekhon and Yu 2013, "Adjusting treatment effect estimates by post-stratification in randomized experiments",
eq. 3 and 16: strata weighted by their share of all units, each variance within its stratum.

A stratum of a switchback, a store at one time of day, may have a single period of a variant. It has no variance within,
but the difference between the variants has one between the times of day of a store: Pashley and Miratrix 2021,
"Insights on variance estimation for blocked and matched pairs designs", eq. 9. What the variants share at a time of day
is in neither.
"""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.stats.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.aggregates.aggregate import Groups
    from engine.analysis.stats.moments import Floats

    Stratum = Mapping[str, Group]  # by variant


SLOT = "\x1f"
"""Stands between a unit and the time of day in the stratum of a switchback."""
MOST_THIN = 0.1
"""The share of strata without a unit in each variant from which on times of day are joined."""
LEAST_PAIRED = 4
"""The times of day of a store with a single period of some variant, from which on their differences tell a variance."""


class Stratified(NamedTuple):
    """Each variant's group, stratified and plain, and the least number of strata of any metric."""

    weighted: dict[str, Group]
    whole: dict[str, Group]
    strata: int


def poststratify(
    strata: Sequence[Stratum], metrics: Sequence[str], families: Sequence[str | None] | None = None
) -> Stratified:
    """Each variant's moments, weighted to the mix of strata of all units.

    The mean is the weighted mean of the stratum means; the covariance over n is the variance of that mean. Strata in
    which a variant has fewer than two units with a value have no variance estimate of their own. They have one from the
    differences between strata of one family, if `families` has that of each stratum; the others are merged.
    """
    variants = sorted({name for stratum in strata for name in stratum})
    whole = {name: reduce(add, [stratum[name] for stratum in strata if name in stratum]) for name in variants}
    least = len(strata)
    moments: dict[str, dict[str, Moments]] = {name: {} for name in variants}
    for metric in metrics:
        found = [{name: s[name].moments[metric] for name in s} for s in strata]
        paired, others = _split_paired(found, families, variants)
        parts = _merge_small_strata(others, variants)
        while paired and not all(name in part and part[name].n > 1 for part in parts for name in variants):
            others += paired.pop()
            parts = _merge_small_strata(others, variants)
        everything = [*parts, *(part for family in paired for part in family)]
        least = min(least, len(everything))
        total = sum(part[name].n for part in everything for name in variants)
        shares = [sum(part[name].n for name in variants) / total if total else 0.0 for part in everything]
        between = [(_variance_between(family, total), len(family) - 1) for family in paired]
        for name in variants:
            lent = [_share_out(found, name, own) for found, own in zip(between, paired, strict=True)]
            moments[name][metric] = _weight([part[name] for part in everything], shares, len(parts), lent)
    weighted = {
        name: Group(whole[name].units, {**whole[name].moments, **moments[name]}, whole[name].outcomes)
        for name in variants
    }
    return Stratified(weighted, whole, least)


def family_of(stratum: object) -> str | None:
    """The store of a switchback's stratum; None for any other stratum."""
    return stratum.partition(SLOT)[0] if isinstance(stratum, str) and SLOT in stratum else None


def join_thin_slots(groups: Groups, variants: Sequence[str]) -> Groups:
    """Joins the times of day of each store into one stratum while too many strata are thin.

    A stratum is thin if a variant has no period in it; a tenth of them may be (`MOST_THIN`). `groups` are by variant,
    crossover, stratum and period, and are returned as they are for any other design.
    """
    units: dict[str, dict[str, int]] = {}
    for (variant, crossed, stratum, _), group in groups.items():
        if not crossed and isinstance(stratum, str) and SLOT in stratum:
            counts = units.setdefault(stratum, {})
            counts[str(variant)] = counts.get(str(variant), 0) + group.units
    thin = sum(any(counts.get(name, 0) < 1 for name in variants) for counts in units.values())
    if not units or thin <= MOST_THIN * len(units):
        return groups
    joined: Groups = {}
    for (variant, crossed, stratum, period), group in groups.items():
        whole = stratum.partition(SLOT)[0] if isinstance(stratum, str) else stratum
        key = (variant, crossed, whole, period)
        joined[key] = joined[key] + group if key in joined else group
    return joined


def _merge_small_strata(parts: Sequence[Mapping[str, Moments]], variants: Sequence[str]) -> list[dict[str, Moments]]:
    """The strata with two units in every variant; smaller ones are merged, or joined to the smallest."""
    large: list[dict[str, Moments]] = []
    small: list[dict[str, Moments]] = []
    for part in parts:
        fits = all(name in part and part[name].n > 1 for name in variants)
        (large if fits else small).append(dict(part))
    if small:
        rest = reduce(_merge_parts, small)
        if large and not all(name in rest and rest[name].n > 1 for name in variants):
            large.sort(key=lambda part: sum(moments.n for moments in part.values()))
            rest = _merge_parts(large.pop(0), rest)
        large.append(rest)
    return large


def _merge_parts(a: dict[str, Moments], b: dict[str, Moments]) -> dict[str, Moments]:
    return {name: a[name] + b[name] if name in a and name in b else a.get(name, b.get(name)) for name in a | b}  # type: ignore[misc] # one has it


def _split_paired(
    parts: Sequence[dict[str, Moments]], families: Sequence[str | None] | None, variants: Sequence[str]
) -> tuple[list[list[dict[str, Moments]]], list[dict[str, Moments]]]:
    """The strata with one unit of some variant and at least one of each, by family, and all others."""
    paired: dict[str, list[dict[str, Moments]]] = {}
    others: list[dict[str, Moments]] = []
    for part, family in zip(parts, families or [None] * len(parts), strict=True):
        is_paired = family is not None and all(name in part and part[name].n > 0 for name in variants)
        if family is not None and is_paired and min(part[name].n for name in variants) == 1:
            paired.setdefault(family, []).append(part)
        else:
            others.append(part)
    for family in [name for name, own in paired.items() if len(own) < LEAST_PAIRED]:
        others += paired.pop(family)
    return list(paired.values()), others


def _variance_between(family: Sequence[Mapping[str, Moments]], total: int) -> Floats:
    """The variance of the difference between variants in a family's part of the weighted mean."""
    shares = np.array([sum(side.n for side in part.values()) / total for part in family])
    means = np.array([[part[name].mean for part in family] for name in family[0]])  # variants, strata, columns
    off = shares[:, None] * (means - means.mean(axis=0))
    off -= off.mean(axis=1, keepdims=True)
    strata, variants = len(family), len(means)
    whole: Floats = np.einsum("vsi,vsj->ij", off, off) * strata / (strata - 1) * variants / (variants - 1)
    return whole


def _share_out(found: tuple[Floats, int], name: str, family: Sequence[Mapping[str, Moments]]) -> tuple[Floats, float]:
    """The variant's part of that variance, and degrees of freedom with which Welch's test finds those of the whole.

    It is shared as between means of independent units, in proportion to one over their number.
    """
    inverse = np.array([1 / sum(part[side].n for part in family) for side in family[0]])
    parts = inverse / inverse.sum()
    return found[0] * parts[list(family[0]).index(name)], found[1] * float(parts @ parts)


def _weight(
    parts: Sequence[Moments], shares: Sequence[float], within: int, lent: Sequence[tuple[Floats, float]]
) -> Moments:
    """The weighted moments: the first `within` strata have variances of their own, `lent` are those of the others.

    The variance is a sum of parts, of which a small stratum of large values may be most. Its degrees of freedom are
    those of Satterthwaite 1946; the square of a part's estimate is 1 + 2 / df times what is expected.
    """
    if len(parts) == 1:
        return parts[0]
    n = sum(part.n for part in parts)
    mean = np.sum([share * part.mean for share, part in zip(shares, parts, strict=True)], axis=0)
    found = [
        (share**2 * part.covariance / part.n, part.n - 1.0)
        for share, part in zip(shares[:within], parts[:within], strict=True)
    ]
    found += lent
    of_mean = np.sum([covariance for covariance, _ in found], axis=0)
    square = sum(float(covariance[0, 0]) ** 2 / (freedom + 2) for covariance, freedom in found)
    known = 0 < square < math.inf
    return Moments(n, mean, of_mean * n * (n - 1), float(of_mean[0, 0]) ** 2 / square if known else None)
