"""Dates in conditions: `$before`, `$after` and `$within`, from YAML to the answer."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.conditions.compile import compile_condition, condition_problems
from engine.catalog.conditions.dates import NOW, read_date
from engine.errors import CatalogError
from tests.catalog.folder import Json, experiment, specs

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
SECONDS = AT.timestamp()
DAY = 86_400.0
SAME = [
    "2026-11-01T12:00:00Z",
    "2026-11-01t12:00:00z",
    "2026-11-01 12:00:00.000+00:00",
    "2026-11-01T17:45:00+05:45",
    "2026-11-01T01:30:00-10:30",
    SECONDS,
    int(SECONDS * 1000),
]
NEVER = [
    *(None, True, False, "", "soon", "now", "1793534400", [], {}),
    *("2026-13-01T00:00:00Z", "2026-02-30", "2026-11-01T12:00", "2026-11-01T12:00:00", "2026-11-01T24:00:01Z"),
    *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "12026-11-01T00:00:00Z"),
    *(1e300, -1e300, 1e18, -1e12, float("nan"), float("inf"), -float("inf")),
]


def holds(operators: Json, value: object, now: float = SECONDS) -> bool:
    return compile_condition({"at": operators})({"at": value, NOW: now})


@pytest.mark.parametrize("value", SAME)
def test_every_spelling_of_a_time_is_the_same_time(value: object) -> None:
    assert read_date(value) == SECONDS
    for other in SAME:
        assert not holds({"$before": other}, value)
        assert not holds({"$after": other}, value)
        assert holds({"$within": ["1s", other]}, value)


@pytest.mark.parametrize("value", NEVER, ids=repr)
def test_what_is_no_date_never_matches(value: object) -> None:
    early, late = "0001-01-02T00:00:00Z", "9999-12-31T00:00:00Z"
    for operators in ({"$before": late}, {"$after": early}, {"$within": "999999d"}, {"$within": ["999999d", late]}):
        assert not holds(operators, value)
    assert not compile_condition({"at": {"$before": "now"}})({})


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)), st.integers(-1439, 1439))  # noqa: DTZ001 (without its zone)
def test_an_offset_changes_the_text_and_not_the_time(naive: datetime, minutes: int) -> None:
    moment = naive.replace(tzinfo=UTC)
    local = moment + timedelta(minutes=minutes)
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    text = f"{local.replace(tzinfo=None).isoformat()}{sign}{size // 60:02}:{size % 60:02}"
    assert read_date(text) == pytest.approx((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds(), abs=1e-4)


@given(st.floats(-4e9, 4e9), st.floats(-4e9, 4e9))
def test_before_and_after_are_the_order_of_numbers(one: float, other: float) -> None:
    assert holds({"$before": other}, one) is (one < other)
    assert holds({"$after": other}, one) is (one > other)
    assert holds({"$before": "now"}, one, other) is (one < other)


def test_within_looks_both_ways_and_its_ends_belong_to_it() -> None:
    for days, expected in ((-31, False), (-30, True), (0, True), (30, True), (31, False)):
        assert holds({"$within": "30d"}, SECONDS + days * DAY) is expected
        assert holds({"$within": ["30d", "2026-11-01T12:00:00Z"]}, SECONDS + days * DAY, now=0.0) is expected
    assert holds({"$within": "30d", "$before": "now"}, SECONDS - DAY)
    assert not holds({"$within": "30d", "$before": "now"}, SECONDS + DAY)


def test_now_is_that_of_the_decision_at_any_depth_and_in_any_thread() -> None:
    condition: Json = {
        "$or": [{"$not": {"at": {"$after": "now"}}}, {"visits": {"$elemMatch": {"at": {"$within": "1d"}}}}],
    }
    matches = compile_condition(condition)
    assert matches({"at": 10.0, NOW: 20.0})
    assert not matches({"at": 10.0, NOW: 5.0})
    assert matches({"at": SECONDS, "visits": [{"at": 5.0}], NOW: 5.0})
    wrong: list[float] = []

    def decide(now: float) -> None:
        wrong.extend(
            now for _ in range(2000) if not holds({"$within": "1s"}, now, now) or not matches({"at": 0.0, NOW: now})
        )

    threads = [threading.Thread(target=decide, args=(float(now),)) for now in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("operators", "remedy"),
    [
        ({"$before": "2026-11-01"}, "2026-11-01T00:00:00Z"),
        ({"$before": "2026-12-31"}, "2026-12-31T00:00:00Z"),
        ({"$before": 2026}, "now"),
        ({"$before": 20261231}, "2026-12-31T00:00:00Z"),
        ({"$after": 1767225600}, "2026-01-01T00:00:00Z"),
        ({"$after": "2026-12-31 23:59"}, "2026-12-31T23:59:00Z"),
        ({"$within": ["30d", 20261231]}, "[30d, 2026-12-31T00:00:00Z]"),
        ({"$after": "tomorrow"}, "now"),
        ({"$after": True}, "now"),
        ({"$within": "30 days"}, "30d"),
        ({"$within": ["30d"]}, "[30d, "),
        ({"$within": ["30d", "2026-11-01"]}, "[30d, "),
        ({"$befor": "now"}, "$before"),
    ],
)
def test_check_refuses_an_operand_that_never_matches(operators: Json, remedy: str) -> None:
    (problem,) = condition_problems({"at": operators})
    assert remedy in problem.remedy
    with pytest.raises(CatalogError):
        specs(experiment("x", audience={"at": operators}))


def test_a_metric_may_not_depend_on_the_day_of_its_report() -> None:
    def metric(filter: Any) -> Json:  # noqa: A002 (the key's name)
        return {"metrics": [{"key": "click", "event": "click", "filter": filter}]}

    specs(metrics=metric({"ends": {"$after": "2026-11-01T00:00:00Z"}}))
    for operators in ({"$after": "now"}, {"$within": "7d"}):
        with pytest.raises(CatalogError, match=r"metrics\[0\]\.filter: compares with now"):
            specs(metrics=metric({"ends": operators}))
