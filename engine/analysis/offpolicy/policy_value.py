"""One policy's value on a log: four estimators with intervals, and checks of their validity."""

import msgspec
import numpy as np

from engine.analysis.offpolicy.crossfit import Predictions
from engine.analysis.offpolicy.estimators import (
    Estimate,
    Spread,
    dr,
    effective_sample_size,
    ips,
    snips,
    switch_dr,
)
from engine.analysis.offpolicy.learning_curve import LearningCurve, replay_learning_curve
from engine.analysis.offpolicy.list_value import (
    ListScores,
    PositionValue,
    as_lists,
    mean_of_scores,
    score_lists,
    value_positions,
)
from engine.analysis.offpolicy.log_checks import LogCheck, check_log
from engine.analysis.offpolicy.logged_choices import LoggedChoices
from engine.analysis.offpolicy.target_policies import TargetPolicy
from engine.analysis.stats.estimate import NotEstimable
from policies.batches import Floats, Ints

FEW_REWARDS = 30.0
NEARLY_EVEN = 1.5
"""A trained policy whose largest probability is below this multiple of an even one has learnt little."""


class BernsteinInterval(msgspec.Struct, frozen=True):
    """An interval from `low` to `high`."""

    low: float
    high: float


class ValueEstimate(Estimate, frozen=True, kw_only=True):
    """One estimator's value of a policy: the expected reward per decision.

    `low` and `high` are asymptotic: t over customers, corrected for skewness. `bernstein` assumes less and is wider.
    """

    bernstein: BernsteinInterval


