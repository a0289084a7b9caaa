"""Inference for uneven arms, or arms with few outcomes.

An interval is as good as the estimate of each arm's variance. Where arms are uneven and outcomes skewed (few units buy,
and amounts have a long tail) the small arm's variance comes from a handful of outcomes: it is too small exactly when
the mean is, and a look at such a moment is a false alarm. With daily looks over 30 days, 10 against 90 units a day and
log-normal revenue, 14 % of A/A experiments had one; at a single look 88 % of 95 % intervals covered.

- The information of two arms is that of their harmonic mean, 4 a b / (a + b) units, and a + b where they are even.
- Arms lend each other their variance (`Loan`): under an effect that is tested, what both arms saw says what each
  one's mean would be, and the variance follows from that mean. It is the principle of a score test (Rao 1948), with
  the variance function of quasi-likelihood (Wedderburn 1974, eq. 1): p (1 - p) of a share, a constant coefficient of
  variation of other outcomes, a constant for values of either sign. Its weight is 0 where arms are even and outcomes
  many: there the errors of two skewed means cancel, and each arm keeps its own variance.
- An effect moves the number of outcomes (variance in proportion to the mean), their size (in its square), or both.
  How much each did is seen in the units with an outcome, whose number has no long tail (`growth_exponents`).
- Below a least number of outcomes there is no estimate. Outcomes are counted as Kish's effective number,
  (sum of y)^2 / sum of y^2 (Kish 1965, "Survey Sampling", 11.7): ten equal orders are ten, one large one is one. They
  are counted at the rate of both arms, so that an arm in which nothing happens where much should is found out. Where
  values have either sign, their sizes are counted: a refund is an outcome, and does not cancel one.

The figures are in `docs/explanation/calibration.md`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from engine.analysis.stats.estimate import NotEstimable
from engine.analysis.stats.inference import Arm

if TYPE_CHECKING:
    from collections.abc import Mapping

Shape = Literal["share", "scale", "level"]
"""The relation of the variance of one unit to the mean: p (1 - p), the square of the mean, or none."""

TOO_FEW = "too few outcomes"
LEAST_OUTCOMES = 20.0
"""Effective outcomes of an arm below which an interval of a non-negative metric has no coverage to speak of."""
LEAST_UNSKEWED = 100.0
"""Outcomes net of skewness with which an interval of a single look does without that number."""
MOST_WIDER = 0.12
"""By how much an interval of a single look is wider at the least number of outcomes; at twice that it is not."""
TAIL = (0.9, 0.1)
"""The effective outcomes for each unit with an outcome from which a tail is short, and down to which it is long."""
LEAST_COUNT = 10
"""Expected successes, and failures, of an arm below which an anytime interval of a share has none either."""
LEAST_AT_ONE_LOOK = 1
"""The same for a single look, at which score tests decide; with less than one their interval covers 93 %."""
EVEN = 0.02
"""The share of information lost by uneven arms, 1 - 4 a b / (a + b)^2, up to which they count as even (43 : 57)."""
UNEVEN = 0.16
"""The share from which they count as uneven (30 : 70); between the two the loan grows in proportion."""
FEW, ENOUGH = (50.0, 150.0), (100.0, 400.0)
"""Up to how many outcomes, net of skewness, an arm borrows, and from how many it does not: in even, in uneven arms."""
CONFIDENCE = 1.0
"""The standard errors by which the exponent of a variance may be off, to either side."""
ALIKE = (0.8, 0.5)
"""The effective outcomes for each unit with an outcome from which sizes are so alike that the exponent is known, and
down to which it may be off by all of that: numbers of orders have 0.8 and more, log-normal amounts 0.4 and less."""
LEAST_GAIN = 0.5
"""The least sum of the values over the sum of their sizes with which a variance follows the mean: few are negative."""
MOST_GROWTH = 4.0
"""Beyond this multiple of the mean of both arms a variance grows no more, so that every interval has ends."""


def information(a: int, b: int) -> int:
    """The units of two even arms with the same information as arms of `a` and `b` units."""
    return round(4 * a * b / (a + b)) if a + b else 0


def unevenness(a: int, b: int) -> float:
    """The unevenness of arms of `a` and `b` units: 0 up to 43 : 57, 1 from 30 : 70."""
    lost = 1 - 4 * a * b / (a + b) ** 2
    return min(max((lost - EVEN) / (UNEVEN - EVEN), 0.0), 1.0)


def pooled_squared_cv(arms: tuple[Arm, Arm]) -> float:
    """The squared coefficient of variation within arms, weighted by outcomes; NaN without outcomes."""
    weights = [abs(arm.value) * arm.n for arm in arms]
    if not sum(weights):
        return math.nan
    parts = (w * arm.variance * arm.n / arm.value**2 for w, arm in zip(weights, arms, strict=True) if w)
    return sum(parts) / sum(weights)


def size_squared_cv(arms: tuple[Arm, Arm]) -> float:
    """The pooled squared coefficient of variation of the values' sizes."""
    if all(arm.size is None for arm in arms):
        return pooled_squared_cv(arms)
    weights = [arm.mean_size * arm.n for arm in arms]
    if not sum(weights):
        return math.nan
    parts = (
        w * ((arm.variance * arm.n + arm.value**2) / arm.mean_size**2 - 1)
        for w, arm in zip(weights, arms, strict=True)
        if w
    )
    return max(sum(parts) / sum(weights), 0.0)


