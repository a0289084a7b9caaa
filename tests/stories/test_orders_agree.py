"""An order, its refunds and its duplicates mean the same to the profile, the learner and the report, in any order."""

import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from engine.catalog import load_plan
from engine.learn import learn
from tests.stories.plain_http import Connection
from tests.verbs import run_verb

CASES = int(os.environ.get("FUZZ", "240"))
"""Customers; `FUZZ=100000` is the long run."""
SEED = int(os.environ.get("FUZZ_SEED", "1"))
AT_ONCE = 10_000
"""Customers of one shop."""
PURCHASES = ("purchase", "order_completed", "order_placed")
REFUNDS = ("refund", "order_refunded", "order_cancelled", "order_canceled", "return")
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
Message = dict[str, Any]


@dataclass
class Customer:
    """One case: what was decided, what is sent, and what that must come to, in all and by decision."""

    key: str
    variant: str
    decisions: list[str]
    messages: list[Message] = field(default_factory=list)
    earned: dict[str, float] = field(default_factory=dict)

    @property
    def net(self) -> float:
        return net_of(self.messages)


def net_of(messages: Sequence[Mapping[str, Any]]) -> float:
    """What the messages of one customer come to, by the rules of docs/customers.md written out once more."""
    stated: dict[str, tuple[bool, str, float]] = {}
    refunded: dict[str, float] = {}
    whole: set[str] = set()
    alone = 0.0
    for message in {message["message_id"]: message for message in messages}.values():
        properties = message["properties"]
        given = {name: value for name, value in properties.items() if value is not None}
        order = str(given.get("order_id", given.get("order", "")))
        if message["event"] in PURCHASES:
            if not order:
                alone += properties["revenue"]
            else:
                revenue = properties.get("revenue", 0.0)
                stated[order] = max(stated.get(order, (False, "", 0.0)), (revenue != 0, message["timestamp"], revenue))
        else:
            amount = given.get("amount", given.get("revenue"))
            if not order:
                alone -= amount
            elif amount is None:
                whole.add(order)
            else:
                refunded[order] = refunded.get(order, 0.0) + amount
    left = (max(0.0, revenue - refunded.get(key, 0.0)) for key, (_, _, revenue) in stated.items() if key not in whole)
    return round(alone + sum(left), 2)


def live(chance: random.Random, customer: Customer, begin: float) -> None:
    """Make statements and refunds of a customer's orders, one for each decision, or of up to three without any."""
    made = customer.messages

    def add(event: str, properties: Mapping[str, Any], decision: str | None = None) -> None:
        moment = datetime.fromtimestamp(begin + 0.001 * chance.randrange(1, 900), UTC)
        message = {"type": "track", "event": event, "message_id": f"{customer.key}-{len(made)}"}
        named = {"decision_id": decision} if decision else {}
        made.append(
            {**message, "user_id": customer.key, **named, "properties": properties, "timestamp": moment.isoformat()}
        )

    for number, decision in enumerate(customer.decisions or [None] * chance.randint(1, 3)):
        first = len(made)
        key = {chance.choice(["order_id", "order"]): chance.choice([f"{customer.key}/{number}", number + 1001])}
        key = {**chance.choice([{}, {"order_id": None}]), **key}
        # Of several orders each must say once whose it is; the only one of a customer is that of the only decision.
        for at in range(chance.choice([0, 1, 1, 1, 2, 3])):
            is_named = (at == 0 and len(customer.decisions) > 1) or chance.random() < 0.6
            add(
                chance.choice(PURCHASES),
                {**key, **({"revenue": float(chance.randint(5, 40))} if chance.random() < 0.85 else {})},
                decision if is_named else None,
            )
        for _ in range(chance.choice([0, 0, 0, 1, 1, 2])):
            part = {chance.choice(["amount", "revenue"]): float(chance.randint(1, 20))}
            part = {**chance.choice([{}, {"amount": None}]), **part}
            is_named = chance.random() < 0.2
            add(
                chance.choice(REFUNDS),
                {**key, **(part if chance.random() < 0.8 else {})},
                decision if is_named else None,
            )
        if decision:
            customer.earned[decision] = net_of(made[first:])
    if not customer.decisions and chance.random() < 0.3:
        add("purchase", {"revenue": 50.0})
        add("refund", {"amount": 3.0})
    made += [dict(one) for one in made if chance.random() < 0.2]


