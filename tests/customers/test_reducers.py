"""Events leave the same profile in whatever order they come, and what they say is what is read."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile, has_consented, resumable_journey
from engine.customers.customer_view import customer_view
from engine.customers.model.events import Event
from engine.customers.model.reducers import apply_event
from engine.traits.attributes import derive_attributes
from engine.vocabulary import DAY

NOW = 1_790_000_000.0
RULES = ProfileRules(
    merge={"rooms": "union", "spend": "max", "name": "known_wins", "city": "source", "coffees": "sum"},
    sources=["store", "web"],
    tiers=[100.0, 500.0],
)
EMPTY = Profile("u", "u", ids={"user_id": ["u"]})

scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.sampled_from(["Berlin", "Wien", ""]), st.none())
traits = st.dictionaries(
    st.sampled_from(["city", "name", "rooms", "spend", "coffees", "loyalty.tier", "consent.marketing"]),
    st.one_of(scalars, st.lists(scalars, max_size=3)),
    max_size=4,
)
cents = st.integers(0, 30_000).map(lambda n: n / 100)
order_ids = st.sampled_from(["o1", "o2", "o3"])
properties = {
    "purchase": st.fixed_dictionaries(
        {"revenue": cents}, optional={"order_id": order_ids, "points": st.integers(0, 9)}
    ),
    "refund": st.fixed_dictionaries({"order_id": order_ids}, optional={"amount": cents}),
    "view": st.fixed_dictionaries({}, optional={"category": st.sampled_from(["coffee", "tea"]), "step": scalars}),
    "cart_updated": st.fixed_dictionaries({"items": st.integers(0, 3)}),
    "cart_cleared": st.just({}),
    "points_redeemed": st.fixed_dictionaries({"points": st.integers(1, 50)}),
    "complaint_opened": st.just({}),
    "complaint_closed": st.just({}),
    "consent_given": st.fixed_dictionaries({"purpose": st.just("marketing")}, optional={"days": st.integers(1, 9)}),
    "consent_withdrawn": st.fixed_dictionaries({"purpose": st.just("marketing")}),
    "nps": st.fixed_dictionaries({"score": st.integers(0, 10)}),
}


@st.composite
def happened(draw: st.DrawFn) -> tuple[Event, float]:
    time = NOW + draw(st.integers(-40, 40)) * draw(st.sampled_from([1.0, 1800.0, DAY / 4]))
    channel = draw(st.sampled_from(["web", "store", "app"]))
    if draw(st.booleans()):
        known = draw(st.sampled_from(["u", None]))
        return Event("identify", "m", user_id=known, traits=draw(traits), channel=channel), time
    name = draw(st.sampled_from(sorted(properties)))
    return Event("track", "m", user_id="u", event=name, properties=draw(properties[name]), channel=channel), time


def after(events: Sequence[tuple[Event, float]], rules: ProfileRules = RULES) -> Profile:
    profile = EMPTY
    for event, time in events:
        profile = apply_event(profile, event, time, rules)
    return profile


def plain(profile: Profile) -> dict[str, object]:
    """As data, affinities apart: their sums of decays agree to rounding only."""
    return msgspec.to_builtins(replace(profile, affinities={}))


@given(st.lists(happened(), max_size=14), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_events_leave_the_same_profile_in_any_order(events: list[tuple[Event, float]], dice: random.Random) -> None:
    roomy = replace(RULES, visits_limit=50)
    shuffled = list(events)
    dice.shuffle(shuffled)
    one, other = after(events, roomy), after(shuffled, roomy)
    assert plain(one) == plain(other)
    for name, held in one.affinities.items():
        assert other.affinities[name].time == held.time
        assert other.affinities[name].value == pytest.approx(held.value)


@given(st.lists(happened(), max_size=10))
@settings(max_examples=100, deadline=None)
def test_a_profile_survives_its_blob(events: list[tuple[Event, float]]) -> None:
    profile = after(events)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(profile), type=Profile) == profile


def track(name: str, time: float = NOW, **said: object) -> tuple[Event, float]:
    return Event("track", "m", user_id="u", event=name, properties=said, channel="web"), time


def test_a_refund_reverses_revenue_points_and_tier_whichever_comes_first() -> None:
    purchase = track("purchase", order_id="o", revenue=120.0)
    for events in ((purchase, track("refund", NOW + 9, order_id="o")), (track("refund", order_id="o"), purchase)):
        profile = after(events)
        assert (profile.order_count, profile.revenue, profile.points, profile.tier) == (0, 0.0, 0.0, 0)
    part = after([purchase, track("refund", order_id="o", amount=30.0)])
    assert (part.order_count, part.revenue, part.points, part.tier) == (1, 90.0, 90.0, 0)
    assert after([purchase]).tier == 1


def test_an_order_told_twice_counts_once() -> None:
    profile = after([track("purchase", order_id=7, revenue=10), track("purchase", NOW + 60, order_id="7", revenue=11)])
    assert (profile.order_count, profile.revenue) == (1, 11.0)


def test_points_spent_lower_the_balance_and_not_the_tier() -> None:
    profile = after([track("purchase", revenue=120.0), track("points_redeemed", points=100)])
    assert derive_attributes(profile, NOW)["loyalty"] == {"points": 20.0, "tier": 1}


def test_affinity_halves_every_half_life() -> None:
    profile = after([track("view", category="coffee"), track("view", NOW - 30 * DAY, category="coffee")])
    assert derive_attributes(profile, NOW)["affinity"] == {"coffee": pytest.approx(1.5)}
    assert derive_attributes(profile, NOW + 60 * DAY)["affinity"] == {"coffee": pytest.approx(0.375)}


def test_visits_are_runs_of_events_whatever_order_they_come_in() -> None:
    late_bridge = [track("view", NOW + minutes * 60) for minutes in (0, 50, 200, 25)]
    assert derive_attributes(after(late_bridge), NOW)["visits"] == 2
    many = after([track("view", NOW + hours * 3600) for hours in range(20)])
    assert (len(many.visits), many.past_visits) == (RULES.visits_limit, 20 - RULES.visits_limit)


@pytest.mark.parametrize("told", ["return", "refund", "email_sent", "ignored", "back_in_stock", "complaint_resolved"])
def test_what_the_shop_tells_is_no_visit(told: str) -> None:
    assert derive_attributes(after([track("view"), track(told, NOW + DAY)]), NOW)["visits"] == 1
    assert told in after([track(told)]).recent


def test_a_consent_expires_and_a_later_denial_stands() -> None:
    given_ = track("consent_given", purpose="marketing", days=1)
    profile = after([given_])
    assert has_consented(profile, "marketing", NOW + 1)
    assert not has_consented(profile, "marketing", NOW + 2 * DAY)
    assert derive_attributes(profile, NOW + 2 * DAY)["consent"] == {"marketing": False}
    assert not has_consented(
        after([track("consent_withdrawn", NOW + 5, purpose="marketing"), given_]), "marketing", NOW + 9
    )


@pytest.mark.parametrize(
    "form", [float, int, lambda end: end * 1000, lambda end: f"{datetime.fromtimestamp(end, UTC)}"]
)
def test_a_consent_ends_when_it_says_however_that_is_written(form: Callable[[float], object]) -> None:
    profile = after([track("consent", purpose="marketing", granted=True, expires=form(NOW + 60))])
    assert has_consented(profile, "marketing", NOW + 59)
    assert not has_consented(profile, "marketing", NOW + 61)
    for none in (None, "9999-12-31T23:59:59Z"):
        profile = after([track("consent", purpose="marketing", granted=True, expires=none)])
        assert has_consented(profile, "marketing", NOW + 3650 * DAY)


@pytest.mark.parametrize("said", [{"days": 1e9}, {"days": -1e9}, {"expires": 1e300}])
def test_whatever_was_told_can_be_read(said: dict[str, object]) -> None:
    for affinity in ("tea", [1], None, {"tea": "much", "milk": 1}):
        traits: dict[str, object] = {"affinity": affinity, "loyalty": "gold", "orders": 3}
        told = Event("identify", "m", user_id="u", traits=traits), NOW
        profile = after([track("view", category="coffee"), told, track("consent", purpose="p", granted=True, **said)])
        assert msgspec.json.encode(customer_view(profile, NOW))
        assert has_consented(profile, "p", NOW) == (said.get("days", 1) > 0)


def test_the_journey_goes_on_until_it_ends_or_is_forgotten() -> None:
    profile = after([track("cart_updated", items=2), track("checkout", step="address")])
    assert resumable_journey(profile, NOW + 60) == {"cart": {"items": 2}, "step": "address"}
    assert resumable_journey(profile, NOW + 2 * DAY) == {"cart": {"items": 2}}
    assert resumable_journey(profile, NOW + 8 * DAY) == {}
    bought = track("purchase", NOW + 5, revenue=3.0)
    assert resumable_journey(after([bought, track("cart_updated", items=2)]), NOW + 60) == {}


def test_told_traits_nest_and_win_over_computed_ones() -> None:
    event = Event("identify", "m", user_id="u", traits={"loyalty": {"tier": 3}, "country": "DE"}, channel="store")
    seen = derive_attributes(after([(event, NOW), track("purchase", revenue=5.0)]), NOW + DAY)
    assert seen["loyalty"] == {"points": 5.0, "tier": 3}
    assert (seen["country"], seen["recency_days"], seen["stage"], seen["monetary"]) == ("DE", 1.0, "customer", 5.0)


@pytest.mark.parametrize(
    ("name", "words", "stands"),
    [
        ("city", [("Wien", "store", 0), ("Berlin", "web", 9)], "Wien"),
        ("plain", [("Wien", "store", 0), ("Berlin", "web", 9)], "Berlin"),
        ("spend", [(7, "web", 0), (3, "web", 9)], 7),
        ("rooms", [("a", "web", 0), (["b", "a"], "web", 9)], ["a", "b"]),
    ],
)
def test_the_rule_of_a_trait_says_which_word_stands(
    name: str, words: list[tuple[object, str, int]], stands: object
) -> None:
    events = [
        (Event("identify", "m", user_id="u", traits={name: value}, channel=source), NOW + at)
        for value, source, at in words
    ]
    assert after(events).traits[name].value == stands
    assert after(events[::-1]).traits[name].value == stands


def test_complaint_and_answers() -> None:
    profile = after([track("complaint_opened"), track("nps", score=9), track("survey", survey="csat", score=4)])
    seen = derive_attributes(profile, NOW)
    assert (seen["complaint_open"], seen["satisfaction"]) == (True, {"nps": 9.0, "csat": 4.0})
    assert not derive_attributes(after([track("complaint_closed", NOW + 1), track("complaint_opened")]), NOW)[
        "complaint_open"
    ]


@given(st.permutations([*range(100)]), st.sets(st.integers(0, 99), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_a_denial_outlasts_the_consents_of_any_number_of_other_browsers(order: list[int], denied: set[int]) -> None:
    profile = EMPTY
    for number in order:
        traits = {"consent": {"marketing": number not in denied}}
        event = Event("identify", "m", anonymous_id=f"a-{number}", traits=traits)
        profile = apply_event(profile, event, NOW + number, RULES)
        if denied <= set(order[: order.index(number) + 1]):
            assert not has_consented(profile, "marketing", NOW + 200)
