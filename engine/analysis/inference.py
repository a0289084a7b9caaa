"""From moments to an effect: Welch's test, the relative effect by Fieller, log or linear delta, CUPED by regression.

Every metric is a mean or a ratio of means; a ratio is linearized (delta method: Deng, Knoblich and Lu 2018, "Applying
the Delta Method in Metric Analytics", eq. 4), so that one variance formula serves all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from engine.analysis.estimate import Effect, NotEstimable
from engine.analysis.sequential import asymptotic_multiplier, asymptotic_p

if TYPE_CHECKING:
    from engine.analysis.metrics import Measure, Term
    from engine.analysis.moments import Floats, Moments

Method = Literal["fixed", "sequential", "bayesian"]
Relative = Literal["fieller", "log", "linear"]


@dataclass(frozen=True)
class Arm:
    """A variant's value of a metric, the variance of that value, and the units behind it."""

    n: int
    value: float
    variance: float


def _gradient(moments: Moments, term: Term, at: int) -> tuple[float, Floats]:
    """A term's value and its gradient over the metric's columns, the term's own starting at index `at`."""
    gradient = np.zeros(len(moments.mean))
    if term.den is None:
        gradient[at] = 1.0
        return float(moments.mean[at]), gradient
    denominator = float(moments.mean[at + 1])
    if denominator == 0:
        return math.nan, gradient
    value = float(moments.mean[at]) / denominator
    gradient[at], gradient[at + 1] = 1 / denominator, -value / denominator
    return value, gradient


def _linearized(moments: Moments, measure: Measure) -> tuple[Floats, Floats]:
    """Values (1 + c,) of the metric and its covariates, and their gradients (1 + c, k)."""
    values, gradients, at = [], [], 0
    for term in (measure.y, *measure.covariates):
        value, gradient = _gradient(moments, term, at)
        values.append(value)
        gradients.append(gradient)
        at += len(term.columns)
    return np.array(values), np.array(gradients)


def slopes(total: Moments, measure: Measure) -> Floats:
    """The regression coefficients (c,) of the metric on its covariates over both arms together.

    Deng, Xu, Kohavi and Walker 2013, "Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data", eq. 4; with several covariates the least-squares solution. A covariate that does not vary,
    or repeats another, gets none (minimum norm).
    """
    _, gradients = _linearized(total, measure)
    covariance = gradients @ total.covariance @ gradients.T
    return np.linalg.lstsq(covariance[1:, 1:], covariance[1:, 0], rcond=1e-12)[0].astype(np.float64)


def arms(control: Moments, treatment: Moments, measure: Measure) -> tuple[Arm, Arm, float] | NotEstimable:
    """Both arms' values and variances, adjusted for the covariates, and the share of variance these removed.

    The adjusted value is `y - theta (x - x of both arms)`; theta is taken over both arms (see `slopes`).
    """
    for side, name in ((control, "control"), (treatment, "the variant")):
        if side.n < 2:
            return NotEstimable(f"{name} has {side.n} units with a value, a variance needs two")
    if measure.kind == "proportion" and measure.y.den is None and not all(map(_is_share, (control, treatment))):
        return NotEstimable(f"{measure.name} holds values other than 0 and 1; ask for its mean")
    total = control + treatment
    theta = slopes(total, measure) if measure.covariates else np.zeros(0)
    centre, _ = _linearized(total, measure)
    weights = np.concatenate(([1.0], -theta))
    results, before, after = [], 0.0, 0.0
    for side in (control, treatment):
        values, gradients = _linearized(side, measure)
        direction = weights @ gradients
        covariance = side.covariance
        variance = float(direction @ covariance @ direction) / side.n
        value = float(values[0] - theta @ (values[1:] - centre[1:]))
        if not (math.isfinite(value) and math.isfinite(variance)):
            return NotEstimable(_why_not(side, measure))
        before += float(gradients[0] @ covariance @ gradients[0]) / side.n
        after += variance
        results.append(Arm(side.n, value, variance))
    if before == 0:
        return NotEstimable(f"{measure.name} does not vary in either variant")
    if after <= 0:
        return NotEstimable(
            f"the covariates explain all of {measure.name}; is one of them measured after the exposure?"
        )
    return results[0], results[1], 1 - after / before


