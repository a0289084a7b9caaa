"""Post-stratification: compares variants within strata known before the exposure, whose uneven mix adds noise.

Miratrix, Sekhon and Yu 2013, "Adjusting treatment effect estimates by post-stratification in randomized experiments",
eq. 3 and 16: strata weighted by their share of all units, each variance within its stratum.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.analysis.sources.aggregate import Group
from engine.analysis.stats.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.sources.aggregate import Groups

    Stratum = Mapping[str, Group]  # by variant


SLOT = "\x1f"
"""Stands between a unit and the time of day in the stratum of a switchback."""
MOST_THIN = 0.25
"""The share of strata without two units in each variant from which on times of day are joined."""


class Stratified(NamedTuple):
    """Each variant's group, weighted by stratum and not, and the least number of strata of any metric."""

    weighted: dict[str, Group]
    whole: dict[str, Group]
    strata: int


def poststratify(strata: Sequence[Stratum], metrics: Sequence[str]) -> Stratified:
    """Each variant's moments, weighted to the mix of strata of all units.

    The mean is the weighted mean of the stratum means; the covariance over n is the variance of that mean. Strata in
    which a variant has fewer than two units with a value have no variance estimate; they are merged.
    """
    variants = sorted({name for stratum in strata for name in stratum})
    whole = {name: reduce(add, [stratum[name] for stratum in strata if name in stratum]) for name in variants}
    least = len(strata)
    moments: dict[str, dict[str, Moments]] = {name: {} for name in variants}
    for metric in metrics:
        parts = _merge_small_strata([{name: s[name].moments[metric] for name in s} for s in strata], variants)
        least = min(least, len(parts))
        total = sum(part[name].n for part in parts for name in variants)
        shares = [sum(part[name].n for name in variants) / total if total else 0.0 for part in parts]
        for name in variants:
            moments[name][metric] = _weight([part[name] for part in parts], shares)
    weighted = {
        name: Group(whole[name].units, {**whole[name].moments, **moments[name]}, whole[name].outcomes)
        for name in variants
    }
    return Stratified(weighted, whole, least)


def join_thin_slots(groups: Groups, variants: Sequence[str]) -> Groups:
    """Joins the times of day of each store into one stratum while too many strata are thin.

    A stratum is thin if a variant has fewer than two periods in it; a quarter of them may be (`MOST_THIN`). `groups`
    are by variant, crossover, stratum and period, and are returned as they are for any other design.
    """
    units: dict[str, dict[str, int]] = {}
    for (variant, crossed, stratum, _), group in groups.items():
        if not crossed and isinstance(stratum, str) and SLOT in stratum:
            counts = units.setdefault(stratum, {})
            counts[str(variant)] = counts.get(str(variant), 0) + group.units
    thin = sum(any(counts.get(name, 0) < 2 for name in variants) for counts in units.values())
    if not units or thin <= MOST_THIN * len(units):
        return groups
    joined: Groups = {}
    for (variant, crossed, stratum, period), group in groups.items():
        whole = stratum.partition(SLOT)[0] if isinstance(stratum, str) else stratum
        key = (variant, crossed, whole, period)
        joined[key] = joined[key] + group if key in joined else group
    return joined


def _merge_small_strata(parts: Sequence[Mapping[str, Moments]], variants: Sequence[str]) -> list[dict[str, Moments]]:
    """The strata with two units in every variant; the others are merged and, if too small, joined to the smallest."""
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


def _weight(parts: Sequence[Moments], shares: Sequence[float]) -> Moments:
    if len(parts) == 1:
        return parts[0]
    n = sum(part.n for part in parts)
    mean = np.sum([share * part.mean for share, part in zip(shares, parts, strict=True)], axis=0)
    of_mean = np.sum([share**2 * part.covariance / part.n for share, part in zip(shares, parts, strict=True)], axis=0)
    return Moments(n, mean, of_mean * n * (n - 1))
