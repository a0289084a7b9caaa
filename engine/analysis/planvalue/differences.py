"""The doubly robust difference of two plans' worth on the same logged decisions, and whether it is estimable.

With p and o the probabilities by the new and the old plan, e the logged propensity of the arm a that was shown, w the
money that a reward of an arm is worth and q the reward model, the score of a row is

    sum over arms b of (p(b) - o(b)) w(b) q(b)  +  (p(a) - o(a)) / e  w(a) (r - q(a))

Dudik, Langford and Li 2011, "Doubly Robust Policy Evaluation and Learning", as a difference: a row in which both plans
choose alike has the score 0 whatever it earned. Only the other rows need overlap: whatever either plan would show
there must have had a chance in the log, unless it is worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from engine.analysis.offpolicy.crossfit import RewardModel, fit_reward_model
from engine.analysis.offpolicy.estimators import Spread, effective_sample_size
from engine.analysis.offpolicy.log_checks import LEAST_ESS, MOST_UNLOGGED_MASS, MOST_WEIGHT_SHARE, STANDARD_ERRORS
from engine.analysis.offpolicy.logged_choices import LoggedChoices
from engine.analysis.planvalue.replay import Chances, ReplayedPlan
from engine.analysis.planvalue.shown_rows import ShownLog, ShownRow
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.catalog.plan.features import Value
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.metrics import is_in_money
from engine.metric_kinds import METRIC_KINDS
from engine.vocabulary import SILENCE
from policies.batches import Floats, Ints

SAME = 1e-9
"""The largest difference of a probability that is rounding."""
_context = msgspec.json.Decoder(dict[str, Value])


class RowWorth(NamedTuple):
    """The worth of a row's reward: `each` if the metric is in money, else the offers' values."""

    each: float | None
    values: dict[str, float]

    def of(self, arm: str) -> float:
        """The money that a reward of 1 of an arm is worth."""
        return self.each if self.each is not None else self.values.get(arm, 0.0)

    @property
    def is_known(self) -> bool:
        """Whether any arm has a worth."""
        return self.each is not None or any(self.values.values())


class PlanDifference(NamedTuple):
    """A change's effect per row, the share of changed rows, and the number of rows."""

    effect: Effect | NotEstimable
    changed: float
    rows: int


@dataclass(frozen=True)
class PlacementModel:
    """The reward model of one placement's rows that a policy chose."""

    model: RewardModel
    places: dict[int, int]
    """The row of the model by the row of the log."""
    arms: dict[str, int]


