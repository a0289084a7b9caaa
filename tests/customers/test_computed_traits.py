"""The shop's own traits: the same in any order of events and merges, and what the events themselves come to."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.catalog.plan.plan import Plan
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile, resumable_journey
from engine.customers.model.archive import join_profile, split_profile
from engine.customers.model.events import Event
from engine.customers.model.merge import merge_profiles
from engine.customers.model.reducers import apply_event
from engine.traits.attributes import derive_attributes
from engine.traits.rules import facts_order
from engine.traits.series import DISTINCT, POINTS, STEPS
from engine.vocabulary import DAY
from tests.catalog.folder import plan

NOW = 1_790_000_000.0
TRAITS: dict[str, Any] = {
    "orders_30d": {"count": "purchase", "window": "30d"},
    "revenue_30d": {"sum": "purchase", "of": "revenue", "window": "30d"},
    "revenue_ever": {"sum": "order_placed", "of": "revenue"},
    "basket": {"mean": "purchase", "of": "revenue"},
    "largest": {"max": "purchase", "of": "items"},
    "coffee_orders": {"count": "purchase", "filter": {"category": "coffee"}},
    "first_coffee": {"first": "purchase", "of": "items", "filter": {"category": "coffee"}},
    "last_category": {"last": "purchase", "of": "category"},
    "since_order": {"time_since": "purchase"},
    "views_7d": {"count": "view", "window": "7d"},
    "view_rate": {"rate": "view", "window": "7d", "per": "1d"},
    "skus": {"distinct": "view", "of": "sku", "window": "14d"},
    "longest": {"max": "view", "of": "seconds", "window": "7d"},
    "shortest": {"min": "view", "of": "seconds"},
    "dwell": {"mean": "view", "of": "seconds", "window": "30d"},
    "first_shelf": {"first": "view", "of": "shelf.name"},
    "last_shelf": {"last": "view", "of": "shelf.name", "window": "3d", "filter": {"seconds": {"$gte": 5}}},
    "refunds": {"count": "refund"},
}
SHOP: Plan = plan(traits=TRAITS)
RULES: ProfileRules = replace(SHOP.rules, orders_limit=3, return_period=365 * DAY)

cents = st.integers(0, 30_000).map(lambda n: n / 100)
order_ids = st.sampled_from(["o1", "o2", "o3", "o4", "o5", "o6"])
categories = st.sampled_from(["coffee", "tea"])
PROPERTIES = {
    "purchase": st.fixed_dictionaries(
        {"revenue": cents, "order_id": order_ids}, optional={"items": st.integers(1, 9), "category": categories}
    ),
    "order_completed": st.fixed_dictionaries({"revenue": cents}, optional={"items": st.integers(1, 9)}),
    "refund": st.fixed_dictionaries({}, optional={"order_id": order_ids, "amount": cents}),
    "view": st.fixed_dictionaries(
        {"sku": st.sampled_from(["a", "b", "c"])},
        optional={"seconds": st.floats(0, 60), "shelf": st.fixed_dictionaries({"name": categories})},
    ),
}
Happened = tuple[Event, float]


@st.composite
def happened(draw: st.DrawFn) -> Happened:
    name = draw(st.sampled_from(sorted(PROPERTIES)))
    time = NOW - draw(st.integers(0, 400)) * draw(st.sampled_from([60.0, DAY / 4]))
    return Event("track", "m", user_id="u", event=name, properties=draw(PROPERTIES[name])), time


def after(events: Sequence[Happened], key: str = "u") -> Profile:
    """The customer as stored, each event a write of its own: the orders past the limit go to the archive and return."""
    profile = Profile(key, key, version=1, ids={"user_id": [key]})
    archive = split_profile(profile, RULES)[1]
    for event, time in events:
        joined = join_profile(profile, archive.orders, archive.facts)
        profile, archive = split_profile(apply_event(joined, event, time, RULES), RULES)
    return profile


def joined(events: Sequence[Happened]) -> Profile:
    profile = Profile("u", "u", version=1, ids={"user_id": ["u"]})
    for event, time in events:
        profile = apply_event(profile, event, time, RULES)
    return profile


def values(profile: Profile, now: float = NOW) -> dict[str, object]:
    attributes = derive_attributes(profile, now, RULES.computed)
    return {name: attributes[name] for name in TRAITS if name in attributes}


def standing(statement: tuple[float, float, dict[str, Any]]) -> object:
    """The latest and largest statement of an order with a revenue stands, else the latest without one.

    Of two equal ones that stands of which the traits read more.
    """
    return statement[1] != 0, statement[:2], facts_order(RULES.computed.facts_of(statement[2]))


def by_hand(events: Sequence[Happened]) -> dict[str, object]:
    """The traits from the list of all events, by the words of the reference."""
    orders: dict[str, tuple[float, float, dict[str, Any]]] = {}
    back: dict[str, float] = {}
    whole: set[str] = set()
    loose: list[tuple[float, float]] = []
    for number, (event, time) in enumerate(events):
        said = event.properties
        if event.event in ("purchase", "order_completed"):
            key = str(said.get("order_id", number))
            statement = (time, float(said["revenue"]), said)
            orders[key] = max(orders.get(key, statement), statement, key=standing)
        elif event.event == "refund":
            if "order_id" not in said:
                loose.append((time, -float(said.get("amount", 0))))
            elif "amount" in said:
                back[said["order_id"]] = back.get(said["order_id"], 0) + said["amount"]
            else:
                whole.add(said["order_id"])
    counted = [
        (time, round(max(0.0, revenue - back.get(key, 0)), 4), said)
        for key, (time, revenue, said) in orders.items()
        if key not in whole and (back.get(key, 0) < revenue or revenue == 0)
    ]
    views = [(time, event.properties) for event, time in events if event.event == "view"]

    def since(days: float, rows: Sequence[Any]) -> list[Any]:
        return [row for row in rows if row[0] > NOW - days * DAY]

    money = [(time, revenue) for time, revenue, _ in counted] + loose
    coffee = [row for row in counted if row[2].get("category") == "coffee"]
    dwell = [(time, round(said["seconds"], 4)) for time, said in views if "seconds" in said]
    found: dict[str, object] = {
        "orders_30d": len(since(30, counted)),
        "revenue_30d": sum(one[1] for one in since(30, money)),
        "revenue_ever": sum(one[1] for one in money),
        "coffee_orders": len(coffee),
        "views_7d": len(since(7, views)),
        "view_rate": len(since(7, views)) / 7,
        "skus": len({said["sku"] for _, said in since(14, views)}),
        "refunds": sum(event.event == "refund" for event, _ in events),
    }
    if counted:
        found["basket"] = sum(one[1] for one in counted) / len(counted)
        found["since_order"] = (NOW - max(one[0] for one in counted)) / DAY
    if items := [row[2]["items"] for row in counted if "items" in row[2]]:
        found["largest"] = max(items)
    if dwell:
        found["shortest"] = min(one[1] for one in dwell)
    if near := since(7, dwell):
        found["longest"] = max(one[1] for one in near)
    if month := since(30, dwell):
        found["dwell"] = sum(one[1] for one in month) / len(month)
    return found


@given(st.lists(happened(), max_size=24), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_any_order_any_writes_and_a_merge_give_what_the_events_come_to(
    events: list[Happened], dice: random.Random
) -> None:
    once = values(after(events))
    assert values(joined(events)) == once
    assert values(after(dice.sample(events, len(events)))) == once
    one, other = joined(events[::2]), joined(events[1::2])
    assert values(merge_profiles(one, other, "0" * 24, RULES, NOW)) == once
    truth = by_hand(events)
    assert {name: once[name] for name in truth} == pytest.approx(truth, abs=1e-6)
    assert once.keys() - truth.keys() <= {"first_coffee", "last_category", "first_shelf", "last_shelf"}


def view(ago: float, **said: object) -> Happened:
    return Event("track", "m", user_id="u", event="view", properties=said), NOW - ago


def test_past_the_exact_events_a_window_is_off_by_less_than_its_oldest_step_and_memory_is_bounded() -> None:
    dice = random.Random(5)
    times = [dice.uniform(0, 8 * DAY) for _ in range(2_000)]
    profile = joined([view(seconds, sku=str(int(seconds))) for seconds in times])
    step = 7 * DAY / STEPS
    counted = values(profile)["views_7d"]
    assert sum(time < 7 * DAY - step for time in times) <= counted <= sum(time < 7 * DAY for time in times)
    assert values(profile)["skus"] == DISTINCT
    for series in profile.series.values():
        assert len(series.points) <= max(POINTS, DISTINCT)
        assert len(series.tallies) <= STEPS + 1
    sums = joined([(Event("track", "m", user_id="u", event="view", properties={"seconds": 0.1}), NOW)] * 999)
    assert values(sums)["dwell"] == 0.1


def test_a_trait_forgets_what_leaves_its_window_and_time_since_grows() -> None:
    profile = joined([view(6.9 * DAY, sku="a"), view(0, sku="b", seconds=7.5)])
    assert values(profile)["views_7d"] == 2
    later = values(profile, NOW + DAY)
    assert (later["views_7d"], later["longest"]) == (1, 7.5)
    assert "longest" not in values(profile, NOW + 8 * DAY)


def test_a_shop_sets_where_stages_begin() -> None:
    own = plan(segments={"stages": {"engaged_visits": 3, "loyal_orders": 2, "lapsed_after": "30d"}}).rules.computed
    orders = [Event("track", "m", user_id="u", event="purchase", properties={"order_id": key}) for key in "ab"]
    twice = joined([(one, NOW) for one in orders])
    assert [derive_attributes(twice, NOW, rules)["stage"] for rules in (None, own)] == ["customer", "loyal"]
    later = NOW + 31 * DAY
    assert [derive_attributes(twice, later, rules)["stage"] for rules in (None, own)] == ["customer", "lapsed"]
    visits = joined([view(0), view(DAY)])
    assert [derive_attributes(visits, NOW, rules)["stage"] for rules in (None, own)] == ["engaged", "new"]


def test_a_campaign_is_read_until_its_visit_ends_and_no_longer_than_its_life() -> None:
    came = {"utm_source": "newsletter", "ad": "spring", "seconds": 3}
    pages = [view(0, **came), view(-20 * 60), view(-45 * 60)]

    def campaign(profile: Profile, minutes: float) -> tuple[object, object]:
        attributes = derive_attributes(profile, NOW + minutes * 60, RULES.computed)
        return attributes.get("utm_source"), attributes.get("ad")

    for order in (pages, pages[::-1]):
        profile = joined(order)
        assert campaign(profile, 74) == ("newsletter", "spring")
        assert campaign(profile, 76) == (None, None)
        assert resumable_journey(profile, NOW) == {}
    assert campaign(joined([view(0, **came), view(-3 * 3600)]), 181) == (None, None)  # the next visit
    all_day = [view(0, **came), *(view(-number * 1500) for number in range(1, 60))]
    assert campaign(joined(all_day), 23.9 * 60) == ("newsletter", "spring")
    assert campaign(joined(all_day), 24.1 * 60) == (None, None)
    newer = joined([*pages, view(-50 * 60, utm_source="search")])
    assert campaign(newer, 55) == ("search", None)
