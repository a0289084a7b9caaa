"""Effects by segment, shrunken towards each other: small segments say little, and some of many speak by chance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.analysis.bayes import pooled
from engine.analysis.compare import Evidence, compare
from engine.analysis.distributions import chi_square_sf, normal_quantile
from engine.analysis.effects import two_sided_t
from engine.analysis.estimate import Effect, NotEstimable
from engine.analysis.multiplicity import benjamini_hochberg
from engine.analysis.report import SegmentEffect, SegmentReport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.effects import Settings
    from engine.analysis.metrics import Measure


def by_segment(
    trait: str,
    measures: Sequence[Measure],
    variants: Sequence[str],
    parts: Mapping[str, Evidence],
    settings: Settings,
) -> list[SegmentReport]:
    """One report per measure and variant. Quantiles, which cannot be taken apart, are left out."""
    return [
        _one(trait, measure, variant, parts, settings)
        for measure in measures
        if measure.kind != "quantile"
        for variant in variants
    ]


def _one(
    trait: str, measure: Measure, variant: str, parts: Mapping[str, Evidence], settings: Settings
) -> SegmentReport:
    measured = {name: compare(measure, variant, part, settings) for name, part in sorted(parts.items())}
    effects = {name: row.absolute for name, row in measured.items() if isinstance(row.absolute, Effect)}
    estimates, errors = [e.estimate for e in effects.values()], [e.se for e in effects.values()]
    p_values = dict(zip(effects, benjamini_hochberg([e.p for e in effects.values() if e.p is not None]), strict=False))
    shrunken: Mapping[str, Effect] = {}
    heterogeneity = between = None
    if len(effects) > 1:
        centre = sum(e / s**2 for e, s in zip(estimates, errors, strict=True)) / sum(s**-2 for s in errors)
        spread = sum(((e - centre) / s) ** 2 for e, s in zip(estimates, errors, strict=True))
        heterogeneity = chi_square_sf(len(effects) - 1, spread)
        mean, between, error = pooled(estimates, errors)
        values = shrink(estimates, errors, mean, between, error, settings.alpha)
        shrunken = dict(zip(effects, values, strict=True))
    alone = NotEstimable("one segment has an estimate; there is nothing to shrink it towards")
    rows = [
        SegmentEffect(
            name,
            {side: parts[name].groups[side].units for side in (parts[name].control, variant)},
            row.absolute,
            shrunken.get(name, alone),
            p_values.get(name),
        )
        for name, row in measured.items()
    ]
    return SegmentReport(measure.name, variant, trait, heterogeneity, between, rows)


def shrink(
    estimates: Sequence[float], errors: Sequence[float], mean: float, between: float, error: float, alpha: float
) -> list[Effect]:
    """Empirical-Bayes effects: each estimate pulled to the mean by how much of its spread is noise.

    Morris 1983, "Parametric Empirical Bayes Inference", eq. 1.13: the variance adds that of the estimated mean.
    """
    reach = normal_quantile(1 - alpha / 2)
    result = []
    for estimate, se in zip(estimates, errors, strict=True):
        keep = between**2 / (between**2 + se**2)
        value = keep * estimate + (1 - keep) * mean
        sd = math.sqrt(keep * se**2 + (1 - keep) ** 2 * error**2)
        result.append(Effect(value, value - reach * sd, value + reach * sd, sd, two_sided_t(value / sd, math.inf)))
    return result
