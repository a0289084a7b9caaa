"""Each field of a profile has one family of events, which applies and merges it, or is a field of identity."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.customer import Profile
from engine.customers.model.events import Event
from engine.customers.model.merge import IDENTITY_FIELDS, merge_profiles
from engine.customers.model.reducers import FAMILIES, apply_event
from tests.customers.test_reducers import EMPTY, NOW, RULES, happened

lives = st.lists(happened(), max_size=8)


def after(events: list[tuple[Event, float]]) -> Profile:
    profile = EMPTY
    for event, time in events:
        profile = apply_event(profile, event, time, RULES)
    return profile


def test_each_field_of_a_profile_has_one_family_or_is_of_identity() -> None:
    owners = Counter([*IDENTITY_FIELDS, *(name for family in FAMILIES for name in family.fields)])
    assert owners == Counter(Profile.__struct_fields__)


@given(lives, lives)
@settings(max_examples=100, deadline=None)
def test_a_family_changes_its_own_fields_alone(
    ours: list[tuple[Event, float]], theirs: list[tuple[Event, float]]
) -> None:
    target, source = after(ours), after(theirs)
    for family in FAMILIES:
        assert set(family.merge(target, source, RULES)) <= set(family.fields)
        for event, time in ours:
            if family.takes(event):
                assert set(family.apply(source, event, time, RULES)) <= set(family.fields)


@given(lives)
@settings(max_examples=100, deadline=None)
def test_merging_a_new_profile_changes_no_field_of_a_family(events: list[tuple[Event, float]]) -> None:
    profile = after(events)
    merged = merge_profiles(profile, EMPTY, "0" * 24, RULES, NOW)
    for family in FAMILIES:
        for name in family.fields:
            assert getattr(merged, name) == getattr(profile, name), name
