"""One policy on a log: what it would have earned, by four estimators with intervals, and whether to believe it."""

import msgspec
import numpy as np

from engine.analysis.offpolicy.crossfit import Predicted
from engine.analysis.offpolicy.estimators import Estimate, Spread, dr, ips, snips, switch_dr
from engine.analysis.offpolicy.learning_curve import Curve, learning_curve
from engine.analysis.offpolicy.log_checks import Gate, gates
from engine.analysis.offpolicy.logged_choices import Floats, Ints, Logged
from engine.analysis.offpolicy.target_policies import Target
from engine.analysis.stats.estimate import NotEstimable

FEW_REWARDS = 30.0
EVEN = 1.5


class Interval(msgspec.Struct, frozen=True):
    """From `low` to `high`."""

    low: float
    high: float


class Valued(Estimate, frozen=True):
    """One estimator's value of a policy, a reward per decision.

    `low` and `high` are asymptotic, by t over customers without their skewness; `bernstein` assumes less and is wider.
    """

    bernstein: Interval


class Values(msgspec.Struct, frozen=True):
    """A policy's value by each estimator; `threshold` is the weight above which SWITCH-DR trusts its model alone."""

    ips: Valued | NotEstimable
    snips: Valued | NotEstimable
    dr: Valued | NotEstimable
    switch_dr: Valued | NotEstimable
    threshold: float | None


class Verdict(msgspec.Struct, frozen=True):
    """Whether the policy can be judged on this log, and if not, which checks failed, in words."""

    can_be_judged: bool
    why: str


class Judgement(msgspec.Struct, frozen=True):
    """One policy on the `decisions` of these `customers`: all of the log's, or those left where the first ones teach.

    `threshold` is the weight above which SWITCH-DR trusts its model alone. `warnings` say what to be careful about
    though every check passed, `notes` how it was judged.
    """

    policy: str
    kind: str
    arms: int
    decisions: int
    customers: int
    verdict: Verdict
    gates: list[Gate]
    ess: float
    mean_weight: float
    largest_weight: float
    unlogged_mass: float
    ips: Valued | NotEstimable
    snips: Valued | NotEstimable
    dr: Valued | NotEstimable
    switch_dr: Valued | NotEstimable
    threshold: float | None
    warnings: list[str]
    notes: list[str]
    curve: Curve | None = None


def judgement(target: Target, found: Predicted, alpha: float, *, curve: bool) -> Judgement:
    """The values of a policy, and whether the log allows them to be believed.

    Args:
        target: the policy.
        found: what it would have done.
        alpha: one minus the intervals' coverage.
        curve: whether to replay the log for a learning curve.
    """
    log = target.log.only(found.rows)
    weights = found.target / log.propensity
    unlogged = float(found.unlogged.mean())
    checks = gates(weights, log.customer, unlogged, target.unread(log))
    failed = [gate.why for gate in checks if not gate.ok]
    value = {gate.name: gate.value for gate in checks}
    return Judgement(
        policy=target.file.name,
        kind=target.file.spec.kind,
        arms=len(target.arms),
        decisions=len(log),
        customers=log.customers,
        verdict=Verdict(not failed, "; ".join(failed) or "every check passed"),
        gates=checks,
        ess=value["effective sample size"],
        mean_weight=value["mean weight"],
        largest_weight=value["largest weight"],
        unlogged_mass=unlogged,
        **msgspec.structs.asdict(values(log, found, alpha)),
        warnings=[*_left_out(target), *_rare(log, weights), *_even(target, found)],
        notes=[*_taught(target, log), *target.notes(log)],
        curve=learning_curve(target) if curve else None,
    )


def values(log: Logged, found: Predicted, alpha: float) -> Values:
    """The four estimators' values with their intervals.

    Args:
        log: the judged rows (n,) alone.
        found: what the policy and the reward model say of them, (n,) each.
        alpha: one minus the intervals' coverage.
    """
    weights = found.target / log.propensity
    if not weights.any():
        none = NotEstimable("the policy never takes a logged choice")
        return Values(none, none, none, none, None)
    given = (log.reward, log.propensity, found.target)
    modelled = (*given, found.of_logged, found.of_target)
    errors = log.reward - found.of_logged
    largest = float(max(np.abs(found.of_logged).max(), np.abs(found.of_target).max()))
    threshold = switch_threshold(weights, errors, found.of_target, largest)
    used = np.where(weights <= threshold, weights, 0.0)
    by, mean = log.customer, weights.mean()
    normal = snips(*given, cluster=by, alpha=alpha)
    return Values(
        valued(ips(*given, cluster=by, alpha=alpha), weights * log.reward, log, alpha),
        valued(normal, normal.value + weights * (log.reward - normal.value) / mean, log, alpha),
        valued(dr(*modelled, cluster=by, alpha=alpha), doubly_robust(log, found), log, alpha),
        valued(
            switch_dr(*modelled, threshold=threshold, cluster=by, alpha=alpha),
            found.of_target + used * errors,
            log,
            alpha,
        ),
        threshold,
    )


