"""Two readings of one thing on random shops: a decision and its explanation, a report's design and what was served.

Small runs in the suite; `FUZZ=100000` makes so many requests of many shops, `FUZZ_SEED` others (`make fuzz`).
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pytest
from scipy.stats import binom

from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.journal import stream
from engine.rehearse.explain import explain_decision
from tests.stories import random_shops
from tests.stories.plain_http import Connection

CASES = int(os.environ.get("FUZZ", "100"))
"""Requests of each test."""
OF_ONE_SHOP = 1000
"""Requests of one random shop."""
SEED = int(os.environ.get("FUZZ_SEED", "1"))
REPLAYED = 0.1
"""The share of decisions that are repeated from the log: each reads it once."""


def ids_of(dice: random.Random) -> dict[str, str]:
    who = dice.randrange(40)
    ids = {"user_id": f"u{who}"} if dice.random() < 0.8 else {}
    if not ids or dice.random() < 0.5:
        ids["anonymous_id"] = f"a{who}"
    return ids


def live_on(http: Connection, dice: random.Random, number: int, shown: list[dict[str, Any]]) -> None:
    """Something happens to a customer."""
    item: dict[str, Any] = {"type": "track", "message_id": f"m{number}", "channel": "web", **ids_of(dice)}
    kind = dice.randrange(6)
    if kind == 0:
        item |= {"type": "identify", "traits": {"tier": dice.randrange(4), "vip": dice.random() < 0.3}}
    elif kind == 1:
        item |= {"event": "consent", "properties": {"purpose": "marketing", "granted": True}}
    elif kind == 2 and shown:
        decision_id = dice.choice(shown)["decision_id"]
        item |= {"event": dice.choice(["refused", "click"]), "decision_id": decision_id}
    else:
        item |= {"event": "purchase", "properties": {"revenue": 5.0, "order_id": f"o{number}"}}
    http.post("/v1/events", {"batch": [item]})


@contextmanager
def random_shop(open_next_shop: Any, dice: random.Random) -> Iterator[tuple[Any, Connection]]:
    with open_next_shop(random_shops.shop(dice)) as shop, Connection(shop.bases[0]) as http:
        for number in range(8):
            http.post(f"/v1/stock/SKU{number}", {"level": 1_000_000})
        yield shop, http


def shares_of_cases() -> Iterator[tuple[random.Random, int]]:
    """The dice of each shop, and how many requests it gets."""
    for start in range(0, CASES, OF_ONE_SHOP):
        yield random.Random(f"{SEED}-{start}"), min(OF_ONE_SHOP, CASES - start)


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


def explain_and_decide(http: Connection, dice: random.Random) -> dict[str, Any]:
    """A decision that is what its explanation said before."""
    keys = [f"e{n}" for n in sorted(dice.sample(range(12), 5))]
    body = {
        "customer": ids_of(dice),
        "channel": dice.choice(["web", "app"]),
        "placements": dice.choice([["hero"], ["side"], []]),
        "experiments": "*" if dice.random() < 0.3 else keys,
        "context": random_shops.context(dice),
    }
    explained = http.post("/v1/explain", body)
    decision: dict[str, Any] = http.post("/v1/decide", body | {"expose": dice.random() < 0.8})
    assert not decision["degraded"], body
    assert_explained(body, decision, explained)
    return decision


def test_a_decision_is_what_explain_says_before_and_after_it(open_next_shop: Any, redis_url: str) -> None:
    repeated = 0
    for dice, requests in shares_of_cases():
        with random_shop(open_next_shop, dice) as (shop, http):
            shown: list[dict[str, Any]] = []
            for number in range(requests):
                if dice.random() < 0.4:
                    live_on(http, dice, number, shown)
                shown.append(explain_and_decide(http, dice))
            shop.collect()
            archive = Archive(shop.settings.data / "plans")
            with stream.connect_stream(redis_url) as client:
                for decision in dice.sample(shown, int(requests * REPLAYED)):
                    if decision["experiments"] or decision["offers"]:
                        again = explain_decision(shop.settings.log, archive, client, decision["decision_id"])
                        assert (again.same, again.differences) == (True, [])
                        repeated += 1
    print(f"\ndecide and explain: seed {SEED}, {CASES:,} decisions, {repeated:,} repeated from the log, 0 differences")  # noqa: T201 - what `make fuzz` shows


def test_the_design_of_a_report_is_what_was_served(open_next_shop: Any) -> None:
    rows = 0
    for dice, requests in shares_of_cases():
        with random_shop(open_next_shop, dice) as (shop, http):
            for number in range(requests):
                context = {"country": "DE", "store": f"S{number}"}
                body = {"customer": {"user_id": f"u{number}"}, "channel": "web", "context": context}
                http.post("/v1/decide", body | {"experiments": "*"})
            shop.collect()
            rows += assert_designed(shop, requests)
    print(f"\nreport and log: seed {SEED}, {CASES:,} decisions, {rows:,} assignments, 0 differences")  # noqa: T201 - as above


def assert_designed(shop: Any, requests: int) -> int:
    """The number of assignments, each of which has the share and the variant that the report expects."""
    plan = load_plan(shop.settings.experiments)
    rows = duckdb.sql(
        f"SELECT key, variant, propensity FROM '{shop.settings.log}/decisions/**/*.parquet' "
        "WHERE kind = 'experiment' AND reason = 'assigned'"
    ).fetchall()
    served = Counter((key, variant) for key, variant, _ in rows)
    for key, variant, share in set(rows):
        question, _ = build_question(plan, key)
        assert share == pytest.approx(question.weights[variant], abs=1e-9), (key, variant)
        total = sum(count for (other, _), count in served.items() if other == key)
        assert is_share(served[key, variant], total, share), (key, variant, total)
    for key, experiment in plan.experiments.items():
        spec = experiment.spec
        if spec.audience or spec.prerequisites or spec.unit != "customer" or spec.status != "running":
            continue
        held = 1.0
        for holdout in experiment.holdouts:
            held *= 1 - holdout.share
        question, _ = build_question(plan, key)
        share = question.coverage_at(1.79e9) * held  # in 2026, between the steps of a ramp
        total = sum(count for (other, _), count in served.items() if other == key)
        assert is_share(total, requests, share), (key, spec.holdouts, total, share)
    return len(rows)


def is_share(count: int, total: int, share: float) -> bool:
    """Whether a count is that share of a total; a true one is not once in a thousand million times."""
    low, high = binom.cdf(count, total, share), binom.sf(count - 1, total, share)
    return bool(min(low, high) > 5e-10)
