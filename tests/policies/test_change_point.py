"""Changes found, and false alarms counted."""

import numpy as np
import pytest

from policies import detect_change


def bucketed(chances: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    count = np.full(chances.size, 40.0)
    return count, np.random.default_rng(seed).binomial(40, chances).astype(float)


def test_a_drop_is_found_where_it_happened() -> None:
    count, total = bucketed(np.repeat([0.10, 0.04], 50), seed=1)
    change = detect_change(count, total)
    assert change is not None
    assert change.found
    assert abs(change.at - 50) <= 5
    assert (change.before, change.after) == (pytest.approx(0.10, abs=0.02), pytest.approx(0.04, abs=0.02))


def test_false_alarms_are_rare_under_constant_looking() -> None:
    """At most 5% by the theorem, of 100 series each looked at 60 times; the test is conservative."""
    alarms = 0
    for seed in range(100):
        count, total = bucketed(np.full(60, 0.2), seed)
        alarms += any(
            change is not None and change.found
            for change in (detect_change(count[:n], total[:n], error=0.05) for n in range(2, 61))
        )
    assert alarms <= 5


def test_empty_buckets_and_impossible_totals() -> None:
    assert detect_change(np.array([0.0, 5.0]), np.array([0.0, 2.0])) is None
    change = detect_change(np.array([400.0, 0.0, 400.0]), np.array([200.0, 0.0, 20.0]))
    assert change is not None
    assert change.at == 2
    with pytest.raises(ValueError, match="scale rewards"):
        detect_change(np.array([5.0, 5.0]), np.array([6.0, 0.0]))


def test_only_buckets_of_one_kind_are_compared() -> None:
    count, kind = np.full(8, 1000.0), np.tile([0, 1], 4)
    total = np.where(kind == 0, 100.0, 500.0)
    plain, alike = detect_change(count, total), detect_change(count, total, kind=kind)
    assert plain is not None
    assert plain.found
    assert alike is not None
    assert (alike.found, alike.evidence) == (False, pytest.approx(0))
    total[4:] *= 0.7
    fallen = detect_change(count, total, kind=kind)
    assert fallen is not None
    assert (fallen.found, fallen.at) == (True, 4)
    assert (fallen.before, fallen.after) == (pytest.approx(0.3), pytest.approx(0.21))
    assert detect_change(count[:2], total[:2], kind=kind[:2]) is None


def test_buckets_of_one_kind_are_compared_as_without() -> None:
    count, total = bucketed(np.repeat([0.10, 0.04], 50), seed=1)
    assert detect_change(count, total, kind=np.full(count.size, 3)) == detect_change(count, total)
