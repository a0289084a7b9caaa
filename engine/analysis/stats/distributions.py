"""The few distribution functions that most reports need, without scipy.

Importing scipy.special takes as long as aggregating five million rows, so only what needs it imports it.
"""

import math
from statistics import NormalDist

_STANDARD = NormalDist()


def normal_cdf(z: float) -> float:
    """P(Z <= z) of a standard normal."""
    return math.erfc(-z / math.sqrt(2)) / 2


def normal_quantile(level: float) -> float:
    """The value below which a standard normal lies with probability `level` (Wichura 1988, AS 241)."""
    return _STANDARD.inv_cdf(level)


def chi_square_sf(df: int, x: float) -> float:
    """P(X > x) of a chi-square with whole degrees of freedom (Abramowitz and Stegun 26.4.4 and 26.4.5)."""
    half = x / 2
    if half <= 0:
        return 1.0
    odd = df % 2
    total = math.erfc(math.sqrt(half)) if odd else 0.0
    powers = (k + 0.5 if odd else float(k) for k in range((df - odd) // 2))
    return min(1.0, total + math.fsum(math.exp(k * math.log(half) - half - math.lgamma(k + 1)) for k in powers))
