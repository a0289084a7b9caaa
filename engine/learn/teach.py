"""Lessons into policies: one `update` per selection and batch, and what becomes of a policy when the plan changes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import structlog

from engine.catalog.plan.features import Value
from engine.catalog.plan.plan import Selection
from engine.learn.join import Lesson
from engine.learn.reward_rules import Rule, Rules
from engine.snapshots.header import align_policy, prior_of
from policies import Bandit

_context = msgspec.json.Decoder(dict[str, Value])
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Learnt:
    """A policy as the learner holds it: over the plan's arms, and behind them arms that the plan had before.

    `learnt` is its clock: the weight of all it was ever taught. What it was taught within `forgotten` spans of the
    clock is no longer in it, because it was rolled back.
    """

    policy: Bandit
    meaning: str
    version: int = 0
    learnt: float = 0.0
    forgotten: tuple[tuple[float, float], ...] = ()

    def holds(self, at: float) -> bool:
        """Whether what was taught at `at` on the clock is in the policy."""
        return not any(low < at <= high for low, high in self.forgotten)


def fitted(learnt: Mapping[str, Learnt], rules: Rules) -> dict[str, Learnt]:
    """The policies for a new plan: kept arms keep what they learnt; one whose meaning changed starts again."""
    fits: dict[str, Learnt] = {}
    for key, rule in rules.of.items():
        if not rule.learns:
            continue
        before = learnt.get(key)
        prior = prior_of(rule.selection)
        if before is None:
            fits[key] = Learnt(prior, rule.meaning)
        elif before.meaning != rule.meaning or (before.policy.kind, before.policy.dim) != (prior.kind, prior.dim):
            _log.warning("kind, features or reward changed: the policy starts again from its prior", key=key)
            fits[key] = restarted(before, prior, rule.meaning, 0.0)
        else:
            policy = over(before.policy, rule.selection)
            news = policy.arms != before.policy.arms
            fits[key] = replace(before, policy=policy, version=before.version + news)
    return fits


def over(policy: Bandit, selection: Selection) -> Bandit:
    """The policy as the plan wants it, over the plan's arms and then those it knew before."""
    arms = (*selection.arms, *(arm for arm in policy.arms if arm not in set(selection.arms)))
    if arms != policy.arms:
        _log.info("arms changed", key=selection.key, arms=len(selection.arms), before=len(policy.arms))
    return align_policy(policy, selection, arms)


def restarted(before: Learnt, policy: Bandit, meaning: str, learnt: float) -> Learnt:
    """`policy` in the place of what was learnt; it knows what was taught until `learnt` on the clock, nothing since.

    Where others taught it, that may be beyond our own clock, which goes on from there.
    """
    gone = (*(span for span in before.forgotten if span[1] <= learnt), (learnt, before.learnt))
    return Learnt(policy, meaning, before.version + 1, max(before.learnt, learnt), gone)


def teach(
    lessons: Iterable[Lesson], rules: Rules, learnt: Mapping[str, Learnt]
) -> tuple[dict[str, Learnt], Counter[str]]:
    """The policies that changed, with all lessons in them in their order; and what could not be learnt, by reason."""
    by_selection: dict[str, list[Lesson]] = {}
    for lesson in lessons:
        by_selection.setdefault(lesson.row.selection, []).append(lesson)
    changed: dict[str, Learnt] = {}
    aside: Counter[str] = Counter()
    for key, of_selection in by_selection.items():
        rule, before = rules.of.get(key), learnt.get(key)
        if rule is not None and rule.learns and before is not None:
            after = _taught(of_selection, rule, before, aside)
            if after is not before:
                changed[key] = after
    return changed, aside


def _taught(lessons: Iterable[Lesson], rule: Rule, before: Learnt, aside: Counter[str]) -> Learnt:
    policy, clock = before.policy, before.learnt
    places = {arm: index for index, arm in enumerate(policy.arms)}
    vector = rule.selection.features.vector
    rows: list[tuple[int, float, float, float]] = []
    contexts: list[np.ndarray] = []
    for row, reward, instead in lessons:
        arm = places.get(row.arm)
        if arm is None:
            aside["unknown arm"] += 1
            continue
        times = 1
        if instead is not None and row.learnt and before.holds(row.learnt):
            left = policy.discount ** (clock - row.learnt)
            rows.append((arm, instead, row.propensity, -left))
            rows.append((arm, reward, row.propensity, left))
            times = 2
        else:
            clock += 1.0
            row.learnt, row.dirty = clock, True
            rows.append((arm, reward, row.propensity, 1.0))
        if policy.dim:
            contexts += [vector(_context.decode(row.context) if row.context else {})] * times
    if not rows:
        return before
    arms, rewards, propensities, weights = (np.array(column) for column in zip(*rows, strict=True))
    after = policy.update(np.array(contexts) if policy.dim else None, arms, rewards, propensities, weights)
    return replace(before, policy=after, version=before.version + 1, learnt=clock)
