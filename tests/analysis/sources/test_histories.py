"""Funnels, thresholds and active days over random histories, beside the same rules written out per customer."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment
from engine.analysis.design.methods import Inference
from engine.analysis.design.question import MeasuredStep

START, DAY = 1_793_491_200.0, 86_400.0
NOW = datetime.fromtimestamp(START + 30 * DAY, UTC)
WINDOW = 4 * DAY
ZONE = "America/New_York"
STEPS = (MeasuredStep("view"), MeasuredStep("cart", {"size": {"$gte": 2}}), MeasuredStep("purchase"))
METRICS = [
    MeasuredMetric(name="bought_in_order", kind="funnel", steps=STEPS, window=WINDOW, covariate_window=5 * DAY),
    MeasuredMetric(name="bought_soon", kind="funnel", steps=STEPS, window=WINDOW, within=DAY),
    MeasuredMetric(name="seen_twice", kind="funnel", steps=(STEPS[0], STEPS[0]), window=WINDOW),
    MeasuredMetric(name="two_orders", kind="threshold", event="purchase", at_least=2, window=WINDOW),
    MeasuredMetric(name="spent_30", kind="threshold", event="purchase", value="revenue", at_least=30, window=WINDOW),
    MeasuredMetric(name="view_days", kind="active_days", event="view", window=WINDOW, zone=ZONE),
    MeasuredMetric(name="order_days", kind="active_days", event="purchase", window=WINDOW, zone=ZONE),
]
QUESTION = ExperimentQuestion(
    key="checkout",
    control="a",
    weights={"a": 0.5, "b": 0.5},
    primary="bought_in_order",
    secondary=tuple(spec.name for spec in METRICS[1:]),
    inference=Inference(method="fixed"),
)
Event = dict[str, Any]


def history(customer: str, rng: np.random.Generator) -> list[Event]:
    """Events around the exposure at 0, some at the same moment; of some orders a later refund, whole or in part."""
    events: list[Event] = []
    for number in range(rng.integers(0, 13)):
        at = float(rng.integers(-6, 14)) * DAY / 3
        name = str(rng.choice(["view", "cart", "purchase"]))
        row = {"message_id": f"{customer}-{number}", "customer": customer, "time": at, "event": name}
        properties = f'{{"size": {rng.integers(1, 4)}, "order_id": "o{number}"}}'
        row |= {"properties": properties, "revenue": float(rng.integers(5, 25)) if name == "purchase" else None}
        events.append(row)
        if name == "purchase" and rng.random() < 0.3:
            amount = row["revenue"] * float(rng.choice([0.5, 1.0]))
            back = f'{{"order_id": "o{number}", "amount": {amount}}}'
            events.append(row | {"message_id": f"{row['message_id']}r", "event": "refund", "time": at + DAY / 10})
            events[-1] |= {"properties": back, "revenue": None}
    return events


def values(events: Sequence[Event]) -> dict[str, float]:
    inside = [one for one in events if 0 <= one["time"] < WINDOW]
    back = {one["message_id"][:-1]: one for one in inside if one["event"] == "refund"}
    left: dict[str, float] = {}
    for one in inside:
        if one["event"] == "purchase":
            refunded = back.get(one["message_id"])
            amount = 0.0 if refunded is None else float(refunded["properties"].split('"amount": ')[1][:-1])
            left[one["message_id"]] = one["revenue"] - amount
    orders = {name: rest for name, rest in left.items() if rest > 0}
    kept = [one for one in inside if one["event"] != "purchase" or one["message_id"] in orders]

    def passes(names: Sequence[str], within: float) -> bool:
        def fits(one: Event, name: str) -> bool:
            return one["event"] == name and (name != "cart" or '"size": 1' not in one["properties"])

        taken = [one for one in kept if one["event"] in names]
        ranked = sorted(taken, key=lambda one: (one["time"], names.index(one["event"])))
        return any(
            all(fits(one, name) for one, name in zip(chain, names, strict=True))
            and chain[-1]["time"] - chain[0]["time"] <= within
            and (len(set(names)) > 1 or chain[0]["time"] < chain[1]["time"])
            for chain in combinations(ranked, len(names))
        )

    def days(chosen: Sequence[Event]) -> float:
        zone = ZoneInfo(ZONE)
        return float(len({datetime.fromtimestamp(START + one["time"], zone).date() for one in chosen}))

    order = ("view", "cart", "purchase")
    return {
        "bought_in_order": float(passes(order, WINDOW)),
        "bought_soon": float(passes(order, DAY)),
        "seen_twice": float(passes(("view", "view"), WINDOW)),
        "two_orders": float(len(orders) >= 2),
        "spent_30": float(sum(orders.values()) >= 30),
        "view_days": days([one for one in kept if one["event"] == "view"]),
        "order_days": days([one for one in kept if one["event"] == "purchase"]),
    }


def test_histories_count_as_their_rules_say(write_log: Callable[..., Path]) -> None:
    rng = np.random.default_rng(12)
    decisions, exposures, events = [], [], []
    expected: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
    for number in range(400):
        customer, variant = f"c{number}", "ab"[number % 2]
        decisions.append({"decision_id": customer, "time": 0.0, "customer": customer, "variant": variant})
        exposures.append({"decision_id": customer, "time": 0.0, "customer": customer})
        own = history(customer, rng)
        events += own
        expected[variant].append(values(own))
    log = write_log(decisions=decisions, exposures=exposures, events=events)
    report = analyze_experiment(QUESTION, METRICS, log, as_of=NOW)
    for row in report.metrics:
        for variant, rows in expected.items():
            wanted = [one[row.metric] for one in rows]
            assert 0 < np.mean(wanted) < 3, row.metric
            assert row.mean[variant] == pytest.approx(np.mean(wanted), abs=1e-12), (row.metric, variant)
    assert report.metrics[0].covariates == ["bought_in_order in the 5 days before"]
