"""A shop defines its own traits: live events and the log give the same values, and every condition may read them."""

import json
import random
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import httpx
import yaml

from engine.vocabulary import DAY
from tests.stories.conftest import Open, Shop, worker
from tests.verbs import run_verb

TRAITS: dict[str, Any] = {
    "orders_30d": {"count": "purchase", "window": "30d"},
    "revenue_90d": {"sum": "purchase", "of": "revenue", "window": "90d"},
    "basket": {"mean": "purchase", "of": "revenue"},
    "coffee_items": {"sum": "purchase", "of": "items", "filter": {"category": "coffee"}},
    "grinder_views": {"count": "view", "filter": {"category": "grinders"}, "window": "7d"},
    "categories": {"distinct": "view", "of": "category"},
    "last_seen": {"last": "view", "of": "category", "window": "30d"},
    "view_rate": {"rate": "view", "window": "7d"},
    "idle": {"time_since": "view"},
}
SHOP: dict[str, Any] = {
    "offers": {
        "grinder": {"audience": {"grinder_views": {"$gte": 2}, "orders_30d": {"$lt": 1}}},
        "thanks": {"audience": {"$segment": "good"}},
        "coffee_shelf": {},
    },
    "placements": {
        "hero": {
            "offers": ["grinder", "thanks"],
            "policy": {"kind": "linear_thompson", "features": [{"trait": "view_rate", "range": [0, 5]}]},
        }
    },
    "segments": [{"key": "good", "condition": {"revenue_90d": {"$gte": 100}}}],
    "moments": [
        {
            "key": "at_the_shelf",
            "trigger": {"event": "beacon", "filter": {"shelf": "coffee"}},
            "window": "15m",
            "placements": ["hero"],
            "offers": ["coffee_shelf"],
        }
    ],
    "traits": TRAITS,
}


def attributes(shop: Shop, customer: str) -> dict[str, Any]:
    found = shop.client().get(f"/v1/profiles/{customer}")
    assert found.status_code == 200, found.text
    every = found.json()["attributes"]
    return {name: every[name] for name in TRAITS if name in every}


