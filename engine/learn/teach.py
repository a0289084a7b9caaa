"""Teaches lessons to policies, one `update` per selection and batch, and refits policies when the plan changes.

- A lesson is applied once: it is stored with the stream position of its records in the learner's one transaction.
- A correction (reward r instead of r') adds (r', -w) and (r, w), where w is the weight that the first lesson still has
  after forgetting: `discount` to the power of the weight of the lessons since then.
- A lesson of an offer that is shown by one of its creatives is one of the creative as well: two policies learn it,
  each on its own clock.
- A lesson has the weight 1, or of a list's item the weight that `examination` gives it.
- A correction of a lesson that a rollback removed is applied as a first lesson.
- Arms that leave the plan stay behind the plan's arms, so an arm that returns continues where it left.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import structlog

from engine.catalog.plan.creatives import CREATIVES
from engine.catalog.plan.features import Value
from engine.catalog.plan.plan import Selection
from engine.learn.pending import Pending
from engine.learn.reward_rules import Lesson, RewardRule, RewardRules
from engine.snapshots.header import StoredSnapshot, align_policy, load_usable_policy, prior_of
from engine.vocabulary import KEPT_MARK, SILENCE, split_item
from policies import Bandit
from policies.examination import ExaminedList, PositionSums

_context = msgspec.json.Decoder(dict[str, Value])
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Learnt:
    """A learner's policy over the plan's arms, followed by arms of earlier plans.

    `learnt` is its clock, the number of first lessons it was ever taught. Lessons within the `forgotten` spans of the
    clock, each (after, up to), are not in the policy: a rollback removed them. `examined` are the sums of a list's
    positions.
    """

    policy: Bandit
    meaning: str
    version: int = 0
    learnt: float = 0.0
    forgotten: tuple[tuple[float, float], ...] = ()
    examined: tuple[PositionSums, ...] = ()

    def contains(self, at: float) -> bool:
        """Whether the policy contains the lesson at `at` on the clock."""
        return not any(low < at <= high for low, high in self.forgotten)


TaughtLesson = tuple["Pending | _CreativeOf", float, float | None]
"""A row, its reward, and the reward that was learnt before, if any was."""


class _CreativeOf:
    """A row as the creatives' policy learns it, with the creative in place of the offer."""

    __slots__ = ("_row",)

    def __init__(self, row: Pending) -> None:
        self._row = row

    @property
    def key(self) -> str:
        return self._row.key

    @property
    def arm(self) -> str:
        return self._row.creative

    @property
    def propensity(self) -> float:
        return self._row.creative_propensity

    @property
    def context(self) -> bytes:
        return self._row.context

    @property
    def learnt(self) -> float:
        return self._row.creative_learnt

    @learnt.setter
    def learnt(self, clock: float) -> None:
        self._row.creative_learnt = clock

    @property
    def weight(self) -> float:
        return self._row.creative_weight

    @weight.setter
    def weight(self, weight: float) -> None:
        self._row.creative_weight = weight

    @property
    def advanced(self) -> bool:
        return self._row.dirty

    @advanced.setter
    def advanced(self, advanced: bool) -> None:
        self._row.dirty = advanced  # `PendingStore` writes the fields of a creative with all others only

    @property
    def dirty(self) -> bool:
        return self._row.dirty

    @dirty.setter
    def dirty(self, dirty: bool) -> None:
        self._row.dirty = dirty


def fit_to_plan(learnt: Mapping[str, Learnt], rules: RewardRules) -> dict[str, Learnt]:
    """The policies of a new plan: remaining arms keep their statistics; a policy whose meaning changed starts over."""
    policies: dict[str, Learnt] = {}
    for key, rule in rules.by_selection.items():
        if not rule.learns:
            continue
        before = learnt.get(key)
        prior = prior_of(rule.selection)
        if before is None:
            policies[key] = _begin(key, rule, learnt)
        elif before.meaning != rule.meaning or (before.policy.kind, before.policy.dim) != (prior.kind, prior.dim):
            _log.warning("kind, features or reward changed: the policy starts over from its prior", key=key)
            policies[key] = restart_from(before, prior, rule.meaning, 0.0)
        else:
            policy = with_plan_arms(before.policy, rule.selection)
            is_new = policy.arms != before.policy.arms
            policies[key] = replace(before, policy=policy, version=before.version + is_new)
    return policies


def _begin(key: str, rule: RewardRule, learnt: Mapping[str, Learnt]) -> Learnt:
    """The prior of a policy that the learner does not have yet.

    That of a plan which a holdout keeps begins with what today's of its name has learnt, if both read the same and earn
    the same, and learns apart from it.
    """
    prior = prior_of(rule.selection)
    base = key.partition(KEPT_MARK)[0] + (CREATIVES if key.endswith(CREATIVES) else "")
    source = learnt.get(base) if KEPT_MARK in key else None
    if source is None or source.meaning != rule.meaning:
        return Learnt(prior, rule.meaning)
    if (source.policy.kind, source.policy.dim) != (prior.kind, prior.dim):
        return Learnt(prior, rule.meaning)
    return replace(source, policy=with_plan_arms(source.policy, rule.selection), version=1)


