"""Sample size, least detectable effect and power of an experiment.

Normal theory on the difference of means, each with the variance of its own arm (unpooled): for mean 0.10 -> 0.11 it
gives 14,749 per arm where an arcsine or control's variance alone give 14,744 or 14,128. A ratio or a quantile comes in
with the standard deviation of its linearized value per unit.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from engine.analysis.design.methods import Inference, Method
from engine.analysis.stats.distributions import normal_cdf, normal_quantile
from engine.analysis.stats.quadrature import gauss_legendre
from engine.analysis.stats.sequential import asymptotic_multiplier, group_boundaries, spent_error
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS, MetricKind, MetricKindName

FEWEST = 4  # units, of which a variance needs two on each side
MOST = 10**13  # units; the search for a sample size ends here
_BASELINE_KINDS: dict[str, MetricKind] = {kind.name: kind for kind in METRIC_KINDS.values() if kind.baseline_form}
LARGEST = 1e100  # a baseline whose square is still a number


class Baseline(msgspec.Struct, frozen=True):
    """The control before the experiment: a unit's mean and standard deviation (None for a proportion)."""

    kind: MetricKindName
    value: float
    sd: float | None = None

    def variance(self, value: float) -> float:
        """The variance of one unit at the mean `value`."""
        if self.sd is not None:
            return self.sd**2
        if not 0 < value < 1:
            remedy = "choose a smaller effect" if 0 < self.value < 1 else "give control's own, such as 0.04"
            raise BadInput(f"a {self.kind} of {value:g} is not between 0 and 1; {remedy}")
        return value * (1 - value)


class Design(msgspec.Struct, frozen=True):
    """`units` over control and one variant, relative `mde`, `power`: each follows from the other two."""

    kind: MetricKindName
    baseline: float
    units: int
    mde: float
    power: float
    alpha: float
    method: Method
    formula: str


def compute_power(baseline: Baseline, mde: float, units: int, inference: Inference, *, share: float = 0.5) -> float:
    """The probability that an effect of `mde` (relative) is found with `units` units, `share` of them in control.

    `fixed` and `bayesian` look once; `sequential` counts only its look at the end, so the true power is a little more;
    `group_sequential` counts every planned look.
    """
    control, variant = share * units, (1 - share) * units
    effect = baseline.value * mde
    se = math.sqrt(baseline.variance(baseline.value) / control + baseline.variance(baseline.value + effect) / variant)
    drift = abs(effect) / se
    if inference.method == "group_sequential":
        return _group_power(drift, inference)
    bound = normal_quantile(1 - inference.alpha / 2)
    if inference.method == "sequential":
        bound = asymptotic_multiplier(round(4 * share * (1 - share) * units), inference.planned, inference.alpha)
    return normal_cdf(drift - bound) + normal_cdf(-drift - bound)


def _group_power(drift: float, inference: Inference) -> float:
    """The chance to cross at any planned look, by the recursion of `group_boundaries` with a drift."""
    fractions = [look / inference.looks for look in range(1, inference.looks + 1)]
    bounds = group_boundaries(fractions, [spent_error(inference.spending, at, inference.alpha) for at in fractions])
    x, w = gauss_legendre()
    grid = weights = np.zeros(0)
    inside = 1.0
    for look, (fraction, bound) in enumerate(zip(fractions, bounds, strict=True)):
        after = bound * math.sqrt(fraction) * x
        step = fraction - (fractions[look - 1] if look else 0.0)
        start = grid if look else np.zeros(1)
        mass = weights if look else np.ones(1)
        kernel = np.exp(-((after[:, None] - start[None, :] - drift * step) ** 2) / (2 * step))
        density = kernel @ mass / math.sqrt(2 * math.pi * step)
        weights, grid = density * w * bound * math.sqrt(fraction), after
        inside = float(weights.sum())
    return 1 - inside


def sample_size(
    baseline: Baseline, mde: float, inference: Inference, *, power: float = 0.8, share: float = 0.5
) -> Design:
    """The fewest units with which an effect of `mde` is found with `power`.

    Raises:
        BadInput: if no number of units is enough, or an argument is out of its range.
    """
    _check(baseline, power, share)
    if mde == 0:
        raise BadInput("an effect of 0 cannot be found; name the least relative effect that matters, as in --mde 0.02")
    low, high = FEWEST, 2 * FEWEST
    while compute_power(baseline, mde, high, inference, share=share) < power:
        low, high = high, high * 2
        if high > MOST:
            raise BadInput(f"more than {MOST:.0e} units would be needed for an effect of {mde:+.2%}; name a larger one")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if compute_power(baseline, mde, middle, inference, share=share) >= power else (middle, high)
        )
    return _design(baseline, mde, high, inference, share)


