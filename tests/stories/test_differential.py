"""Two readings of one thing on random shops: a decision and its explanation, a report's design and what was served.

Small runs in the suite; `FUZZ=20000` makes so many requests, `FUZZ_SEED` other shops.
"""

import os
import random
from collections import Counter
from math import sqrt
from typing import Any

import duckdb
import pytest

from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.journal import stream
from engine.rehearse.explain import explain_decision
from tests.stories import random_shops

CASES = int(os.environ.get("FUZZ", "100"))
"""Requests of each test."""
SEED = int(os.environ.get("FUZZ_SEED", "1"))
REPLAYED = 0.1
"""The share of decisions that are repeated from the log: each reads it once."""


def ids_of(dice: random.Random) -> dict[str, str]:
    who = dice.randrange(40)
    ids = {"user_id": f"u{who}"} if dice.random() < 0.8 else {}
    if not ids or dice.random() < 0.5:
        ids["anonymous_id"] = f"a{who}"
    return ids


def live_on(shop: Any, dice: random.Random, number: int, shown: list[dict[str, Any]]) -> None:
    """Something happens to a customer."""
    ids = ids_of(dice)
    kind = dice.randrange(6)
    if kind == 0:
        shop.identify({"tier": dice.randrange(4), "vip": dice.random() < 0.3}, **ids)
    elif kind == 1:
        shop.consent("marketing", **ids)
    elif kind == 2 and shown:
        one = dice.choice(shown)
        shop.tell(dice.choice(["refused", "click"]), decision_id=one["decision_id"], **ids)
    else:
        shop.tell("purchase", properties={"revenue": 5.0, "order_id": f"o{number}"}, **ids)


def open_random_shop(open_shop: Any, dice: random.Random) -> Any:
    shop = open_shop(random_shops.shop(dice), workers=1)
    for number in range(8):
        shop.stock(f"SKU{number}", 1_000_000)
    return shop


def assert_explained(body: dict[str, Any], decision: dict[str, Any], explained: dict[str, Any]) -> None:
    for key, one in decision["experiments"].items():
        other = explained["experiments"][key]
        assert {name: one[name] for name in ("variant", "payload", "reason")} == {
            name: other[name] for name in ("variant", "payload", "reason")
        }, (key, body)
    for key, one in decision["offers"].items():
        other = explained["placements"][key]
        assert one["reason"] == other["reason"], (key, body, one, other)
        if one["reason"] == "policy":
            chances = {candidate["offer"]: candidate["propensity"] for candidate in other["candidates"]}
            assert one["propensity"] == pytest.approx(chances[one["offer"]], abs=1e-9), (body, one, other)


def test_a_decision_is_what_explain_says_before_and_after_it(open_shop: Any, redis_url: str) -> None:
    dice = random.Random(SEED)
    shop = open_random_shop(open_shop, dice)
    shown: list[dict[str, Any]] = []
    for number in range(CASES):
        if dice.random() < 0.4:
            live_on(shop, dice, number, shown)
        keys = [f"e{n}" for n in sorted(dice.sample(range(12), 5))]
        body = {
            "customer": ids_of(dice),
            "channel": dice.choice(["web", "app"]),
            "placements": dice.choice([["hero"], ["side"], []]),
            "experiments": "*" if dice.random() < 0.3 else keys,
            "context": random_shops.context(dice),
        }
        explained = shop.client().post("/v1/explain", json=body).json()
        decision = shop.client().post("/v1/decide", json=body | {"expose": dice.random() < 0.8}).json()
        assert not decision["degraded"], (number, decision)
        assert_explained(body, decision, explained)
        shown.append(decision)
    shop.collect()
    archive = Archive(shop.settings.data / "plans")
    with stream.connect_stream(redis_url) as client:
        for decision in dice.sample(shown, min(500, int(CASES * REPLAYED))):
            if not decision["experiments"] and not decision["offers"]:
                continue
            again = explain_decision(shop.settings.log, archive, client, decision["decision_id"])
            assert (again.same, again.differences) == (True, [])


def test_the_design_of_a_report_is_what_was_served(open_shop: Any) -> None:
    dice = random.Random(SEED + 1000)
    shop = open_random_shop(open_shop, dice)
    for number in range(CASES):
        shop.decide("web", experiments="*", user_id=f"u{number}", context={"country": "DE", "store": f"S{number}"})
    shop.collect()
    plan = load_plan(shop.settings.experiments)
    rows = duckdb.sql(
        f"SELECT key, variant, propensity FROM '{shop.settings.log}/decisions/**/*.parquet' "
        "WHERE kind = 'experiment' AND reason = 'assigned'"
    ).fetchall()
    assert rows
    served = Counter((key, variant) for key, variant, _ in rows)
    for key, variant, share in set(rows):
        question, _ = build_question(plan, key)
        assert share == pytest.approx(question.weights[variant], abs=1e-9), (key, variant)
        total = sum(count for (other, _), count in served.items() if other == key)
        if total >= 50:  # five standard errors of each share
            slack = 5 * sqrt(share * (1 - share) / total) + 1e-9
            assert served[key, variant] / total == pytest.approx(share, abs=slack), (key, variant, total)
    for key, experiment in plan.experiments.items():
        spec = experiment.spec
        if spec.audience or spec.prerequisites or spec.unit != "customer" or spec.status != "running":
            continue
        held = 1.0
        for holdout in experiment.holdouts:
            held *= 1 - holdout.share
        question, _ = build_question(plan, key)
        share = question.mean_coverage(1.79e9, 1.79e9) * held  # in 2026, between the steps of a ramp
        total = sum(count for (other, _), count in served.items() if other == key)
        slack = 5 * sqrt(share * (1 - share) / CASES) + 1e-9
        assert total / CASES == pytest.approx(share, abs=slack), (key, spec.holdouts)
