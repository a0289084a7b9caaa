"""Tests one pair of experiments: whether the effect of one depends on the variant of the other.

Of the four cells of two variants each, the contrast is (both new - only the first) - (only the second - neither). Its
interval is an asymptotic confidence sequence (`stats.sequential`), so it holds at every look. It is tuned on four times
the smallest cell, and needs units with an outcome in each, since it rests on the normal distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import Arm
from engine.analysis.stats.sequential import asymptotic_multiplier, asymptotic_p

LEAST_UNITS = 30
"""Units that each cell needs, and outcomes other than zero."""


class CellSizes(NamedTuple):
    """The units of a cell, and the number with an outcome other than zero."""

    units: int
    outcomes: int


SIGNS: Mapping[tuple[bool, bool], int] = {(True, True): 1, (True, False): -1, (False, True): -1, (False, False): 1}
"""The sign of each cell by whether it has the new variant of the first and of the second experiment."""


def estimate_contrast(
    cells: Mapping[tuple[bool, bool], Arm],
    sizes: Mapping[tuple[bool, bool], CellSizes],
    *,
    alpha: float,
    planned: int,
) -> Effect | NotEstimable:
    """The contrast with an interval and a p-value that hold at every look; arguments by cell.

    Args:
        cells: the mean of each cell and its variance.
        sizes: the units of each cell.
        alpha: one minus the coverage.
        planned: the units at which the interval is narrowest.
    """
    fewest = min((sizes[cell].units if cell in sizes else 0 for cell in SIGNS), default=0)
    outcomes = min((sizes[cell].outcomes if cell in sizes else 0 for cell in SIGNS), default=0)
    if fewest < LEAST_UNITS or outcomes < LEAST_UNITS:
        what = "units" if fewest < LEAST_UNITS else "units with an outcome"
        return NotEstimable(f"the smallest of the four cells has {min(fewest, outcomes)} {what} of {LEAST_UNITS}")
    estimate = sum(sign * cells[cell].value for cell, sign in SIGNS.items())
    se = math.sqrt(sum(cells[cell].variance for cell in SIGNS))
    if not se > 0:
        return NotEstimable("the metric is the same for all units of a cell, so the contrast has no error")
    reach = asymptotic_multiplier(4 * fewest, planned, alpha) * se
    p = asymptotic_p(estimate / se, 4 * fewest, planned, alpha)
    return Effect(estimate=estimate, low=estimate - reach, high=estimate + reach, se=se, p=p)
