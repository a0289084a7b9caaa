"""The slope of an edge of the KPI tree, from past experiments' effects on both of its metrics.

The customers of an experiment whose lead is high also have a high lag, whatever causes either, and this correlation is
in the errors of both estimated effects. So a plain regression of effects on effects finds it even where no experiment
moved anything. Here the errors' variances and covariance are known and taken out (errors in variables, Fuller 1987,
"Measurement Error Models", ch. 1 and 3).

Model of experiment i, through the origin, since which variant is called control must not matter:
x_i = ξ_i + e_i, y_i = β ξ_i + δ_i + f_i, with Cov(e_i, f_i) known and direct effects δ_i of variance σ². At the true β
the residual r_i = y_i - β x_i has variance v_i = s_yy - 2 β s_xy + β² s_xx + σ². So x̃_i = x_i - Cov(x_i, r_i) / v_i r_i
is independent of it. So Σ x̃ r / v is normal with variance Σ x̃² / v, whatever the ξ are (the conditional score of
Stefanski and Carroll 1987). The slope is its root, the interval all β around it that are not rejected; it has no end
where the experiments hardly moved the lead. σ² is of Paule and Mandel (1982).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri

from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.batches import Floats

LEAST_EXPERIMENTS: Final = 5
LEAST_EXPLAINED: Final = 0.5
"""The share of the variance of true effects on the lag that a surrogate explains at least."""
_ANGLES, _ROUNDS, _HALVINGS = 241, 30, 40


class EffectPairs(NamedTuple):
    """Effects of k experiments on a lead (k,) and a lag (k,), and the variances and covariance of their errors (k,)."""

    lead: Floats
    lag: Floats
    lead_variance: Floats
    lag_variance: Floats
    covariance: Floats


class EdgeSlope(msgspec.Struct, frozen=True, kw_only=True):
    """The change of the lag's true effect per unit of the lead's, its interval, and the explained share.

    `direct` is the standard deviation of effects on the lag that do not go through the lead, `explained` the share of
    the variance of true effects on the lag that does, `degrees` those of t.
    """

    slope: float
    low: float
    high: float
    se: float
    direct: float
    explained: float
    experiments: int
    degrees: int


def fit_edge(pairs: EffectPairs, alpha: float = 0.05) -> EdgeSlope | NotEstimable:
    """The slope of an edge by past experiments' effects."""
    k = len(pairs.lead)
    if k < LEAST_EXPERIMENTS:
        return NotEstimable(f"{k} past experiments have effects on both; a slope needs {LEAST_EXPERIMENTS}")
    hardly = NotEstimable(f"the {k} past experiments hardly moved the lead, so they do not show a slope")
    if float((pairs.lead**2 / pairs.lead_variance).sum()) < float(chdtri(k, alpha)):
        return hardly
    unit = float(np.sqrt(np.mean(pairs.lag**2)) / max(np.sqrt(np.mean(pairs.lead**2)), 1e-300))
    if not (np.isfinite(unit) and unit > 0):
        return NotEstimable("no past experiment moved either of the two")
    slopes = np.tan(np.linspace(-np.pi / 2, np.pi / 2, _ANGLES)[1:-1]) * unit
    slope, direct = _solve(pairs, slopes)
    limit = critical_t(alpha, k - 1)
    ends = _interval(pairs, slopes, slope, direct, alpha)
    if ends is None:
        return hardly
    low, high = ends
    moved = max(float(np.mean(pairs.lead**2 - pairs.lead_variance)), 0.0) * slope**2
    return EdgeSlope(
        slope=slope,
        low=low,
        high=high,
        se=max(high - slope, slope - low) / limit,
        direct=direct**0.5,
        explained=moved / (moved + direct) if moved + direct > 0 else 0.0,
        experiments=k,
        degrees=k - 1,
    )


def _residuals(pairs: EffectPairs, slopes: Floats, direct: Floats | float) -> tuple[Floats, Floats, Floats]:
    """Residuals at slopes (n,), their variances, and the leads' effects adjusted for the residuals (n, k).

    `direct` is the variance of direct effects, one or (n,).
    """
    slope = slopes[:, None]
    residual = pairs.lag - slope * pairs.lead
    shared = pairs.covariance - slope * pairs.lead_variance
    variance = pairs.lag_variance - 2 * slope * pairs.covariance + slope**2 * pairs.lead_variance
    variance = np.maximum(variance + np.reshape(direct, (-1, 1)), 1e-300)
    return residual, variance, pairs.lead - shared / variance * residual


def _scores(pairs: EffectPairs, slopes: Floats, direct: Floats | float) -> Floats:
    """The score at each slope over its standard deviation: standard normal at the true one (n,)."""
    residual, variance, lead = _residuals(pairs, slopes, direct)
    spread = np.sqrt(np.maximum((lead**2 / variance).sum(axis=1), 1e-300))
    return np.asarray((lead * residual / variance).sum(axis=1) / spread)


