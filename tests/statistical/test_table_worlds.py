"""Reports of tables that are hard to get right: some of each; the long run is `make calibrate-tables`."""

import math

import pytest

from tests.statistical.table_worlds import WORLDS, run_world

RUNS = 80


@pytest.mark.parametrize(
    "name",
    [
        "40 % without a covariate, 10:90, +30 %",
        "24 stores, 50:50",
        "a tiny stratum, 50:50",
        "1:1:8, +30 %",
        "losses, 20:80",
        "overdispersed orders 90:10, +100 %",
    ],
)
def test_intervals_hold_the_effect(name: str) -> None:
    """At least 94 % less three standard errors of the number of runs."""
    found = run_world(WORLDS[name], RUNS, seed=2)
    assert found.estimated > 0.9
    assert min(found.absolute, found.relative) >= 0.94 - 3 * math.sqrt(0.06 * 0.94 / RUNS)


def test_a_relative_effect_with_bounds_by_luck_alone_is_refused() -> None:
    """Control has 40 answers and a score near zero: an eighth of the reports had bounds, of which 76 % held."""
    found = run_world(WORLDS["promoters, 10 % answer, 10:90"], RUNS, seed=2)
    assert found.estimated > 0.9
    assert found.related < 0.06
