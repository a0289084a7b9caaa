"""Gates before any number: is the split of units the one that was asked for?"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from engine.analysis.stats.distributions import chi_square_sf
from engine.analysis.stats.sequential import asymptotic_p

FIXED_GATE = 0.001  # a report looked at once
SEQUENTIAL_GATE = 0.01  # a report looked at daily: the sequential test keeps this over all looks
PLANNED = 5000  # units around which the sequential exposure check is sharpest


class SampleRatio(msgspec.Struct, frozen=True):
    """Sample ratio mismatch: Pearson's chi-square `p`, and `sequential_p`, which holds at every look."""

    p: float
    ok: bool
    expected: dict[str, float]
    sequential_p: float | None = None


class ExposureCheck(msgspec.Struct, frozen=True):
    """Who of those assigned was exposed. A share that differs between variants biases whatever is measured after it.

    `double` counts exposures sent twice for one decision, `orphans` those without a decision in the log.
    """

    shares: dict[str, float]
    p: float
    double: int
    orphans: int


def exposure_check(
    assigned: Mapping[str, int], exposed: Mapping[str, int], double: int, orphans: int, *, sequential: bool = False
) -> ExposureCheck:
    """Tests whether the share of assigned units that were exposed is the same in every variant.

    By chi-square, or where `sequential` so that a daily look is safe: the smallest of the variants' anytime-valid
    p-values against all of them together, times their number.
    """
    names = [name for name in sorted(assigned) if assigned[name]]
    seen = np.array([exposed.get(name, 0) for name in names], dtype=float)
    total = np.array([assigned[name] for name in names], dtype=float)
    p = 1.0
    if len(names) > 1 and 0 < seen.sum() < total.sum():
        share = seen.sum() / total.sum()
        z2 = (seen - total * share) ** 2 / (total * share * (1 - share))
        if sequential:
            units = int(total.sum())
            z2 = z2 / (1 - total / total.sum())  # the variant is part of what it is compared with
            p = min(1.0, len(names) * min(asymptotic_p(float(z), units, PLANNED, SEQUENTIAL_GATE) for z in np.sqrt(z2)))
        else:
            p = chi_square_sf(len(names) - 1, float(z2.sum()))
    return ExposureCheck({n: float(s / t) for n, s, t in zip(names, seen, total, strict=True)}, p, double, orphans)


def faults(exposure: ExposureCheck) -> list[str]:
    """What a reader must know of the exposures, a sentence each."""
    said = []
    if exposure.double:
        said.append(f"{exposure.double} exposures were sent twice for one decision; each counts once")
    if exposure.orphans:
        said.append(f"{exposure.orphans} exposures have no decision in the log and are left out")
    return said


def broken_parts(
    parts: Mapping[str, Mapping[str, int]], weights: Mapping[str, float], *, sequential: bool = False
) -> list[str]:
    """The days or segments whose own split is off, at the gate divided by their number (Bonferroni).

    `sequential` asks for the test that may be repeated as a segment grows.
    """
    names = sorted(weights)
    shares = [weights[name] for name in names]
    broken = []
    for part, units in parts.items():
        counts = [units.get(name, 0) for name in names]
        p = sequential_ratio([counts], shares)[-1] if sequential else chi_square(counts, shares)
        if p < (SEQUENTIAL_GATE if sequential else FIXED_GATE) / len(parts):
            broken.append(part)
    return broken


def chi_square(observed: Sequence[int], weights: Sequence[float]) -> float:
    """Pearson's p-value of counts against shares, without continuity correction (Fabijan et al. 2019).

    An arm with no weight and no units takes no part; one with units but no weight makes the p-value zero.
    """
    counts, shares = np.asarray(observed, dtype=float), np.asarray(weights, dtype=float)
    if np.any(counts[shares <= 0] > 0):
        return 0.0
    counts, shares = counts[shares > 0], shares[shares > 0]
    if len(counts) < 2 or counts.sum() == 0:
        return 1.0
    expected = counts.sum() * shares / shares.sum()
    return chi_square_sf(len(counts) - 1, float(((counts - expected) ** 2 / expected).sum()))


def sequential_ratio(
    batches: Sequence[Sequence[int]], weights: Sequence[float], concentration: float = 10_000
) -> list[float]:
    """Anytime-valid p-values of the split, one after each batch of counts (never rising).

    Lindon and Malek 2022, "Anytime-Valid Inference For Multinomial Count Data", eq. 6: a Dirichlet prior with
    parameters `concentration * weights` against the point null.
    """
    from scipy.special import gammaln  # noqa: PLC0415 # see distributions

    shares = np.asarray(weights, dtype=float) / float(np.sum(weights))
    used = shares > 0
    alpha = concentration * shares[used]
    counts = np.cumsum(np.asarray(batches, dtype=float)[:, used], axis=0)
    totals = counts.sum(axis=1)
    log_odds = (
        gammaln(alpha.sum())
        - gammaln(alpha.sum() + totals)
        + (gammaln(alpha + counts) - gammaln(alpha)).sum(axis=1)
        - counts @ np.log(shares[used])
    )
    return [float(p) for p in np.minimum.accumulate(np.minimum(1.0, np.exp(np.minimum(-log_odds, 0.0))))]


def sample_ratio(
    units: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    daily: Sequence[Mapping[str, int]] | None = None,
) -> SampleRatio:
    """Checks the units per variant against the weights; with `daily` counts, so that a daily look is safe."""
    names = sorted(weights)
    shares = [weights[name] for name in names]
    p = chi_square([units.get(name, 0) for name in names], shares)
    total = math.fsum(shares)
    expected = {name: weights[name] / total for name in names}
    if daily is None:
        return SampleRatio(p, p >= FIXED_GATE, expected)
    looks = sequential_ratio([[day.get(name, 0) for name in names] for day in daily], shares) if daily else [1.0]
    return SampleRatio(p, looks[-1] >= SEQUENTIAL_GATE, expected, looks[-1])
