"""Effects by segment, shrunken towards their mean, since small segments are noisy and some differ by chance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.report.model import SegmentEffect, SegmentReport
from engine.analysis.stats.bayes import pool_effects
from engine.analysis.stats.distributions import chi_square_sf, normal_quantile
from engine.analysis.stats.effects import group_bound
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.moments import empty_moments
from engine.analysis.stats.multiplicity import benjamini_hochberg
from engine.analysis.stats.quadrature import gauss_legendre
from engine.analysis.stats.sequential import asymptotic_multiplier
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.aggregates.aggregate import Groups
    from engine.analysis.design.methods import Inference
    from engine.analysis.design.metrics import Measure
    from engine.analysis.stats.moments import Floats

NO_SEGMENT = "(none)"
"""The name of the units without a value."""
MOST_SEGMENTS = 200
"""Segments of a table; a column with more values is an identifier or a number."""
SCALE = 4.0  # of the prior's median spread between segments, in their mean standard error


def segment_evidence(
    groups: Groups, measures: Sequence[Measure], control: str, refused: Mapping[str, NotEstimable]
) -> dict[str, Evidence]:
    """The evidence by segment of groups keyed by variant, crossover and segment; a variant without units is empty.

    Raises:
        BadInput: if there are too many segments.
    """
    parts: dict[str, dict[str, Group]] = {}
    for (variant, is_crossed, segment), group in groups.items():
        if variant is not None and not is_crossed:
            parts.setdefault(NO_SEGMENT if segment is None else str(segment), {})[str(variant)] = group
    if len(parts) > MOST_SEGMENTS:
        raise BadInput(f"the segment's column has {len(parts)} values; name one with {MOST_SEGMENTS} at most")
    empty = Group(0, {m.name: empty_moments(len(m.columns)) for m in measures if m.rules.has_moments})
    variants = dict.fromkeys((name for part in parts.values() for name in part), empty)
    return {name: Evidence(control=control, groups=variants | part, refused=refused) for name, part in parts.items()}


def compare_segments(
    trait: str,
    measures: Sequence[Measure],
    variants: Sequence[str],
    parts: Mapping[str, Evidence],
    inference: Inference,
) -> list[SegmentReport]:
    """One report per measure and variant. Quantiles, which have no moments to add up, are left out."""
    return [
        _compare_in_segments(trait, measure, variant, parts, inference)
        for measure in measures
        if measure.rules.has_moments
        for variant in variants
    ]


def _compare_in_segments(
    trait: str, measure: Measure, variant: str, parts: Mapping[str, Evidence], inference: Inference
) -> SegmentReport:
    measured = {name: compare(measure, variant, part, inference) for name, part in sorted(parts.items())}
    effects = {name: row.absolute for name, row in measured.items() if isinstance(row.absolute, Effect)}
    estimates, errors = [e.estimate for e in effects.values()], [e.se for e in effects.values()]
    p_values = dict(zip(effects, benjamini_hochberg([e.p for e in effects.values() if e.p is not None]), strict=False))
    shrunken: Mapping[str, Effect] = {}
    heterogeneity = between = None
    if len(effects) > 1:
        centre = sum(e / s**2 for e, s in zip(estimates, errors, strict=True)) / sum(s**-2 for s in errors)
        spread = sum(((e - centre) / s) ** 2 for e, s in zip(estimates, errors, strict=True))
        heterogeneity = chi_square_sf(len(effects) - 1, spread)
        _, between, _ = pool_effects(estimates, errors)
        units = sum(sum(row.units.values()) for row in measured.values())
        shrunken = dict(
            zip(effects, shrink(estimates, errors, inference.alpha, stretch=_stretch(inference, units)), strict=True)
        )
    alone = NotEstimable("one segment has an estimate; there is nothing to shrink it towards")
    rows = [
        SegmentEffect(
            segment=name,
            units={side: parts[name].groups[side].units for side in (parts[name].control, variant)},
            measured=row.absolute,
            shrunken=shrunken.get(name, alone),
            adjusted_p=p_values.get(name),
        )
        for name, row in measured.items()
    ]
    return SegmentReport(
        metric=measure.name,
        variant=variant,
        trait=trait,
        heterogeneity_p=heterogeneity,
        between_sd=between,
        effects=rows,
    )


def _stretch(inference: Inference, units: int) -> float:
    """The ratio of the method's interval width to that of a single look."""
    bound: float | None = None
    if inference.method == "sequential":
        bound = asymptotic_multiplier(units, inference.planned, inference.alpha)
    if inference.method == "group_sequential":
        bound = group_bound(units, inference)
    return bound / normal_quantile(1 - inference.alpha / 2) if bound else 1.0


