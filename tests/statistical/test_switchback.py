"""A switchback's design and intervals; the long run is `make calibrate-switchback`."""

import math
from collections import Counter

import pytest

from engine.catalog.plan.switchback import compile_switchback
from tests.statistical.switchback_worlds import run_switchbacks

RUNS = 100


def test_a_period_has_each_variant_with_its_weight() -> None:
    """Over seeds; the bound is 4.5 standard errors of a count."""
    for weights in ((0.5, 0.5), (0.25, 0.75), (0.2, 0.3, 0.5), (1 / 3, 1 / 3, 1 / 3), (0.37, 0.63)):
        designs = [
            compile_switchback(f"s{seed}", every=7200, washout=0, start=0, weights=weights) for seed in range(3000)
        ]
        counts = Counter(design.choose("S1", 1e9) for design in designs)
        for index, weight in enumerate(weights):
            error = math.sqrt(weight * (1 - weight) / len(designs))
            assert abs(counts[index] / len(designs) - weight) < 4.5 * error


@pytest.mark.parametrize(("every", "series"), [(7200, 12), (86_400, 7), (604_800, 1), (18_000, 1)])
def test_a_block_has_each_variant_as_often_as_its_weight_says(every: float, series: int) -> None:
    design = compile_switchback("seed", every=every, washout=0, start=1e9, weights=(0.25, 0.75))
    assert design.series == series
    for slot in range(series):
        times = [1e9 + every * (slot + series * day) for day in range(40)]
        had = [design.choose("S1", time) for time in times]
        assert all(sum(had[begin : begin + 4]) == 3 for begin in range(0, 40, 4))
        assert all(design.begin(time + every / 2) == time for time in times)


def test_intervals_hold_the_effect_and_a_washout_keeps_it_whole() -> None:
    """At least 95 % less three standard errors of the number of runs."""
    got = run_switchbacks(0.2, runs=RUNS, uneven=True)
    assert got.held / RUNS >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / RUNS)
    assert abs(got.mean - 0.2) < 4 * got.spread
    carried = run_switchbacks(0.2, runs=RUNS // 2, washout=False)
    assert carried.mean < 0.2 - 4 * carried.spread  # what outlasts a period draws the estimate towards zero