def effective_outcomes(n: int, squared_cv: float) -> float:
    """Kish's effective number of `n` units' outcomes, by the variation of their sizes."""
    return n / (1 + squared_cv)


def unskewed_outcomes(n: int, squared_cv: float) -> float:
    """One over the least squared skewness of the mean of `n` non-negative values with this coefficient of variation.

    A value that is 0 or one other number has the least skewness, cv - 1 / cv; up to a cv of 1 none is certain.
    """
    if not squared_cv > 1:
        return math.inf
    return n / (math.sqrt(squared_cv) - 1 / math.sqrt(squared_cv)) ** 2


def too_few_outcomes(
    name: str, arms: Mapping[str, Arm], *, is_share: bool, is_repeated: bool = True
) -> NotEstimable | None:
    """The reason why a metric of outcomes has no interval yet; None if it has one.

    Args:
        name: the metric.
        arms: control and the variant, with the variances of their values.
        is_share: whether it is a share of units.
        is_repeated: whether the interval must hold at every look. At a single one the score test of a share needs one
            outcome, and values that are hardly skewed, as up to a coefficient of variation of 1, need none.
    """
    if len(arms) != 2:
        return None
    (one, other), when = arms.values(), " that holds at every look" if is_repeated else ""
    n, units = min(one.n, other.n), one.n + other.n
    if is_share:
        rate = (one.value * one.n + other.value * other.n) / units if units else 0.0
        count, least = n * min(rate, 1 - rate), LEAST_COUNT if is_repeated else LEAST_AT_ONE_LOOK
        what = f"units {'with' if rate < 0.5 else 'without'}"
    else:
        squared_cv = size_squared_cv((one, other))
        is_signed = one.size is not None or other.size is not None
        if is_signed and squared_cv <= 1:
            return None  # as of normal values: no arm rests on a handful of units
        count = effective_outcomes(n, squared_cv) if math.isfinite(squared_cv) else 0.0
        if not is_repeated and unskewed_outcomes(n, squared_cv) >= LEAST_UNSKEWED and count:
            return None
        least, what = round(LEAST_OUTCOMES), "outcomes of"
    if count >= least:
        return None
    smaller = min(arms, key=lambda variant: arms[variant].n)
    large = "" if is_share else "; a few large ones count as one"
    return NotEstimable(
        f"{TOO_FEW}: {n} units in {smaller} make about {math.floor(count)} {what} {name}{large}, and an "
        f"interval{when} needs {least} in each variant",
        remedy=f"About {_times(least, count)} the units would change this, or a more even split."
        if count
        else "More units would change this.",
    )


def widening(arms: tuple[Arm, Arm]) -> float:
    """The factor that widens a single look's interval for long tails with barely enough outcomes.

    Whether there are enough is seen in the same values: of samples near the limit those whose variance came out small
    have an interval. Without the factor they cover down to 92.7 % where the effect doubles log-normal amounts (sigma
    1.5). Orders of like sizes, as many as they count for, do not need it.
    """
    n, squared_cv = min(arm.n for arm in arms), size_squared_cv(arms)
    seen = sum(arm.outcomes or 0 for arm in arms) / sum(arm.n for arm in arms) * n
    if not seen or not math.isfinite(squared_cv) or unskewed_outcomes(n, squared_cv) >= LEAST_UNSKEWED:
        return 1.0
    outcomes, (short, long) = effective_outcomes(n, squared_cv), TAIL
    few = min(max(2 - outcomes / LEAST_OUTCOMES, 0.0), 1.0)
    return 1 + MOST_WIDER * few * min(max((short - outcomes / seen) / (short - long), 0.0), 1.0)


def claims_nothing(reason: NotEstimable) -> bool:
    """Whether too few outcomes prevent an estimate, which more units change."""
    return reason.not_estimable.startswith(TOO_FEW)


def _times(least: float, count: float) -> str:
    return f"{max(least / count, 1.1):.1f} times"


