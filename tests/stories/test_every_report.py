"""Every unit, stratum and segment with every kind of metric, from YAML and HTTP to the report's figures.

The suite runs each of them once; `FUZZ=1` runs the whole product.
"""

import os
import statistics
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import duckdb
import pytest

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan

UNITS = ("customer", "device", "store", "company")
STRATA = (None, "channel", "country", "loyalty.tier")
SEGMENTS = (None, "channel", "country", "loyalty.tier", "loyalty.tier: {$gte: 1}")
ONCE: list[tuple[str, str | None, str | None]] = [
    ("customer", None, "loyalty.tier: {$gte: 1}"),
    ("device", None, "country"),
    ("store", None, "channel"),
    ("customer", "country", None),
    ("device", "channel", "loyalty.tier"),
    ("store", "loyalty.tier", "country"),
    ("company", None, "loyalty.tier"),
    ("company", "country", "channel"),
]
CUSTOMERS = 96
METRICS: list[dict[str, Any]] = [
    {"key": "proportion", "event": "click"},
    {"key": "mean", "kind": "mean", "event": "rating", "value": "stars"},
    {"key": "count", "kind": "count", "event": "click"},
    {"key": "revenue", "kind": "revenue", "event": "purchase"},
    {"key": "ratio", "kind": "ratio", "event": "purchase", "value": "revenue", "denominator": "click"},
    {"key": "quantile", "kind": "quantile", "event": "purchase", "value": "revenue", "quantile": 0.5},
    {"key": "retention", "kind": "retention", "event": "click", "window": "10m"},
    {"key": "csat", "kind": "csat", "event": "survey"},
    {"key": "nps", "kind": "nps", "event": "survey"},
    {"key": "ces", "kind": "ces", "event": "survey"},
]
KEYS = [metric["key"] for metric in METRICS]


def shop_of(pairs: list[tuple[str, str | None]]) -> dict[str, Any]:
    experiments = {}
    for unit, stratum in pairs:
        analysis = {"method": "fixed", "min_days": 1} | ({"stratum": stratum} if stratum else {})
        experiments[name_of(unit, stratum)] = {
            "unit": unit,
            "variants": [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}],
            "metrics": {"primary": "revenue", "secondary": [key for key in KEYS if key != "revenue"]},
            "analysis": analysis,
        }
    units = {"company": {"trait": "company.id"}}
    return {"offers": {"a": {}}, "placements": {}, "experiments": experiments, "metrics": METRICS, "units": units}


def name_of(unit: str, stratum: str | None) -> str:
    return f"{unit}_{(stratum or 'none').replace('.', '_')}"


def events_of(n: int) -> list[tuple[str, dict[str, Any]]]:
    """What customer n does."""
    made: list[tuple[str, dict[str, Any]]] = [("click", {}) for _ in range(n % 3)]
    if n % 4:
        made.append(("purchase", {"revenue": 10.0 * (n % 4) + n / 100, "order_id": f"o{n}"}))
    if n % 2:
        made += [("rating", {"stars": n % 5}), ("survey", {"csat": 1 + n % 5, "nps": n % 11, "ces": 1 + n % 7})]
    return made


def expected(kind: str, customers: list[int]) -> float:
    """A metric over customers, by its definition in docs/reference."""
    done = [events_of(n) for n in customers]

    def each(event: str, name: str | None = None) -> list[float]:
        return [sum(one[1].get(name, 1) if name else 1 for one in events if one[0] == event) for events in done]

    def single(event: str, name: str) -> list[float]:
        return [one[1][name] for events in done for one in events if one[0] == event]

    match kind:
        case "proportion" | "retention":
            return statistics.mean(count > 0 for count in each("click"))
        case "mean":
            return statistics.mean(each("rating", "stars"))
        case "count":
            return statistics.mean(each("click"))
        case "revenue":
            return statistics.mean(each("purchase", "revenue"))
        case "ratio":
            return sum(each("purchase", "revenue")) / sum(each("click"))
        case "quantile":
            return statistics.median(single("purchase", "revenue"))
        case "nps":
            return statistics.mean(100 * ((score >= 9) - (score <= 6)) for score in single("survey", "nps"))
        case _:
            return statistics.mean(single("survey", kind))


def open_visited(open_shop: Any, pairs: list[tuple[str, str | None]]) -> Any:
    shop = open_shop(shop_of(pairs) | {"segments": {}})
    batch = []
    for n in range(CUSTOMERS):
        ids = {"user_id": f"u{n}", "anonymous_id": f"d{n % 48}"}
        shop.identify({"loyalty.tier": n % 3, "company.id": 100 + n % 16}, user_id=f"u{n}")
        context = {"store": f"S{n % 24}", "country": "DE" if n % 5 else "AT"}
        shop.decide("web" if n % 2 else "app", experiments="*", context=context, **ids)
        for at, (event, properties) in enumerate(events_of(n)):
            item = {"type": "track", "event": event, "message_id": f"m{n}-{at}", "user_id": f"u{n}"}
            batch.append({**item, "properties": properties})
    for start in range(0, len(batch), 200):
        answer = shop.client().post("/v1/events", json={"batch": batch[start : start + 200]})
        assert {one["status"] for one in answer.json()["statuses"]} == {"accepted"}
    shop.collect()
    return shop


def variants_of(shop: Any, key: str) -> dict[str, list[int]]:
    """The customers of each variant, as they were served."""
    rows = duckdb.sql(
        f"SELECT variant, customer FROM '{shop.settings.log}/decisions/**/*.parquet' WHERE key = '{key}'"
    ).fetchall()
    found: dict[str, list[int]] = defaultdict(list)
    for variant, customer in rows:
        found[variant].append(int(customer[1:]))
    return found


def test_every_unit_stratum_and_segment_has_every_metric(open_shop: Any) -> None:
    whole = bool(os.environ.get("FUZZ"))
    runs = list(product(UNITS, STRATA, SEGMENTS)) if whole else ONCE
    pairs = list(dict.fromkeys((unit, stratum) for unit, stratum, _ in runs))
    shop = open_visited(open_shop, pairs)
    plan = load_plan(shop.settings.experiments)
    later = datetime.now(UTC) + timedelta(minutes=20)  # the window of the retention is over
    for unit, stratum, segment in runs:
        key = name_of(unit, stratum)
        served = variants_of(shop, key)
        question, metrics = build_question(plan, key)
        report = analyze_experiment(question, metrics, shop.settings.log, segment=segment, as_of=later)
        assert sum(report.units.values()) == {"customer": 96, "device": 48, "store": 24, "company": 16}[unit]
        assert [row.metric for row in report.metrics] == ["revenue", *(one for one in KEYS if one != "revenue")]
        assert not [flag for flag in report.quality.flags if "trait" in flag and segment == stratum]
        if stratum is None:
            for row in report.metrics:
                assert set(row.mean) == set(served), (key, segment, row.metric, row.absolute)
                for variant, customers in served.items():
                    wanted = pytest.approx(expected(row.metric, customers), abs=1e-6)
                    assert row.mean[variant] == wanted, (key, segment, row.metric, variant)
        if segment is not None:
            [part] = [one for one in report.segments if one.metric == "revenue"]
            assert sum(sum(row.units.values()) for row in part.effects) == sum(report.units.values())
