"""Checks exposures before any effect: whether every variant exposed the same share of its assigned units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.report.sample_ratio import SEQUENTIAL_GATE
from engine.analysis.stats.distributions import chi_square_sf
from engine.analysis.stats.sequential import asymptotic_p

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.analysis.stats.moments import Floats

PLANNED = 5000  # units around which the sequential test is sharpest
LEAST_ASSIGNED = 20  # customers of a channel, below which none of them being exposed may be chance


class ExposureCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The share of assigned units that were exposed. A share that differs between variants biases every effect.

    `double` counts exposures sent twice for one decision, `orphans` exposures without a decision in the log.
    """

    shares: dict[str, float]
    p: float
    double: int
    orphans: int
    assigned: int = 0
    exposed: int = 0


def exposure_check(
    assigned: Mapping[str, int], exposed: Mapping[str, int], double: int, orphans: int, *, sequential: bool = False
) -> ExposureCheck:
    """Tests whether the share of assigned units that were exposed is the same in every variant.

    By chi-square; with `sequential`, for repeated looks, by the smallest of the variants' anytime-valid p-values
    against all others together, times the number of variants. Both are approximations for many units. Where a variant
    has few exposed or few unexposed units, Fisher's exact p-values replace the first and bound the second from below.
    """
    names = [name for name in sorted(assigned) if assigned[name]]
    total = np.array([assigned[name] for name in names], dtype=float)
    seen = np.minimum(np.array([exposed.get(name, 0) for name in names], dtype=float), total)
    p = 1.0
    if len(names) > 1 and 0 < seen.sum() < total.sum():
        p = _sequential_p(seen, total) if sequential else _fixed_p(seen, total)
    return ExposureCheck(
        shares={name: float(s / t) for name, s, t in zip(names, seen, total, strict=True)},
        p=p,
        double=double,
        orphans=orphans,
        assigned=int(total.sum()),
        exposed=int(seen.sum()),
    )


def _fixed_p(seen: Floats, total: Floats) -> float:
    """Chi-square's p-value, or the smallest exact one times the number of comparisons (one for two variants)."""
    from engine.analysis.stats import proportions  # noqa: PLC0415 # see distributions

    tables = _tables(seen, total)
    if any(proportions.is_small(*table) for table in tables):
        compared = tables[:1] if len(tables) == 2 else tables
        return min(1.0, len(compared) * min(proportions.fisher_p(*table) for table in compared))
    share = seen.sum() / total.sum()
    z2 = (seen - total * share) ** 2 / (total * share * (1 - share))
    return chi_square_sf(len(total) - 1, float(z2.sum()))


def _sequential_p(seen: Floats, total: Floats) -> float:
    """The smallest anytime-valid p-value times the number of variants."""
    from engine.analysis.stats import proportions  # noqa: PLC0415 # see distributions

    share, units = seen.sum() / total.sum(), int(total.sum())
    z2 = (seen - total * share) ** 2 / (total * share * (1 - share) * (1 - total / total.sum()))
    values = []
    for z, table in zip(np.sqrt(z2), _tables(seen, total), strict=True):
        p = asymptotic_p(float(z), units, PLANNED, SEQUENTIAL_GATE)
        values.append(max(p, proportions.fisher_p(*table)) if proportions.is_small(*table) else p)
    return min(1.0, len(values) * min(values))


def _tables(seen: Floats, total: Floats) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The exposed and assigned units of each variant and of all others together."""
    return [
        ((int(own), int(seen.sum() - own)), (int(size), int(total.sum() - size)))
        for own, size in zip(seen, total, strict=True)
    ]


def exposure_request(experiment: str) -> str:
    """The lines that send an exposure, for a report without exposures."""
    return (
        f"Send an exposure when a customer sees the variant of {experiment}, with the decision_id of the answer that\n"
        "assigned it (metadata.decisionId of a bulk OFREP evaluation, which never counts as seen by itself):\n"
        "  POST /v1/exposures\n"
        f'  {{"decision_id": "…", "experiments": ["{experiment}"]}}'
    )


def exposure_flags(exposure: ExposureCheck, channels: Mapping[str, tuple[int, int]]) -> list[str]:
    """A sentence for each fault of the exposures.

    Args:
        exposure: the check.
        channels: the numbers of customers assigned and exposed, by channel.
    """
    flags = [
        f"{channel}: {assigned:,} customers assigned, none seen; send exposures from this channel, "
        "or the report leaves them out"
        for channel, (assigned, exposed) in sorted(channels.items())
        if exposure.exposed and assigned >= LEAST_ASSIGNED and not exposed
    ]
    if exposure.double:
        flags.append(f"{exposure.double} exposures were sent twice for one decision; each counts once")
    if exposure.orphans:
        flags.append(f"{exposure.orphans} exposures have no decision in the log and are left out")
    return flags
