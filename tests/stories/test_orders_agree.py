"""An order, its refunds and its duplicates mean the same to the profile, the learner and the report, in any order."""

import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from engine.catalog import load_plan
from engine.learn import learn
from tests.verbs import run_verb

CASES = int(os.environ.get("FUZZ", "240"))
"""Customers; `FUZZ=100000` is the long run."""
SEEDS = [int(seed) for seed in os.environ.get("FUZZ_SEED", "1,2").split(",")]
PURCHASES = ("purchase", "order_completed", "order_placed")
REFUNDS = ("refund", "order_refunded", "return")
SHOP = {
    "offers": {"a": {}, "b": {}},
    "placements": {
        "till": {
            "offers": ["a", "b"],
            "policy": {"kind": "gaussian_thompson", "floor": 0.2},
            "reward": {"metric": "revenue", "window": "1d"},
        }
    },
    "experiments": {
        "layout": {
            "variants": [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}],
            "metrics": {"primary": "revenue"},
            "analysis": {"method": "fixed"},
        }
    },
}


def net_of(messages: Sequence[Mapping[str, Any]]) -> float:
    """What the messages of one customer come to, by the rules of docs/customers.md written out once more."""
    stated: dict[str, tuple[str, float]] = {}
    refunded: dict[str, float] = {}
    whole: set[str] = set()
    alone = 0.0
    for message in messages:
        properties = message["properties"]
        order = str(properties.get("order_id", properties.get("order", "")))
        if message["event"] in PURCHASES:
            if not order:
                alone += properties["revenue"]
            else:
                stated[order] = max(stated.get(order, ("", 0.0)), (message["timestamp"], properties["revenue"]))
        else:
            amount = properties.get("amount", properties.get("revenue"))
            if not order:
                alone -= amount
            elif amount is None:
                whole.add(order)
            else:
                refunded[order] = refunded.get(order, 0.0) + amount
    left = (max(0.0, revenue - refunded.get(key, 0.0)) for key, (_, revenue) in stated.items() if key not in whole)
    return round(alone + sum(left), 2)


def messages_of(chance: random.Random, customer: str, begin: float, *, decision: str | None) -> list[dict[str, Any]]:
    """Statements and refunds of up to three orders of a customer; of one order where a `decision` earns it."""
    made: list[dict[str, Any]] = []

    def add(event: str, properties: dict[str, Any]) -> None:
        moment = datetime.fromtimestamp(begin + 0.001 * chance.randrange(1, 900), UTC)
        message = {"type": "track", "event": event, "message_id": f"{customer}-{len(made)}", "user_id": customer}
        named = {"decision_id": decision} if decision and event in PURCHASES and chance.random() < 0.6 else {}
        made.append({**message, **named, "properties": properties, "timestamp": moment.isoformat()})

    for number in range(1 if decision else chance.randint(1, 3)):
        name = chance.choice(["order_id", "order"])
        key = {name: chance.choice([f"{customer}/{number}", number + 1001])}
        for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
            add(chance.choice(PURCHASES), {**key, "revenue": float(chance.randint(5, 40))})
        for _ in range(chance.choice([0, 0, 0, 1, 1, 2])):
            part = {chance.choice(["amount", "revenue"]): float(chance.randint(1, 20))}
            add(chance.choice(REFUNDS), {**key, **(part if chance.random() < 0.8 else {})})
    if not decision and chance.random() < 0.3:
        add("purchase", {"revenue": 50.0})
        add("refund", {"amount": 3.0})
    made += [dict(one) for one in made if chance.random() < 0.2]
    return made


def send(shop: Any, chance: random.Random, messages: list[dict[str, Any]]) -> None:
    """Send the messages in random order, in batches of random sizes."""
    chance.shuffle(messages)
    while messages:
        size = chance.choice([1, 3, 10, 50, 200])
        batch, messages = messages[:size], messages[size:]
        statuses = shop.client().post("/v1/events", json={"batch": batch}).json()["statuses"]
        assert {one["status"] for one in statuses} <= {"accepted", "duplicate"}, statuses


def run_learner(shop: Any) -> None:
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_profile_and_report_agree_on_random_orders(open_shop: Any, seed: int) -> None:
    shop, chance = open_shop(SHOP), random.Random(seed)
    customers = [f"c{n}" for n in range(CASES)]
    variants = {}
    for customer in customers:
        decision = shop.decide("web", user_id=customer, experiments=["layout"])
        variants[customer] = decision["experiments"]["layout"]["variant"]
    begin = time.time()
    time.sleep(1)
    sent = {customer: messages_of(chance, customer, begin, decision=None) for customer in customers}
    expected = {customer: net_of(_once(messages)) for customer, messages in sent.items()}
    send(shop, chance, [message for messages in sent.values() for message in messages])
    for customer in customers:
        profile = shop.client().get(f"/v1/profiles/{customer}").json()
        assert profile["attributes"]["orders"]["revenue"] == pytest.approx(expected[customer], abs=1e-6), sent[customer]
    shop.collect()
    report = analyze(shop)
    for variant, units in report["units"].items():
        total = sum(expected[customer] for customer in customers if variants[customer] == variant)
        assert report["metrics"][0]["mean"][variant] * units == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS[-1:])
def test_the_learner_and_the_report_agree_on_the_order_of_a_decision(open_shop: Any, seed: int) -> None:
    shop, chance = open_shop(SHOP), random.Random(seed)
    run_learner(shop)
    customers = [f"c{n}" for n in range(CASES)]
    decided = {}
    for customer in customers:
        decided[customer] = shop.decide("web", "till", user_id=customer, experiments=["layout"])["decision_id"]
    begin = time.time()
    time.sleep(1)
    sent = {customer: messages_of(chance, customer, begin, decision=decided[customer]) for customer in customers}
    expected = {customer: net_of(_once(messages)) for customer, messages in sent.items()}
    send(shop, chance, [message for messages in sent.values() for message in messages])
    run_learner(shop)
    shop.collect()
    newest = "SELECT decision_id, arg_max(reward, time) FROM '{}/rewards/**/*.parquet' GROUP BY ALL"
    rewards = dict(duckdb.sql(newest.format(shop.settings.log)).fetchall())
    for customer in customers:
        reward = rewards.get(decided[customer], 0.0)
        assert reward == pytest.approx(expected[customer], abs=1e-6), sent[customer]


def _once(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({message["message_id"]: message for message in messages}.values())


def analyze(shop: Any, *more: str) -> Any:
    folders = ("--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments))
    done = run_verb("analyze", "layout", "--json", *folders, *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