def run_learner(shop: Any) -> None:
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)


def send(shop: Any, chance: random.Random, messages: list[Message]) -> None:
    """Send the messages in random order and in batches of random sizes, while the learner and the collector read."""
    chance.shuffle(messages)
    pauses = sorted(chance.sample(range(len(messages)), 2))
    with Connection(shop.bases[0]) as one, Connection(shop.bases[1]) as other:
        at = 0
        while at < len(messages):
            if pauses and at >= pauses[0]:
                pauses.pop(0)
                run_learner(shop)
                shop.collect()
            batch = messages[at : at + chance.choice([1, 3, 10, 50, 200])]
            statuses = chance.choice([one, other]).post("/v1/events", {"batch": batch})["statuses"]
            assert {status["status"] for status in statuses} <= {"accepted", "duplicate"}, statuses
            at += len(batch)
    run_learner(shop)
    shop.collect()


def decide(http: Connection, key: str, decisions: int) -> Customer:
    body = {"customer": {"user_id": key}, "channel": "web", "experiments": ["layout"]}
    answers = [http.post("/v1/decide", body | {"placements": ["till"]}) for _ in range(decisions)]
    first = answers[0] if answers else http.post("/v1/decide", body)
    return Customer(key, first["experiments"]["layout"]["variant"], [answer["decision_id"] for answer in answers])


def assert_agreement(shop: Any, customers: Sequence[Customer]) -> None:
    with Connection(shop.bases[0]) as http:
        for customer in customers:
            revenue = http.get(f"/v1/profiles/{customer.key}")["attributes"]["orders"]["revenue"]
            assert revenue == pytest.approx(customer.net, abs=1e-6), json.dumps(asdict(customer))
    newest = "SELECT decision_id, arg_max(reward, time) FROM '{}/rewards/**/*.parquet' GROUP BY ALL"
    rewards = dict(duckdb.sql(newest.format(shop.settings.log)).fetchall())
    for customer in customers:
        for decision, earned in customer.earned.items():
            found = rewards.get(decision, 0.0)
            assert found == pytest.approx(earned, abs=1e-6), decision + json.dumps(asdict(customer))
    report = analyze(shop)
    for variant, units in report["units"].items():
        total = sum(customer.net for customer in customers if customer.variant == variant)
        assert report["metrics"][0]["mean"][variant] * units == pytest.approx(total, abs=1e-5)


def test_profile_learner_and_report_agree_on_random_orders(open_next_shop: Any) -> None:
    sent = 0
    for start in range(0, CASES, AT_ONCE):
        chance = random.Random(f"{SEED}-{start}")
        with open_next_shop(SHOP, workers=2) as shop:
            run_learner(shop)
            with Connection(shop.bases[0]) as http:
                numbers = range(start, min(CASES, start + AT_ONCE))
                customers = [decide(http, f"c{n}", chance.choice([0, 1, 1, 2, 3])) for n in numbers]
            begin = time.time()
            time.sleep(1)
            for customer in customers:
                live(chance, customer, begin)
            messages = [message for customer in customers for message in customer.messages]
            sent += len(messages)
            send(shop, chance, messages)
            assert_agreement(shop, customers)
    print(f"\nprofile, learner and report: seed {SEED}, {CASES:,} customers, {sent:,} messages, 0 differences")  # noqa: T201 - what `make fuzz` shows


def analyze(shop: Any, *more: str) -> Any:
    folders = ("--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments))
    done = run_verb("analyze", "layout", "--json", *folders, *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
