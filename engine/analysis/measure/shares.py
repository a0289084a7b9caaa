"""Intervals of shares of independent customers or answers."""

from __future__ import annotations

import math

import msgspec
from scipy.special import ndtri


class ShareEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """A share or a score with its interval, and the number of customers or answers behind it."""

    estimate: float
    low: float
    high: float
    n: int


def wilson_share(successes: float, n: int, alpha: float = 0.05) -> ShareEstimate | None:
    """A share with its score interval (Wilson 1927); None for an empty sample."""
    if n < 1:
        return None
    z = float(ndtri(1 - alpha / 2))
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes <= 0 else max(0.0, middle - reach)  # exactly, where the difference is rounding
    high = 1.0 if successes >= n else min(1.0, middle + reach)
    return ShareEstimate(estimate=share, low=low, high=high, n=n)


def net_promoter(promoters: int, passives: int, detractors: int, alpha: float = 0.05) -> ShareEstimate | None:
    """A net promoter score, -100 to 100, by the adjusted Wald method; None without answers.

    Three answers are added, three quarters of a promoter and a detractor each and one and a half passives (Sauro and
    Lewis 2016, "Quantifying the User Experience", after Agresti and Coull). The estimate is that of the adjusted
    counts, the middle of the interval; the score as answered is nearer to an end, within it from five answers on.
    """
    n = promoters + passives + detractors
    if n < 1:
        return None
    up, down = (promoters + 0.75) / (n + 3), (detractors + 0.75) / (n + 3)
    reach = float(ndtri(1 - alpha / 2)) * math.sqrt((up + down - (up - down) ** 2) / (n + 3))
    score = up - down
    low, high = max(-1.0, score - reach), min(1.0, score + reach)
    return ShareEstimate(estimate=100 * score, low=100 * low, high=100 * high, n=n)