def shrink(estimates: Sequence[float], errors: Sequence[float], alpha: float, *, stretch: float = 1.0) -> list[Effect]:
    """Posterior means of the segments' effects under a hierarchical model that integrates over the spread between them.

    A normal hierarchy with flat priors on the mean and on `tau / (tau + SCALE s)`, tau being the spread between
    segments and s their harmonic mean error (DuMouchel 1994, "Hierarchical Bayes linear models for meta-analysis", with
    a longer tail). Plugging in an estimated tau instead gives intervals that cover 85 % (see the test).

    Args:
        estimates: one per segment.
        errors: their standard errors.
        alpha: one minus the intervals' coverage, on average over segments.
        stretch: the ratio of the width of the intervals to that at a single look.
    """
    y, s = np.asarray(estimates, dtype=float), np.asarray(errors, dtype=float)
    x, w = gauss_legendre()
    share = (x + 1) / 2
    tau = SCALE * math.sqrt(len(s) / float(np.sum(s**-2.0))) * share / (1 - share)
    precision = 1 / (s**2 + tau[:, None] ** 2)
    total = precision.sum(axis=1)
    centre = precision @ y / total
    likelihood = (np.log(precision).sum(axis=1) - np.log(total)) / 2
    likelihood -= (precision * (y - centre[:, None]) ** 2).sum(axis=1) / 2
    weight = w * np.exp(likelihood - likelihood.max())
    weight /= weight.sum()
    keep = tau[:, None] ** 2 * precision
    means = keep * y + (1 - keep) * centre[:, None]
    sds = np.sqrt(keep * s**2 + (1 - keep) ** 2 / total[:, None])
    middle = weight @ means
    spread = np.sqrt(weight @ (sds**2 + (means - middle) ** 2))
    ends = [
        middle + stretch * (_mixture_quantile(level, weight=weight, means=means, sds=sds) - middle)
        for level in (alpha / 2, 1 - alpha / 2)
    ]
    return [
        Effect(float(value), float(low), float(high), float(sd))
        for value, low, high, sd in zip(middle, *ends, spread, strict=True)
    ]


def _mixture_quantile(level: float, *, weight: Floats, means: Floats, sds: Floats) -> Floats:
    """The quantile of each mixture of normals, by Newton's method within a bracket."""
    from scipy.special import ndtr  # noqa: PLC0415 # see distributions

    middle = weight @ means
    spread = np.sqrt(weight @ (sds**2 + (means - middle) ** 2))
    low, high = middle - 40 * spread, middle + 40 * spread
    at = middle + normal_quantile(level) * spread
    for _ in range(60):
        z = (at - means) / sds
        excess = weight @ ndtr(z) - level
        low, high = np.where(excess > 0, low, at), np.where(excess > 0, at, high)
        with np.errstate(divide="ignore", invalid="ignore"):  # far out the density is zero: bisect
            step = at - excess / (weight @ (np.exp(-z * z / 2) / sds)) * math.sqrt(2 * math.pi)
        after = np.where((low <= step) & (step <= high), step, (low + high) / 2)
        done = np.all(np.abs(after - at) <= 1e-9 * spread)  # Newton converges quadratically
        at = after
        if done:
            break
    return at
