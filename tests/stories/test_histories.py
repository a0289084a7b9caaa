"""Funnels, thresholds and active days, from YAML and HTTP to `analyze`, `power` and `measure kpis`."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import time_machine

from engine.catalog.check.load import load_specs
from engine.journal.log.logged_requests import logged_requests
from engine.rehearse.arrivals import draft_plans, first_arrivals
from tests.verbs import run_verb

START = datetime(2026, 11, 3, 22, 0, tzinfo=UTC)  # an hour before midnight in Berlin
METRICS = [
    {
        "key": "bought",
        "kind": "funnel",
        "steps": ["view", {"event": "cart", "filter": {"size": {"$gte": 2}}}, "purchase"],
    },
    {"key": "regular", "kind": "threshold", "event": "purchase", "at_least": 2},
    {"key": "spender", "kind": "threshold", "event": "purchase", "value": "revenue", "at_least": 30},
    {"key": "days", "kind": "active_days", "event": "view"},
]
KPIS = [
    {"metric": "bought", "tier": "strategy", "drives": ["regular", "days"]},
    {"metric": "regular", "tier": "business"},
    {"metric": "days", "tier": "business"},
]
HALVES: dict[str, Any] = {"variants": [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}]}
MEASURED: dict[str, Any] = {
    "metrics": {"primary": "bought", "secondary": ["spender", "days"], "guardrails": ["regular"]},
    "analysis": {"method": "fixed", "min_days": 1},
}
RAMPS: dict[str, Any] = {
    "held": {"ramp": {"steps": [0.01, 1.0], "every": "1d"}},
    "dated": {"coverage": 0.01, "ramp": [{"at": "2126-01-01T00:00:00Z", "coverage": 1.0}]},
}
SHOP = {
    "zone": "Europe/Berlin",
    "metrics": [metric | {"window": "5d", "ripe": False} for metric in METRICS],
    "money": {"kpis": KPIS},
    "offers": {"a": {}},
    "placements": {},
    "experiments": {
        "layout": {**HALVES, **MEASURED},
        **{key: {"status": "draft", **HALVES, **MEASURED, **ramp} for key, ramp in RAMPS.items()},
    },
}


def verb(shop: Any, *words: str) -> Any:
    folders = ("--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data))
    done = run_verb(*words, "--json", *folders)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def item(customer: int, name: str, number: int, at: datetime, **properties: Any) -> dict[str, Any]:
    ids = {"type": "track", "message_id": f"m-{customer}-{number}", "user_id": f"u{customer}", "channel": "web"}
    return {**ids, "event": name, "timestamp": at.isoformat(), "properties": properties}


def history(n: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """What a customer did in two days of Berlin, and what that counts by the metrics."""
    first, second = START + timedelta(minutes=1), START + timedelta(hours=1.5)
    orders, refunds = n % 4, n % 8 == 3
    done = [("view", {}), *([("cart", {"size": 1 + n % 3})] if n % 5 else [])]
    done += [("purchase", {"revenue": 12.0, "order_id": f"order-{n}-{order}"}) for order in range(orders)]
    items = [item(n, name, at, first + timedelta(seconds=at), **given) for at, (name, given) in enumerate(done)]
    items.append(item(n, "view", 90, second))
    if refunds:
        items.append(item(n, "refund", 91, second, order_id=f"order-{n}-0"))
    kept = orders - refunds
    bought = float(n % 5 > 0 and n % 3 > 0 and kept > 0)
    return items, {"bought": bought, "regular": float(kept >= 2), "spender": float(kept * 12 >= 30), "days": 2.0}


def test_what_customers_did_in_order_and_how_often(open_shop: Any) -> None:
    counted: dict[str, dict[str, list[float]]] = {}
    batch: list[dict[str, Any]] = []
    with time_machine.travel(START, tick=True):
        shop = open_shop(SHOP, workers=1)
        for n in range(70):
            answer = shop.decide("web", experiments=["layout"], user_id=f"u{n}")
            items, values = history(n)
            batch += items
            for name, value in values.items():
                of_metric = counted.setdefault(name, {})
                of_metric.setdefault(answer["experiments"]["layout"]["variant"], []).append(value)
    with time_machine.travel(START + timedelta(hours=2), tick=True):
        for at in range(0, len(batch), 100):
            answered = shop.client().post("/v1/events", json={"batch": batch[at : at + 100]}).json()
            assert {status["status"] for status in answered["statuses"]} == {"accepted"}
    shop.collect()
    report = verb(shop, "analyze", "layout", "--as-of", "2026-11-20")
    rows = {row["metric"]: row for row in report["metrics"]}
    for name, variants in counted.items():
        for variant, values in variants.items():
            assert rows[name]["mean"][variant] == pytest.approx(sum(values) / len(values)), name
    assert rows["regular"]["role"] == "guardrail"
    control = counted["regular"]["x"]
    planned = verb(shop, "power", "layout", "--metric", "regular", "--mde", "0.2")
    assert (planned["kind"], planned["baseline"]) == ("proportion", pytest.approx(sum(control) / len(control)))
    days = verb(shop, "power", "held", "--days", "--mde", "0.9", "--metric", "regular")
    assert days["baseline"] == pytest.approx(np.mean([one for own in counted["regular"].values() for one in own]))
    assert days["rows"][0]["units_per_day"] == 70  # two hours of a day
    assert days["coverage"] == 1.0
    assert {row["vary"] for row in days["rows"]} == {"drafted", "method"}
    assert all(1 <= row["days"] <= row["days_80"] for row in days["rows"])
    specs = load_specs(shop.settings.experiments)
    for key in RAMPS:
        arrived = first_arrivals(draft_plans(specs, key)["as drafted"], key, logged_requests(shop.settings.log))
        assert len(arrived) == 70, key
    tree = verb(shop, "measure", "kpis")
    assert [(edge["lag"], edge["customers"]) for edge in tree["edges"]] == [("regular", len(control)), ("days", 0)]