class Loan(msgspec.Struct, frozen=True, kw_only=True):
    """The variance that a comparison's arms lend each other, as a function of an arm's mean.

    `weight` is the share of an arm's variance that is borrowed, `unit` the variance of one unit at `mean`, the mean of
    both arms. An anytime interval borrows only where that makes it wider, and so does one of values of either sign,
    since what an effect does to their variance is not known. `growth` are the least and the largest exponent by which
    the variance of a scale follows the mean.
    """

    weight: float
    shape: Shape
    unit: float
    mean: float
    is_repeated: bool
    growth: tuple[float, float] = (1.0, 2.0)

    def variance(self, arm: Arm, value: float) -> float:
        """The variance of the arm's value if its expectation were `value`."""
        lent = self._unit_variance(value) / arm.n
        return arm.variance + (self.weight if arm.variance > 0 else 1.0) * (lent - arm.variance)

    def spread(self, control: Arm, treatment: Arm, means: tuple[float, float], ratio: float = 1.0) -> float:
        """The variance of the treatment's value less `ratio` times control's, if their expectations were `means`."""
        ours, theirs = (self.variance(arm, mean) for arm, mean in zip((control, treatment), means, strict=True))
        borrowed = theirs + ratio**2 * ours
        if not (self.is_repeated or self.shape == "level"):
            return borrowed
        return max(borrowed, treatment.variance + ratio**2 * control.variance)

    def _unit_variance(self, value: float) -> float:
        """The variance of one unit with mean `value`."""
        if self.shape == "share":
            share = min(max(value, 0.0), 1.0)
            return share * (1 - share)
        if self.shape == "level":
            return self.unit
        ratio = min(max(value / self.mean, 0.0), MOST_GROWTH)
        return self.unit * max(math.pow(ratio, exponent) for exponent in self.growth)


def growth_exponents(control: Arm, treatment: Arm) -> tuple[float, float]:
    """The least and largest exponent by which a unit's variance follows its mean: 1 to 2.

    It is 2 less the share that the number of outcomes has in the growth of the mean from arm to arm, on the scale of
    logarithms. That share is known up to an error, so that few outcomes leave both ends open. Where sizes are alike,
    as of numbers of orders, the error is not one: their variance follows their number.
    """
    known = [arm.outcomes for arm in (control, treatment)]
    if not all(known) or not min(control.value, treatment.value) > 0 or control.value == treatment.value:
        return 1.0, 2.0
    ours, theirs = (of or 0 for of in known)
    grown = math.log(treatment.value / control.value)
    share = math.log(theirs / treatment.n / (ours / control.n)) / grown
    error = CONFIDENCE * _unlikeness((control, treatment)) * math.sqrt(1 / ours + 1 / theirs) / abs(grown)
    least, most = (min(max(2 - share + side * error, 1.0), 2.0) for side in (-1, 1))
    return least, most


def _unlikeness(arms: tuple[Arm, Arm]) -> float:
    """The inequality of outcome sizes: 0 if they are equal, 1 if few have most of the sum."""
    squared_cv = size_squared_cv(arms)
    seen = sum(arm.outcomes or 0 for arm in arms) / sum(arm.n for arm in arms)
    alike, unlike = ALIKE
    return min(max((alike - 1 / (1 + squared_cv) / seen) / (alike - unlike), 0.0), 1.0)


def arrange_loan(control: Arm, treatment: Arm, shape: Shape, *, is_repeated: bool) -> Loan | None:
    """The loan between two arms; None if both keep their own variances."""
    arms = (control, treatment)
    units = control.n + treatment.n
    mean = sum(arm.n * arm.value for arm in arms) / units
    squared_cv = mean and pooled_squared_cv(arms)
    gain = sum(arm.n * arm.value for arm in arms) - LEAST_GAIN * sum(arm.n * arm.mean_size for arm in arms)
    if shape == "scale" and not (mean > 0 and min(arm.value for arm in arms) >= 0 and squared_cv > 0 and gain >= 0):
        shape = "level"
    uneven = unevenness(control.n, treatment.n)
    outcomes = unskewed_outcomes(min(arm.n for arm in arms), squared_cv if shape == "share" else size_squared_cv(arms))
    if not is_repeated and any(arm.size is not None for arm in arms):
        # The skewness of a mean falls with the share of the sizes that the other sign does not cancel.
        outcomes /= max(abs(mean) * units / sum(arm.n * arm.mean_size for arm in arms), 1e-9) ** 2
    low, high = (at[0] + uneven * (at[1] - at[0]) for at in (FEW, ENOUGH))
    few = min(max((high - outcomes) / (high - low), 0.0), 1.0)
    weight = max(uneven, few) if is_repeated else few
    if weight == 0 and min(arm.variance for arm in arms) > 0:
        return None
    freedom = units - 2
    pooled = sum((arm.n - 1) * arm.variance * arm.n for arm in arms) / freedom if freedom > 0 else 0.0
    unit = squared_cv * mean**2 if shape == "scale" else pooled
    growth = (1.0, 2.0) if is_repeated else growth_exponents(control, treatment)
    return Loan(weight=weight, shape=shape, unit=unit, mean=mean, is_repeated=is_repeated, growth=growth)
