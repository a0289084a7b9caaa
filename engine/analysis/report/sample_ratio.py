"""Sample ratio mismatch: whether the variants' units match the planned split.

A report at a single look uses Pearson's chi-square test, and an exact binomial test where counts are small. A report
that is read repeatedly uses an e-process: by Ville's inequality the chance that it ever exceeds 1 / gate is at most the
gate, at however many looks. The e-process is a mixture over Dirichlet priors from vague to concentrated. A vague prior
detects a gross mismatch within a dozen units, a concentrated one a slight mismatch among many.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.stats.distributions import chi_square_sf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Floats = np.typing.NDArray[np.float64]
    SplitPart = tuple[Mapping[str, int], Mapping[str, float]]  # units and expected shares, by variant

FIXED_GATE = 0.001  # a report at a single look
SEQUENTIAL_GATE = 0.01  # a report at any number of looks: the e-process keeps this over all of them
CONCENTRATIONS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
SMALL = 100  # expected units of a variant, below which chi-square's tail at the gate is off by over a fifth


class SampleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """The test of the split: `ok` if `p` >= `gate`. `sequential_p` is set if `p` is valid at every look."""

    p: float
    ok: bool
    expected: dict[str, float]
    gate: float = FIXED_GATE
    sequential_p: float | None = None


def sample_ratio(
    units: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    looks: Sequence[Mapping[str, int]] | None = None,
) -> SampleRatio:
    """Tests the units per variant against the weights.

    Args:
        units: per variant.
        weights: the planned shares; they need not sum to 1.
        looks: new units per variant at each look of a report that is read repeatedly; None for a single look.
    """
    names = sorted(weights)
    shares = [weights[name] for name in names]
    total = math.fsum(shares)
    expected = {name: weights[name] / total for name in names}
    if looks is None:
        p = ratio_p([units.get(name, 0) for name in names], shares)
        return SampleRatio(p=p, ok=p >= FIXED_GATE, expected=expected)
    counts = [[look.get(name, 0) for name in names] for look in looks]
    p = sequential_ratio(counts, shares)[-1] if counts else 1.0
    return SampleRatio(p=p, ok=p >= SEQUENTIAL_GATE, expected=expected, gate=SEQUENTIAL_GATE, sequential_p=p)


def ratio_p(observed: Sequence[int], weights: Sequence[float]) -> float:
    """The p-value of counts against shares at a single look; exact if a variant expects few units."""
    total, shares = sum(observed), math.fsum(weights)
    small = any(weight > 0 and total * weight / shares < SMALL for weight in weights)
    return exact_ratio_p(observed, weights) if small else chi_square(observed, weights)


def exact_ratio_p(observed: Sequence[int], weights: Sequence[float]) -> float:
    """The smallest exact binomial p-value of a variant against all others, times their number (Bonferroni).

    Two variants are one comparison. Each p-value doubles its smaller tail.
    """
    if any(count > 0 and weight <= 0 for count, weight in zip(observed, weights, strict=True)):
        return 0.0
    used = [(count, weight) for count, weight in zip(observed, weights, strict=True) if weight > 0]
    n, total = sum(count for count, _ in used), math.fsum(weight for _, weight in used)
    if len(used) < 2 or n == 0:
        return 1.0
    from scipy.special import bdtr, bdtrc  # noqa: PLC0415 # see distributions

    compared = used[:1] if len(used) == 2 else used
    tails = [
        min(float(bdtr(count, n, weight / total)), float(bdtrc(count - 1, n, weight / total)) if count else 1.0)
        for count, weight in compared
    ]
    return min(1.0, 2 * len(compared) * min(tails))


def chi_square(observed: Sequence[int], weights: Sequence[float]) -> float:
    """Pearson's p-value of counts against shares, without continuity correction (Fabijan et al. 2019).

    A variant with no weight and no units takes no part; one with units but no weight makes the p-value zero.
    """
    counts, shares = np.asarray(observed, dtype=float), np.asarray(weights, dtype=float)
    if np.any(counts[shares <= 0] > 0):
        return 0.0
    counts, shares = counts[shares > 0], shares[shares > 0]
    if len(counts) < 2 or counts.sum() == 0:
        return 1.0
    expected = counts.sum() * shares / shares.sum()
    return chi_square_sf(len(counts) - 1, float(((counts - expected) ** 2 / expected).sum()))


_log_gamma = np.vectorize(math.lgamma, otypes=[float])  # SciPy's would be imported for every report


def sequential_ratio(
    batches: Sequence[Sequence[int]], weights: Sequence[float], concentrations: Sequence[float] = CONCENTRATIONS
) -> list[float]:
    """Anytime-valid p-values of the split, one after each batch of counts (never rising).

    A variant with units but no weight makes the p-value zero.
    """
    return _least_p(log_evidence(batches, weights, concentrations))


def sequential_ratio_of_periods(periods: Sequence[tuple[Sequence[Sequence[int]], Sequence[float]]]) -> list[float]:
    """Anytime-valid p-values of a split whose weights were edited: (batches, weights) of each period, as above.

    A unit is split by the weights of its plan, whatever came before, so the product of the periods' evidence is an
    e-process, and so is its mean over the periods (Shafer 2021, sections 2 and 3). The product finds a slight mismatch
    that every edit kept, the mean one that a single period has. Half the evidence is in each.
    """
    logs = np.array([log_evidence(batches, weights) for batches, weights in periods])
    product, mean = logs.sum(axis=0), np.logaddexp.reduce(logs, axis=0) - math.log(len(periods))
    return _least_p(np.logaddexp(product, mean) - math.log(2.0) if len(periods) > 1 else product)


def log_evidence(
    batches: Sequence[Sequence[int]], weights: Sequence[float], concentrations: Sequence[float] = CONCENTRATIONS
) -> Floats:
    """The logarithm of the evidence against the split after each batch of counts; infinite if it is impossible.

    Lindon and Malek 2022, "Anytime-Valid Inference For Multinomial Count Data", eq. 6: the Bayes factor of a Dirichlet
    prior with parameters `concentration * weights` against the point null. The mean of the Bayes factors over the
    concentrations is an e-process as well.
    """
    shares = np.asarray(weights, dtype=float) / float(np.sum(weights))
    used = shares > 0
    totals = np.cumsum(np.asarray(batches, dtype=float), axis=0)
    counts, n = totals[:, used], totals[:, used].sum(axis=1)
    alphas = np.outer(concentrations, shares[used])
    alone, whole = alphas[:, np.newaxis], alphas.sum(axis=1)[:, np.newaxis]
    logs = (
        _log_gamma(whole)
        - _log_gamma(whole + n)
        + (_log_gamma(alone + counts) - _log_gamma(alone)).sum(axis=2)
        - counts @ np.log(shares[used])
    )
    found: Floats = np.logaddexp.reduce(logs, axis=0) - math.log(len(concentrations))
    found[totals[:, ~used].sum(axis=1) > 0] = math.inf
    return found


def _least_p(logs: Floats) -> list[float]:
    """The p-values of an e-process, after each look the least so far."""
    return [float(value) for value in np.minimum.accumulate(np.exp(-np.maximum(logs, 0.0)))]


def flag_broken_splits(
    segments: Mapping[str, SplitPart],
    days: Mapping[str, SplitPart],
    *,
    sequential: bool = False,
) -> list[str]:
    """A sentence for each segment and day whose split differs from the plan.

    At a single look the gate is divided by the number of segments and days together (Bonferroni). `sequential` gives
    half of it to the segments and spends the other half over the days, 1 / (i (i + 1)) on the i-th: their number grows
    from look to look, so a division by it would spend more than the gate.

    Args:
        segments: units and expected shares by variant, by segment.
        days: the same by day, in order.
        sequential: whether the report is read repeatedly.
    """
    if sequential:
        gates = [SEQUENTIAL_GATE / 2 / len(segments) for _ in segments]
        gates += [SEQUENTIAL_GATE / 2 / (at * (at + 1)) for at in range(1, len(days) + 1)]
    else:
        gates = [FIXED_GATE / (len(segments) + len(days)) for _ in (*segments, *days)]
    parts = [(f"in segment {name}", part) for name, part in segments.items()]
    parts += [(f"on {name}", part) for name, part in days.items()]
    flags = []
    for (place, (units, weights)), gate in zip(parts, gates, strict=True):
        names = sorted(weights)
        counts, shares = [units.get(name, 0) for name in names], [weights[name] for name in names]
        p = sequential_ratio([counts], shares)[-1] if sequential else ratio_p(counts, shares)
        if p < gate:
            split = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
            flags.append(f"the split is wrong {place}: {split} (p = {p:.2g}, below {gate:.2g})")
    return flags
