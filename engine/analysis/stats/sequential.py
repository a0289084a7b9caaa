"""Intervals valid at several looks: asymptotic confidence sequences, mixture SPRT, group-sequential boundaries."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.analysis.stats.distributions import normal_cdf, normal_quantile
from engine.analysis.stats.quadrature import gauss_legendre
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

Spending = Literal["obrien_fleming", "pocock"]
OVERRUN = 0.5
"""The share of the step between two looks up to which units beyond the plan are read."""
NEAR_A_LOOK = 0.001
"""The share of the step by which units may miss a planned look and still be that look."""


def tuned_rho(planned: int, alpha: float) -> float:
    """The rho with the narrowest boundary around `planned` units.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence
    sequences", eq. 16.
    """
    return math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned)


def mixture_multiplier(grown: float, alpha: float) -> float:
    """Half width of a normal-mixture confidence sequence in standard errors, two-sided, valid at every look.

    Robbins 1970; as asymptotic confidence sequence Theorem 2.2 of Waudby-Smith et al. 2024.

    Args:
        grown: variance of the mixture over the estimate's own variance; it grows with the sample.
        alpha: one minus the coverage over all looks together.
    """
    return math.sqrt(2 * (grown + 1) / grown * math.log(math.sqrt(grown + 1) / alpha))


def mixture_p(z: float, grown: float) -> float:
    """Anytime-valid p-value of an estimate `z` standard errors from zero: one over the mixture's likelihood ratio."""
    exponent = 0.5 * math.log(grown + 1) - grown * z * z / (2 * (grown + 1))
    return min(1.0, math.exp(min(exponent, 0.0)))


def asymptotic_multiplier(units: int, planned: int, alpha: float) -> float:
    """Half width of the asymptotic confidence sequence at `units` units, in standard errors of the estimate."""
    return mixture_multiplier(units * tuned_rho(planned, alpha) ** 2, alpha)


def asymptotic_p(z: float, units: int, planned: int, alpha: float) -> float:
    """The p-value of the interval; it is below alpha exactly if the interval excludes zero."""
    return mixture_p(z, units * tuned_rho(planned, alpha) ** 2)


def sprt_multiplier(se: float, tau: float, alpha: float) -> float:
    """Half width of the mixture SPRT's interval in standard errors, for effects of about `tau` in the metric's unit.

    Johari, Koomen, Pekelis and Walsh 2017, "Peeking at A/B Tests", eq. 3 and Proposition 5.
    """
    return mixture_multiplier((tau / se) ** 2, alpha)


def spent_error(kind: Spending, fraction: float, alpha: float) -> float:
    """Error spent on both sides together at an information fraction.

    Lan and DeMets 1983, "Discrete Sequential Boundaries for Clinical Trials", alpha_1 and alpha_2, half of alpha to
    each side.
    """
    at = min(max(fraction, 0.0), 1.0)
    if kind == "pocock":
        return alpha * math.log1p((math.e - 1) * at)
    return 4 * normal_cdf(-normal_quantile(1 - alpha / 4) / math.sqrt(at)) if at > 0 else 0.0


