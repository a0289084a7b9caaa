"""Estimates each arm's value and variance from moments: means, ratios by the delta method, CUPED by regression.

Every metric is a mean or a ratio of means; a ratio is linearized (delta method: Deng, Knoblich and Lu 2018, "Applying
the Delta Method in Metric Analytics", eq. 4), so that one variance formula serves all of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    from engine.analysis.design.metrics import Measure, Term
    from engine.analysis.stats.moments import Floats, Moments, Outcomes

ROUNDING = 1e-13  # relative to the summed terms; a smaller variance is rounding error
CANCELLED = 1e-9  # of the sizes of all values, above which values of the other sign reduce their sum
LEVERAGE = 3.0  # the growth of a variance in shares of the denominators, as the errors of large units are large
MANY_UNITS = 100.0
"""The units of an arm from which numbers of rows must differ much, by a coefficient of variation of 1, to matter."""
VARIATION = (
    "Values that differ between units would change this; check that the metric's events arrive with their values."
)


class Arm(msgspec.Struct, frozen=True):
    """A variant's value of a metric, the variance of that value, and the units behind it.

    `outcomes` is the number of units whose value is not zero, None where it is not known. `size` is the mean size of
    the values, without their signs; None where no value is negative, so that it is the mean itself. `effective` is the
    number of units with equally many rows that tell as much, where a few units have most of the rows; else None.
    """

    n: int
    value: float
    variance: float
    outcomes: int | None = None
    size: float | None = None
    effective: float | None = None

    @property
    def freedom(self) -> float:
        """The degrees of freedom of the variance."""
        return self.n - 1 if self.effective is None else max(min(self.n, self.effective) - 1, 1.0)

    @property
    def mean_size(self) -> float:
        """The mean size of the values."""
        return abs(self.value) if self.size is None else self.size


def _gradient(moments: Moments, term: Term, at: int) -> tuple[float, Floats]:
    """A term's value and its gradient over the metric's columns, the term's own starting at index `at`."""
    gradient = np.zeros(len(moments.mean))
    if term.den is None:
        gradient[at] = 1.0
        return float(moments.mean[at]) + term.offset, gradient
    denominator = float(moments.mean[at + 1])
    if denominator == 0:
        return math.nan, gradient
    value = float(moments.mean[at]) / denominator
    gradient[at], gradient[at + 1] = 1 / denominator, -value / denominator
    whole = value + term.offset
    return (0.0 if abs(whole) <= ROUNDING * abs(term.offset) else whole), gradient


def _linearized(moments: Moments, measure: Measure) -> tuple[Floats, Floats]:
    """The metric's and covariates' values (1 + c,), and their gradients (1 + c, k)."""
    values, gradients, at = [], [], 0
    for term in (measure.y, *measure.covariates):
        value, gradient = _gradient(moments, term, at)
        values.append(value)
        gradients.append(gradient)
        at += len(term.columns)
    return np.array(values), np.array(gradients)


def regression_slopes(total: Moments, measure: Measure) -> Floats:
    """The regression coefficients (c,) of the metric on its covariates, over both arms or one.

    Deng, Xu, Kohavi and Walker 2013, "Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data", eq. 4; with several covariates the least-squares solution. A covariate that does not vary,
    or repeats another, gets none (minimum norm).
    """
    _, gradients = _linearized(total, measure)
    covariance = gradients @ total.covariance @ gradients.T
    return np.linalg.lstsq(covariance[1:, 1:], covariance[1:, 0], rcond=1e-12)[0].astype(np.float64)


def _variance(moments: Moments, direction: Floats) -> float:
    """The variance of a sum of column means; zero if it is only rounding error."""
    covariance = moments.covariance
    variance = float(direction @ covariance @ direction)
    rounded = ROUNDING * float(abs(direction) @ abs(covariance) @ abs(direction))
    return 0.0 if variance <= rounded else variance / moments.n


def estimate_arms(control: Moments, treatment: Moments, measure: Measure) -> tuple[Arm, Arm, float] | NotEstimable:
    """Both arms' values and variances, covariate-adjusted, and the share of variance removed.

    The adjusted value is `y - theta (x - x of both arms)`; theta is taken over both arms (`regression_slopes`) or with
    `adjust: lin` in each arm alone, which never loses precision, also where arms are uneven and effects differ (Lin
    2013, "Agnostic notes on regression adjustments to experimental data", eq. 3).
    """
    for side, name in ((control, "control"), (treatment, "the variant")):
        if side.n < 2:
            return NotEstimable(f"{name} has {side.n} unit{'s'[side.n == 1 :]} with a value, a variance needs two")
        if not np.all(np.isfinite(side.comoment)):
            return _why_not(side, measure)
        if measure.adjust == "lin" and measure.covariates and side.n < len(measure.covariates) + 2:
            return NotEstimable(
                f"{name} has {side.n} units with a value, too few for slopes of its own on "
                f"{len(measure.covariates)} covariates; cuped has one slope for all",
                remedy="More units or `adjust: cuped` would change this.",
            )
    if not measure.stratified and not all(holds_zeros_and_ones(side, measure) for side in (control, treatment)):
        return not_a_share(measure)
    total = control + treatment
    shared = regression_slopes(total, measure) if measure.covariates else np.zeros(0)
    centre, _ = _linearized(total, measure)
    results, before, after, terms = [], 0.0, 0.0, 0.0
    for side in (control, treatment):
        theta = regression_slopes(side, measure) if measure.covariates and measure.adjust == "lin" else shared
        weights = np.concatenate(([1.0], -theta))
        values, gradients = _linearized(side, measure)
        direction = weights @ gradients
        covariance = side.covariance
        variance = _variance(side, direction)
        value = float(values[0] - theta @ (values[1:] - centre[1:]))
        if not (math.isfinite(value) and math.isfinite(variance)):
            return _why_not(side, measure)
        before += float(gradients[0] @ covariance @ gradients[0]) / side.n
        terms += float(abs(gradients[0]) @ abs(covariance) @ abs(gradients[0])) / side.n
        after += variance
        results.append(Arm(side.n, value, variance, effective=None if side.freedom is None else side.freedom + 1))
    if before <= ROUNDING * terms:
        little = ", or by no more than its sums are rounded" if before > 0 else ""
        return NotEstimable(f"{measure.name} does not vary in either variant{little}", remedy=VARIATION)
    if after <= ROUNDING * before:
        return NotEstimable(
            f"the covariates explain all of {measure.name}; is one of them measured after the exposure?", fault=True
        )
    return results[0], results[1], 1 - after / before