def _is_share(side: Moments) -> bool:
    """Whether the first column can hold zeros and ones only: their variance is p (1 - p)."""
    p = float(side.mean[0])
    return not math.isfinite(p) or abs(float(side.comoment[0, 0]) / side.n - p * (1 - p)) < 1e-9


def _why_not(side: Moments, measure: Measure) -> str:
    if not np.all(np.isfinite(side.mean)):
        return f"{measure.name} has values that are NaN or infinite"
    return f"the denominator of {measure.name} is zero"


def welch_df(a: Arm, b: Arm) -> float:
    """Welch and Satterthwaite's degrees of freedom (Welch 1947, eq. 28)."""
    return (a.variance + b.variance) ** 2 / (a.variance**2 / (a.n - 1) + b.variance**2 / (b.n - 1))


def two_sided_t(statistic: float, df: float) -> float:
    """p-value of |t| under Student's distribution; normal for infinite `df`."""
    return float(2 * (stdtr(df, -abs(statistic)) if math.isfinite(df) else ndtr(-abs(statistic))))


def critical_t(alpha: float, df: float) -> float:
    """The two-sided critical value; normal for infinite `df`."""
    return float(stdtrit(df, 1 - alpha / 2) if math.isfinite(df) else ndtri(1 - alpha / 2))


@dataclass(frozen=True)
class Scale:
    """How many standard errors an interval is wide to each side, and the p-value of a z statistic."""

    multiplier: float
    method: Method
    df: float
    units: int
    planned: int
    alpha: float

    def p(self, z: float) -> float | None:
        """The method's p-value of an estimate `z` standard errors from zero."""
        if self.method == "fixed":
            return two_sided_t(z, self.df)
        return asymptotic_p(z, self.units, self.planned, self.alpha) if self.method == "sequential" else None


def scale(control: Arm, treatment: Arm, method: Method, alpha: float, planned: int) -> Scale:
    """The method's interval width for these two arms."""
    units = control.n + treatment.n
    if method == "sequential":
        return Scale(asymptotic_multiplier(units, planned, alpha), method, math.inf, units, planned, alpha)
    df = welch_df(control, treatment) if method == "fixed" else math.inf
    return Scale(critical_t(alpha, df), method, df, units, planned, alpha)


def absolute(control: Arm, treatment: Arm, width: Scale) -> Effect:
    """The difference, treatment less control."""
    difference = treatment.value - control.value
    se = math.sqrt(control.variance + treatment.variance)
    reach = width.multiplier * se
    return Effect(difference, difference - reach, difference + reach, se, width.p(difference / se))


def relative(control: Arm, treatment: Arm, width: Scale, how: Relative) -> Effect | NotEstimable:
    """The ratio of treatment to control less one, by `fieller` (exact for normal means), `log` or `linear` delta.

    Fieller 1954, "Some Problems in Interval Estimation", eq. 9 with independent means. Its test of no relative effect
    is the test of no difference, so both scales share a p-value. A linear delta interval around a distant ratio, or
    the absolute interval divided by control's mean, covers less than it says.
    """
    if control.value == 0:
        return NotEstimable("control's mean is zero, so no effect can be a share of it")
    a, b, va, vb, c = treatment.value, control.value, treatment.variance, control.variance, width.multiplier
    ratio = a / b
    se = math.sqrt(va + ratio**2 * vb) / abs(b)
    difference_se = math.sqrt(va + vb)
    if how == "linear":
        if se == 0:
            return NotEstimable("the variant's mean is zero without variation; a linear interval has no width")
        return Effect(ratio - 1, ratio - 1 - c * se, ratio - 1 + c * se, se, width.p((ratio - 1) / se))
    if how == "log":
        if ratio <= 0:
            return NotEstimable("the logarithm needs means of one sign; ask for fieller")
        log_se = se / ratio
        low, high = (math.exp(math.log(ratio) + side * c * log_se) - 1 for side in (-1, 1))
        return Effect(ratio - 1, low, high, se, width.p(math.log(ratio) / log_se))
    spread = b**2 - c**2 * vb
    if spread <= 0:
        return NotEstimable("control's mean is within its own error of zero, so the relative effect has no bounds")
    root = math.sqrt(max((a * b) ** 2 - spread * (a**2 - c**2 * va), 0.0))
    low, high = ((a * b + side * root) / spread - 1 for side in (-1, 1))
    return Effect(ratio - 1, low, high, se, width.p((a - b) / difference_se))
