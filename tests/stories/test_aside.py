"""Rewards that cannot be right, sent over HTTP: each is kept aside with its reason, counted, and never learnt."""

import json
import threading
import time
from typing import Any

import duckdb
import pytest

from engine.analysis import policy_report
from engine.catalog import load_plan
from engine.journal import stream
from engine.learn import learn
from engine.learn.learner import Learner
from engine.snapshots.publish import current_snapshot
from policies import load_policy

SHOP = {
    "offers": {"a": {}, "b": {}},
    "placements": {
        "hero": {"offers": ["a", "b"], "policy": {"kind": "gaussian_thompson"}, "reward": {"metric": "csat"}}
    },
}


def surveyed(shop: Any, decision: str, csat: Any, message: str | None = None, user: str = "u1") -> str:
    item = {"type": "track", "event": "survey", "user_id": user, "decision_id": decision, "properties": {"csat": csat}}
    status: str = shop.send({"channel": "web", "message_id": message or f"m{next(shop.numbers)}", **item})
    return status


def test_each_has_its_reason_in_the_log_and_its_count_on_the_page(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    plan = load_plan(shop.settings.experiments)
    shown = [shop.decide("web", "hero", user_id=f"u{n + 1}") for n in range(4)]
    ids = [one["decision_id"] for one in shown]
    assert surveyed(shop, ids[0], 4.0, "first") == "accepted"
    assert surveyed(shop, ids[0], 4.0, "first") == "duplicate"
    assert surveyed(shop, ids[0], 5.0) == "accepted"  # a second reward for one decision
    assert surveyed(shop, ids[1], "NaN", user="u2") == "accepted"  # of the wrong type: JSON has no NaN
    assert surveyed(shop, ids[2], True, user="u3") == "accepted"
    assert surveyed(shop, "nobody", 3.0) == "accepted"
    for number in (b"NaN", b"Infinity", b"1e999"):
        body = b'{"batch": [{"type": "track", "event": "survey", "message_id": "x%b", "user_id": "u4", ' % number
        body += b'"decision_id": "%b", "properties": {"csat": %b}}]}' % (ids[3].encode(), number)
        answer = shop.client().post("/v1/events", content=body, headers={"content-type": "application/json"})
        refused = answer.status_code == 400 or answer.json()["statuses"][0]["status"] == "rejected"
        assert refused, answer.text
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    late = Learner(shop.settings)
    for _ in range(3):
        late.step(plan, time.time() + 500)  # an unknown decision is waited for five minutes
    late.close()

    with stream.connect_stream(shop.settings.redis) as client:
        published = current_snapshot(client, "hero")
    assert published is not None
    policy = load_policy(published.blob)
    assert policy.statistics["total"].sum() == pytest.approx(4.0)
    assert policy.statistics["count"].sum() == 1  # the others' zeros come when ten minutes are over
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    shop.collect()
    kept = duckdb.sql(f"SELECT reason FROM '{shop.settings.log}/quarantine/**/*.parquet' ORDER BY reason").fetchall()
    assert [reason for (reason,) in kept] == [
        f"second reward: {ids[0]} has one",
        "unknown decision: nobody",
        "wrong type: csat of 'survey' is 'NaN', not a number",
        "wrong type: csat of 'survey' is True, not a number",
    ]
    report = json.loads(policy_report(shop.settings.log, "hero", ripe=False).json())
    assert report["quarantined"] == {"second reward": 1, "unknown decision": 1, "wrong type": 2}
    wanted = {"second reward": 1.0, "unknown decision": 1.0, "wrong type": 2.0}
    deadline = time.monotonic() + 20
    while (found := aside(shop)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def aside(shop: Any) -> dict[str, float]:
    prefix = 'counterpoint_rewards_aside_total{reason="'
    lines = [line for line in shop.client().get("/metrics").text.splitlines() if line.startswith(prefix)]
    pairs = (line.removeprefix(prefix).split('"} ') for line in lines)
    return {reason: float(count) for reason, count in pairs}
