"""A policy's learning curve by replay: its reward rate over the logged rounds that match its choices.

Li, Chu, Langford and Wang 2011, "Unbiased Offline Evaluation of Contextual-bandit-based News Article Recommendation
Algorithms", algorithm 2, where the log chose uniformly. For other logs rejection sampling: Dudik, Erhan, Langford and
Li 2012, "Sample-efficient Nonstationary Policy Evaluation for Contextual Bandits".
"""

import msgspec
import numpy as np

from engine.analysis.offpolicy.target_policies import TargetPolicy
from policies.batches import Floats, Ints

POINTS = 10
GROWTH_PER_UPDATE = 0.02
"""The policy learns whenever the matched rounds have grown by this share: one update a round would be slow."""
PROPENSITY_QUANTILE = 0.05
SEED = 2


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The state after `rounds` of the log."""

    rounds: int
    matched: int
    """Rounds taken so far."""
    rate: float
    """The reward rate of all of them."""
    recent: float
    """The reward rate of those since the previous point."""


class LearningCurve(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's reward rate from its prior to the end of the log."""

    matched: int
    rate: float | None
    """None where no round matched."""
    capped: float
    """The share of rounds that the policy would have taken more often than once.

    Each of them is weighted by that number in the rates; the policy learns from it once.
    """
    points: list[CurvePoint]


def replay_learning_curve(target: TargetPolicy) -> LearningCurve:
    """Replays the log in time order; the policy learns from matching rounds.

    A round is taken with probability min(1, c p / q): p is the policy's probability of the logged arm, q the logged
    one, and c the 5% quantile of all q. On a uniform log c = q, so that a round is taken with probability p.
    """
    log = target.log
    scale = float(np.quantile(log.propensity, PROPENSITY_QUANTILE))
    draws = np.random.default_rng(SEED).random(len(log))
    policy = target.make_policy()
    taken: list[int] = []
    counts: list[float] = []
    learnt, capped = 0, 0
    probabilities: dict[tuple[int, int, int], Floats] = {}  # by context and candidates, valid until the next update
    for row in range(len(log)):
        context, which = int(log.context[row]), int(log.which[row])
        key = (int(target.vector_groups[context]) if policy.dim else 0, which, int(target.weight_groups[context]))
        candidates = target.candidates[which]
        position = _find_sorted(candidates, int(log.arm[row]))
        if position is None or draws[row] * log.propensity[row] >= scale:
            continue  # rejected even with p = 1, so p is not computed
        p = probabilities.get(key)
        if p is None:
            p = probabilities[key] = target.probabilities(policy, context, candidates)
        chance = scale * float(p[position]) / float(log.propensity[row])
        capped += chance > 1
        if draws[row] >= chance:
            continue
        taken.append(row)
        counts.append(max(1.0, chance))
        if target.learns and len(taken) >= (1 + GROWTH_PER_UPDATE) * learnt + 1:
            policy = target.update_policy(policy, np.array(taken[learnt:], dtype=np.intp))
            learnt = len(taken)
            probabilities.clear()
    rows = np.array(taken, dtype=np.intp)
    points = _make_points(rows, log.reward[rows], np.array(counts))
    return LearningCurve(
        matched=len(taken), rate=points[-1].rate if points else None, capped=capped / len(log), points=points
    )


def _find_sorted(candidates: Ints, arm: int) -> int | None:
    """The position of an arm among ascending candidates; None if it is missing."""
    position = int(np.searchsorted(candidates, arm))
    return position if position < candidates.size and candidates[position] == arm else None


def _make_points(rows: Ints, reward: Floats, counts: Floats) -> list[CurvePoint]:
    """Ten points at even numbers of matched rounds; rows, rewards and weights `counts` are (n,)."""
    points = []
    before = 0
    for matched in sorted({round(len(rows) * part / POINTS) for part in range(1, POINTS + 1)} - {0}):
        rate, recent = (
            float(np.average(reward[part], weights=counts[part])) for part in (slice(matched), slice(before, matched))
        )
        points.append(CurvePoint(rounds=int(rows[matched - 1]) + 1, matched=matched, rate=rate, recent=recent))
        before = matched
    return points
