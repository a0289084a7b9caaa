"""Posteriors of two proportions: beta-binomial, by quadrature over the control's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from scipy.special import betainc, betaincinv, betaln

from engine.analysis.estimate import Bayes
from engine.analysis.quadrature import legendre

if TYPE_CHECKING:
    from engine.analysis.moments import Floats


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
    worse, better = beta_loss(control, treatment), beta_loss(treatment, control)
    loss, gain = (worse, better) if good > 0 else (better, worse)
    base = (control.a + control.b) / control.a
    nodes = _nodes(control)
    near = _ratio_below(nodes, treatment, 1 + rope) - _ratio_below(nodes, treatment, 1 - rope)
    return Bayes(
        chance_to_win=chance if good > 0 else 1 - chance,
        expected_loss=loss * base,
        forgone=gain * base,
        low=_ratio_quantile(nodes, treatment, alpha / 2) - 1,
        high=_ratio_quantile(nodes, treatment, 1 - alpha / 2) - 1,
        rope=near if rope else None,
        within=rope,
        model="beta-binomial",
    )
