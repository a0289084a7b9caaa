"""`power --days` predicts the days until a verdict; `make calibrate-days` runs 200 worlds."""

import numpy as np
import pytest

from engine.analysis.design.methods import Inference, Method
from engine.analysis.planning.verdict_days import Arrivals, estimate_verdict_days
from engine.analysis.stats.power import Baseline, compute_power
from tests.statistical.days_worlds import run_world

RATE = Baseline("proportion", 0.1)


def test_predictions_are_within_a_fifth_of_the_true_days() -> None:
    outcomes = [one for seed in range(2) for one in run_world(seed)]
    assert len(outcomes) == 4
    assert sum(one.is_close for one in outcomes) >= 3


@pytest.mark.parametrize("method", ["sequential", "group_sequential", "bayesian", "fixed"])
def test_days_follow_the_arrivals(method: Method) -> None:
    inference = Inference(method=method, planned=20_000)
    slow, fast, late, never = (
        estimate_verdict_days(Arrivals(np.full(10, daily)), RATE, inference, effect=0.2, window_days=window)
        for daily, window in ((500.0, 0.0), (1000.0, 0.0), (1000.0, 7.0), (0.0, 0.0))
    )
    assert slow.days is not None
    assert fast.days is not None
    assert slow.days == pytest.approx(2 * fast.days, abs=2)
    assert late.days == pytest.approx(fast.days + 7, abs=2)
    assert (never.days, never.units) == (None, None)
    waiting = estimate_verdict_days(Arrivals(np.full(10, 1000.0)), RATE, inference, effect=0.2, min_days=28.0)
    assert waiting.days is not None
    assert waiting.days >= 28


def test_a_fixed_look_is_at_the_units_of_the_power_formula() -> None:
    found = estimate_verdict_days(Arrivals(np.full(10, 100.0)), RATE, Inference(method="fixed"), effect=0.2)
    assert found.units is not None
    assert compute_power(RATE, 0.2, found.units, Inference(method="fixed")) >= 0.8
    assert compute_power(RATE, 0.2, found.units - 101, Inference(method="fixed")) < 0.8