class PolicyValues(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's value by each estimator."""

    ips: ValueEstimate | NotEstimable
    snips: ValueEstimate | NotEstimable
    dr: ValueEstimate | NotEstimable
    switch_dr: ValueEstimate | NotEstimable
    threshold: float | None
    """The weight above which SWITCH-DR uses the reward model alone."""


class LogVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the log can estimate the policy's value, and the failed checks if not."""

    is_estimable: bool = msgspec.field(name="can_be_judged")
    why: str


class PolicyValue(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on the evaluated decisions: all of the log, or those after its first training part."""

    policy: str
    kind: str
    arms: int
    decisions: int
    customers: int
    verdict: LogVerdict
    checks: list[LogCheck] = msgspec.field(name="gates")
    ess: float
    mean_weight: float
    largest_weight: float
    unlogged_mass: float
    ips: ValueEstimate | NotEstimable
    snips: ValueEstimate | NotEstimable
    dr: ValueEstimate | NotEstimable
    switch_dr: ValueEstimate | NotEstimable
    threshold: float | None
    """The weight above which SWITCH-DR uses the reward model alone."""
    warnings: list[str]
    """The limits of the result although every check passed."""
    notes: list[str]
    """The way in which the policy was evaluated."""
    curve: LearningCurve | None = None
    positions: list[PositionValue] = []
    """The value at each position of lists."""


def evaluate_policy(target: TargetPolicy, predictions: Predictions, alpha: float, *, curve: bool) -> PolicyValue:
    """The values of a policy, with the checks of the log.

    Args:
        target: the policy.
        predictions: its probabilities, and the reward model's expectations, in the evaluated rows.
        alpha: one minus the intervals' coverage.
        curve: whether to replay the log for a learning curve.
    """
    log = target.log.select_rows(predictions.rows)
    if log.has_lists:
        scores, units = score_lists(log, predictions), as_lists(log)
        weights, values = scores.weights, estimate_list_values(scores, units, alpha)
        positions = value_positions(log, scores, units, alpha)
    else:
        weights, units, positions = predictions.target / log.propensity, log, []
        values = estimate_values(log, predictions, alpha)
    unlogged = float(predictions.unlogged.mean())
    checks = check_log(weights, units.customer, unlogged, target.missing_features(log))
    failures = [check.why for check in checks if not check.ok]
    value = {check.name: check.value for check in checks}
    return PolicyValue(
        policy=target.file.name,
        kind=target.file.spec.kind,
        arms=len(target.arms),
        decisions=len(units),
        customers=log.customers,
        verdict=LogVerdict(is_estimable=not failures, why="; ".join(failures) or "every check passed"),
        checks=checks,
        ess=value["effective sample size"],
        mean_weight=value["mean weight"],
        largest_weight=value["largest weight"],
        unlogged_mass=unlogged,
        **msgspec.structs.asdict(values),
        warnings=[*_warn_ignored(target), *_warn_few_rewards(units, weights), *_warn_even(target, predictions)],
        notes=[*_note_lists(units), *_note_training(target, units), *target.notes(log)],
        curve=replay_learning_curve(target) if curve and not log.has_lists else None,
        positions=positions,
    )


def estimate_list_values(scores: ListScores, lists: LoggedChoices, alpha: float) -> PolicyValues:
    """The estimators' values of lists; `lists` has a row per list, with its items' summed rewards."""
    if not scores.weights.any():
        none = NotEstimable("the policy never chooses a logged list")
        return PolicyValues(ips=none, snips=none, dr=none, switch_dr=none, threshold=None)
    estimates = [
        add_intervals(mean_of_scores(each, scores.weights, lists.customer, alpha), each, lists, alpha)
        for each in (scores.ips, scores.snips, scores.dr)
    ]
    switch = NotEstimable("SWITCH-DR is of single offers; read the cascade DR")
    return PolicyValues(ips=estimates[0], snips=estimates[1], dr=estimates[2], switch_dr=switch, threshold=None)


def estimate_values(log: LoggedChoices, predictions: Predictions, alpha: float) -> PolicyValues:
    """The four estimators' values with their intervals.

    Args:
        log: the evaluated rows (n,) only.
        predictions: of these rows, (n,) each.
        alpha: one minus the intervals' coverage.
    """
    weights = predictions.target / log.propensity
    if not weights.any():
        none = NotEstimable("the policy never chooses a logged arm")
        return PolicyValues(ips=none, snips=none, dr=none, switch_dr=none, threshold=None)
    logged = (log.reward, log.propensity, predictions.target)
    modelled = (*logged, predictions.of_logged, predictions.of_target)
    errors = log.reward - predictions.of_logged
    largest = float(max(np.abs(predictions.of_logged).max(), np.abs(predictions.of_target).max()))
    threshold = choose_switch_threshold(weights, errors, predictions.of_target, largest)
    below = np.where(weights <= threshold, weights, 0.0)
    cluster = log.customer
    normalized = snips(*logged, cluster=cluster, alpha=alpha)
    # SNIPS is a ratio of means: its scores are those of the linearized ratio.
    linearized = normalized.value + weights * (log.reward - normalized.value) / weights.mean()
    switched = switch_dr(*modelled, threshold=threshold, cluster=cluster, alpha=alpha)
    return PolicyValues(
        ips=add_intervals(ips(*logged, cluster=cluster, alpha=alpha), weights * log.reward, log, alpha),
        snips=add_intervals(normalized, linearized, log, alpha),
        dr=add_intervals(
            dr(*modelled, cluster=cluster, alpha=alpha), doubly_robust_scores(log, predictions), log, alpha
        ),
        switch_dr=add_intervals(switched, predictions.of_target + below * errors, log, alpha),
        threshold=threshold,
    )


def add_intervals(estimate: Estimate, scores: Floats, log: LoggedChoices, alpha: float) -> ValueEstimate:
    """The estimate with intervals of its scores (n,); the Bernstein interval stays in the rewards' range."""
    low, high = Spread.of_influence(scores - scores.mean(), log.customer).interval(estimate.value, alpha)
    wide = bernstein_interval(scores, log.customer, alpha)
    least, largest = float(log.reward.min()), float(log.reward.max())
    bounded = BernsteinInterval(max(wide.low, min(least, estimate.value)), min(wide.high, max(largest, estimate.value)))
    return ValueEstimate(**(msgspec.structs.asdict(estimate) | {"low": low, "high": high}), bernstein=bounded)


def doubly_robust_scores(log: LoggedChoices, predictions: Predictions) -> Floats:
    """The scores (n,) whose mean is the doubly robust value (see `estimators`)."""
    errors = log.reward - predictions.of_logged
    return np.asarray(predictions.of_target + predictions.target / log.propensity * errors)


def bernstein_interval(scores: Floats, cluster: Ints, alpha: float) -> BernsteinInterval:
    """The empirical-Bernstein interval of a mean.

    Maurer and Pontil 2009, "Empirical Bernstein Bounds and Sample Variance Penalization", theorem 4, on both sides.

    Args:
        scores: (n,) whose mean is the estimate; for SNIPS those of its linearization.
        cluster: (n,) integers from 0; the sums per cluster are independent, their members are not.
        alpha: one minus the interval's coverage. The theorem needs the range of a cluster's sum to be known; the range
            of the observed sums stands in for it.
    """
    totals = np.bincount(cluster, weights=scores)
    groups = len(totals)
    sums = totals * (groups / len(scores))
    log = float(np.log(4 / alpha))
    reach = float(np.sqrt(2 * sums.var(ddof=1) * log / groups) + 7 * np.ptp(sums) * log / (3 * (groups - 1)))
    return BernsteinInterval(float(sums.mean()) - reach, float(sums.mean()) + reach)


def choose_switch_threshold(weights: Floats, errors: Floats, expected: Floats, largest: float) -> float:
    """The weight above which SWITCH-DR drops the correction, by the least bound of the squared error.

    The bound is the variance plus the squared bias; the bias is at most `largest` times the target's mass above the
    threshold (the rule of Wang, Agarwal and Dudik 2017). Candidates are quantiles of the weights and their maximum,
    which is DR itself.

    Args:
        weights: (n,).
        errors: (n,) rewards minus the model's expectation of the logged arm.
        expected: (n,) the model's expectation under the target.
        largest: the largest absolute expected reward of an arm.
    """

    def bound_squared_error(threshold: float) -> float:
        above = weights > threshold
        variance = float(np.var(expected + np.where(above, 0.0, weights) * errors)) / len(weights)
        return variance + (largest * float(weights[above].sum()) / len(weights)) ** 2

    return min((float(w) for w in np.quantile(weights, [1, 0.9999, 0.999, 0.99, 0.95, 0.9])), key=bound_squared_error)


def _warn_ignored(target: TargetPolicy) -> list[str]:
    """A warning for each key of the file that the placement applies and the evaluation ignores."""
    return [f"{name} of its file is not evaluated; the placement would choose otherwise" for name in target.ignored]


def _note_lists(units: LoggedChoices) -> list[str]:
    """A note on the meaning of a list's value."""
    if not units.has_lists:
        return []
    return ["per list: the sum of its items' rewards, where a reward may depend on the items above it, not below"]


def _note_training(target: TargetPolicy, log: LoggedChoices) -> list[str]:
    """A note on the decisions on which a learning policy was evaluated."""
    if not target.learns:
        return []
    rows = f"{len(log):,} decisions of {log.customers:,} customers"
    return [f"evaluated while it learns: on {rows}, each with the policy trained on earlier customers"]


def _warn_even(target: TargetPolicy, predictions: Predictions) -> list[str]:
    """A warning if a learning policy still chooses nearly evenly."""
    likeliest, even = float(predictions.likeliest.mean()), float(predictions.even.mean())
    if not target.learns or likeliest > NEARLY_EVEN * even:
        return []
    return [f"it has learnt little: its likeliest offer gets {likeliest:.0%} of the choices, an even choice {even:.0%}"]


def _warn_few_rewards(log: LoggedChoices, weights: Floats) -> list[str]:
    """A warning if few rewards determine the value, since asymptotic intervals are then too narrow."""
    rewards = effective_sample_size(weights * log.reward)
    if rewards >= FEW_REWARDS:
        return []
    return [f"few rewards: the value depends on about {rewards:.1f} of them; use the cautious interval"]