class DifferenceEstimator:
    """Estimates differences of plans on the rows of one log.

    Args:
        log: the rows.
        plan: the old plan, whose values of offers and metrics say what a reward is worth.
        customer: (n,) numbered from 0.
    """

    def __init__(self, log: ShownLog, plan: Plan, customer: Ints) -> None:
        self._rows = log.rows
        self._offers = {*plan.offers, SILENCE}
        self._customer = customer
        self._worth = [_worth_of(plan, row, log.traces[row.decision_id].request.channel) for row in log.rows]
        names = sorted({row.placement for row in log.rows})
        self._models = {name: model for name in names if (model := _fit(log.rows, customer, name)) is not None}

    def compare(self, old: ReplayedPlan, new: ReplayedPlan, alpha: float) -> PlanDifference:
        """The worth per row of `new` minus that of `old`."""
        evaluated = np.flatnonzero(old.evaluated & new.evaluated)
        changed = [at for at in evaluated.tolist() if _differ(old.chances[at], new.chances[at])]
        share = len(changed) / max(evaluated.size, 1)
        if not changed:
            return PlanDifference(Effect(estimate=0.0, low=0.0, high=0.0, se=0.0), 0.0, evaluated.size)
        refused = self._find_unknown(changed)
        if refused is not None:
            return PlanDifference(refused, share, evaluated.size)
        scores, weights, unlogged = np.zeros(len(self._rows)), np.zeros(len(changed)), np.zeros((len(changed), 2))
        free = np.zeros(len(changed))
        for place, at in enumerate(changed):
            parts = self._score(at, old.chances[at], new.chances[at])
            scores[at], weights[place], free[place] = parts.score, parts.weight, parts.free
            unlogged[place] = parts.unlogged, parts.moved
        refused = _check_overlap(weights, free, unlogged)
        if refused is not None:
            return PlanDifference(refused, share, evaluated.size)
        return PlanDifference(self._estimate(scores[evaluated], evaluated, alpha), share, evaluated.size)

    def _find_unknown(self, changed: Sequence[int]) -> NotEstimable | None:
        """The reason why changed rows have no known worth in money."""
        lists = sorted({self._rows[at].placement for at in changed if self._rows[at].position})
        if lists:
            return NotEstimable(f"it changes lists, at {', '.join(lists)}; `evaluate` judges policies of lists")
        bare = sorted({self._rows[at].placement for at in changed if not self._worth[at].is_known})
        if bare:
            return NotEstimable(
                f"nothing at {', '.join(bare)} is worth money; give its metric `money`, or its offers a `value`"
            )
        return None

    def _score(self, at: int, old: Chances, new: Chances) -> _RowScore:
        """The score of a changed row, and the parts that the log cannot show."""
        row, worth = self._rows[at], self._worth[at]
        fitted = self._models.get(row.placement)
        place = None if fitted is None else fitted.places.get(at)
        known = {*row.candidates, row.arm} if place is not None else set()
        moved = unlogged = free = score = 0.0
        changes = {arm: new.get(arm, 0.0) - old.get(arm, 0.0) for arm in {**old, **new}}
        for arm, change in changes.items():
            moved += abs(change) / 2
            if arm not in known:
                free += change
                is_known = arm in self._offers and not worth.of(arm)
                unlogged += 0.0 if is_known else abs(change) / 2
        weight = 0.0
        if fitted is not None and place is not None:
            score += self._predict(fitted, place, [(arm, change * worth.of(arm)) for arm, change in changes.items()])
            weight = changes.get(row.arm, 0.0) / row.propensity
            if weight:
                error = (row.reward or 0.0) - float(fitted.model.predict_logged(np.array([place]))[0])
                score += weight * worth.of(row.arm) * error
        return _RowScore(score, weight, free, unlogged, moved)

    def _predict(self, fitted: PlacementModel, place: int, parts: Sequence[tuple[str, float]]) -> float:
        """The sum of expected rewards of arms, each times its factor."""
        unknown = len(fitted.arms)
        used = [(fitted.arms.get(arm, unknown), factor) for arm, factor in parts if factor]
        if not used:
            return 0.0
        expected = fitted.model.predict_arms(np.array([place]), np.array([arm for arm, _ in used]))[0]
        return float(expected @ np.array([factor for _, factor in used]))

    def _estimate(self, scores: Floats, rows: Ints, alpha: float) -> Effect | NotEstimable:
        customer = np.unique(self._customer[rows], return_inverse=True)[1].ravel()
        if customer.max() < 1:
            return NotEstimable("all of its decisions are of one customer; an interval needs two")
        mean = float(scores.mean())
        spread = Spread.of_influence(scores - mean, customer)
        if spread.se == 0:
            return Effect(estimate=mean, low=mean, high=mean, se=0.0)
        low, high = spread.interval(mean, alpha)
        return Effect(estimate=mean, low=low, high=high, se=spread.se, p=spread.p_value(mean))


class _RowScore(NamedTuple):
    """A row's score and weight: `moved` between arms, of that `unlogged`, and the unknown net change."""

    score: float
    weight: float
    free: float
    unlogged: float
    moved: float


