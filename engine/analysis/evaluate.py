"""Offline judgement: what other policies would have earned on logged decisions, and whether the log allows to say so.

A policy that learns is judged by cross-fitting (see `crossfit`): in every decision it is as it would have learnt from
the other customers' decisions, so none judges a policy that learnt from it. A decision without a reward earned 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
from scipy import special

from engine.analysis.crossfit import Predicted, folds_of, predicted, reward_models
from engine.analysis.curve import Curve, learning_curve
from engine.analysis.effects import critical_t
from engine.analysis.estimate import Effect, NotEstimable
from engine.analysis.gates import Gate, gates
from engine.analysis.logged import Floats, Ints, Logged, read_logged
from engine.analysis.offpolicy import Estimate, dr, ips, snips, switch_dr
from engine.analysis.targets import PolicyFile, Target, read_policy, target_of
from engine.errors import BadInput

LOGGED = "logged"


class Interval(msgspec.Struct, frozen=True):
    """From `low` to `high`."""

    low: float
    high: float


class Valued(msgspec.Struct, frozen=True):
    """One estimator's value of a policy, a reward per decision.

    `low` and `high` are asymptotic, by t over customers; `bernstein` makes fewer assumptions and is wider.
    """

    value: float
    low: float
    high: float
    ess: float
    mean_weight: float
    largest_weight: float
    bernstein: Interval


class Verdict(msgspec.Struct, frozen=True):
    """Whether the policy can be judged on this log, and if not, which checks failed, in words."""

    can_be_judged: bool
    why: str


class Judgement(msgspec.Struct, frozen=True):
    """One policy on the log. `threshold` is the weight above which SWITCH-DR trusts its model alone."""

    policy: str
    kind: str
    arms: int
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
    notes: list[str]
    curve: Curve | None = None


class Difference(msgspec.Struct, frozen=True):
    """What a policy earns more per decision than `against`, by DR on the same decisions.

    `against` is another policy, or `logged`: what the log's own policies earned.
    """

    policy: str
    against: str
    effect: Effect | NotEstimable


class EvaluationReport(msgspec.Struct, frozen=True):
    """Policies judged on one log; `on_policy` is the mean reward of what was chosen."""

    log: str
    placement: str
    decisions: int
    customers: int
    arms: int
    rewarded: int
    alpha: float
    on_policy: Valued
    policies: list[Judgement]
    differences: list[Difference]

    @property
    def judged(self) -> bool:
        """Whether every policy can be judged."""
        return all(one.verdict.can_be_judged for one in self.policies)


def evaluate(
    source: Path | str,
    policies: Sequence[Path | str],
    *,
    placement: str | None = None,
    alpha: float = 0.05,
    curve: bool = False,
) -> EvaluationReport:
    """The off-policy value of every policy file on the logged decisions, in one pass over the log.

    Args:
        source: a log's folder or a CSV of the Open Bandit Dataset, see `read_logged`.
        policies: YAML files, each a selection or a policy alone.
        placement: of the log; where it is left out, that of the selections, or the only one.
        alpha: one minus the intervals' coverage.
        curve: whether to replay the log for a learning curve of every policy.

    Raises:
        BadInput: if the log or a policy cannot be used, in one line.
        CatalogError: if a policy file has problems.
    """
    if not 0 < alpha < 1:
        raise BadInput(f"--alpha {alpha}: is not between 0 and 1; 0.05 gives 95% intervals")
    if not policies:
        raise BadInput("evaluate: needs at least one --policy FILE.yaml")
    files = _named([Path(one) for one in policies])
    place = Path(source)
    if placement is None and place.is_dir():
        wanted = {one.placement for one in files if one.placement}
        if len(wanted) > 1:
            raise BadInput(f"the policies are of {' and '.join(sorted(wanted))}; judge one placement at a time")
        placement = next(iter(wanted), None)
    log = read_logged(place, placement)
    targets = [target_of(one, log) for one in files]
    folds = folds_of(log)
    models = reward_models(log, folds)
    found = [predicted(target, folds, models) for target in targets]
    judged = [_judgement(t, p, alpha, curve=curve) for t, p in zip(targets, found, strict=True)]
    scores = {t.file.name: _doubly_robust(log, p) for t, p in zip(targets, found, strict=True)}
    scores[LOGGED] = log.reward
    return EvaluationReport(
        log=log.place,
        placement=log.placement,
        decisions=len(log),
        customers=int(log.customer.max()) + 1,
        arms=len(log.arms),
        rewarded=int(np.count_nonzero(log.reward)),
        alpha=alpha,
        on_policy=_on_policy(log, alpha),
        policies=judged,
        differences=_differences(scores, {one.policy: one.verdict for one in judged}, log.customer, alpha),
    )


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


def _judgement(target: Target, found: Predicted, alpha: float, *, curve: bool) -> Judgement:
    log = target.log
    weights = found.target / log.propensity
    unlogged = float(found.unlogged.mean())
    checks = gates(weights, log.customer, unlogged)
    failed = [gate.why for gate in checks if not gate.ok]
    value = {gate.name: gate.value for gate in checks}
    ipsed: Valued | NotEstimable
    snipsed: Valued | NotEstimable
    robust: Valued | NotEstimable
    switched: Valued | NotEstimable
    ipsed = snipsed = robust = switched = NotEstimable("the policy never takes a logged choice")
    threshold = None
    if weights.any():
        given = (log.reward, log.propensity, found.target)
        modelled = (*given, found.of_logged, found.of_target)
        errors = log.reward - found.of_logged
        largest = float(max(np.abs(found.of_logged).max(), np.abs(found.of_target).max()))
        threshold = switch_threshold(weights, errors, found.of_target, largest)
        used = np.where(weights <= threshold, weights, 0.0)
        by, mean = log.customer, weights.mean()
        ipsed = _valued(ips(*given, cluster=by, alpha=alpha), weights * log.reward, by, alpha)
        normal = snips(*given, cluster=by, alpha=alpha)
        snipsed = _valued(normal, normal.value + weights * (log.reward - normal.value) / mean, by, alpha)
        robust = _valued(dr(*modelled, cluster=by, alpha=alpha), _doubly_robust(log, found), by, alpha)
        switch = switch_dr(*modelled, threshold=threshold, cluster=by, alpha=alpha)
        switched = _valued(switch, found.of_target + used * errors, by, alpha)
    return Judgement(
        policy=target.file.name,
        kind=target.file.spec.kind,
        arms=len(target.arms),
        verdict=Verdict(not failed, "; ".join(failed) or "every check passed"),
        gates=checks,
        ess=value["effective sample size"],
        mean_weight=value["mean weight"],
        largest_weight=value["largest weight"],
        unlogged_mass=unlogged,
        ips=ipsed,
        snips=snipsed,
        dr=robust,
        switch_dr=switched,
        threshold=threshold,
        notes=[*target.notes(), *_rare(log, weights)],
        curve=learning_curve(target) if curve else None,
    )


def _rare(log: Logged, weights: Floats) -> list[str]:
    """A warning where few rewards carry the value: asymptotic intervals are then too narrow."""
    earned = weights * log.reward
    squares = float(earned @ earned)
    rewards = float(earned.sum()) ** 2 / squares if squares > 0 else 0.0
    if rewards >= 30:
        return []
    return [f"the value rests on as much as {rewards:.1f} rewards; rather trust the Bernstein interval"]


def _doubly_robust(log: Logged, found: Predicted) -> Floats:
    return np.asarray(found.of_target + found.target / log.propensity * (log.reward - found.of_logged))


def _on_policy(log: Logged, alpha: float) -> Valued:
    estimate = ips(log.reward, log.propensity, log.propensity, cluster=log.customer, alpha=alpha)
    return _valued(estimate, log.reward, log.customer, alpha)


def _valued(estimate: Estimate, scores: Floats, customer: Ints, alpha: float) -> Valued:
    return Valued(**msgspec.structs.asdict(estimate), bernstein=bernstein(scores, customer, alpha))


def _differences(
    scores: dict[str, Floats], verdicts: dict[str, Verdict], customer: Ints, alpha: float
) -> list[Difference]:
    """Each policy against what was logged, and then all pairs; none where one of the two cannot be judged."""
    pairs = [(name, LOGGED) for name in verdicts] + list(combinations(verdicts, 2))
    found = []
    for one, other in pairs:
        failed = next((n for n in (one, other) if n in verdicts and not verdicts[n].can_be_judged), None)
        effect: Effect | NotEstimable = NotEstimable(f"{failed} cannot be judged on this log")
        if failed is None:
            effect = _effect(scores[one] - scores[other], customer, alpha)
        found.append(Difference(one, other, effect))
    return found


def _effect(differences: Floats, customer: Ints, alpha: float) -> Effect | NotEstimable:
    """The mean of paired differences (n,), by t over customers."""
    mean = float(differences.mean())
    sums = np.bincount(customer, weights=differences - mean)
    groups = len(sums)
    se = float(np.sqrt(groups / (groups - 1) * (sums @ sums))) / len(differences)
    if se == 0:
        return NotEstimable("both earn the same in every decision")
    reach = critical_t(alpha, groups - 1) * se
    p = 2 * float(special.stdtr(groups - 1, -abs(mean) / se))
    return Effect(mean, mean - reach, mean + reach, se, p)


def _named(paths: Sequence[Path]) -> list[PolicyFile]:
    """The files under names that differ: each its own, or its path where two are alike."""
    files = [read_policy(path) for path in paths]
    names = [one.name for one in files]
    renamed = [
        replace(one, name=str(path)) if names.count(one.name) > 1 else one
        for one, path in zip(files, paths, strict=True)
    ]
    if len({one.name for one in renamed} | {LOGGED}) <= len(renamed):
        raise BadInput(f"a --policy file is named twice, or {LOGGED}.yaml, which means the log's own; rename it")
    return renamed
