"""Intervals of a bandit's arms from our own policies' logs: AIPW by customer covers, plain means do not."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.analysis.bandits.arm_values import RowOwners, score_arm
from engine.analysis.offpolicy.estimators import Estimate, dr, ips, snips, switch_dr
from engine.analysis.stats.estimate import Effect
from policies import BetaThompson, LinearThompson

RUNS = 1000
RUNS_OF_REGRESSION = 300  # its updates take most of the time; three standard errors of its arms are 2.2 %
ARMS = ("a", "b", "c")
BATCH, SNAPSHOTS = 300, 10
CONTEXTS = np.array([[1.0, 0.0], [1.0, 1.0]])
CHANCES = np.array([[0.20, 0.20, 0.20], [0.15, 0.25, 0.20]])  # by context; the plain policy sees the first row


@dataclass
class Log:
    context: NDArray[np.int64]
    action: NDArray[np.int64]
    propensity: NDArray[np.float64]
    reward: NDArray[np.float64]
    snapshot: NDArray[np.int64]


def logged(policy: BetaThompson | LinearThompson, rng: np.random.Generator) -> Log:
    """A policy that learns after every batch, and what it logs: the propensity of the arm it took, nothing else."""
    contextual = isinstance(policy, LinearThompson)
    parts = []
    for snapshot in range(SNAPSHOTS):
        context = rng.integers(0, 2, BATCH) if contextual else np.zeros(BATCH, dtype=np.int64)
        table = (
            np.array([policy.probabilities(x) for x in CONTEXTS]) if contextual else policy.probabilities(None)[None, :]
        )
        p = table[context]
        action = (rng.random(BATCH)[:, None] > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
        taken = p[np.arange(BATCH), action]
        reward = (rng.random(BATCH) < CHANCES[context, action]).astype(float)
        policy = policy.update(CONTEXTS[context] if contextual else None, action, reward, taken)
        parts.append(Log(context, action, taken, reward, np.full(BATCH, snapshot)))
    return Log(*(np.concatenate([getattr(part, name) for part in parts]) for name in Log.__annotations__))


def coverage(kind: type[BetaThompson] | type[LinearThompson], runs: int) -> tuple[float, float, float]:
    """Coverage of the arms' values by AIPW and by plain means, and the plain means' average error."""
    truth = CHANCES.mean(axis=0) if kind is LinearThompson else CHANCES[0]
    hits, naive, error, count = 0, 0, 0.0, 0
    for run in range(runs):
        rng = np.random.default_rng((77, run))
        policy = kind(ARMS, dim=2, seed=run, floor=0.02) if kind is LinearThompson else kind(ARMS, floor=0.02)
        log = logged(policy, rng)
        rows = np.arange(len(log.reward))
        owners = RowOwners(policy=np.zeros_like(rows), customer=rows, customers=len(rows))
        everywhere = np.ones(len(rows), bool)
        for arm, value in enumerate(truth):
            taken = log.action == arm
            scored = score_arm(everywhere, taken, log.propensity, log.reward, owners)
            found = scored.value(0.05)
            if not isinstance(found, Effect):
                continue
            plain = log.reward[taken]
            reach = 1.96 * plain.std(ddof=1) / math.sqrt(len(plain))
            count += 1
            hits += found.low <= value <= found.high
            naive += abs(plain.mean() - value) <= reach
            error += float(plain.mean()) - value
    assert count > 0.99 * runs * len(ARMS)
    return hits / count, naive / count, error / count


def test_arms_of_beta_thompson_are_covered_where_plain_means_are_not() -> None:
    ours, naive, error = coverage(BetaThompson, RUNS)
    assert 0.93 <= ours <= 0.97
    assert naive < 0.938  # 95 % less three binomial errors of 3,000 arms
    assert error < -0.005  # an arm that looked bad by chance is shown less and stays looking bad


def test_arms_of_linear_thompson_are_covered_where_plain_means_are_not() -> None:
    ours, naive, _ = coverage(LinearThompson, RUNS_OF_REGRESSION)
    assert 0.928 <= ours <= 0.972
    assert naive < 0.93


def test_off_policy_intervals_cover() -> None:
    """1,000 logs of 2,000 customers with some decisions each, two contexts, three arms; the target prefers the best."""
    rng = np.random.default_rng(31)
    logging = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    target = np.array([[0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
    truth = float((CHANCES * target).sum(axis=1).mean())
    hits = {"ips": 0, "snips": 0, "dr": 0, "switch": 0}
    for _ in range(1000):
        n = 2000
        context = rng.integers(0, 2, n)
        action = (rng.random(n)[:, None] > np.cumsum(logging[context], axis=1)[:, :-1]).sum(axis=1)
        reward = (rng.random(n) < CHANCES[context, action]).astype(float)
        p, wanted = logging[context, action], target[context, action]
        model = CHANCES + 0.05 * (np.arange(3) - 1)  # wrong on purpose: the correction is what must cover
        logged_model, target_model = model[context, action], (model * target).sum(axis=1)[context]
        found: dict[str, Estimate] = {
            "ips": ips(reward, p, wanted),
            "snips": snips(reward, p, wanted),
            "dr": dr(reward, p, wanted, logged_model, target_model),
            "switch": switch_dr(reward, p, wanted, logged_model, target_model, threshold=100.0),
        }
        for name, estimate in found.items():
            hits[name] += estimate.low <= truth <= estimate.high
    assert all(0.93 <= count / 1000 <= 0.97 for count in hits.values()), hits


def test_clusters_widen_what_independent_decisions_would_understate() -> None:
    rng = np.random.default_rng(32)
    hits = {"clustered": 0, "ignored": 0}
    for _ in range(500):
        customers = 300
        taste = rng.beta(1.0, 3.0, customers)
        who = np.repeat(np.arange(customers), 10)
        action = rng.integers(0, 2, len(who))
        reward = (rng.random(len(who)) < taste[who]).astype(float)
        p = np.full(len(who), 0.5)
        hits["clustered"] += (e := snips(reward, p, p, cluster=who)).low <= 0.25 <= e.high
        hits["ignored"] += (e := snips(reward, p, p)).low <= 0.25 <= e.high
        del action
    assert hits["clustered"] / 500 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 500))
    assert hits["ignored"] / 500 < 0.8
