"""Quiet hours, caps, moments and arbitration, decided without any store."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine import decide
from engine.catalog import Plan, load_plan
from engine.customer import Consent, CustomerIds, Profile, Trait
from engine.decision.attributes import overlay_context
from engine.decision.decision import Availability, DecideOptions, DecideRequest, Decision

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0
OFFERS: dict[str, Any] = {"a": {"value": 1.0}, "b": {"value": 3.0, "lever": 2.0}, "c": {"value": 0.0}}


def shop(tmp_path: Path, *, moments: Any = (), web: Any = None, **hero: Any) -> Plan:
    folder = tmp_path / "shop"
    (folder / "offers").mkdir(parents=True)
    offers = {"z": {}, **hero.pop("changed", OFFERS)}
    for key, offer in offers.items():
        text = yaml.safe_dump({"key": key, "renderings": {"web": {}, "mail": {}}} | offer)
        (folder / "offers" / f"{key}.yaml").write_text(text)
    plain = {"policy": {"kind": "uniform"}, "reward": {"metric": "click"}, "fallback": "z"}
    chosen = {"key": "hero", "placement": "hero", "offers": [k for k in offers if k != "z"]} | plain | hero
    more = {"key": "side", "placement": "side", "offers": chosen["offers"]} | plain
    quiet = {"key": "mail", "outbound": True, "quiet": {"from": "21:00", "to": "08:00"}}
    channels = {
        "channels": [{"key": "web"} | (web or {}), quiet],
        "placements": [{"key": key, "channels": ["web", "mail"]} for key in ("hero", "side")],
        "zone": "Europe/Berlin",
    }
    files = {"hero": chosen, "side": more, "channels": channels, "moments": {"moments": list(moments)}}
    files["metrics"] = {"metrics": [{"key": "click", "event": "click"}]}
    for name, value in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(value))
    return load_plan(folder)


def ask(plan: Plan, channel: str = "web", now: float = NOW, *placements: str, **more: Any) -> Decision:
    profile = more.pop("profile", Profile("u", "u"))
    request = DecideRequest(
        customer=CustomerIds(user_id="u"),
        channel=channel,
        placements=list(placements or ("hero",)),
        context=more.pop("context", {}),
    )
    decision_id = more.pop("decision_id", None)
    return decide(plan, {}, profile, request, now, decision_id=decision_id, options=DecideOptions(trace=True, **more))


def local(day: str, hour: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(f"{day}T{hour}").replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("at", "until"),
    [
        (("2026-11-22", "20:59"), None),
        (("2026-11-22", "21:00"), ("2026-11-23", "08:00")),
        (("2026-11-23", "03:00"), ("2026-11-23", "08:00")),
        (("2026-11-23", "08:00"), None),
        (("2026-03-28", "23:00"), ("2026-03-29", "08:00")),  # one hour shorter: the clock goes forward
    ],
)
def test_an_outbound_channel_is_quiet_at_night_and_says_until_when(tmp_path: Path, at: Any, until: Any) -> None:
    plan = shop(tmp_path)
    answer = ask(plan, "mail", local(*at)).answer.offers["hero"]
    if until is None:
        assert answer.reason == "policy"
    else:
        assert (answer.offer, answer.reason) == (None, "deferred")
        assert answer.not_before is not None
        assert answer.not_before.timestamp() == local(*until)
    assert ask(plan, "web", local(*at)).answer.offers["hero"].reason == "policy"


def test_the_night_is_that_of_the_customer(tmp_path: Path) -> None:
    plan = shop(tmp_path)
    awake = Profile("u", "u", traits={"timezone": Trait("America/New_York", NOW)})
    assert ask(plan, "mail", local("2026-11-22", "23:00")).choices["hero"].reason == "deferred"
    assert ask(plan, "mail", local("2026-11-22", "23:00"), profile=awake).choices["hero"].reason == "policy"


def test_the_probability_is_policy_by_context_by_value_by_lever(tmp_path: Path) -> None:
    floor = 0.02
    plan = shop(
        tmp_path,
        policy={"kind": "uniform", "floor": floor},
        arbitration={"value": True},
        weights=[{"when": {"intent": "buy"}, "offers": ["a"], "weight": 4}],
    )
    choice = ask(plan, context={"intent": "buy"}).choices["hero"]
    raw = [1 / 3 * 4 * 1.0 * 1, 1 / 3 * 1 * 3.0 * 2, 0.0]
    expected = [part / sum(raw) * (1 - 3 * floor) + floor for part in raw]
    assert choice.probabilities == pytest.approx(expected)
    assert sum(choice.probabilities) == pytest.approx(1.0)
    assert choice.propensity == dict(zip(choice.candidates, choice.probabilities, strict=True))[choice.offer.key]
    calm = ask(plan).choices["hero"]
    assert calm.probabilities == pytest.approx([1 / 7 * 0.94 + 0.02, 6 / 7 * 0.94 + 0.02, 0.02])


def test_without_arbitration_the_policys_own_probabilities_stand(tmp_path: Path) -> None:
    plan = shop(tmp_path, changed={key: {"value": offer["value"]} for key, offer in OFFERS.items()})
    assert ask(plan).choices["hero"].probabilities == pytest.approx([1 / 3] * 3)


def test_placements_of_one_answer_never_show_the_same_offer_twice(tmp_path: Path) -> None:
    plan = shop(tmp_path)
    for n in range(200):
        offers = ask(plan, "web", NOW, "hero", "side", decision_id=f"d-{n}").answer.offers
        assert offers["hero"].offer != offers["side"].offer


def test_a_lost_claim_leaves_the_others_renormalized(tmp_path: Path) -> None:
    plan = shop(tmp_path, arbitration={"value": True})
    before = ask(plan).choices["hero"]
    chances = dict(zip(before.candidates, before.probabilities, strict=True))
    after = ask(plan, availability=Availability(lost={"hero": {"b": "stock"}})).choices["hero"]
    rest = 1 - chances["b"]
    assert dict(zip(after.candidates, after.probabilities, strict=True)) == pytest.approx(
        {"a": chances["a"] / rest, "c": chances["c"] / rest}
    )
    assert after.closed["b"] == "stock"
    nothing = ask(plan, availability=Availability(lost={"hero": dict.fromkeys("abc", "stock")})).choices["hero"]
    assert (nothing.offer.key, nothing.reason, nothing.propensity) == ("z", "fallback", 1.0)


def test_where_only_offers_of_probability_zero_are_left_the_fallback_is_shown(tmp_path: Path) -> None:
    plan = shop(tmp_path, policy={"kind": "uniform", "floor": 0.0}, arbitration={"value": True})
    lost: dict[str, Any] = {"a": "stock", "b": "stock"}  # c has no value, so it is never drawn
    choice = ask(plan, availability=Availability(lost={"hero": lost})).choices["hero"]
    assert (choice.offer.key, choice.reason, choice.propensity) == ("z", "fallback", 1.0)
    assert choice.closed.items() >= lost.items()


CAPPED = {
    "a": {"caps": [{"count": 2, "per": "7d"}, {"count": 1, "per": "1d", "window": "calendar", "event": "redemption"}]}
}


@pytest.mark.parametrize(
    ("counts", "gate"),
    [
        ({}, None),
        ({"exposure|offer:a": [NOW - DAY]}, None),
        ({"exposure|offer:a": [NOW - DAY, NOW - 6.9 * DAY]}, "cap"),
        ({"exposure|offer:a": [NOW - DAY, NOW - 7.1 * DAY]}, None),
        ({"redemption|offer:a": [local("2026-11-22", "00:01")]}, "cap"),
        ({"redemption|offer:a": [local("2026-11-21", "23:59")]}, None),
    ],
)
def test_all_caps_must_hold_in_rolling_and_calendar_windows(tmp_path: Path, counts: Any, gate: str | None) -> None:
    plan = shop(tmp_path, changed=CAPPED)
    assert ask(plan, availability=Availability(counts)).choices["hero"].closed.get("a") == gate


def test_an_offer_ignored_too_often_rests_and_an_answer_keeps_it(tmp_path: Path) -> None:
    rule = {"after": 2, "outcome": "ignored", "within": "30d", "for": "60d"}
    plan = shop(tmp_path, changed={"a": {"suppress": rule}})
    shown = [NOW - 20 * DAY, NOW - 3 * DAY]

    def gate(now: float, **counts: list[float]) -> str | None:
        named = {f"{event}|offer:a": times for event, times in counts.items()}
        return ask(plan, "web", now, availability=Availability(named)).choices["hero"].closed.get("a")

    assert gate(NOW, exposure=shown) == "suppressed"
    assert gate(NOW + 56 * DAY, exposure=shown) == "suppressed"
    assert gate(NOW + 58 * DAY, exposure=shown) is None
    assert gate(NOW, exposure=shown, answered=[NOW - 3 * DAY + 60]) is None
    assert gate(NOW, exposure=[NOW - 20 * DAY, NOW - 60]) is None  # it may still be answered
    assert gate(NOW, ignored=shown) == "suppressed"


def test_consent_to_the_purpose_is_asked_and_expires(tmp_path: Path) -> None:
    plan = shop(tmp_path, changed={"a": {"purpose": "marketing"}})

    def gate(consent: Consent | None) -> str | None:
        profile = Profile("u", "u", consents={"marketing": consent} if consent else {})
        return ask(plan, profile=profile).choices["hero"].closed.get("a")

    assert gate(None) == "consent"
    assert gate(Consent(True, NOW - DAY)) is None
    assert gate(Consent(True, NOW - DAY, NOW - 1)) == "consent"
    assert gate(Consent(False, NOW)) == "consent"


def test_a_cap_of_the_channel_holds_for_every_offer(tmp_path: Path) -> None:
    plan = shop(tmp_path, web={"caps": [{"count": 1, "per": "1d"}]})
    closed = ask(plan, availability=Availability({"exposure|channel:web": [NOW - 60]})).choices["hero"].closed
    assert closed == {"a": "cap", "b": "cap", "c": "cap"}


def moment(**trigger: Any) -> dict[str, Any]:
    return {"key": "now", "trigger": trigger, "window": "2h", "placements": ["hero"], "offers": ["c", "a"]}


def test_a_moment_begins_after_a_while_unless_something_came_later(tmp_path: Path) -> None:
    cart = moment(event="cart_updated", after="30m", unless=["purchase"])
    plan = shop(tmp_path, moments=[cart])

    def reason(minutes: float, **recent: float) -> str:
        profile = Profile("u", "u", recent={"cart_updated": NOW, **recent})
        return ask(plan, "web", NOW + minutes * 60, profile=profile).choices["hero"].reason

    found = [reason(0), reason(29), reason(31), reason(149), reason(151)]
    assert found == ["policy", "policy", "moment", "moment", "policy"]
    assert reason(40, purchase=NOW + 60) == "policy"
    assert reason(40, purchase=NOW - 60) == "moment"


def test_a_moment_shows_the_first_of_its_offers_that_may_be_had(tmp_path: Path) -> None:
    plan = shop(tmp_path, moments=[moment(when={"intent": "leave"})])
    choice = ask(plan, context={"intent": "leave"}).choices["hero"]
    assert (choice.offer.key, choice.moment, choice.propensity) == ("c", "now", 1.0)
    assert choice.closed == {"a": "moment", "b": "moment"}
    lost = Availability(lost={"hero": {"c": "stock"}})
    assert ask(plan, context={"intent": "leave"}, availability=lost).choices["hero"].offer.key == "a"


@pytest.mark.parametrize("context", [{"loyalty.tier": 2}, {"loyalty": {"tier": 2}}], ids=["flat", "nested"])
def test_a_context_value_is_one_trait_for_audiences_features_and_weights(tmp_path: Path, context: Any) -> None:
    plan = shop(
        tmp_path,
        changed=OFFERS | {"a": {"audience": {"loyalty.tier": {"$gte": 2}}}},
        policy={"kind": "linear_thompson", "features": ["loyalty.tier", "loyalty.points"]},
        weights=[{"when": {"loyalty.tier": 2, "loyalty.points": 70}, "offers": ["a"], "weight": 4}],
    )
    before = msgspec.json.encode(context)
    given = ask(plan, profile=Profile("u", "u", points=70.0), context=context).choices["hero"]
    assert given.context == {"loyalty.tier": 2, "loyalty.points": 70.0}
    assert (given.closed, given.factors["a"].context) == ({}, 4.0)
    assert ask(plan, profile=Profile("u", "u", points=70.0)).choices["hero"].closed == {"a": "audience"}
    assert msgspec.json.encode(context) == before


@given(st.permutations(["loyalty.tier", "loyalty", "loyalty.a.b"]))
def test_overlaying_the_context_leaves_the_request_unchanged(names: list[str]) -> None:
    given: dict[str, Any] = {"loyalty.tier": 3, "loyalty": {"tier": 3, "a": {"c": 1}}, "loyalty.a.b": 2}
    context = {name: given[name] for name in names}
    before = msgspec.json.encode(context)
    for _ in range(2):
        attributes: dict[str, object] = {"loyalty": {"tier": 1, "points": 5.0}, "country": "DE"}
        overlay_context(attributes, context)
        assert attributes == {"loyalty": {"tier": 3, "points": 5.0, "a": {"b": 2, "c": 1}}, "country": "DE"}
        assert msgspec.json.encode(context) == before
