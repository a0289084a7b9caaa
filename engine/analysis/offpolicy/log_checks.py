"""Whether a log allows a judgement of a policy at all: five checks, each with what it found and what it asks for."""

from collections.abc import Mapping

import msgspec
import numpy as np

from engine.analysis.offpolicy.logged_choices import Floats, Ints

LARGEST_SHARE = 0.05
LEAST_ESS = 200.0
UNLOGGED = 0.01
UNREAD = 0.01
WEIGHT_OFF = 0.2
WEIGHT_EXACT = 0.01
SURE = 4.0
NOTHING: Mapping[str, float] = {}


class Gate(msgspec.Struct, frozen=True):
    """One check: `value` against the `rule`; `why` says in words what a failure means, and is empty where `ok`."""

    name: str
    ok: bool
    value: float
    rule: str
    why: str = ""


def gates(weights: Floats, customer: Ints, unlogged: float, unread: Mapping[str, float] = NOTHING) -> list[Gate]:
    """The checks of importance weights (n,), target over logged probability.

    The mean weight is 1 in expectation if the logged propensities are those with which the choices were made and the
    target takes nothing that could not be chosen (Li, Chen, Kleban and Gupta 2015, "Counterfactual Estimation and
    Optimization of Click Metrics in Search Engines", test it so). It may be off by four standard errors, clustered by
    customer, and never by more than 0.2. The effective size is Kong's (1992).

    Args:
        weights: (n,).
        customer: labels (n,), integers from 0.
        unlogged: the target's mean probability of arms that the log never chose.
        unread: by feature of the target, the share of the decisions that were logged without it.
    """
    n = len(weights)
    mean, total, largest = float(weights.mean()), float(weights.sum()), float(weights.max())
    ess = total**2 / float(weights @ weights) if total > 0 else 0.0
    sums = np.bincount(customer, weights=weights - mean)
    se = float(np.sqrt(len(sums) / (len(sums) - 1) * (sums @ sums))) / n
    off = min(WEIGHT_OFF, max(WEIGHT_EXACT, SURE * se))
    share = largest / total if total > 0 else 1.0
    lacking = max(unread.values(), default=0.0)
    small = ", or the log is small" if ess < LEAST_ESS else ""
    reason = f"the propensities are not those of the choice (were they computed later?){small}"
    if abs(mean + unlogged - 1) <= off:
        reason = f"the rest is what it takes of offers that the log never showed{small}"
    return [
        _gate(
            "mean weight",
            abs(mean - 1) <= off,
            mean,
            f"1 within {off:.2g}",
            f"the mean weight is {mean:.4g}, not 1: {reason}",
        ),
        _gate(
            "largest weight",
            share <= LARGEST_SHARE,
            largest,
            f"at most {LARGEST_SHARE:.0%} of their sum; {share:.1%}",
            f"one decision carries {share:.1%} of all weight, so the value hangs on it",
        ),
        _gate(
            "effective sample size",
            ess >= LEAST_ESS,
            ess,
            f"{LEAST_ESS:.0f} or more",
            f"{n:,} decisions tell as much of this policy as {ess:,.0f} of its own would; collect more",
        ),
        _gate(
            "unlogged mass",
            unlogged <= UNLOGGED,
            unlogged,
            f"{UNLOGGED:g} or less",
            f"{unlogged:.1%} of its choices are offers that the log never showed; nothing is known of them",
        ),
        _gate(
            "unlogged features",
            lacking <= UNREAD,
            lacking,
            f"{UNREAD:g} or less",
            f"{lacking:.1%} of the decisions were logged without {' and '.join(unread)}, which the policy reads: what "
            "it would have done there is not known",
        ),
    ]


def _gate(name: str, ok: bool, value: float, rule: str, why: str) -> Gate:  # noqa: FBT001 - the check's outcome
    return Gate(name, ok, value, rule, "" if ok else why)
