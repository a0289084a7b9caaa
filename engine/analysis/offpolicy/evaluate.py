"""Off-policy evaluation: the expected reward of policies on logged decisions, and whether the log can estimate it.

A policy that learns is evaluated while it learns (see `crossfit`): on the last four fifths of the customers, each tenth
of them with the policy trained on the customers before. Its value is the average over these eight policies. A decision
without a reward counts as 0.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np

from engine.analysis.offpolicy.crossfit import fit_reward_model, predict, train_progressively
from engine.analysis.offpolicy.estimators import Spread, ips
from engine.analysis.offpolicy.list_value import as_lists, score_lists
from engine.analysis.offpolicy.logged_choices import LoggedChoices, read_logged_choices
from engine.analysis.offpolicy.policy_value import (
    LogVerdict,
    PolicyValue,
    ValueEstimate,
    add_intervals,
    doubly_robust_scores,
    evaluate_policy,
)
from engine.analysis.offpolicy.target_policies import PolicyFile, make_target, read_policies
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput
from policies.batches import Floats, Ints

LOGGED_POLICY = "logged"
"""The name under which the log's own policies are compared."""


class PolicyDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's value minus that of `against`, by DR on the decisions used for both.

    `against` is another policy, or `logged`: the log's own policies.
    """

    policy: str
    against: str
    effect: Effect | NotEstimable


class EvaluationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Policies evaluated on one log."""

    log: str
    placement: str
    decisions: int
    customers: int
    arms: int
    rewarded: int
    unsettled: int
    """Decisions with neither a reward nor a zero in the log: their reward may still arrive."""
    alpha: float
    on_policy: ValueEstimate
    """The mean reward of the logged choices."""
    policies: list[PolicyValue]
    differences: list[PolicyDifference]

    @property
    def is_estimable(self) -> bool:
        """Whether the value of every policy can be estimated."""
        return all(policy.verdict.is_estimable for policy in self.policies)


def evaluate(
    source: Path | str,
    policies: Sequence[Path | str],
    *,
    placement: str | None = None,
    alpha: float = 0.05,
    curve: bool = False,
) -> EvaluationReport:
    """Evaluates every policy file on the logged decisions, in one pass over the log.

    Args:
        source: a log's folder or a CSV of the Open Bandit Dataset, see `read_logged_choices`.
        policies: YAML files, each a selection or only a policy.
        placement: of the log; by default that of the selections, or the only one.
        alpha: one minus the intervals' coverage.
        curve: whether to replay the log for a learning curve of every policy.

    Raises:
        BadInput: if the log or a policy cannot be used.
        CatalogError: if a policy file has problems.
    """
    if not 0 < alpha < 1:
        raise BadInput(f"--alpha {alpha}: is not between 0 and 1; 0.05 gives 95% intervals")
    if not policies:
        raise BadInput("evaluate: needs at least one --policy FILE.yaml")
    files = read_policies([Path(policy) for policy in policies], LOGGED_POLICY)
    place = Path(source)
    if placement is None and place.is_dir():
        placement = _common_placement(files)
    log = read_logged_choices(place, placement)
    targets = [make_target(file, log) for file in files]
    model = fit_reward_model(log)
    values: list[PolicyValue] = []
    units = as_lists(log) if log.has_lists else log
    scores = {LOGGED_POLICY: (np.arange(len(units)), units.reward)}
    for target in targets:
        predictions = predict(target, model, train_progressively(target))
        values.append(evaluate_policy(target, predictions, alpha, curve=curve))
        own = log.select_rows(predictions.rows)
        if log.has_lists:
            scores[target.file.name] = (np.unique(own.decision), score_lists(own, predictions).dr)
        else:
            scores[target.file.name] = (predictions.rows, doubly_robust_scores(own, predictions))
    return EvaluationReport(
        log=log.place,
        placement=log.placement,
        decisions=len(units),
        customers=log.customers,
        arms=len(log.arms),
        rewarded=int(np.count_nonzero(log.reward)),
        unsettled=log.unsettled,
        alpha=alpha,
        on_policy=_estimate_on_policy(units, alpha),
        policies=values,
        differences=_compare_policies(scores, {value.policy: value.verdict for value in values}, units, alpha),
    )


def _common_placement(files: Sequence[PolicyFile]) -> str | None:
    """The placement that the selections name; None if none does; raises BadInput if they name several."""
    placements = {file.placement for file in files if file.placement}
    if len(placements) > 1:
        raise BadInput(f"the policies choose for {' and '.join(sorted(placements))}; evaluate one placement at a time")
    return next(iter(placements), None)


def _estimate_on_policy(log: LoggedChoices, alpha: float) -> ValueEstimate:
    """The mean reward of logged choices (for lists, sums): IPS with the logging policy as target."""
    ones = np.ones(len(log))
    estimate = ips(log.reward, ones, ones, cluster=log.customer, alpha=alpha)
    return add_intervals(estimate, log.reward, log, alpha)


def _compare_policies(
    scores: Mapping[str, tuple[Ints, Floats]], verdicts: Mapping[str, LogVerdict], log: LoggedChoices, alpha: float
) -> list[PolicyDifference]:
    """Compares each policy with the logging one, then every pair.

    Args:
        scores: by policy, the evaluated rows of `log` (n,) and their doubly robust scores (n,).
        verdicts: by policy; a difference needs two policies that can be estimated.
        log: all rows.
        alpha: one minus the intervals' coverage.
    """
    pairs = [(name, LOGGED_POLICY) for name in verdicts] + list(combinations(verdicts, 2))
    differences = []
    for policy, against in pairs:
        failed = next((n for n in (policy, against) if n in verdicts and not verdicts[n].is_estimable), None)
        effect: Effect | NotEstimable = NotEstimable(f"the value of {failed} cannot be estimated from this log")
        if failed is None:
            rows, mine, theirs = np.intersect1d(scores[policy][0], scores[against][0], return_indices=True)
            paired = scores[policy][1][mine] - scores[against][1][theirs]
            effect = _estimate_difference(paired, log.select_rows(rows), alpha)
        differences.append(PolicyDifference(policy=policy, against=against, effect=effect))
    return differences


def _estimate_difference(differences: Floats, log: LoggedChoices, alpha: float) -> Effect | NotEstimable:
    """The mean of paired differences (n,) in the rows of `log`."""
    mean = float(differences.mean())
    spread = Spread.of_influence(differences - mean, log.customer)
    if spread.se == 0:
        return NotEstimable("both policies have the same score in every decision")
    low, high = spread.interval(mean, alpha)
    return Effect(estimate=mean, low=low, high=high, se=spread.se, p=spread.p_value(mean))
