"""Complaints stay open until each is resolved, in whatever order their events arrive."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.customer import ComplaintStatement, Profile
from engine.customers.model.complaints import MOST_STATEMENTS
from engine.customers.model.merge import merge_profiles
from engine.customers.model.reducers import apply_event
from engine.traits.attributes import derive_attributes
from tests.customers.test_reducers import EMPTY, NOW, RULES, track

Statement = tuple[str, str | int | None]


def after(statements: list[tuple[int, Statement]], profile: Profile = EMPTY) -> Profile:
    for second, (event, case) in statements:
        told, time = track(event, NOW + second, **({} if case is None else {"complaint_id": case}))
        profile = apply_event(profile, told, time, RULES)
    return profile


def is_open(profile: Profile) -> bool:
    return bool(derive_attributes(profile, NOW + 999)["complaint_open"])


OPEN, DONE = "complaint_opened", "complaint_resolved"


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([(OPEN, "a"), (OPEN, "b"), (DONE, "a")], True),
        ([(OPEN, "a"), (OPEN, "b"), (DONE, "a"), (DONE, "b")], False),
        ([(OPEN, None), (OPEN, None), (DONE, None)], True),
        ([(OPEN, None), (OPEN, None), (DONE, None), (DONE, None)], False),
        ([(OPEN, 7), (OPEN, "7"), (DONE, " 7 ")], False),
        ([(OPEN, "a"), (DONE, None)], False),
        ([(OPEN, None), (DONE, "a")], False),
        ([(OPEN, "a"), (DONE, "b")], True),
        ([(OPEN, "a"), (OPEN, None), (DONE, None), (DONE, "a")], False),
        ([(DONE, "a"), (OPEN, "a")], True),
        ([(OPEN, "a"), (DONE, "a"), (OPEN, "a")], True),
    ],
)
def test_one_of_two_complaints_stays_open_in_every_order_of_arrival(
    statements: list[Statement], *, expected: bool
) -> None:
    for arrival in itertools.permutations(enumerate(statements)):
        profile = after(list(arrival))
        assert is_open(profile) is expected
        half = len(arrival) // 2
        one, other = after(list(arrival[:half])), after(list(arrival[half:]))
        assert merge_profiles(one, other, "0" * 24, RULES, NOW).complaints == profile.complaints


def test_the_complaint_of_an_earlier_release_is_resolved_like_any() -> None:
    before = Profile(id="u", unit="u", complaint=(True, NOW - 5))
    assert is_open(before)
    assert not is_open(after([(1, (DONE, "x"))], before))
    assert is_open(after([(1, (OPEN, None)), (2, (DONE, None))], before))


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_resolved_complaints_make_room_for_open_ones(seed: int) -> None:
    chance = random.Random(seed)
    cases = [f"c{n}" for n in range(90)]
    events = [(n, (OPEN, case)) for n, case in enumerate(cases)]
    events += [(100 + n, (DONE, case)) for n, case in enumerate(cases[1:])]
    chance.shuffle(events)
    held = after(events, Profile(id="u", unit="u", complaints=[ComplaintStatement(NOW - 9, True, "first")])).complaints
    assert len(held) <= MOST_STATEMENTS