def group_boundaries(fractions: Sequence[float], errors: Sequence[float]) -> list[float]:
    """Two-sided z boundaries of looks at `fractions` of the information, spending `errors` (cumulative) up to each.

    Recursive numerical integration of the density of the paths still inside (Armitage, McPherson and Rowe 1969).

    Raises:
        BadInput: if fractions or errors do not rise.
    """
    if not all(a < b for a, b in zip([0.0, *fractions], fractions, strict=False)):
        raise BadInput(f"information fractions {list(fractions)} do not increase from above 0; every look adds some")
    if not all(a <= b for a, b in zip([0.0, *errors], errors, strict=False)):
        raise BadInput(f"the errors spent, {list(errors)}, decrease; give each look at least as much as the one before")
    from scipy.special import ndtr  # noqa: PLC0415 # see distributions

    x, w = gauss_legendre()
    bounds: list[float] = []
    grid = weights = np.zeros(0)
    for look, fraction in enumerate(fractions):
        now = errors[look] - (errors[look - 1] if look else 0.0)
        root = math.sqrt(fraction)
        if look == 0:
            bound = -normal_quantile(now / 2) if now > 0 else 8.0
            grid = bound * root * x
            density = np.exp(-(grid**2) / (2 * fraction)) / math.sqrt(2 * math.pi * fraction)
        else:
            step = fraction - fractions[look - 1]
            low, high = 0.0, 8.0
            for _ in range(60):
                bound = (low + high) / 2
                outside = float(2 * weights @ ndtr((grid - bound * root) / math.sqrt(step)))
                low, high = (bound, high) if outside > now else (low, bound)
            after = bound * root * x
            kernel = np.exp(-((after[:, None] - grid[None, :]) ** 2) / (2 * step)) / math.sqrt(2 * math.pi * step)
            density, grid = kernel @ weights, after
        weights = density * w * bound * root
        bounds.append(bound)
    return bounds


def group_multiplier(units: int, planned: int, looks: int, kind: Spending, alpha: float) -> float | None:
    """The boundary of a look now if all planned looks so far were taken; None before the first."""
    fraction = min(units / planned, 1.0)
    due = [look / looks for look in range(1, looks + 1) if look / looks <= fraction]
    if not due:
        return None
    taken = due if fraction - due[-1] < 1e-9 else [*due, fraction]
    return group_boundaries(taken, [spent_error(kind, at, alpha) for at in taken])[-1]


def group_p(z: float, units: int, planned: int, looks: int, kind: Spending) -> float:
    """The least alpha whose boundary this look crosses, a p-value valid at every planned look.

    Jennison and Turnbull 2000, "Group Sequential Methods", section 9.5 (repeated p-values).
    """
    low, high = math.log(1e-12), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        bound = group_multiplier(units, planned, looks, kind, math.exp(middle))
        low, high = (low, middle) if bound is not None and abs(z) > bound else (middle, high)
    return math.exp(high)


def is_planned_look(units: int, planned: int, looks: int) -> bool:
    """Whether this number of units is one of `looks` even steps up to `planned`, within 0.1 % of a step."""
    step = planned / looks
    number = min(max(round(units / step), 1), looks)
    return abs(units - number * step) <= max(NEAR_A_LOOK * step, 1.0)


def unplanned_multiplier(units: int, planned: int, looks: int, kind: Spending, alpha: float) -> float | None:
    """The boundary of a look between two planned ones, or up to half a step beyond the plan; None before the first.

    It is a line for the sum of all values (Lan and DeMets 1983, alpha_1, in the limit of looks at every unit), so that
    any number of such looks is one. By the reflection principle they add at most `unplanned_share` of alpha, but most
    of it is spent at the planned looks too: all looks together stay at or below 1.1 alpha (`test_intervals`).
    """
    if units < planned / looks:
        return None
    at = units / (planned * (1 + OVERRUN / looks))
    return -normal_quantile(unplanned_share(looks, kind) * alpha / 4) / math.sqrt(min(at, 1.0))


def unplanned_p(z: float, units: int, planned: int, looks: int, kind: Spending) -> float:
    """The least alpha at whose `unplanned_multiplier` this look ends the test."""
    if units < planned / looks:
        return 1.0
    at = units / (planned * (1 + OVERRUN / looks))
    return min(4 * normal_cdf(-abs(z) * math.sqrt(min(at, 1.0))) / unplanned_share(looks, kind), 1.0)


def unplanned_share(looks: int, kind: Spending) -> float:
    """The share of alpha for unplanned looks: less if boundaries of planned looks are farther apart."""
    if looks == 1:
        return 0.2
    return 0.6 if kind == "obrien_fleming" and looks >= 5 else 0.4
