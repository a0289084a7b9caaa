"""Story 5: a loaf kept for pick-up, an experiment on the slots, and a hold that ends when nobody comes."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine

START = datetime(2026, 11, 22, 7, tzinfo=UTC)
SHOP = {
    "offers": {"last_loaf": {"stock": {"sku": "LOAF", "at_least": 1, "hold": "15m"}}},
    "placements": {"shelf": {"offers": ["last_loaf"]}},
    "experiments": {
        "slots": {
            "variants": [
                {"key": "hourly", "weight": 0.5, "payload": {"minutes": 60}},
                {"key": "half_hourly", "weight": 0.5, "payload": {"minutes": 30}},
            ]
        }
    },
}


def test_the_hold_ends_when_the_loaf_is_not_collected(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with time_machine.travel(START, tick=True):
        shop.stock("LOAF", 1)
        assert shop.offer("app", "shelf", user_id="ada") == "last_loaf"
        answer = shop.decide("app", "shelf", user_id="bo")["offers"]["shelf"]
        assert (answer["offer"], answer["reason"]) == ("banner", "fallback")
        assert shop.explain("app", "shelf", user_id="bo")["closed"] == {"last_loaf": "stock"}
    with time_machine.travel(START + timedelta(minutes=16), tick=True):
        assert shop.explain("app", "shelf", user_id="bo")["closed"] == {}
        bought = shop.decide("app", "shelf", user_id="bo")
        assert bought["offers"]["shelf"]["offer"] == "last_loaf"
        told = {"user_id": "bo", "decision_id": bought["decision_id"], "channel": "store"}
        assert shop.tell("purchase", properties={"revenue": 4.2}, **told) == "accepted"
    with time_machine.travel(START + timedelta(hours=2), tick=True):
        assert shop.offer("app", "shelf", user_id="ada") == "banner"
        shop.stock("LOAF", 3)
        assert shop.offer("web", "shelf", user_id="ada") == "last_loaf"


def test_who_turns_it_down_gives_it_back(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.stock("LOAF", 1)
    mine = shop.decide("app", "shelf", user_id="ada")
    assert shop.offer("app", "shelf", user_id="bo") == "banner"
    assert shop.tell("refused", user_id="ada", decision_id=mine["decision_id"]) == "accepted"
    assert shop.offer("app", "shelf", user_id="bo") == "last_loaf"


def test_a_prefetched_loaf_is_claimed_when_it_is_seen(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.stock("LOAF", 1)
    ahead = [shop.decide("app", "shelf", user_id=user, expose=False) for user in ("ada", "bo")]
    assert {decision["offers"]["shelf"]["offer"] for decision in ahead} == {"last_loaf"}
    told = [shop.client().post("/v1/exposures", json={"decision_id": d["decision_id"]}).json() for d in ahead]
    assert told == [{"status": "accepted"}, {"status": "refused", "refused": {"shelf": "stock"}}]


def test_slots_are_an_experiment_that_every_channel_agrees_on(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    variants = Counter()
    for n in range(60):
        web, till = (
            shop.decide(channel, user_id=f"u-{n}", experiments=["slots"])["experiments"]["slots"]
            for channel in ("web", "store")
        )
        assert web == till
        variants[web["variant"]] += 1
    assert min(variants.values()) >= 14  # of 60, four standard errors below half
