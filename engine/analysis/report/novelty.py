"""Does an effect wear off? The primary metric in windows of days since the exposure, on units seen through them."""

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
FADES = 2.58  # standard errors between the first and the last window


def novelty_specs(primary: MeasuredMetric) -> list[MeasuredMetric]:
    """The primary metric once per window; none for ratios, quantiles and retention, which are not sums over time."""
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


def per_day(effect: Effect | NotEstimable, window: float) -> Effect | NotEstimable:
    """An effect over `window` seconds as an effect per day."""
    if isinstance(effect, NotEstimable):
        return effect
    days = window / DAY
    return Effect(effect.estimate / days, effect.low / days, effect.high / days, effect.se / days, effect.p)


def faded(rows: Sequence[Novelty]) -> list[str]:
    """A sentence per variant whose first window's effect is beyond chance larger than its last window's.

    The windows hold the same units, whose sums go together, so adding their variances errs on the quiet side.
    """
    said = []
    for variant, part in groupby(rows, key=lambda row: row.variant):
        seen = [row for row in part if isinstance(row.effect, Effect)]
        if len(seen) < 2:
            continue
        first, last = seen[0].effect, seen[-1].effect
        if not isinstance(first, Effect) or not isinstance(last, Effect):
            continue
        distance = (first.estimate - last.estimate) / (first.se**2 + last.se**2) ** 0.5
        if abs(distance) > FADES and abs(first.estimate) > abs(last.estimate):
            said.append(
                f"novelty: {variant}'s effect fades from {first.estimate:+.3g} a day at first to "
                f"{last.estimate:+.3g} a day after day {seen[-1].from_day:g}"
            )
    return said
