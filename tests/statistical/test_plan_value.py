"""The intervals of `plan --value` cover what changes would have earned; `make calibrate-plan-value` runs 300 worlds."""

from tests.statistical.plan_value_worlds import run_world


def test_values_of_changed_lines_cover_the_truth() -> None:
    judged = [one for seed in range(3) for one in run_world(seed, decisions=800)]
    covered = [one.covers for one in judged if one.covers is not None]
    assert len(covered) >= 9
    assert covered.count(False) <= 2  # changes of one world share their draws
    told = [one for one in judged if one.value.verdict in ("earns", "loses")]
    assert len(told) >= 4
    assert all((one.value.verdict == "earns") == (one.truth > 0) for one in told)
