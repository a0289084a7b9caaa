"""Offline judgement: what other policies would have earned on logged decisions, and whether the log allows to say so.

A policy that learns is judged as it goes (see `crossfit`): on the last four fifths of the customers, each tenth of them
by the policy as the customers before taught it. Its value is that of these eight policies, on average. A decision
without a reward earned 0.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np

from engine.analysis.offpolicy.crossfit import predicted, progress, reward_model
from engine.analysis.offpolicy.estimators import Spread, ips
from engine.analysis.offpolicy.logged_choices import Floats, Ints, Logged, read_logged
from engine.analysis.offpolicy.policy_value import Judgement, Valued, Verdict, doubly_robust, judgement, valued
from engine.analysis.offpolicy.target_policies import read_policies, target_of
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

LOGGED = "logged"


class Difference(msgspec.Struct, frozen=True):
    """What a policy earns more per decision than `against`, by DR on the decisions that both are judged on.

    `against` is another policy, or `logged`: what the log's own policies earned.
    """

    policy: str
    against: str
    effect: Effect | NotEstimable


class EvaluationReport(msgspec.Struct, frozen=True):
    """Policies judged on one log; `on_policy` is the mean reward of what was chosen.

    `unsettled` decisions have neither a reward nor a zero in the log: their reward may still come.
    """

    log: str
    placement: str
    decisions: int
    customers: int
    arms: int
    rewarded: int
    unsettled: int
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
    files = read_policies([Path(one) for one in policies], LOGGED)
    place = Path(source)
    if placement is None and place.is_dir():
        wanted = {one.placement for one in files if one.placement}
        if len(wanted) > 1:
            raise BadInput(f"the policies are of {' and '.join(sorted(wanted))}; judge one placement at a time")
        placement = next(iter(wanted), None)
    log = read_logged(place, placement)
    targets = [target_of(one, log) for one in files]
    model = reward_model(log)
    judged: list[Judgement] = []
    scores = {LOGGED: (np.arange(len(log)), log.reward)}
    for target in targets:
        found = predicted(target, model, progress(target))
        judged.append(judgement(target, found, alpha, curve=curve))
        scores[target.file.name] = (found.rows, doubly_robust(log.only(found.rows), found))
    return EvaluationReport(
        log=log.place,
        placement=log.placement,
        decisions=len(log),
        customers=log.customers,
        arms=len(log.arms),
        rewarded=int(np.count_nonzero(log.reward)),
        unsettled=log.unsettled,
        alpha=alpha,
        on_policy=_on_policy(log, alpha),
        policies=judged,
        differences=_differences(scores, {one.policy: one.verdict for one in judged}, log, alpha),
    )


def _on_policy(log: Logged, alpha: float) -> Valued:
    estimate = ips(log.reward, log.propensity, log.propensity, cluster=log.customer, alpha=alpha)
    return valued(estimate, log.reward, log, alpha)


def _differences(
    scores: Mapping[str, tuple[Ints, Floats]], verdicts: Mapping[str, Verdict], log: Logged, alpha: float
) -> list[Difference]:
    """Each policy against what was logged, and then all pairs; none where one of the two cannot be judged."""
    pairs = [(name, LOGGED) for name in verdicts] + list(combinations(verdicts, 2))
    found = []
    for one, other in pairs:
        failed = next((n for n in (one, other) if n in verdicts and not verdicts[n].can_be_judged), None)
        effect: Effect | NotEstimable = NotEstimable(f"{failed} cannot be judged on this log")
        if failed is None:
            rows, ours, theirs = np.intersect1d(scores[one][0], scores[other][0], return_indices=True)
            effect = _effect(scores[one][1][ours] - scores[other][1][theirs], log.only(rows), alpha)
        found.append(Difference(one, other, effect))
    return found


def _effect(differences: Floats, log: Logged, alpha: float) -> Effect | NotEstimable:
    """The mean of paired differences (n,) in the rows of `log`."""
    mean = float(differences.mean())
    spread = Spread.of(differences - mean, log.customer)
    if spread.se == 0:
        return NotEstimable("both earn the same in every decision")
    return Effect(mean, *spread.interval(mean, alpha), spread.se, spread.p(mean))