def add_outcomes(arm: Arm, moments: Moments, measure: Measure, outcomes: Outcomes | None) -> Arm:
    """The arm with its units' outcomes; `moments` are the plain ones."""
    if outcomes is None or moments.n == 0:
        return arm
    per_unit = float(moments.mean[1]) if measure.y.den is not None else 1.0
    total = (float(moments.mean[0]) + measure.y.offset * per_unit) * moments.n
    cancelled = outcomes.size - abs(total) > CANCELLED * outcomes.size
    size = outcomes.size / moments.n / per_unit if cancelled and per_unit > 0 else None
    return msgspec.structs.replace(arm, outcomes=outcomes.units, size=size)


def correct_unequal_units(arm: Arm, moments: Moments, measure: Measure) -> Arm:
    """A ratio's arm with a corrected error if units' denominators are very unequal, as for rows.

    A unit with a large share s of the denominators hides its own error, because the ratio follows it: leaving it out
    changes the ratio by 1 / (1 - s) times as much. Moments do not tell the s of each unit, but their sum of squares,
    one over the effective units (Kish 1965). The variance grows by `LEVERAGE` times that, and has the degrees of
    freedom of effective units. Without it 100 against 900 units with Pareto (1.5) numbers of rows cover 90 %.
    """
    if measure.y.den is None or moments.n < 2:
        return arm
    mean, variance = float(moments.mean[1]), float(moments.comoment[1, 1]) / moments.n
    unequal = variance / mean**2 if mean > 0 else 0.0
    # Of few units smaller differences matter, to the degrees of freedom alone.
    few, weight = (min(max(unequal - least, 0.0), 1.0) for least in (min(moments.n / MANY_UNITS, 1.0), 1.0))
    if few == 0 or not math.isfinite(unequal):
        return arm
    effective = moments.n / (1 + unequal)
    freedom = moments.n + few * (effective - moments.n)
    freedom = freedom if arm.effective is None else min(freedom, arm.effective)
    return msgspec.structs.replace(arm, variance=arm.variance * (1 + weight * LEVERAGE / effective), effective=freedom)


def estimate_arm(moments: Moments, measure: Measure) -> Arm:
    """One arm's value and variance, without covariates; needs two units."""
    value, gradient = _gradient(moments, measure.y, 0)
    effective = None if moments.freedom is None else moments.freedom + 1
    return Arm(moments.n, value, _variance(moments, gradient), effective=effective)


def residual_sd(moments: Moments, measure: Measure) -> tuple[float, float]:
    """The metric's value and the standard deviation of its linearized value per unit, covariates removed."""
    values, gradients = _linearized(moments, measure)
    theta = regression_slopes(moments, measure) if measure.covariates else np.zeros(0)
    direction = np.concatenate(([1.0], -theta)) @ gradients
    return float(values[0]), math.sqrt(float(direction @ moments.covariance @ direction))


def holds_zeros_and_ones(side: Moments, measure: Measure) -> bool:
    """Whether a proportion's column can be all zeros and ones: its variance is p (1 - p)."""
    p = float(side.mean[0])
    if not measure.rules.is_share or measure.y.den is not None or side.n == 0 or not math.isfinite(p):
        return True
    return abs(float(side.comoment[0, 0]) / side.n - p * (1 - p)) < 1e-9


def not_a_share(measure: Measure) -> NotEstimable:
    """The refusal of a proportion whose column has values other than 0 and 1."""
    return NotEstimable(f"{measure.name} has values other than 0 and 1; ask for its mean", fault=True)


def _why_not(side: Moments, measure: Measure) -> NotEstimable:
    """The reason why a side with NaN or infinite moments has no estimate."""
    if not np.all(np.isfinite(side.mean)):
        own = len(measure.y.columns)
        if not np.all(np.isfinite(side.mean[:own])):
            return NotEstimable(f"{measure.name} has values that are NaN or infinite", fault=True)
        bad = sorted({measure.columns[at] for at in np.flatnonzero(~np.isfinite(side.mean)) if at >= own})
        names = ", ".join(dict.fromkeys(name.partition("__")[0] for name in bad))
        return NotEstimable(
            f"the covariate {names} of {measure.name} has values that are NaN or infinite",
            fault=True,
            remedy="Missing values that are null would be imputed; or leave the covariate out.",
        )
    if not np.all(np.isfinite(side.comoment)):
        return NotEstimable(f"{measure.name} has values too large to be squared; divide the column first", fault=True)
    return NotEstimable(
        f"the denominator of {measure.name} is zero", remedy="An event of the denominator would change this."
    )
