"""Novelty: the primary metric's effect by time since a unit's exposure, on units whose windows are over."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.design.question import MeasuredMetric
    from engine.analysis.report.model import Novelty

DAY = 86_400.0
EDGES = (0, 1, 3, 7, 14, 28)  # days
FADE_Z = 2.58  # standard errors between the first and the last window: 1 % two-sided


def novelty_specs(primary: MeasuredMetric) -> list[MeasuredMetric]:
    """The primary metric for each window; empty for ratios, quantiles and retention, which are no sums over time."""
    if not primary.rules.has_daily_trend:
        return []
    end = primary.delay + primary.window if primary.window is not None else float("inf")
    return [
        msgspec.structs.replace(
            primary,
            name=f"{primary.name} from day {low}",
            delay=low * DAY,
            window=(high - low) * DAY,
            ripe=True,
            covariate_window=None,
            winsorize=None,
        )
        for low, high in pairwise(EDGES)
        if low * DAY >= primary.delay and high * DAY <= end
    ]


def daily_effect(effect: Effect | NotEstimable, window: float) -> Effect | NotEstimable:
    """The effect per day, from an effect over `window` seconds."""
    if isinstance(effect, NotEstimable):
        return effect
    days = window / DAY
    return Effect(effect.estimate / days, effect.low / days, effect.high / days, effect.se / days, effect.p)


def novelty_flags(rows: Sequence[Novelty]) -> list[str]:
    """A sentence for each variant whose effect is significantly larger in the first window than in the last.

    The windows hold the same units, whose sums correlate positively, so the sum of their variances is conservative.
    """
    flags = []
    for variant, part in groupby(rows, key=lambda row: row.variant):
        windows = [row for row in part if isinstance(row.effect, Effect)]
        if len(windows) < 2:
            continue
        first, last = windows[0].effect, windows[-1].effect
        if not isinstance(first, Effect) or not isinstance(last, Effect):
            continue
        distance = (first.estimate - last.estimate) / (first.se**2 + last.se**2) ** 0.5
        if abs(distance) > FADE_Z and abs(first.estimate) > abs(last.estimate):
            flags.append(
                f"novelty: {variant}'s effect fades from {first.estimate:+z.3g} a day at first to "
                f"{last.estimate:+z.3g} a day after day {windows[-1].from_day:g}"
            )
    return flags
