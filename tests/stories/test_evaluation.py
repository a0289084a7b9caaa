"""A policy is tested against uniform choice; afterwards any of them is evaluated on what both of them showed."""

import json
import random
import threading
from typing import Any

import duckdb
import pytest

from engine.analysis.offpolicy.evaluate import evaluate
from engine.analysis.offpolicy.policy_value import ValueEstimate
from engine.catalog import load_plan
from engine.learn import learn

COUNTRY = {"trait": "country", "one_of": ["de", "at"]}
LEARNED = {"kind": "linear_thompson", "features": [COUNTRY], "floor": 0.2}
SHOP = {
    "offers": {"a": {}, "b": {}},
    "placements": {"hero": {"offers": ["a", "b"], "policy": LEARNED}},
    "experiments": {
        "hero_test": {
            "placement": "hero",
            "variants": [
                {"key": "uniform", "weight": 0.5, "policy": {"kind": "uniform"}},
                {"key": "by_channel", "weight": 0.25, "policy": {**LEARNED, "features": ["channel"]}},
                {"key": "learned", "weight": 0.25},
            ],
            "metrics": {"primary": "click"},
        }
    },
}
PAYS = {("de", "a"): 0.6, ("de", "b"): 0.2, ("at", "a"): 0.2, ("at", "b"): 0.6}


def test_every_arm_of_a_policy_test_logs_what_any_of_its_policies_reads(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    chance = random.Random(4)
    clicks = []
    for n in range(900):
        ids = {"user_id": f"u{n}"}
        country = chance.choice(["de", "at"])
        shown = shop.decide("web", "hero", context={"country": country}, **ids)
        if chance.random() < PAYS[country, shown["offers"]["hero"]["offer"]]:
            click = {"type": "track", "event": "click", "message_id": f"c{n}", "channel": "web"}
            clicks.append({**click, "decision_id": shown["decision_id"], "properties": {}, **ids})
    assert {one["status"] for one in shop.client().post("/v1/events", json={"batch": clicks}).json()["statuses"]} == {
        "accepted"
    }
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    shop.collect()
    logged = duckdb.sql(
        f"SELECT split_part(policy, '@', 1), context FROM '{shop.settings.log}/decisions/**/*.parquet' "
        "WHERE kind = 'offer'"
    ).fetchall()
    assert {policy for policy, _ in logged} == {"hero", "hero_test.uniform", "hero_test.by_channel"}
    assert {frozenset(json.loads(context)) for _, context in logged} == {frozenset({"country", "channel"})}

    report = evaluate(shop.settings.log, [shop.settings.experiments / "hero.yaml"])
    assert report.decisions == 900
    learned = report.policies[0]
    assert learned.verdict.is_estimable, learned.verdict.why
    # It learns to take the better offer in 80% of the cases: 0.8 * 0.6 + 0.2 * 0.2.
    assert isinstance(learned.dr, ValueEstimate)
    assert learned.dr.value == pytest.approx(0.52, abs=0.1)  # five standard errors of 0.02
