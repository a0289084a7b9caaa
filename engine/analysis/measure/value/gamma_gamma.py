"""Gamma-Gamma: the mean worth of a customer's orders, shrunken towards that of all customers.

Fader and Hardie 2013, "The Gamma-Gamma Model of Monetary Value": an order's worth is gamma (p, nu), and nu is gamma
(q, v) over customers. It assumes that what is spent does not depend on how often.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
from scipy import special

from engine.analysis.measure.value.likelihood import (
    PART,
    LikelihoodFit,
    group_observations,
    maximize_likelihood,
    narrow_starts,
)
from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    from policies.batches import Floats

LEAST_SPENDERS: Final = 10


class GammaGamma(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a fitted model; `correlation` is that of frequency and worth, which should be near 0."""

    p: float
    q: float
    v: float
    log_likelihood: float
    customers: int
    correlation: float


def fit_gamma_gamma(orders: Floats, worth: Floats, weight: Floats) -> tuple[GammaGamma, LikelihoodFit] | NotEstimable:
    """The parameters of maximum likelihood, from customers' numbers of orders and their mean worth (n,).

    Customers without an order, or without a worth above 0, are left out.
    """
    used = (orders > 0) & (worth > 0)
    (x, m), w = group_observations(orders[used], worth[used], weight=weight[used])
    if w.sum() < LEAST_SPENDERS or np.ptp(m) == 0:
        return NotEstimable(
            f"{w.sum():.0f} customers have repeat orders with revenue; their spread needs {LEAST_SPENDERS} that differ"
        )
    scale = float(np.average(m, weights=w))

    def log_likelihoods(theta: Floats) -> Floats:
        return _log_likelihoods(theta, x, m / scale)

    starts = [np.log([2.0, 3.0, 1.5]), np.log([6.0, 4.0, 0.5])]
    if x.size > 2 * PART:
        some = slice(None, None, x.size // PART)
        starts = narrow_starts(lambda theta: _log_likelihoods(theta, x[some], m[some] / scale), starts, w[some])
    fit = maximize_likelihood(log_likelihoods, starts, w)
    if isinstance(fit, NotEstimable):
        return fit
    fit = replace(fit, theta=fit.theta + np.array([0.0, 0.0, np.log(scale)]))
    p, q, v = np.exp(fit.theta).tolist()
    if q <= 1:
        return NotEstimable(f"q is {q:.3g}: a few customers spend so much that a mean worth does not exist")
    total = float(w @ _log_likelihoods(fit.theta, x, m))
    spread = np.cov(x, m, fweights=np.round(w).astype(int)) if w.sum() > 1 else np.eye(2)
    scales = float(np.sqrt(spread[0, 0] * spread[1, 1]))
    correlation = float(spread[0, 1]) / scales if scales > 0 else 0.0
    customers = round(float(w.sum()))
    return GammaGamma(p=p, q=q, v=v, log_likelihood=total, customers=customers, correlation=correlation), fit


def expected_order_worth(theta: Floats, orders: Floats, worth: Floats) -> Floats:
    """The expected worth of an order of each customer (n,), equation 5; that of all customers without an order."""
    p, q, v = np.exp(theta)
    x = np.where(worth > 0, orders, 0.0)
    return np.asarray(p * (v + x * worth) / (p * x + q - 1))


def _log_likelihoods(theta: Floats, x: Floats, m: Floats) -> Floats:
    p, q, v = np.exp(theta)
    shape = p * x
    value = special.gammaln(shape + q) - special.gammaln(shape) - special.gammaln(q) + q * np.log(v)
    return np.asarray(value + (shape - 1) * np.log(m) + shape * np.log(x) - (shape + q) * np.log(x * m + v))
