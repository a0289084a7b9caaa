"""Intervals that hold at every look: asymptotic confidence sequences.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence
sequences", Theorem 2.2 for the boundary and eq. 16 for its tuning.
"""

import math


def tuning(planned: int, alpha: float) -> float:
    """Rho that makes the boundary narrowest around `planned` units."""
    return math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned)


def asymptotic_multiplier(units: int, planned: int, alpha: float) -> float:
    """Half width of the sequence at `units` units, in standard errors of the estimate."""
    grown = units * tuning(planned, alpha) ** 2
    return math.sqrt(2 * (grown + 1) / grown * math.log(math.sqrt(grown + 1) / alpha))


def asymptotic_p(z: float, units: int, planned: int, alpha: float) -> float:
    """Anytime-valid p-value of an estimate `z` standard errors from zero, one over the mixture's e-value."""
    grown = units * tuning(planned, alpha) ** 2
    exponent = 0.5 * math.log(grown + 1) - grown * z * z / (2 * (grown + 1))
    return min(1.0, math.exp(min(exponent, 0.0)))
