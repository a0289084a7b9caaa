"""Channels that resemble each other and offers that are alike teach each other, from YAML to the answer over HTTP."""

import random
import threading
import time
from typing import Any

import pytest
import yaml

from engine.catalog import load_plan
from engine.journal import stream
from engine.learn import learn
from engine.snapshots.publish import current_snapshot
from policies import Bandit, load_policy

POOLED = {
    "offers": {"a": {}, "b": {}},
    "placements": {"hero": {"offers": ["a", "b"], "policy": {"kind": "linear_thompson", "pool": ["channel"]}}},
}
KINDS = {"cake": ["sweet"], "pie": ["sweet"], "olives": ["salty"], "crisps": ["salty"]}
SIMILAR = {
    "offers": {key: {"tags": ["snack", *tags]} for key, tags in KINDS.items()},
    "placements": {
        "hero": {
            "offers": {"tagged": "snack"},
            "policy": {"kind": "linear_thompson", "attributes": ["tags.sweet", "tags.salty"]},
        }
    },
}


def visit(shop: Any, channel: str, count: int, chances: Any, draw: random.Random) -> list[dict[str, Any]]:
    """Customers come and click; what they were shown."""
    shown, clicks = [], []
    for _ in range(count):
        user = f"u{next(shop.numbers)}"
        decision = shop.decide(channel, "hero", user_id=user)
        shown.append(decision["offers"]["hero"])
        if draw.random() < chances[shown[-1]["offer"]]:
            click = {"type": "track", "event": "click", "user_id": user, "channel": channel, "properties": {}}
            clicks.append({**click, "message_id": f"c-{user}", "decision_id": decision["decision_id"]})
    if clicks:
        assert shop.client().post("/v1/events", json={"batch": clicks}).status_code == 200
    return shown


def learnt(shop: Any) -> Bandit:
    """What the learner published of all that happened, zeros included, once every worker has it."""
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    with stream.connect_stream(shop.settings.redis) as client:
        published = current_snapshot(client, "hero")
    assert published is not None
    deadline = time.monotonic() + 30
    while shop.decide("web", "hero", user_id="probe", expose=False)["offers"]["hero"]["policy"] != (
        f"hero@{published.header.version}"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return load_policy(published.blob)


def test_a_channel_with_few_visitors_learns_from_the_others_and_keeps_what_is_its_own(open_shop: Any) -> None:
    shop, draw = open_shop(fast(POOLED), workers=1), random.Random(1)
    visit(shop, "web", 150, {"a": 0.8, "b": 0.1}, draw)
    visit(shop, "app", 150, {"a": 0.75, "b": 0.15}, draw)
    visit(shop, "desk", 150, {"a": 0.1, "b": 0.8}, draw)
    visit(shop, "store", 4, {"a": 0.0, "b": 0.0}, draw)
    time.sleep(1.2)  # what was not clicked is a zero after a second
    visit(shop, "web", 1, {"a": 0.0, "b": 0.0}, draw)
    policy = learnt(shop)
    features = load_plan(shop.settings.experiments).policies["hero"].features

    def gap(channel: str) -> float:
        expected = policy.expected(features.vector({"channel": channel}))
        return float(expected[0] - expected[1])

    assert gap("web") == pytest.approx(0.7, abs=0.25)
    assert gap("desk") == pytest.approx(-0.7, abs=0.25)
    # Nobody clicked there, whichever of the two they saw: little of its own, most of the others.
    assert gap("desk") + 0.1 < gap("store") < gap("web") - 0.1
    assert abs(gap("email")) < 0.5  # two channels say a, one says b
    share = {channel: of_a(visit(shop, channel, 30, {"a": 0.0, "b": 0.0}, draw)) for channel in ("web", "desk")}
    assert share["web"] > 0.9
    assert share["desk"] < 0.1


def test_a_new_offer_starts_from_what_similar_ones_taught(open_shop: Any) -> None:
    shop, draw = open_shop(fast(SIMILAR), workers=1), random.Random(2)
    visit(shop, "web", 300, {"cake": 0.7, "pie": 0.6, "olives": 0.1, "crisps": 0.15}, draw)
    time.sleep(1.2)
    visit(shop, "web", 1, dict.fromkeys(KINDS, 0.0), draw)
    learnt(shop)
    for key, tag in (("tart", "sweet"), ("nuts", "salty")):
        offer = {"key": key, "tags": ["snack", tag], "renderings": {"web": {"headline": key}}}
        (shop.settings.experiments / "offers" / f"{key}.yaml").write_text(yaml.safe_dump(offer))
    policy = learnt(shop)
    expected = dict(zip(policy.arms, policy.expected([1.0]).tolist(), strict=True))
    assert expected["tart"] == pytest.approx(0.6, abs=0.2)
    assert expected["nuts"] == pytest.approx(0.15, abs=0.2)
    shares: dict[str, float] = {}
    deadline = time.monotonic() + 30
    while not {"tart", "nuts"} <= shares.keys():  # until the worker has the new offers, too
        assert time.monotonic() < deadline
        seen = shop.explain("web", "hero", user_id="new")
        assert seen["policy"] != "hero@0"  # what was learnt is there with the offers, not a moment later
        shares = {one["offer"]: one["propensity"] for one in seen["candidates"]}
    assert shares["tart"] > 0.05 > shares["nuts"] > 0


def fast(shop: Any) -> Any:
    """The shop where a click counts within an hour and is waited for a second."""
    hero = shop["placements"]["hero"] | {"reward": {"metric": "click", "window": "1h", "settle": "1s"}}
    return {**shop, "placements": {"hero": hero}}


def of_a(shown: list[dict[str, Any]]) -> float:
    """The mean probability with which `a` was shown."""
    return sum(p if one["offer"] == "a" else 1 - p for one in shown if (p := one["propensity"])) / len(shown)
