"""Intervals of a bandit's arms and contrasts where customers return, policies mix and rewards drift: some of each."""

import math

import numpy as np
import pytest

from engine.analysis.stats.adaptive import estimate_arm_value
from engine.analysis.stats.estimate import Effect
from tests.statistical.bandit_worlds import WORLDS, measure, score_run, simulate

RUNS = 60
HARDEST = (
    "strong tastes",
    "20 customers, strong tastes",
    "uniform slice of 10 %, one best",
    "uneven snapshots, interleaved",
    "two policies interleaved",
    "drift, returning customers",
)


@pytest.mark.parametrize("name", HARDEST)
def test_arms_and_contrasts_are_covered(name: str) -> None:
    arms, contrasts, trends = measure(WORLDS[name], RUNS, seed=3)
    slack = 3.3 * math.sqrt(0.95 * 0.05 / RUNS)  # as if the arms of one run told no more than one of them
    assert arms.coverage >= 0.95 - slack
    assert contrasts.coverage >= 0.95 - slack
    assert arms.given >= 0.9 * arms.asked
    drifts = WORLDS[name].drift is not None
    assert trends > 0.9 if drifts else trends < 0.05 + slack


def test_rows_taken_for_independent_cover_too_little() -> None:
    """What the customers' sums are for: 70 to 80 % where they have strong tastes."""
    world = WORLDS["strong tastes"]
    logs = simulate(world, RUNS, np.random.default_rng(4))
    hits, everywhere = 0, np.ones(world.decisions)
    for run in range(RUNS):
        for arm, truth in enumerate(world.truth):
            taken = logs.arm[run] == arm
            found = estimate_arm_value(logs.reward[run], taken, logs.propensity[run], everywhere)
            assert isinstance(found, Effect)
            hits += found.low <= truth <= found.high
    assert hits / (RUNS * len(world.truth)) < 0.85


def test_a_log_with_a_slice_is_no_less_precise_than_the_slice() -> None:
    world = WORLDS["uniform slice of 20 %"]
    logs = simulate(world, 10, np.random.default_rng(5))
    for run in range(10):
        for arm in score_run(world, logs, run):
            alone = arm.select(logs.policy[run] == 2).mean.effect(0.05)
            whole = arm.mean.effect(0.05)
            assert isinstance(alone, Effect)
            assert isinstance(whole, Effect)
            assert whole.se < alone.se
