"""A ramp with a loss budget, on simulated harms: the true loss exceeds the budget in at most 5 % of runs."""

import math
import os

import numpy as np
import pytest

from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import parse_measure
from engine.analysis.report.compare import Evidence, compare
from engine.supervise.ramp import LOSS_LEVEL, loss_per_unit
from tests.statistical.outcomes import OUTCOMES
from tests.statistical.test_uneven_arms import SPEC, group

RUNS = int(os.environ.get("RUNS", "60"))
LOOKS = 20
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize("harm", [-0.3, -0.8])
@pytest.mark.parametrize("outcome", ["conversion 30.0%", "revenue, 10.0% buy, sigma 1"])
def test_the_loss_stays_within_its_budget(outcome: str, harm: float) -> None:
    known = OUTCOMES[outcome]
    measure = parse_measure(SPEC[known.kind])
    rng = np.random.default_rng(7)
    daily, true_loss = 50, -harm * known.mean
    budget = true_loss * daily * LOOKS / 2  # half-way through, every run must have been stopped
    control, treated = known.draw(rng, daily, RUNS, LOOKS, 0.0), known.draw(rng, daily, RUNS, LOOKS, harm)
    over = 0
    for run in range(RUNS):
        before = 0.0
        for day in range(LOOKS):
            groups = {"a": group(control, run, day, measure.name), "b": group(treated, run, day, measure.name)}
            row = compare(
                measure, "b", Evidence(control="a", groups=groups), Inference(method="fixed", alpha=LOSS_LEVEL)
            )
            units = float(treated.n[run, day])
            if max(0.0, loss_per_unit(row)) * (units + max(0.0, units - before)) > budget:
                break
            before = units
        over += units * true_loss > budget
    assert over / RUNS <= LIMIT
