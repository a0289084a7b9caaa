"""Posteriors on sufficient statistics: a normal prior on the relative effect, beta-binomial for proportions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from scipy.special import betainc, betaincinv, betaln, log_ndtr, ndtr, ndtri

from engine.analysis.estimate import Bayes
from engine.analysis.quadrature import legendre

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.moments import Floats


class Prior(msgspec.Struct, frozen=True):
    """A belief about the relative effect before the data: normal with this mean and standard deviation."""

    mean: float = 0.0
    sd: float = math.inf


def _loss(mean: float, sd: float) -> float:
    """E[max(-effect, 0)] of a normal effect."""
    z = mean / sd
    return max(sd * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - mean * math.exp(float(log_ndtr(-z))), 0.0)


def normal_posterior(estimate: float, se: float, prior: Prior) -> tuple[float, float]:
    """Mean and standard deviation of a normal effect after an estimate with standard error `se`."""
    if math.isinf(prior.sd):
        return estimate, se
    precision = 1 / se**2 + 1 / prior.sd**2
    return (estimate / se**2 + prior.mean / prior.sd**2) / precision, math.sqrt(1 / precision)


def normal(estimate: float, se: float, prior: Prior, alpha: float, *, good: float = 1.0, rope: float = 0.0) -> Bayes:
    """The posterior of a normal effect: chance to win, expected loss, interval, chance to lie within ±`rope`.

    `good` is 1 where more is better, -1 where less is.
    """
    mean, sd = normal_posterior(estimate, se, prior)
    reach = float(ndtri(1 - alpha / 2)) * sd
    return Bayes(
        chance_to_win=float(ndtr(good * mean / sd)),
        expected_loss=_loss(good * mean, sd),
        low=mean - reach,
        high=mean + reach,
        rope=float(ndtr((rope - mean) / sd) - ndtr((-rope - mean) / sd)) if rope else None,
    )


class Beta(msgspec.Struct, frozen=True):
    """A beta distribution of a proportion."""

    a: float
    b: float

    def interval(self, alpha: float) -> tuple[float, float]:
        """The equal-tailed credible interval."""
        low, high = betaincinv(self.a, self.b, [alpha / 2, 1 - alpha / 2])
        return float(low), float(high)


FLAT = Beta(1, 1)


def beta_posterior(successes: float, n: float, prior: Beta = FLAT) -> Beta:
    """The conjugate posterior of a proportion."""
    return Beta(prior.a + successes, prior.b + n - successes)


def _nodes(beta: Beta) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes over all but 1e-14 of a beta's mass, with its density times the weights."""
    low, high = betaincinv(beta.a, beta.b, [1e-14, 1 - 1e-14])
    x, w = legendre()
    at = low + (high - low) * (x + 1) / 2
    log_density = (beta.a - 1) * np.log(at) + (beta.b - 1) * np.log1p(-at) - betaln(beta.a, beta.b)
    return at, np.exp(log_density) * w * (high - low) / 2


def beta_chance(control: Beta, treatment: Beta) -> float:
    """P(treatment > control) by quadrature over the control's posterior."""
    return 1 - _ratio_below(_nodes(control), treatment, 1.0)


def beta_loss(control: Beta, treatment: Beta) -> float:
    """E[max(control - treatment, 0)], what choosing the treatment loses, in the proportion's own points."""
    at, weight = _nodes(control)
    mean = treatment.a / (treatment.a + treatment.b)
    below = at * betainc(treatment.a, treatment.b, at) - mean * betainc(treatment.a + 1, treatment.b, at)
    return max(float(weight @ below), 0.0)


def _ratio_below(nodes: tuple[Floats, Floats], treatment: Beta, ratio: float) -> float:
    """P(treatment / control <= ratio), the control being given by its nodes."""
    at, weight = nodes
    return float(weight @ betainc(treatment.a, treatment.b, np.minimum(at * ratio, 1.0)))


def _ratio_quantile(nodes: tuple[Floats, Floats], treatment: Beta, level: float) -> float:
    low, high = -60.0, 60.0  # of the ratio's logarithm
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _ratio_below(nodes, treatment, math.exp(middle)) > level else (middle, high)
    return math.exp((low + high) / 2)


def beta_binomial(control: Beta, treatment: Beta, alpha: float, *, good: float = 1.0, rope: float = 0.0) -> Bayes:
    """The posterior of a relative effect between two proportions; arguments as `normal`.

    The expected loss is a share of control's posterior mean.
    """
    chance = beta_chance(control, treatment)
    loss = beta_loss(control, treatment) if good > 0 else beta_loss(treatment, control)
    nodes = _nodes(control)
    near = _ratio_below(nodes, treatment, 1 + rope) - _ratio_below(nodes, treatment, 1 - rope)
    return Bayes(
        chance_to_win=chance if good > 0 else 1 - chance,
        expected_loss=loss * (control.a + control.b) / control.a,
        low=_ratio_quantile(nodes, treatment, alpha / 2) - 1,
        high=_ratio_quantile(nodes, treatment, 1 - alpha / 2) - 1,
        rope=near if rope else None,
        model="beta-binomial",
    )


def chances_best(means: Sequence[float], sds: Sequence[float]) -> list[float]:
    """The probability that each of several independent normal values is the largest, by quadrature."""
    centre, spread = np.asarray(means), np.asarray(sds)
    x, w = legendre()
    chances = []
    for at in range(len(centre)):
        grid = centre[at] + 9 * spread[at] * x
        density = np.exp(-((9 * x) ** 2) / 2) / math.sqrt(2 * math.pi) * 9 * w
        others = [ndtr((grid - centre[j]) / spread[j]) for j in range(len(centre)) if j != at]
        chances.append(float(density @ np.prod(others, axis=0)) if others else 1.0)
    return chances


def empirical_prior(estimates: Sequence[float], ses: Sequence[float]) -> Prior:
    """The prior that past experiments suggest: the mean and spread of their true relative effects.

    Paule and Mandel 1982, "Consensus Values and Weighting Factors": the spread at which the weighted squares around
    the weighted mean equal their degrees of freedom. With fewer than three experiments the prior is flat.
    """
    if len(estimates) < 3:
        return Prior()
    mean, between, _ = pooled(estimates, ses)
    return Prior(mean, max(between, float(np.min(ses)) * 1e-3))


def pooled(estimates: Sequence[float], ses: Sequence[float]) -> tuple[float, float, float]:
    """Mean, between-group standard deviation and the mean's standard error of a normal random-effects model."""
    values, errors = np.asarray(estimates, dtype=float), np.asarray(ses, dtype=float)

    def excess(between: float) -> float:
        weights = 1 / (errors**2 + between)
        mean = weights @ values / weights.sum()
        return float(weights @ (values - mean) ** 2) - (len(values) - 1)

    low, high = 0.0, max(float(np.var(values)) * 10, 1e-300)
    if excess(0.0) <= 0:
        high = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    weights = 1 / (errors**2 + high)
    return float(weights @ values / weights.sum()), math.sqrt(high), float(weights.sum()) ** -0.5