def backfill(shop: Shop) -> dict[str, Any]:
    folders = ("--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data))
    done = run_verb("traits", "backfill", "--json", *folders, "--redis", shop.settings.redis)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_conditions_segments_features_and_moments_read_the_shops_own_traits(open_shop: Open) -> None:
    shop = open_shop(SHOP)
    assert shop.offer("web", "hero", user_id="u-1") == "banner"
    for _ in range(2):
        shop.tell("view", user_id="u-1", properties={"category": "grinders"})
    decided = shop.decide("web", "hero", user_id="u-1")
    assert decided["offers"]["hero"]["offer"] == "grinder"
    shop.tell("purchase", user_id="u-1", properties={"order_id": "o-1", "revenue": 120.0})
    shop.tell("order_completed", user_id="u-1", properties={"order_id": "o-1", "revenue": 120.0})
    assert shop.offer("app", "hero", user_id="u-1") == "thanks"
    assert attributes(shop, "u-1")["orders_30d"] == 1
    shop.tell("refund", user_id="u-1", properties={"order_id": "o-1"})
    assert shop.offer("web", "hero", user_id="u-1") == "grinder"
    shop.identify({"grinder_views": 99, "orders_30d": 99}, user_id="u-2")
    assert attributes(shop, "u-2")["grinder_views"] == 0
    shop.tell("beacon", user_id="u-2", properties={"shelf": "tea"})
    assert shop.offer("web", "hero", user_id="u-2") == "banner"
    shop.tell("beacon", user_id="u-2", properties={"shelf": "coffee"})
    assert shop.offer("web", "hero", user_id="u-2") == "coffee_shelf"
    shop.collect()
    words = ["explain", decided["decision_id"], "--data", str(shop.settings.data), "--redis", shop.settings.redis]
    replayed = json.loads(run_verb(*words, "--json", check=True).stdout)
    assert replayed["same"], replayed["differences"]


def live(dice: random.Random, number: int, now: float) -> dict[str, Any]:
    """One event of one of a few people, some days old, sent by an account, a browser or both."""
    person = dice.randrange(6)
    known = {"user_id": f"p-{person}"} if dice.random() < 0.6 else {}
    browser = {"anonymous_id": f"b-{person}-{dice.randrange(2)}"} if not known or dice.random() < 0.3 else {}
    event = dice.choice(["purchase", "order_completed", "refund", "view", "view", "signup"])
    properties: dict[str, Any] = {}
    if event in ("purchase", "order_completed", "refund"):
        properties = {"order_id": f"o-{person}-{dice.randrange(5)}"} if dice.random() < 0.8 else {}
        properties |= {"amount" if event == "refund" else "revenue": round(dice.uniform(1, 90), 2)}
        properties |= {"items": dice.randint(1, 9), "category": dice.choice(["coffee", "tea"])}
    elif event == "view":
        properties = {"category": dice.choice(["grinders", "coffee", "tea"])}
    at = now - dice.choice([60.0, DAY, 12.5 * DAY]) * dice.randint(1, 8) - dice.random()
    return {
        "type": "track", "message_id": f"r-{number}", "event": event, "timestamp": at, "properties": properties,
        **known, **browser,
    }  # fmt: skip


def send(shop: Shop, events: list[Mapping[str, Any]], dice: random.Random) -> None:
    waiting = list(events)
    while waiting:
        batch = [waiting.pop() for _ in range(min(len(waiting), dice.randint(1, 9)))]
        statuses = shop.client().post("/v1/events", json={"batch": batch}).json()["statuses"]
        assert {one["status"] for one in statuses} <= {"accepted", "duplicate"}


def test_a_backfill_gives_what_live_events_give(open_shop: Open) -> None:
    """Traits that come later are computed from the log; then more events live, and the log agrees with the profiles."""
    dice, now = random.Random(11), time.time()
    shop = open_shop({name: part for name, part in SHOP.items() if name in ("placements", "offers")} | PLAIN, workers=1)
    events = [live(dice, number, now) for number in range(160)]
    known = [
        {"event": "purchase", "properties": {"order_id": "a", "revenue": 40.0, "items": 3, "category": "coffee"}},
        {"event": "view", "properties": {"category": "tea"}},
        {"event": "purchase", "properties": {"order_id": "b", "revenue": 60.5}},
        {"event": "purchase", "properties": {"order_id": "b", "revenue": 60.5}},
        {"event": "refund", "properties": {"order_id": "a", "amount": 10.0}},
    ]
    base = {"type": "track", "user_id": "u-1", "timestamp": now - 2 * DAY}
    send(shop, [base | one | {"message_id": f"k-{number}"} for number, one in enumerate(known)], dice)
    send(shop, [*events[:80], *events[:20]], dice)
    shop.collect()
    send(shop, events[80:95], dice)  # in the streams, not in the log
    (shop.settings.experiments / "traits.yaml").write_text(yaml.safe_dump(TRAITS), encoding="utf-8")
    with ExitStack() as stack:
        base_url = stack.enter_context(worker(shop.settings))
        later = Shop(shop.settings, [base_url], [stack.enter_context(httpx.Client(base_url=base_url, timeout=30))])
        done = backfill(later)
        assert (done["missing"], done["behind"]) == (0, 0)
        assert done["written"] > 0
        found = attributes(later, "u-1")
        assert 2 <= found.pop("idle") < 2.1
        assert found == {
            "orders_30d": 2, "revenue_90d": 90.5, "basket": 45.25, "coffee_items": 3, "grinder_views": 0,
            "categories": 1, "last_seen": "tea", "view_rate": 1 / 7,
        }  # fmt: skip
        send(later, [*events[60:], *events[:15]], dice)  # half of them repeated; merges, refunds, late ones
        again = backfill(later)
        assert (again["written"], again["behind"], again["unchanged"]) == (0, 0, again["customers"] - again["missing"])


PLAIN: dict[str, Any] = {
    "offers": {"thanks": {}},
    "placements": {"hero": {"offers": ["thanks"]}},
}
