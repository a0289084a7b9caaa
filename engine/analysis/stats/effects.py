"""Effects of two arms: Welch's test or intervals for several looks; relative by Fieller, log or linear delta."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.stats.distributions import normal_cdf, normal_quantile
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.sequential import (
    group_multiplier,
    group_p,
    is_planned_look,
    mixture_multiplier,
    mixture_p,
    tuned_rho,
    unplanned_multiplier,
    unplanned_p,
)
from engine.analysis.stats.small_arms import information

if TYPE_CHECKING:
    from engine.analysis.design.methods import Inference, Relative
    from engine.analysis.stats.inference import Arm


def welch_df(a: Arm, b: Arm) -> float:
    """Welch and Satterthwaite's degrees of freedom (Welch 1947, eq. 28)."""
    return (a.variance + b.variance) ** 2 / (a.variance**2 / a.freedom + b.variance**2 / b.freedom)


def two_sided_t_p(statistic: float, df: float) -> float:
    """p-value of |t| under Student's distribution; normal for infinite `df`."""
    if not math.isfinite(df):
        return 2 * normal_cdf(-abs(statistic))
    from scipy.special import stdtr  # noqa: PLC0415 # see distributions

    return float(2 * stdtr(df, -abs(statistic)))


def critical_t(alpha: float, df: float) -> float:
    """The two-sided critical value; normal for infinite `df`."""
    if not math.isfinite(df):
        return normal_quantile(1 - alpha / 2)
    from scipy.special import stdtrit  # noqa: PLC0415 # see distributions

    return float(stdtrit(df, 1 - alpha / 2))


class IntervalScale(msgspec.Struct, frozen=True):
    """The half width of an interval in standard errors, and the p-value of a z statistic.

    `stretch` is the part of the width that is for few outcomes (`small_arms.widening`); the p-value agrees with it.
    """

    multiplier: float
    df: float
    units: int
    inference: Inference
    grown: float = math.nan  # a sequential mixture's variance over the estimate's own
    stretch: float = 1.0

    def p(self, z: float) -> float | None:
        """The method's p-value of an estimate `z` standard errors from zero; None if it has none."""
        if self.inference.method == "fixed":
            return two_sided_t_p(z / self.stretch, self.df)
        if self.inference.method == "sequential":
            return mixture_p(z, self.grown)
        if self.inference.method == "group_sequential":
            plan = (self.inference.planned, self.inference.looks, self.inference.spending)
            find = unplanned_p if _is_unplanned(self.units, self.inference) else group_p
            return find(z, self.units, *plan)
        return None


def interval_scale(
    control: Arm, treatment: Arm, inference: Inference, *, stretch: float = 1.0
) -> IntervalScale | NotEstimable:
    """The method's interval width for these two arms; `stretch` widens that of method fixed."""
    units = control.n + treatment.n
    alpha, planned = inference.alpha, inference.planned
    if inference.method == "sequential":
        grown = information(control.n, treatment.n) * tuned_rho(planned, alpha) ** 2
        if inference.tau is not None:
            grown = (inference.tau * control.value) ** 2 / (control.variance + treatment.variance)
        if not grown > 0:
            return NotEstimable(
                "control's mean is zero, so tau, which is relative to it, is not defined",
                remedy="A mean other than zero, or no tau, would change this.",
            )
        return IntervalScale(mixture_multiplier(grown, alpha), math.inf, units, inference, grown)
    if inference.method == "group_sequential":
        bound = group_bound(units, inference)
        if bound is None:
            return NotEstimable(
                f"the first planned look is at {planned / inference.looks:.0f} units; {units} were seen"
            )
        return IntervalScale(bound, math.inf, units, inference)
    if inference.method != "fixed":
        return IntervalScale(critical_t(alpha, math.inf), math.inf, units, inference)
    df = welch_df(control, treatment)
    return IntervalScale(stretch * critical_t(alpha, df), df, units, inference, stretch=stretch)


def group_bound(units: int, inference: Inference) -> float | None:
    """The half width of a group-sequential interval in standard errors; None before the first look."""
    find = unplanned_multiplier if _is_unplanned(units, inference) else group_multiplier
    return find(units, inference.planned, inference.looks, inference.spending, inference.alpha)


