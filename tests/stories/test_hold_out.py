"""Story: a placement that holds out, and customers who do not want to be profiled."""

from collections import Counter
from typing import Any

from engine.catalog.archive import Archive
from engine.journal import stream
from engine.journal.records import DecisionRecord, ExposureRecord
from engine.journal.traces import decode_trace
from engine.rehearse.explain import explain_decision
from engine.traits.attributes import derive_attributes
from tests.stories.test_due import due, records

SHARE = 0.25
SHOP = {
    "offers": {"coffee": {}, "cake": {}, "gift": {"audience": {"orders.count": {"$gte": 1}}}}
    | {"card": {"audience": {"bought": {"$gte": 1}}}},
    "placements": {
        "hero": {"offers": ["coffee", "cake"], "silence": SHARE},
        "thanks": {"offers": ["gift"]},
        "club": {"offers": ["card"]},
    },
    "moments": [
        {"key": "vip", "trigger": {"when": {"vip": True}}, "placements": ["hero"], "offers": ["gift"]},
        {"key": "back", "trigger": {"event": "cart_updated"}, "placements": ["thanks"], "offers": ["coffee"]},
    ],
    "channels": {"email": {"outbound": True}},
    "identities": {"profiling": "profiling"},
    "traits": {"bought": {"count": "purchase"}},
}


def test_a_share_of_the_decisions_shows_nothing_and_is_logged_with_its_propensity(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    answers = [shop.decide("web", "hero", user_id=f"u-{n}")["offers"]["hero"] for n in range(400)]
    reasons = Counter(answer["reason"] for answer in answers)
    assert abs(reasons["silence"] - 400 * SHARE) < 4 * (400 * SHARE * (1 - SHARE)) ** 0.5  # four standard errors
    for answer in answers:
        is_silent = answer["reason"] == "silence"
        assert (answer["offer"] is None) == is_silent
        assert answer["propensity"] == (SHARE if is_silent else 0.5 * (1 - SHARE))
    log = records(shop)
    rows = [one.rows[0] for one in log if isinstance(one, DecisionRecord)]
    assert Counter(row.variant for row in rows)["silence"] == reasons["silence"]
    assert {tuple(row.candidates) for row in rows} == {("coffee", "cake", "silence")}
    assert len([one for one in log if isinstance(one, ExposureRecord)]) == 400  # silence is exposed as offers are


def test_a_moment_is_held_out_and_a_fallback_is_not(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    shop.identify({"vip": True}, user_id="vip")
    shop.consent("profiling", user_id="vip")
    shop.tell("purchase", user_id="vip", properties={"revenue": 5})
    answers = [shop.decide("web", "hero", user_id="vip")["offers"]["hero"] for _ in range(60)]
    found = {(answer["reason"], answer["propensity"]) for answer in answers}
    assert found == {("silence", SHARE), ("moment", 1 - SHARE)}
    fallback = {shop.decide("web", "thanks", user_id=f"u-{n}")["offers"]["thanks"]["reason"] for n in range(20)}
    assert fallback == {"fallback"}


def test_without_consent_to_profiling_decisions_use_no_history(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    for user in ("yes", "no"):
        shop.tell("purchase", user_id=user, properties={"revenue": 5})
        shop.tell("cart_updated", user_id=user, properties={"cart": {"items": 2}})
    shop.consent("profiling", user_id="yes")
    consented, other = (shop.decide("web", "thanks", user_id=user) for user in ("yes", "no"))
    assert consented["offers"]["thanks"]["reason"] == "moment"
    assert other["offers"]["thanks"]["reason"] == "fallback"  # neither the order nor the cart is known
    assert other["resume"] == {"cart": {"items": 2}}  # a service that the customer uses, not a profile
    assert [item["customer"] for item in due(shop, "email")] == ["yes"]
    shop.tell("consent_withdrawn", user_id="yes", properties={"purpose": "profiling"})
    assert shop.decide("web", "thanks", user_id="yes")["offers"]["thanks"]["reason"] == "fallback"


def test_staff_are_offered_no_silence_and_when_held_out_every_offer_that_could_be_shown(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    found = set()
    for number in range(60):
        body = {"customer": {"user_id": f"u-{number}"}, "channel": "web", "placements": ["hero"]}
        view = shop.client().post("/v1/agent", json=body).json()["suggestions"]["hero"]
        found.add((view["offer"], *sorted(view["next_best"])))
    assert found == {("coffee", "cake"), ("cake", "coffee"), (None, "cake", "coffee")}


def test_what_is_logged_of_a_decision_without_consent_has_no_history_and_repeats_it(
    open_shop: Any, redis_url: str
) -> None:
    shop = open_shop(SHOP, workers=1)
    for user in ("yes", "no"):
        shop.tell("purchase", user_id=user, properties={"revenue": 5})
    shop.consent("profiling", user_id="yes")
    decided = [shop.decide("web", "club", user_id=user) for user in ("yes", "no")]
    assert [one["offers"]["club"]["reason"] for one in decided] == ["policy", "fallback"]
    log = [one for one in records(shop) if isinstance(one, DecisionRecord)]
    logged = [decode_trace(one.trace).profile for one in log]
    assert [derive_attributes(one, 0.0)["bought"] for one in logged] == [1, 0]
    assert logged[1].order_count == 0
    shop.collect()
    with stream.connect_stream(redis_url) as client:
        for one in decided:
            again = explain_decision(
                shop.settings.log, Archive(shop.settings.data / "plans"), client, one["decision_id"]
            )
            assert again.differences == []