def _differ(old: Chances, new: Chances) -> bool:
    if old.keys() == new.keys() and all(abs(p - new[arm]) <= SAME for arm, p in old.items()):
        return False
    return any(abs(new.get(arm, 0.0) - old.get(arm, 0.0)) > SAME for arm in {**old, **new})


def _check_overlap(weights: Floats, free: Floats, masses: Floats) -> NotEstimable | None:
    """The reason why changed rows cannot be evaluated; None if they can.

    Args:
        weights: (m,) the change of the probability of what was shown, over its propensity.
        free: (m,) the net change of probability of arms that the log did not choose from.
        masses: (m, 2) how much probability moves to or from arms that the log did not choose from, and how much moves.
    """
    unlogged = float(masses[:, 0].sum() / max(masses[:, 1].sum(), 1e-12))
    if unlogged > MOST_UNLOGGED_MASS:
        return NotEstimable(
            f"no overlap: {unlogged:.0%} of what it would show otherwise had no chance in those decisions of the log",
            remedy="An experiment would change this.",
        )
    size = np.abs(weights)
    ess = effective_sample_size(size)
    if ess < LEAST_ESS:
        return NotEstimable(
            f"the decisions that it changes equal {ess:.0f} of equal weight; {LEAST_ESS:.0f} are needed"
        )
    largest = float(size.max() / size.sum())
    if largest > MOST_WEIGHT_SHARE:
        return NotEstimable(f"one decision has {largest:.0%} of the weight; {MOST_WEIGHT_SHARE:.0%} is the most")
    balance = weights + free
    error = float(balance.std(ddof=1)) * balance.size**0.5
    if abs(float(balance.sum())) > STANDARD_ERRORS * error + 0.01 * balance.size:
        return NotEstimable("the logged propensities do not fit what this plan replays; is the log of another shop?")
    return None


def _worth_of(plan: Plan, row: ShownRow, channel: str) -> RowWorth:
    """The worth of a row's rewards, by the metric of the deciding policy or of the placement."""
    selection = plan.policies.get((row.policy or "").rpartition("@")[0]) or plan.selections.get(
        (channel, row.placement)
    )
    values = {key: offer.spec.value for key, offer in plan.offers.items() if offer.spec.value}
    if selection is None:
        return RowWorth(None, values)
    metric = selection.reward.metric
    if is_in_money(metric):
        money = METRIC_KINDS[metric.kind].default_money if metric.money is None else metric.money
        return RowWorth(money, values)
    return RowWorth(None, values)


def _fit(rows: Sequence[ShownRow], customer: Ints, placement: str) -> PlacementModel | None:
    """The reward model of a placement; None if a policy chose too few of its rows."""
    own = [at for at, row in enumerate(rows) if row.placement == placement and row.policy is not None]
    own = [at for at in own if not rows[at].position and 0 < rows[at].propensity <= 1]
    if len({int(customer[at]) for at in own}) < 2:
        return None
    names = sorted({name for at in own for name in (*rows[at].candidates, rows[at].arm)})
    arms = {name: place for place, name in enumerate(names)}
    texts = {text: place for place, text in enumerate(dict.fromkeys(rows[at].context for at in own))}
    choices = LoggedChoices(
        place="",
        placement=placement,
        arms=tuple(names),
        arm=np.array([arms[rows[at].arm] for at in own], dtype=np.intp),
        reward=np.array([rows[at].reward or 0.0 for at in own]),
        propensity=np.array([rows[at].propensity for at in own]),
        customer=np.unique(customer[own], return_inverse=True)[1].ravel(),
        sets=(np.arange(len(names)),),
        which=np.zeros(len(own), np.intp),
        contexts=tuple(_context.decode(text) for text in texts),
        context=np.array([texts[rows[at].context] for at in own], dtype=np.intp),
        position=np.zeros(len(own), np.intp),
        decision=np.arange(len(own)),
    )
    return PlacementModel(fit_reward_model(choices), {at: place for place, at in enumerate(own)}, arms)
