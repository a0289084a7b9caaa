"""Story: a placement that holds out, and customers who do not want to be profiled."""

from collections import Counter
from typing import Any

from engine.journal.records import DecisionRecord, ExposureRecord
from tests.stories.test_due import due, records

SHARE = 0.25
SHOP = {
    "offers": {"coffee": {}, "cake": {}, "gift": {"audience": {"orders.count": {"$gte": 1}}}},
    "placements": {"hero": {"offers": ["coffee", "cake"], "silence": SHARE}, "thanks": {"offers": ["gift"]}},
    "moments": [
        {"key": "vip", "trigger": {"when": {"vip": True}}, "placements": ["hero"], "offers": ["gift"]},
        {"key": "back", "trigger": {"event": "cart_updated"}, "placements": ["thanks"], "offers": ["coffee"]},
    ],
    "channels": {"email": {"outbound": True}},
    "identities": {"profiling": "profiling"},
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