def least_detectable_effect(
    baseline: Baseline, units: int, inference: Inference, *, power: float = 0.8, share: float = 0.5
) -> Design:
    """The smallest relative increase that `units` units find with `power`.

    Raises:
        BadInput: if even doubling the baseline twenty times is not found, or an argument is out of its range.
    """
    _check(baseline, power, share)
    low, high = 0.0, 1e-6
    top = 1 / baseline.value - 1 - 1e-9 if baseline.sd is None else 2.0**20
    while compute_power(baseline, min(high, top), units, inference, share=share) < power:
        if high > top:
            raise BadInput(f"{units} units are too few to find any effect with a power of {power:g}; name more")
        low, high = high, high * 2
    for _ in range(100):
        middle = (low + high) / 2
        enough = compute_power(baseline, min(middle, top), units, inference, share=share) >= power
        low, high = (low, middle) if enough else (middle, high)
    return _design(baseline, min(high, top), units, inference, share)


def _design(baseline: Baseline, mde: float, units: int, inference: Inference, share: float) -> Design:
    """The design with the power of `units`, and the formula used."""
    reached = compute_power(baseline, mde, units, inference, share=share)
    formula = {
        "fixed": "normal, unpooled, one look at the end",
        "bayesian": "normal, unpooled, flat prior, one look at the end",
        "sequential": f"asymptotic confidence sequence tuned to {inference.planned} units, its look at the end",
        "group_sequential": f"{inference.looks} looks, {inference.spending} spending",
    }[inference.method]
    return Design(
        kind=baseline.kind,
        baseline=baseline.value,
        units=units,
        mde=mde,
        power=reached,
        alpha=inference.alpha,
        method=inference.method,
        formula=formula,
    )


def solve_design(
    baseline: Baseline,
    inference: Inference,
    *,
    mde: float | None,
    units: int | None,
    power: float | None,
    share: float = 0.5,
) -> Design:
    """The missing one of effect, units and power; the units for a power of 0.8 if only the effect is given.

    `share` of the units are control's.

    Raises:
        BadInput: if all or too few are given.
    """
    if mde is not None and not math.isfinite(mde):
        raise BadInput(f"effect {mde:g} is not a finite number; name a relative effect, as in --mde 0.02")
    if units is not None and not FEWEST <= units <= MOST:
        raise BadInput(f"{units:,} units are not between {FEWEST} and {MOST:,}; give the total of control and variant")
    if mde is not None and units is not None:
        if power is not None:
            raise BadInput("effect, units and power are all given; leave out the one that is asked for")
        _check(baseline, 0.5, share)
        return _design(baseline, mde, units, inference, share)
    if mde is not None:
        return sample_size(baseline, mde, inference, power=0.8 if power is None else power, share=share)
    if units is not None:
        return least_detectable_effect(baseline, units, inference, power=0.8 if power is None else power, share=share)
    raise BadInput("neither an effect nor a number of units is given; name one, as in --mde 0.02")


def _check(baseline: Baseline, power: float, share: float) -> None:
    """Raises BadInput for a power, a share or a baseline that no formula can use."""
    if not 0 < power < 1:
        raise BadInput(f"power {power:g} is not between 0 and 1; 0.8 is usual")
    if not 0 < share < 1:
        raise BadInput(f"control's share {share:g} is not between 0 and 1; 0.5 is an even split")
    if baseline.value == 0:
        raise BadInput("control's mean is 0, so no effect is relative to it; name a metric with another mean")
    baseline.variance(baseline.value)


def parse_baseline(text: str) -> Baseline:
    """`proportion:0.1`, or `mean:16.2,25.1` (mean and standard deviation; likewise ratio and quantile, linearized).

    Raises:
        BadInput: if it is neither.
    """
    kind, _, numbers = text.partition(":")
    try:
        values = [float(part) for part in numbers.split(",")]
    except ValueError:
        values = []
    if not all(abs(value) <= LARGEST for value in values):
        raise BadInput(f"metric {text!r}: its numbers are not finite, or above {LARGEST:g}; write mean:16.2,25.1")
    known = _BASELINE_KINDS.get(kind)
    if known and known.baseline_form == "share" and len(values) == 1:
        return Baseline(known.name, values[0])
    if known and known.baseline_form == "mean,sd" and len(values) == 2 and values[1] > 0:
        return Baseline(known.name, values[0], values[1])
    raise BadInput(f"metric {text!r} has no baseline; write proportion:0.1 or mean:16.2,25.1 (mean and sd)")
