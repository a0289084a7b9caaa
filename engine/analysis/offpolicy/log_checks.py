"""Checks whether a log can estimate a policy's value: five checks, each with value and threshold."""

from collections.abc import Mapping

import msgspec
import numpy as np

from engine.analysis.offpolicy.estimators import effective_sample_size
from policies.batches import Floats, Ints

MOST_WEIGHT_SHARE = 0.05
LEAST_ESS = 200.0
MOST_UNLOGGED_MASS = 0.01
MOST_MISSING_FEATURE = 0.01
WEIGHT_TOLERANCE = 0.2
"""The tolerated distance of the mean weight from 1, however small the log."""
WEIGHT_ROUNDING = 0.01
"""The tolerated distance of the mean weight from 1, however large the log: logged propensities are rounded."""
STANDARD_ERRORS = 4.0
"""The tolerated distance of the mean weight from 1 in its standard errors: one log in 16,000 fails by chance."""
NO_FEATURES: Mapping[str, float] = {}


class LogCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check: whether `value` satisfies the `rule`, and the consequence `why` if not (empty if `ok`)."""

    name: str
    ok: bool
    value: float
    rule: str
    why: str = ""


def check_log(
    weights: Floats, customer: Ints, unlogged: float, missing_features: Mapping[str, float] = NO_FEATURES
) -> list[LogCheck]:
    """Checks the importance weights of a target policy on a log.

    Args:
        weights: (n,) target's over logged probability of the chosen arm.
        customer: (n,) labels, integers from 0.
        unlogged: the target's mean probability of arms that the log never chose.
        missing_features: by feature of the target, the share of the decisions that were logged without it.
    """
    return [
        _check_mean_weight(weights, customer, unlogged),
        _check_largest_weight(weights),
        _check_effective_sample_size(weights),
        _make_check(
            "unlogged mass",
            value=unlogged,
            ok=unlogged <= MOST_UNLOGGED_MASS,
            rule=f"{MOST_UNLOGGED_MASS:g} or less",
            why=f"{unlogged:.1%} of its choices are offers that the log never showed; their reward is unknown",
        ),
        _check_features(missing_features),
    ]


def _check_mean_weight(weights: Floats, customer: Ints, unlogged: float) -> LogCheck:
    """The mean weight is 1 in expectation if propensities are right and the target's support was logged.

    Right means: the probabilities with which the choices were really made. Li, Chen, Kleban and Gupta 2015,
    "Counterfactual Estimation and Optimization of Click Metrics in Search Engines", use the same test. Standard errors
    are clustered by customer.
    """
    mean = float(weights.mean())
    sums = np.bincount(customer, weights=weights - mean)
    se = float(np.sqrt(len(sums) / (len(sums) - 1) * (sums @ sums))) / len(weights)
    tolerance = min(WEIGHT_TOLERANCE, max(WEIGHT_ROUNDING, STANDARD_ERRORS * se))
    small = ", or the log is too small" if effective_sample_size(weights) < LEAST_ESS else ""
    reason = f"the logged propensities are not those of the choice (were they computed later?){small}"
    if abs(mean + unlogged - 1) <= tolerance:  # what is missing to 1 is the mass on arms outside the log
        reason = f"the rest of its probability is on offers that the log never showed{small}"
    return _make_check(
        "mean weight",
        value=mean,
        ok=abs(mean - 1) <= tolerance,
        rule=f"1 within {tolerance:.2g}",
        why=f"the mean weight is {mean:.4g}, not 1: {reason}",
    )


def _check_largest_weight(weights: Floats) -> LogCheck:
    """No single decision may dominate the value."""
    largest, total = float(weights.max()), float(weights.sum())
    share = largest / total if total > 0 else 1.0
    return _make_check(
        "largest weight",
        value=largest,
        ok=share <= MOST_WEIGHT_SHARE,
        rule=f"at most {MOST_WEIGHT_SHARE:.0%} of their sum; {share:.1%}",
        why=f"one decision carries {share:.1%} of the total weight, so the estimate depends on it",
    )


def _check_effective_sample_size(weights: Floats) -> LogCheck:
    """Below some hundreds, intervals themselves are unreliable."""
    ess = effective_sample_size(weights)
    return _make_check(
        "effective sample size",
        value=ess,
        ok=ess >= LEAST_ESS,
        rule=f"{LEAST_ESS:.0f} or more",
        why=f"{len(weights):,} decisions are worth {ess:,.0f} decisions of this policy itself; collect more",
    )


def _check_features(missing: Mapping[str, float]) -> LogCheck:
    """The target's choice is unknown if a feature that it reads was not logged."""
    share = max(missing.values(), default=0.0)
    return _make_check(
        "unlogged features",
        value=share,
        ok=share <= MOST_MISSING_FEATURE,
        rule=f"{MOST_MISSING_FEATURE:g} or less",
        why=f"{share:.1%} of the decisions were logged without {' and '.join(missing)}, which the policy reads: its "
        "choice there is unknown",
    )


def _make_check(name: str, *, value: float, ok: bool, rule: str, why: str) -> LogCheck:
    """A check; `why` is dropped if it passed."""
    return LogCheck(name=name, ok=ok, value=value, rule=rule, why="" if ok else why)
