"""BG/NBD: how often customers order while active, and when they silently leave.

Fader, Hardie and Lee 2005, "'Counting Your Customers' the Easy Way": orders are a Poisson process whose rate is gamma
(r, alpha) over customers; after each order a customer leaves with a probability that is beta (a, b) over them. A
customer is x repeat orders, the time t of the last one, and the time observed, both since the first order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from scipy import special

from engine.analysis.measure.model import count_of
from engine.analysis.measure.value.likelihood import (
    PART,
    LikelihoodFit,
    group_observations,
    maximize_likelihood,
    narrow_starts,
)
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from policies.batches import Floats

LEAST_CUSTOMERS: Final = 30
LEAST_REPEATS: Final = 10
"""Customers with a repeat order below which nothing is estimated."""


class BgNbd(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a fitted model, and the log-likelihood; times are in the unit of the data."""

    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float
    customers: int


@dataclass(frozen=True, kw_only=True)
class OrderHistory:
    """Customers' histories (n,): repeat orders `x`, time of the last `t`, time `observed`; `weight` customers each."""

    x: Floats
    t: Floats
    observed: Floats
    weight: Floats


def log_likelihoods(theta: Floats, history: OrderHistory) -> Floats:
    """The log-likelihood of each history (n,), equation 6; `theta` (4,) are the logarithms of r, alpha, a, b."""
    r, alpha, a, b = np.exp(theta)
    x, t, observed = history.x, history.t, history.observed
    common = special.gammaln(r + x) - special.gammaln(r) + r * np.log(alpha)
    common += special.gammaln(a + b) + special.gammaln(b + x) - special.gammaln(b) - special.gammaln(a + b + x)
    alive = -(r + x) * np.log(alpha + observed)
    left = np.log(a) - np.log(b + np.maximum(x, 1.0) - 1) - (r + x) * np.log(alpha + t)
    return np.asarray(common + np.where(x > 0, np.logaddexp(alive, left), alive))


def fit_bg_nbd(history: OrderHistory) -> tuple[BgNbd, LikelihoodFit] | NotEstimable:
    """The parameters of maximum likelihood, with the covariance of their logarithms."""
    customers, repeats = history.weight.sum(), history.weight[history.x > 0].sum()
    if customers < LEAST_CUSTOMERS or repeats < LEAST_REPEATS:
        return NotEstimable(
            f"{count_of(round(customers), 'customer')}, {repeats:.0f} with a repeat order; a model of orders needs "
            f"{LEAST_CUSTOMERS} and {LEAST_REPEATS}"
        )
    scale = float(history.observed.max())
    if not scale > 0:
        return NotEstimable("no time has passed since the first orders; wait for repeat orders")
    distinct, counts = group_observations(history.x, history.t, history.observed, weight=history.weight)
    scaled = OrderHistory(x=distinct[0], t=distinct[1] / scale, observed=distinct[2] / scale, weight=counts)
    starts = [np.log([0.5, 0.3, 1.0, 2.0]), np.log([1.0, 1.0, 0.3, 1.0])]
    if counts.size > 2 * PART:
        every = slice(None, None, counts.size // PART)
        some = OrderHistory(x=scaled.x[every], t=scaled.t[every], observed=scaled.observed[every], weight=counts[every])
        starts = narrow_starts(lambda theta: log_likelihoods(theta, some), starts, some.weight)
    fit = maximize_likelihood(lambda theta: log_likelihoods(theta, scaled), starts, scaled.weight)
    if isinstance(fit, NotEstimable):
        return fit
    fit = replace(fit, theta=fit.theta + np.array([0.0, np.log(scale), 0.0, 0.0]))
    plain = OrderHistory(x=distinct[0], t=distinct[1], observed=distinct[2], weight=counts)
    total = float(counts @ log_likelihoods(fit.theta, plain))
    r, alpha, a, b = np.exp(fit.theta).tolist()
    return BgNbd(r=r, alpha=alpha, a=a, b=b, log_likelihood=total, customers=round(float(customers))), fit


def chance_alive(theta: Floats, history: OrderHistory) -> Floats:
    """The probability that each customer has not left (n,); the model gives 1 without a repeat order."""
    r, alpha, a, b = np.exp(theta)
    x, t, observed = history.x, history.t, history.observed
    odds = a / (b + np.maximum(x, 1.0) - 1) * np.exp((r + x) * np.log((alpha + observed) / (alpha + t)))
    return np.asarray(1 / (1 + np.where(x > 0, odds, 0.0)))


def churned_share(fit: LikelihoodFit, history: OrderHistory) -> Effect | NotEstimable:
    """The share of customers who have left, with its interval on the logarithmic scale."""
    share = float((1 - chance_alive(fit.theta, history)).mean())
    if not share > 0:
        return NotEstimable("no customer with a repeat order is likely to have left")
    spread = fit.relative_se(lambda theta: float(np.log((1 - chance_alive(theta, history)).mean())))
    reach = float(np.exp(1.959964 * spread))
    return Effect(estimate=share, low=share / reach, high=min(1.0, share * reach), se=share * spread)


def expected_orders(theta: Floats, history: OrderHistory, ahead: float) -> Floats:
    """Each customer's expected orders (n,) in the time `ahead`, equation 10."""
    r, alpha, a, b = np.exp(theta)
    if abs(a - 1) < 1e-6:  # a removable singularity
        a = 1 + 1e-6
    x, observed = history.x, history.observed
    z = ahead / (alpha + observed + ahead)
    hyper = special.hyp2f1(r + x, b + x, a + b + x - 1, z)
    decay = np.exp((r + x) * np.log((alpha + observed) / (alpha + observed + ahead)))
    expected = (a + b + x - 1) / (a - 1) * (1 - decay * hyper)
    return np.asarray(np.maximum(expected, 0.0) * chance_alive(theta, history))
