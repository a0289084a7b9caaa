"""A policy's learning curve by replay: what it earns as it learns, on the logged rounds that it would have chosen.

Li, Chu, Langford and Wang 2011, algorithm 2, where the log chose uniformly; for other logs by rejection sampling:
Dudik, Erhan, Langford and Li 2012, "Sample-efficient Nonstationary Policy Evaluation for Contextual Bandits".
"""

import msgspec
import numpy as np

from engine.analysis.offpolicy.logged_choices import Floats, Ints
from engine.analysis.offpolicy.target_policies import Target

POINTS = 10
PIECE = 0.02
CAPPED = 0.05
SEED = 2


class Point(msgspec.Struct, frozen=True):
    """After `rounds` of the log: how many `matched`, the reward rate of all of these and of those since the last."""

    rounds: int
    matched: int
    rate: float
    recent: float


class Curve(msgspec.Struct, frozen=True):
    """The policy from its prior to the end of the log.

    `capped` is the share of rounds that the policy would have taken more often than once: they count for so many in the
    rates, but the policy learns of them once.
    """

    matched: int
    rate: float | None
    capped: float
    points: list[Point]


def learning_curve(target: Target) -> Curve:
    """Replays the log in the order of time; the policy learns from what matches, whenever that has grown by 2%.

    A round is taken with probability min(1, c p / q), where p is the policy's and q the logged probability, and c the
    5% quantile of the logged probabilities; a uniform log gives c = q, so that a round is taken with probability p.
    """
    log = target.log
    scale = float(np.quantile(log.propensity, CAPPED))
    draws = np.random.default_rng(SEED).random(len(log))
    policy = target.prior()
    taken: list[int] = []
    counts: list[float] = []
    learnt, capped = 0, 0
    known: dict[tuple[int, int], Floats] = {}
    for row in range(len(log)):
        context, which = int(log.context[row]), int(log.which[row])
        seen = int(target.alike[context]) if policy.dim else 0
        among = target.candidates[which]
        at = _place(among, int(log.arm[row]))
        if at is None or draws[row] * log.propensity[row] >= scale:
            continue  # not taken even with p = 1, so that p need not be known
        p = known.get((seen, which))
        if p is None:
            p = policy.probabilities(target.vectors[context] if policy.dim else None, candidates=among)
            known[seen, which] = p
        chance = scale * float(p[at]) / float(log.propensity[row])
        capped += chance > 1
        if draws[row] >= chance:
            continue
        taken.append(row)
        counts.append(max(1.0, chance))
        if target.learns and len(taken) >= (1 + PIECE) * learnt + 1:
            policy = target.taught(policy, np.array(taken[learnt:], dtype=np.intp))
            learnt = len(taken)
            known.clear()
    rows = np.array(taken, dtype=np.intp)
    points = _points(rows, log.reward[rows], np.array(counts))
    return Curve(len(taken), points[-1].rate if points else None, capped / len(log), points)


def _place(among: Ints, arm: int) -> int | None:
    at = int(np.searchsorted(among, arm))
    return at if at < among.size and among[at] == arm else None


def _points(rows: Ints, reward: Floats, counts: Floats) -> list[Point]:
    """Ten points at even numbers of matched rounds (n,), each of which counts for as many."""
    points = []
    before = 0
    for matched in sorted({round(len(rows) * part / POINTS) for part in range(1, POINTS + 1)} - {0}):
        rate, recent = (
            float(np.average(reward[at], weights=counts[at])) for at in (slice(matched), slice(before, matched))
        )
        points.append(Point(int(rows[matched - 1]) + 1, matched, rate, recent))
        before = matched
    return points
