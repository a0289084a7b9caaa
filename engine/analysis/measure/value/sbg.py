"""Shifted beta-geometric: the share of contract customers who stay, period by period.

Fader and Hardie 2007, "How to Project Customer Retention": at each renewal a customer leaves with a probability that
is beta (alpha, beta) over customers. So retention rises with age though no customer changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from scipy import special

from engine.analysis.measure.value.likelihood import maximize_likelihood
from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    from policies.batches import Floats

LEAST_LEFT: Final = 10


class ContractRetention(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters, the share that stays through each period, and a new customer's expected life.

    `survival` and `retention` start with the first renewal; `lifetime` is the discounted number of periods expected of
    a new customer, with its interval.
    """

    alpha: float
    beta: float
    log_likelihood: float
    customers: int
    survival: list[float]
    retention: list[float]
    lifetime: float
    low: float
    high: float


def fit_contracts(
    left: Floats, staying: Floats, *, periods: int = 12, discount: float = 0.0
) -> ContractRetention | NotEstimable:
    """The retention of contracts by maximum likelihood.

    Args:
        left: (n,) customers who left at their renewal 1, 2, ….
        staying: (n,) customers who renewed 1, 2, … times and are still there.
        periods: how many periods to project.
        discount: per period, for the lifetime.
    """
    if left.sum() < LEAST_LEFT or staying.sum() < 1:
        return NotEstimable(
            f"{left.sum():.0f} contracts ended and {staying.sum():.0f} run; retention needs {LEAST_LEFT} that ended "
            "and one that runs"
        )
    age = np.arange(1, left.size + 1, dtype=np.float64)
    counts = np.concatenate([left, staying])

    def log_likelihoods(theta: Floats) -> Floats:
        a, b = np.exp(theta)
        ended = special.betaln(a + 1, b + age - 1) - special.betaln(a, b)
        return np.concatenate([ended, special.betaln(a, b + age) - special.betaln(a, b)])

    fit = maximize_likelihood(log_likelihoods, [np.log([1.0, 3.0]), np.log([0.5, 1.0])], counts)
    if isinstance(fit, NotEstimable):
        return fit
    alpha, beta = np.exp(fit.theta).tolist()
    survival = _survival(fit.theta, periods)
    retention = survival / np.concatenate([[1.0], survival[:-1]])
    lifetime = _lifetime(fit.theta, discount)
    reach = np.exp(1.96 * fit.relative_se(lambda theta: float(np.log(_lifetime(theta, discount)))))
    return ContractRetention(
        alpha=alpha,
        beta=beta,
        log_likelihood=float(counts @ log_likelihoods(fit.theta)),
        customers=round(float(counts.sum())),
        survival=survival.tolist(),
        retention=retention.tolist(),
        lifetime=lifetime,
        low=float(lifetime / reach),
        high=float(lifetime * reach),
    )


def _survival(theta: Floats, periods: int) -> Floats:
    a, b = np.exp(theta)
    age = np.arange(1, periods + 1)
    return np.asarray(np.exp(special.betaln(a, b + age) - special.betaln(a, b)))


_FARTHEST = 600
"""Periods after which a lifetime without a discount ends."""


def _lifetime(theta: Floats, discount: float) -> float:
    """The sum of discounted survivals; Fader and Hardie 2010, "Customer-Base Valuation in a Contractual Setting"."""
    a, b = np.exp(theta)
    if discount > 0:
        return float(special.hyp2f1(1.0, b, a + b, 1 / (1 + discount)))
    survival = np.concatenate([[1.0], _survival(theta, _FARTHEST)])
    return float(survival @ (1 + discount) ** -np.arange(_FARTHEST + 1))