def _misfits(pairs: EffectPairs, slopes: Floats, direct: Floats | float) -> Floats:
    """The weighted squares of the residuals at each slope (n,)."""
    residual, variance, _ = _residuals(pairs, slopes, direct)
    return np.asarray((residual**2 / variance).sum(axis=1))


def _solve(pairs: EffectPairs, slopes: Floats) -> tuple[float, float]:
    """The root of the score with the least misfit and the variance of direct effects there, found alternately."""
    direct, slope = 0.0, 0.0
    for _ in range(_ROUNDS):
        last = slope
        scores = _scores(pairs, slopes, direct)
        turns = np.flatnonzero((scores[:-1] > 0) & (scores[1:] <= 0))
        if turns.size:
            at = turns[np.argmin(_misfits(pairs, slopes[turns], direct))]
            slope = _root(partial(_score, pairs, direct), slopes[at], slopes[at + 1])
        else:
            slope = float(slopes[np.argmin(_misfits(pairs, slopes, direct))])
        direct = float(_direct_variances(pairs, np.array([slope]), len(pairs.lead) - 1)[0])
        if abs(slope - last) <= 1e-6 * (abs(slope) + abs(last)):
            break
    return slope, direct


def _score(pairs: EffectPairs, direct: float, slope: float) -> float:
    return float(_scores(pairs, np.array([slope]), direct)[0])


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, float(low), float(high), rtol=1e-9))


def _direct_variances(pairs: EffectPairs, slopes: Floats, degrees: int) -> Floats:
    """The variance of direct effects at each slope at which weighted squares equal `degrees`; else 0 (n,)."""
    low, high = np.zeros(slopes.size), (_residuals(pairs, slopes, 0.0)[0] ** 2).sum(axis=1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_more = _misfits(pairs, slopes, middle) > degrees
        low, high = np.where(is_more, middle, low), np.where(is_more, high, middle)
    return np.where(_misfits(pairs, slopes, 0.0) > degrees, high, 0.0)


def _interval(
    pairs: EffectPairs, slopes: Floats, slope: float, direct: float, alpha: float
) -> tuple[float, float] | None:
    """The slopes around the estimate that neither score nor misfit rejects; None if they are unbounded.

    The variance of direct effects is that of the slope which is tested, and the limit of t is the one for residuals
    under the null hypothesis. Far from the truth the score loses its power, since all of the lead's effects would then
    be errors. That the misfit rejects: it is chi-square at the true slope, and its level is a fifth of the score's.
    """
    k = len(pairs.lead)
    t, most = critical_t(alpha, k - 1), float(chdtri(k, alpha / 5))
    limit = max((k * t**2 / (t**2 + k - 1)) ** 0.5, normal_quantile(1 - alpha / 2))

    def excess(tested: Floats) -> Floats:
        scores = np.abs(_scores(pairs, tested, _direct_variances(pairs, tested, k)))
        return np.asarray(np.maximum(scores - limit, (_misfits(pairs, tested, direct) - most) / most))

    out = excess(slopes) > 0
    below, above = np.flatnonzero(out & (slopes < slope)), np.flatnonzero(out & (slopes > slope))
    if not below.size or not above.size:
        return None

    def value(one: float) -> float:
        return float(excess(np.array([one]))[0])

    inner = min(float(slopes[below[-1] + 1]), slope), max(float(slopes[above[0] - 1]), slope)
    return _root(value, slopes[below[-1]], inner[0]), _root(value, inner[1], slopes[above[0]])


def is_surrogate(edge: EdgeSlope) -> bool:
    """Whether the lead can replace the lag: the slope excludes zero, and it explains most effects."""
    return (edge.low > 0 or edge.high < 0) and edge.explained >= LEAST_EXPLAINED


class CarriedEffect(msgspec.Struct, frozen=True, kw_only=True):
    """An effect on the lag that an effect on a lead predicts, with its interval."""

    estimate: float
    low: float
    high: float
    se: float


def carry_effect(edge: EdgeSlope, lead: float, variance: float, alpha: float = 0.05) -> CarriedEffect:
    """The surrogate index of one experiment: the slope times its effect on the lead.

    Its interval has the errors of both, and the direct effects that experiments had beside the lead. The slope's may be
    uneven, so each end takes the distance of its own side (Zou and Donner 2008, recovery of variance estimates).
    """
    estimate, limit = edge.slope * lead, critical_t(alpha, edge.degrees)
    noise = limit**2 * (edge.slope**2 * variance + edge.direct**2)
    ends = sorted((edge.low * lead, edge.high * lead))
    low, high = (((estimate - end) ** 2 + noise) ** 0.5 for end in ends)
    return CarriedEffect(estimate=estimate, low=estimate - low, high=estimate + high, se=(low + high) / 2 / limit)
