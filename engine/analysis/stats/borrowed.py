"""Effects whose variance depends on the tested effect: an interval is the set of effects that the test accepts.

A test of an effect takes the means that both arms together would have under it, and the variances at these means
(`small_arms.Loan`). The interval holds the effects at which the statistic stays within the method's multiplier, so it
and the p-value agree, and where a variance rises with its mean the interval reaches further up than down.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.stats.effects import absolute_effect, critical_t, relative_effect
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import Arm

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.analysis.design.methods import Relative
    from engine.analysis.stats.effects import IntervalScale
    from engine.analysis.stats.small_arms import Loan

DIGITS = 1e-13
"""The relative error of an interval's ends."""
LARGEST_RATIO = 1e4
"""A ratio of means beyond which an interval counts as without bounds."""


def plug_in_arms(control: Arm, treatment: Arm, loan: Loan) -> tuple[Arm, Arm]:
    """The arms with variances at their own means, or at the pooled mean if one is zero or constant."""
    ours, theirs = (
        msgspec.structs.replace(arm, variance=max(arm.variance, at) if loan.is_repeated else at)
        for arm in (control, treatment)
        for at in [loan.variance(arm, arm.value if arm.variance > 0 and arm.value else loan.mean)]
    )
    return ours, theirs


def borrowed_effects(
    control: Arm, treatment: Arm, width: IntervalScale, loan: Loan, how: Relative
) -> tuple[Effect, Effect | NotEstimable]:
    """The absolute and relative effect of arms of which at least one borrows its variance."""
    ours, theirs = plug_in_arms(control, treatment, loan)
    if math.isfinite(width.df):
        df = (1 - loan.weight) * width.df + loan.weight * (control.n + treatment.n - 2)
        reach = width.stretch * critical_t(width.inference.alpha, df)
        width = msgspec.structs.replace(width, df=df, multiplier=reach)
    plain = absolute_effect(ours, theirs, width)
    units = control.n + treatment.n

    def of_difference(difference: float) -> float:
        mean = (control.n * control.value + treatment.n * (treatment.value - difference)) / units
        spread = loan.spread(control, treatment, (mean, mean + difference))
        return _statistic(plain.estimate - difference, spread)

    def of_ratio(ratio: float) -> float:
        mean = (control.n * control.value + treatment.n * treatment.value / ratio) / units
        spread = loan.spread(control, treatment, (mean, ratio * mean), ratio)
        return _statistic(treatment.value - ratio * control.value, spread)

    step = width.multiplier * plain.se
    low, high = (_crossing(of_difference, plain.estimate, side * step, width.multiplier) for side in (-1, 1))
    p = width.p(of_difference(0.0))
    absolute = Effect(plain.estimate, low, high, plain.se, p)
    relative = relative_effect(ours, theirs, width, how)
    if how != "fieller" or isinstance(relative, NotEstimable) or control.value <= 0:
        return absolute, relative
    if treatment.value <= 0:
        return absolute, replace_ends(relative, relative.low, max(relative.high, 0.0) if low <= 0 <= high else None, p)
    ratio = treatment.value / control.value
    ends = [_ratio_end(of_ratio, ratio, side, width.multiplier) for side in (-1, 1)]
    if ends[1] is None:
        return absolute, NotEstimable(
            "control's mean is within its own error of zero, so the relative effect has no bounds"
        )
    bottom = relative.low if ends[0] is None else ends[0] - 1
    return absolute, replace_ends(relative, min(bottom, relative.estimate), ends[1] - 1, p)


def replace_ends(effect: Effect, low: float, high: float | None, p: float | None) -> Effect:
    """The effect with other interval ends and p-value; None keeps the upper end."""
    return Effect(effect.estimate, low, effect.high if high is None else high, effect.se, p)


def _statistic(distance: float, variance: float) -> float:
    if variance > 0:
        return distance / math.sqrt(variance)
    return math.copysign(math.inf, distance) if distance else 0.0


def _crossing(statistic: Callable[[float], float], estimate: float, step: float, bound: float) -> float:
    """The value beyond `estimate`, in the direction of `step`, at which the statistic reaches the bound."""
    inside, outside = estimate, estimate + step
    for _ in range(60):
        if abs(statistic(outside)) > bound:
            break
        inside, outside = outside, outside + (outside - estimate)
    return _bisect(statistic, inside, outside, bound)


def _bisect(statistic: Callable[[float], float], inside: float, outside: float, bound: float) -> float:
    """The crossing between a value inside and one outside, by false position with the Illinois rule."""
    low, high, last = abs(statistic(inside)) - bound, abs(statistic(outside)) - bound, 0
    for step in range(120):
        if abs(outside - inside) <= DIGITS * (abs(inside) + abs(outside)):
            break
        is_straight = step % 4 < 3 and math.isfinite(high) and high > low
        at = (inside * high - outside * low) / (high - low) if is_straight else (inside + outside) / 2
        beyond = abs(statistic(at)) - bound
        if abs(beyond) <= DIGITS * bound:
            return at
        if beyond > 0:
            outside, high, low, last = at, beyond, low / 2 if last > 0 else low, 1
        else:
            inside, low, high, last = at, beyond, high / 2 if last < 0 else high, -1
    return outside


def _ratio_end(statistic: Callable[[float], float], ratio: float, side: int, bound: float) -> float | None:
    """The end of a ratio's interval above (`side` 1) or below the ratio; None if it is unbounded."""
    inside, factor = ratio, 2.0**side
    outside = ratio * factor
    while abs(statistic(outside)) <= bound:
        inside, outside = outside, outside * factor
        if not 1 / LARGEST_RATIO < outside / ratio < LARGEST_RATIO:
            return None
    return _bisect(statistic, inside, outside, bound)