def valued(estimate: Estimate, scores: Floats, log: Logged, alpha: float) -> Valued:
    """An estimate with the intervals of its scores (n,); the Bernstein one does not leave the rewards' range."""
    low, high = Spread.of(scores - scores.mean(), log.customer).interval(estimate.value, alpha)
    wide = bernstein(scores, log.customer, alpha)
    least, largest = float(log.reward.min()), float(log.reward.max())
    within = Interval(max(wide.low, min(least, estimate.value)), min(wide.high, max(largest, estimate.value)))
    return Valued(**(msgspec.structs.asdict(estimate) | {"low": low, "high": high}), bernstein=within)


def doubly_robust(log: Logged, found: Predicted) -> Floats:
    """The scores (n,) whose mean is the doubly robust value."""
    return np.asarray(found.of_target + found.target / log.propensity * (log.reward - found.of_logged))


def bernstein(scores: Floats, cluster: Ints, alpha: float) -> Interval:
    """The empirical-Bernstein interval of a mean (Maurer and Pontil 2009, theorem 4, on both sides).

    Args:
        scores: (n,) whose mean is the estimate; for SNIPS those of its linearization.
        cluster: (n,) integers from 0; sums per cluster are what is independent.
        alpha: one minus the interval's coverage. The range of a cluster's sum, which the theorem wants to be known,
            is taken from those seen.
    """
    totals = np.bincount(cluster, weights=scores)
    groups = len(totals)
    sums = totals * (groups / len(scores))
    log = float(np.log(4 / alpha))
    reach = float(np.sqrt(2 * sums.var(ddof=1) * log / groups) + 7 * np.ptp(sums) * log / (3 * (groups - 1)))
    return Interval(float(sums.mean()) - reach, float(sums.mean()) + reach)


def switch_threshold(weights: Floats, errors: Floats, expected: Floats, largest: float) -> float:
    """The weight above which SWITCH-DR does without the correction: the least bound of the squared error.

    Wang, Agarwal and Dudik 2017 choose it so: variance plus squared bias, the bias at most `largest` times the
    target's mass above the threshold; among quantiles of the weights and their maximum, which is DR itself.

    Args:
        weights: (n,).
        errors: (n,) rewards less what the model expected of the logged arm.
        expected: (n,) what the model expects of the target.
        largest: expected reward of any arm, at most.
    """

    def bound(threshold: float) -> float:
        above = weights > threshold
        variance = float(np.var(expected + np.where(above, 0.0, weights) * errors)) / len(weights)
        return variance + (largest * float(weights[above].sum()) / len(weights)) ** 2

    return min((float(w) for w in np.quantile(weights, [1, 0.9999, 0.999, 0.99, 0.95, 0.9])), key=bound)


def _left_out(target: Target) -> list[str]:
    """A warning where the placement would not choose as the policy alone does."""
    return [f"{name} of its file is left out; the placement would choose otherwise" for name in target.file.ignored]


def _taught(target: Target, log: Logged) -> list[str]:
    if not target.learns:
        return []
    rows = f"{len(log):,} decisions of {log.customers:,} customers"
    return [f"it learns: judged as it goes, on {rows}, each by what earlier customers taught it"]


def _even(target: Target, found: Predicted) -> list[str]:
    """A warning where a policy that learns has not come far from choosing evenly."""
    likeliest, even = float(found.likeliest.mean()), float(found.even.mean())
    if not target.learns or likeliest > EVEN * even:
        return []
    return [f"it has learnt little: its likeliest offer gets {likeliest:.0%} of the choices, an even choice {even:.0%}"]


def _rare(log: Logged, weights: Floats) -> list[str]:
    """A warning where few rewards carry the value: asymptotic intervals are then too narrow."""
    earned = weights * log.reward
    squares = float(earned @ earned)
    rewards = float(earned.sum()) ** 2 / squares if squares > 0 else 0.0
    if rewards >= FEW_REWARDS:
        return []
    return [f"few rewards: the value rests on about {rewards:.1f} of them; trust the cautious interval alone"]
