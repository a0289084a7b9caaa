"""Worlds in which a common method is wrong; `make calibrate-measure` runs 200 and 300 of each."""

from tests.statistical.measure_worlds import run_channels, run_credit, run_surrogates


def test_a_surrogate_is_distinguished_from_one_that_only_correlates() -> None:
    valid, unrelated, direct = (run_surrogates(kind, 40) for kind in ("valid", "unrelated", "direct"))
    assert valid.validated >= 36
    assert unrelated.validated <= 4
    assert direct.validated <= 12
    assert valid.slopes[0] >= 0.85 * valid.slopes[1]
    assert valid.carried[0] >= 0.85 * valid.carried[1]


def test_causal_credit_covers_where_rules_mislead() -> None:
    covered, total, misled = run_credit(6, seed=50)
    assert total == 36
    assert covered >= 30
    assert misled == 6


def test_the_holdout_is_right_where_the_naive_difference_is_not() -> None:
    holdouts, naive = run_channels(6, seed=20)
    assert holdouts >= 4
    assert naive == 0
