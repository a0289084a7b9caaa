"""The days until an experiment's verdict, simulated from arrivals and values with an injected effect.

Each run draws the sums of both arms day by day: of n units they are normal with n times the unit's mean and variance,
which arms of some hundred units follow closely. The first day whose look ends the experiment by the method's own rule
is the run's. Units count once their window is over, and no verdict comes before `min_days`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.analysis.stats.power import Baseline, sample_size
from engine.analysis.stats.sequential import asymptotic_multiplier, group_boundaries, spent_error, sprt_multiplier
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.analysis.design.methods import Inference
    from engine.analysis.stats.moments import Floats

RUNS = 400
HORIZON = 730
"""Days after which a run counts as without a verdict."""
POWER = 0.8


class VerdictDays(msgspec.Struct, frozen=True, kw_only=True):
    """The days until half and until 80 % of runs have a verdict; None beyond two years.

    `units` is the number of units that count by the median day.
    """

    days: float | None
    days_80: float | None
    units: int | None


class Arrivals(NamedTuple):
    """New units by day (days,), continued beyond the log by the mean of its last third."""

    daily: Floats

    def extended(self) -> Floats:
        """The new units of each day up to the horizon."""
        known = self.daily
        recent = known[-max(len(known) // 3, min(len(known), 7)) :]
        rest = max(HORIZON - len(known), 0)
        return np.concatenate([known, np.full(rest, recent.mean() if recent.size else 0.0)])[:HORIZON]


def estimate_verdict_days(
    arrivals: Arrivals,
    baseline: Baseline,
    inference: Inference,
    *,
    effect: float,
    window_days: float = 0.0,
    min_days: float = 0.0,
    share: float = 0.5,
    seed: int = 1,
) -> VerdictDays:
    """The days until a verdict.

    Args:
        arrivals: new units of control and one variant.
        baseline: a unit's mean value and standard deviation.
        inference: the method, and what it plans.
        effect: the relative effect.
        window_days: the days after the arrival at which a unit counts.
        min_days: the days before which no verdict is given.
        share: control's of these units.
        seed: of the runs.
    """
    new = arrivals.extended()
    delay = math.ceil(window_days)
    closed = np.concatenate([np.zeros(delay), np.cumsum(new)])[: len(new)]
    if inference.method == "fixed":
        try:
            needed = sample_size(baseline, effect, inference, power=POWER, share=share).units
        except BadInput:
            return VerdictDays(days=None, days_80=None, units=None)
        day = _first_day(closed >= needed, min_days)
        return VerdictDays(days=day, days_80=day, units=None if day is None else int(closed[int(day) - 1]))
    ended = _simulate(closed, baseline, inference, effect=effect, share=share, seed=seed)
    first = np.where(ended.any(axis=1), ended.argmax(axis=1) + 1.0, np.inf)
    first = np.maximum(first, min_days)
    median, late = (float(np.quantile(first, level, method="higher")) for level in (0.5, POWER))
    days, days_80 = (None if math.isinf(one) else one for one in (median, late))
    units = None if days is None else int(closed[min(math.ceil(days), len(closed)) - 1])
    return VerdictDays(days=days, days_80=days_80, units=units)


def _first_day(reached: np.ndarray, min_days: float) -> float | None:
    if not reached.any():
        return None
    return float(max(int(reached.argmax()) + 1, math.ceil(min_days)))


def _simulate(
    closed: Floats, baseline: Baseline, inference: Inference, *, effect: float, share: float, seed: int
) -> np.ndarray:
    """Whether the look at the end of each day (runs, days) ends the experiment."""
    rng = np.random.default_rng(seed)
    steps = np.diff(closed, prepend=0.0)
    sides = []
    for part, mean in ((share, baseline.value), (1 - share, baseline.value * (1 + effect))):
        n = part * steps
        noise = rng.standard_normal((RUNS, len(steps))) * np.sqrt(n * baseline.variance(mean))
        sides.append((np.cumsum(n * mean + noise, axis=1), np.cumsum(n), baseline.variance(mean)))
    (control, n0, v0), (variant, n1, v1) = sides
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = variant / n1 - control / n0
        se = np.sqrt(v0 / n0 + v1 / n1)
    enough = np.isfinite(se) & (closed >= 4)
    if inference.method == "bayesian":
        decided: np.ndarray = enough & _is_decided(estimate / baseline.value, se / abs(baseline.value), inference)
        return decided
    bounds = np.full(len(closed), np.inf)
    for day in np.flatnonzero(enough):
        bounds[day] = _bound(closed, int(day), inference, se=float(se[day]), mean=baseline.value, share=share)
    found: np.ndarray = (np.abs(estimate) > bounds * se) & enough
    return found


def _bound(closed: Floats, day: int, inference: Inference, *, se: float, mean: float, share: float) -> float:
    """The number of standard errors from zero at which a look ends the experiment."""
    units = float(closed[day])
    if inference.method == "sequential":
        if inference.tau is not None:
            return sprt_multiplier(se, inference.tau * abs(mean), inference.alpha)
        return asymptotic_multiplier(max(round(4 * share * (1 - share) * units), 1), inference.planned, inference.alpha)
    step = inference.planned / inference.looks
    due = min(int(units / step), inference.looks)
    taken = min(int(float(closed[day - 1]) / step), inference.looks) if day else 0
    return _group_bounds(inference)[due - 1] if due > taken else math.inf


def _group_bounds(inference: Inference) -> list[float]:
    fractions = [look / inference.looks for look in range(1, inference.looks + 1)]
    return group_boundaries(fractions, [spent_error(inference.spending, at, inference.alpha) for at in fractions])


def _is_decided(estimate: Floats, se: Floats, inference: Inference) -> np.ndarray:
    """Whether the expected loss of the better choice is below the tolerance (`bayes.normal_posterior`)."""
    from scipy.special import ndtr  # noqa: PLC0415 # slow to import, and only this method needs it

    spread = np.broadcast_to(se, estimate.shape)
    if math.isfinite(inference.prior.sd):
        weight = 1 / se**2 + 1 / inference.prior.sd**2
        estimate = (estimate / se**2 + inference.prior.mean / inference.prior.sd**2) / weight
        spread = np.broadcast_to(np.sqrt(1 / weight), estimate.shape)
    z = np.abs(estimate) / spread
    loss = spread * np.exp(-z * z / 2) / math.sqrt(2 * math.pi) - np.abs(estimate) * ndtr(-z)
    return np.asarray(np.maximum(loss, 0.0) < inference.tolerance)