def with_plan_arms(policy: Bandit, selection: Selection) -> Bandit:
    """The policy with the plan's options, over the plan's arms followed by its other arms."""
    arms = (*selection.arms, *(arm for arm in policy.arms if arm not in set(selection.arms)))
    if arms != policy.arms:
        _log.info("arms changed", key=selection.key, arms=len(selection.arms), before=len(policy.arms))
    return align_policy(policy, selection, arms)


def restart_from(before: Learnt, policy: Bandit, meaning: str, learnt: float) -> Learnt:
    """Replace the learnt state by `policy`, which contains exactly the lessons up to `learnt` on the clock.

    A snapshot that others taught may be ahead of this learner's clock, which then continues from there.
    """
    forgotten = (*(span for span in before.forgotten if span[1] <= learnt), (learnt, before.learnt))
    return replace(
        before,
        policy=policy,
        meaning=meaning,
        version=before.version + 1,
        learnt=max(before.learnt, learnt),
        forgotten=forgotten,
    )


def restart_from_snapshot(own: Learnt, published: StoredSnapshot) -> Learnt:
    """The published snapshot instead of the learner's own; unchanged if a new learner's file has no lessons.

    Raises:
        ValueError: if its bytes are no policy that can choose.
    """
    header, policy = published.header, load_usable_policy(published.blob)
    if own.version == 0:
        return Learnt(policy, header.meaning, header.version, header.learnt, examined=own.examined)
    return restart_from(replace(own, version=header.version), policy, header.meaning, header.learnt)


def teach(
    lessons: Iterable[Lesson], rules: RewardRules, learnt: Mapping[str, Learnt]
) -> tuple[dict[str, Learnt], Counter[str]]:
    """Teach lessons in order.

    Returns:
        The policies that changed by selection, and the number of lessons that could not be taught by reason.
    """
    by_selection: dict[str, list[TaughtLesson]] = {}
    for lesson in lessons:
        row = lesson.row
        by_selection.setdefault(row.selection, []).append(lesson)
        if row.creative:
            creative = _CreativeOf(row), lesson.reward, lesson.instead
            by_selection.setdefault(row.selection + CREATIVES, []).append(creative)
    changed: dict[str, Learnt] = {}
    aside: Counter[str] = Counter()
    for key, of_selection in by_selection.items():
        rule, before = rules.by_selection.get(key), learnt.get(key)
        if rule is not None and rule.learns and before is not None:
            after = _teach_policy(of_selection, rule, before, aside)
            if after is not before:
                changed[key] = after
    return changed, aside


def _teach_policy(lessons: Iterable[TaughtLesson], rule: RewardRule, before: Learnt, aside: Counter[str]) -> Learnt:
    """One policy after its lessons; counts lessons of unknown arms in `aside`, and sets the rows' `learnt`."""
    policy, clock = before.policy, before.learnt
    positions = {arm: index for index, arm in enumerate(policy.arms)}
    read_numbers = rule.selection.features.numbers if policy.dim else None
    listed = _examine_list(rule, before)
    observations: list[tuple[int, float, float, float]] = []  # arm, reward, propensity, weight
    contexts: list[Sequence[float]] = []
    for lesson in lessons:
        row, reward, instead = lesson
        arm = positions.get(row.arm)
        if arm is None:
            if row.arm != SILENCE:  # a decision that was held out teaches reports, and no policy
                aside["unknown arm"] += 1
            continue
        copies = 1
        x = None if read_numbers is None else read_numbers(_context.decode(row.context) if row.context else {})
        weight = 1.0
        if listed is not None and (position := split_item(row.key)[1]):
            expected = float(policy.expected(x, candidates=np.array([arm]))[0])
            weight = listed.weight(position, reward, expected, is_count=rule.is_count)
            listed.observe(position, reward, instead, expected)
        if instead is not None and row.learnt and before.contains(row.learnt):
            left = policy.discount ** (clock - row.learnt)
            observations.append((arm, instead, row.propensity, -left * row.weight))
            observations.append((arm, reward, row.propensity, left * weight))
            clock += left * (weight - row.weight)
            copies = 2
        else:
            clock += weight
            row.learnt, row.advanced = clock, True
            observations.append((arm, reward, row.propensity, weight))
        if weight != row.weight:
            row.weight, row.dirty = weight, True
        if x is not None:
            contexts += [x] if copies == 1 else [x] * copies
    if not observations:
        return before
    arms, rewards, propensities, weights = (np.array(column) for column in zip(*observations, strict=True))
    after = policy.update(np.array(contexts) if policy.dim else None, arms, rewards, propensities, weights)
    examined = before.examined if listed is None else listed.sums
    return replace(before, policy=after, version=before.version + 1, learnt=clock, examined=examined)


def _examine_list(rule: RewardRule, before: Learnt) -> ExaminedList | None:
    """The examination model of the selection's positions; None if the selection shows one offer."""
    selection = rule.selection
    if selection.count == 1:
        return None
    return ExaminedList(selection.reward.examination, before.examined, selection.count)