def _is_unplanned(units: int, inference: Inference) -> bool:
    return inference.between_looks and not is_planned_look(units, inference.planned, inference.looks)


def absolute_effect(control: Arm, treatment: Arm, width: IntervalScale) -> Effect:
    """The difference, treatment less control."""
    difference = treatment.value - control.value
    se = math.sqrt(control.variance + treatment.variance)
    reach = width.multiplier * se
    return Effect(difference, difference - reach, difference + reach, se, width.p(difference / se))


def relative_effect(control: Arm, treatment: Arm, width: IntervalScale, how: Relative) -> Effect | NotEstimable:
    """The difference over control's size, by `fieller` (exact for normal means), `log` or `linear` delta.

    Where control's mean is above zero that is the ratio of treatment to control less one; below zero an effect keeps
    the sign of the difference. Every end is a sum of differences, so that a mean of 1e8 costs no digits.
    Fieller 1954, "Some Problems in Interval Estimation", eq. 9 with independent means. Its test of no relative effect
    is the test of no difference, so both scales share a p-value. A linear delta interval around a distant ratio, or
    the absolute interval divided by control's mean, covers less than it says.
    """
    if control.value == 0:
        return NotEstimable("control's mean is zero, so the relative effect is not defined")
    a, b, va, vb, c = treatment.value, control.value, treatment.variance, control.variance, width.multiplier
    sign = math.copysign(1.0, b)
    estimate, se = _share(control, treatment)
    if how == "linear":
        if se == 0:
            return NotEstimable("every value of the variant is zero, so a linear interval has no width")
        return Effect(estimate, estimate - c * se, estimate + c * se, se, width.p(estimate / se))
    if how == "log":
        if a / b <= 0:
            return NotEstimable("the logarithm needs means of one sign; ask for fieller")
        middle, log_se = math.log1p((a - b) / b), se * b / a
        low, high = sorted(sign * math.expm1(middle + side * c * log_se) for side in (-1, 1))
        return Effect(estimate, low, high, se, width.p(middle / log_se))
    spread = b**2 - c**2 * vb
    if spread <= 0:
        return NotEstimable("control's mean is within its own error of zero, so the relative effect has no bounds")
    if _is_clear_by_luck(control, treatment, c):
        return NotEstimable(
            "control's mean is clear of zero by its own error, but the mean of both variants is not: a relative effect "
            "that has bounds by luck alone is wrong more often than it says",
            remedy="More units in control would change this.",
        )
    middle, reach = b * (a - b) + c**2 * vb, c * math.sqrt(va * spread + vb * a**2)
    low, high = sorted(sign * (middle + side * reach) / spread for side in (-1, 1))
    return Effect(estimate, low, high, se, width.p((a - b) / math.sqrt(va + vb)))


def _is_clear_by_luck(control: Arm, treatment: Arm, multiplier: float) -> bool:
    """Whether control's mean is just clear of zero, and would not be if it were that of both variants.

    Where 40 of 400 customers of control answer and 360 of 3,600 of the variant, an eighth of experiments have bounds,
    those in which control is high by chance: they covered 76 %.
    """
    reach = multiplier * math.sqrt(control.variance)
    both = (control.n * control.value + treatment.n * treatment.value) / (control.n + treatment.n)
    return abs(control.value) < 2 * reach and abs(both) <= reach


def linear_delta_effect(control: Arm, treatment: Arm) -> tuple[float, float] | NotEstimable:
    """The relative effect and its linear delta standard error, the likelihood that a normal prior is combined with."""
    if control.value == 0:
        return NotEstimable("control's mean is zero, so the relative effect is not defined")
    estimate, se = _share(control, treatment)
    if se == 0:
        return NotEstimable("every value of the variant is zero, so the relative effect has no standard error")
    return estimate, se


def _share(control: Arm, treatment: Arm) -> tuple[float, float]:
    """The difference over control's size and its linear delta standard error."""
    size, ratio = abs(control.value), treatment.value / control.value
    error = math.sqrt(treatment.variance + ratio**2 * control.variance)
    return (treatment.value - control.value) / size, error / size
