"""Posteriors of two proportions: beta-binomial, by quadrature over the control's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from scipy.special import betainc, betaincinv, betaln

from engine.analysis.stats.estimate import Bayes
from engine.analysis.stats.quadrature import gauss_legendre

if TYPE_CHECKING:
    from engine.analysis.stats.moments import Floats


class Beta(msgspec.Struct, frozen=True):
    """A beta distribution of a proportion."""

    a: float
    b: float

    def interval(self, alpha: float) -> tuple[float, float]:
        """The equal-tailed credible interval."""
        low, high = betaincinv(self.a, self.b, [alpha / 2, 1 - alpha / 2])
        return float(low), float(high)


FLAT = Beta(1, 1)


def update_beta(successes: float, n: float, prior: Beta = FLAT) -> Beta:
    """The conjugate posterior of a proportion."""
    return Beta(prior.a + successes, prior.b + n - successes)


def beta_chance_to_win(control: Beta, treatment: Beta) -> float:
    """P(treatment > control) by quadrature over the control's posterior."""
    return 1 - _ratio_below(control, treatment, 1.0)


def beta_expected_loss(control: Beta, treatment: Beta) -> float:
    """E[max(control - treatment, 0)], the expected loss of choosing the treatment, in points of the proportion."""
    at, weight = _nodes(control, treatment, 1.0)
    mean = treatment.a / (treatment.a + treatment.b)
    below = at * betainc(treatment.a, treatment.b, at) - mean * betainc(treatment.a + 1, treatment.b, at)
    return max(float(weight @ below), 0.0)


def _nodes(control: Beta, treatment: Beta, ratio: float) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes over all but 1e-14 of control's mass, with its density times the weights.

    The treatment's distribution function of `ratio` times a node has pieces of its own where it rises, and ends at one.
    """
    low, high = control.interval(2e-14)
    rise = np.array([*treatment.interval(2e-14), treatment.a / (treatment.a + treatment.b), 1.0]) / ratio
    edges = np.unique(np.clip([low, high, *rise], low, high))
    x, w = gauss_legendre()
    width = np.diff(edges)[:, None] / 2
    at, weight = (edges[:-1, None] + width * (x + 1)).ravel(), (width * w).ravel()
    return at, _density(control, at) * weight


def _density(beta: Beta, at: Floats) -> Floats:
    """The beta density at each point, by logarithms so that large counts do not overflow."""
    log_density = (beta.a - 1) * np.log(at) + (beta.b - 1) * np.log1p(-at) - betaln(beta.a, beta.b)
    return np.asarray(np.exp(log_density))


def _ratio_below(control: Beta, treatment: Beta, ratio: float) -> float:
    """P(treatment / control <= ratio)."""
    at, weight = _nodes(control, treatment, ratio)
    return float(weight @ betainc(treatment.a, treatment.b, np.minimum(at * ratio, 1.0)))


def _ratio_quantile(control: Beta, treatment: Beta, level: float) -> float:
    """The quantile of the ratio, by Newton's method on its logarithm within a bracket."""
    low, high = -60.0, 60.0
    log = 0.0
    for _ in range(200):
        ratio = math.exp(log)
        at, weight = _nodes(control, treatment, ratio)
        inside = at * ratio < 1
        scaled = at[inside] * ratio
        excess = float(weight @ betainc(treatment.a, treatment.b, np.minimum(at * ratio, 1.0))) - level
        slope = float(weight[inside] @ (_density(treatment, scaled) * scaled))
        low, high = (low, log) if excess > 0 else (log, high)
        after = log - excess / slope if slope > 0 else math.nan
        after = after if low < after < high else (low + high) / 2
        if abs(after - log) < 1e-13:
            break
        log = after
    return math.exp(log)


def beta_binomial_posterior(
    control: Beta, treatment: Beta, alpha: float, *, good: float = 1.0, rope: float = 0.0
) -> Bayes:
    """The posterior of a relative effect between two proportions; arguments as in `normal_posterior`.

    The expected loss is a share of control's posterior mean.
    """
    chance = beta_chance_to_win(control, treatment)
    worse, better = beta_expected_loss(control, treatment), beta_expected_loss(treatment, control)
    loss, gain = (worse, better) if good > 0 else (better, worse)
    base = (control.a + control.b) / control.a
    near = _ratio_below(control, treatment, 1 + rope) - _ratio_below(control, treatment, 1 - rope)
    return Bayes(
        chance_to_win=chance if good > 0 else 1 - chance,
        expected_loss=loss * base,
        forgone=gain * base,
        low=_ratio_quantile(control, treatment, alpha / 2) - 1,
        high=_ratio_quantile(control, treatment, 1 - alpha / 2) - 1,
        rope=near if rope else None,
        within=rope,
        model="beta-binomial",
    )
