"""A switchback from YAML and HTTP to the report: its draws, its washout, its units and its figures."""

import statistics
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.report.aa import aa_experiment
from engine.analysis.report.past_experiments import baseline_of_log, pair_traffic
from engine.catalog import load_plan
from engine.catalog.check.load import load_specs
from engine.catalog.plan.compile import compile_plan
from engine.errors import CatalogError
from engine.rehearse.generated_customers import make_customers
from engine.rehearse.preview import preview
from tests.stories.conftest import write_shop

START = datetime(2026, 6, 1, tzinfo=UTC)
DESIGN = {"every": "6h", "by": "store", "washout": "30m"}
STORES = 5
DAYS = 4
EXPERIMENT: dict[str, Any] = {
    "switchback": DESIGN,
    "start": START.isoformat(),
    "variants": [{"key": "flat", "weight": 0.5}, {"key": "surge", "weight": 0.5}],
    "metrics": {"primary": "revenue", "secondary": ["click"]},
    "analysis": {"method": "fixed", "min_days": 1},
}


def shop_with(**more: Any) -> dict[str, Any]:
    return {"offers": {"a": {}}, "placements": {}, "experiments": {"fees": {**EXPERIMENT, **more}}}


def test_each_store_and_period_is_a_unit_and_an_event_counts_once(open_shop: Any) -> None:
    """Every store has a regular, who comes in every period, and a guest in its washout."""
    shop = open_shop(shop_with())
    served: dict[tuple[int, int], str] = {}
    batch: list[Any] = []
    with time_machine.travel(START, tick=True) as clock:
        for period in range(4 * DAYS + 1):
            clock.move_to(START + timedelta(hours=6 * period, minutes=5))
            for store in range(STORES):
                context = {"store": f"S{store}"}
                shop.decide("web", experiments=["fees"], context=context, user_id=f"guest{store}-{period}")
            clock.move_to(START + timedelta(hours=6 * period, minutes=25))
            if batch:
                accepted = shop.client().post("/v1/events", json={"batch": batch}).json()["statuses"]
                assert {one["status"] for one in accepted} == {"accepted"}, accepted
            clock.move_to(START + timedelta(hours=6 * period + 2))
            batch = []
            for store in range(STORES if period < 4 * DAYS else 0):
                ids = {"user_id": f"regular{store}"}
                answer = shop.decide("web", experiments=["fees"], context={"store": f"S{store}"}, **ids)
                served[store, period] = answer["experiments"]["fees"]["variant"]
                for at, minutes in enumerate((60, 260)):  # the second one in the washout of the next period
                    item = {"type": "track", "event": "purchase", "message_id": f"m{store}-{period}-{at}", **ids}
                    when = (START + timedelta(hours=6 * period + 2, minutes=minutes)).isoformat()
                    properties = {"revenue": 10.0 * (store + 1) + period + at, "order_id": f"o{store}-{period}-{at}"}
                    batch.append({**item, "timestamp": when, "properties": properties})
        shop.collect()
        question, metrics = build_question(load_plan(shop.settings.experiments), "fees")
        report = analyze_experiment(question, metrics, shop.settings.log)
        baseline = baseline_of_log(question, metrics, shop.settings.log)
        daily = pair_traffic(load_plan(shop.settings.experiments), "fees", shop.settings.log).daily
        checks = aa_experiment(question, metrics, shop.settings.log, runs=20)
    for store in range(STORES):  # every time of day has each variant once within two days
        for period in range(0, 4 * DAYS, 8):
            for slot in range(period, period + 4):
                assert {served[store, slot], served[store, slot + 4]} == {"flat", "surge"}
    assert report.units == {"flat": STORES * 2 * DAYS, "surge": STORES * 2 * DAYS}
    assert report.quality.srm.ok
    orders: dict[str, list[float]] = defaultdict(list)
    for (store, period), variant in served.items():
        orders[variant].append(2 * (10.0 * (store + 1) + period) + 1)
    row = next(one for one in report.metrics if one.metric == "revenue")
    assert row.mean == pytest.approx({variant: statistics.mean(values) for variant, values in orders.items()})
    assert "carries over" in report.design
    # Power counts store-periods, with the deviation that is left within a store at one time of day.
    assert baseline.value == pytest.approx(statistics.mean(orders["flat"]))
    strata: dict[tuple[int, int], list[float]] = defaultdict(list)
    for (store, period), variant in served.items():
        if variant == "flat":
            strata[store, period % 4].append(2 * (10.0 * (store + 1) + period) + 1)
    spread = sum(statistics.variance(values) * (len(values) - 1) for values in strata.values())
    assert baseline.sd == pytest.approx((spread / (len(orders["flat"]) - len(strata))) ** 0.5)
    assert daily == pytest.approx(4 * STORES, rel=0.1)
    assert [check.metric for check in checks] == ["revenue", "click"]


def test_a_preview_shows_stores_in_a_period(tmp_path: Path) -> None:
    specs = load_specs(write_shop(tmp_path / "shop", shop_with()))
    customers = make_customers(200, specs, key="fees")
    rows = preview(compile_plan(specs), "fees", customers, START.timestamp())
    had = {(one.context["store"], row.gets) for one, row in zip(customers, rows, strict=True)}
    assert len(had) == 50  # one variant in each store
    assert {variant for _, variant in had} == {"flat", "surge"}


def test_what_a_switchback_cannot_have_is_refused(tmp_path: Path) -> None:
    wrong = {"switchback": {**DESIGN, "washout": "6h"}, "sticky": True, "fallback_unit": "device", "unit": "device"}
    with pytest.raises(CatalogError) as refused:
        load_specs(write_shop(tmp_path / "shop", shop_with(**wrong)))
    paths = {one.path for one in refused.value.problems}
    assert {"switchback.washout", "sticky", "fallback_unit", "unit"} <= paths
    with pytest.raises(CatalogError) as refused:
        load_specs(write_shop(tmp_path / "other", shop_with(switchback={"every": "2h", "by": "customer"})))
    assert {one.path for one in refused.value.problems} == {"switchback.by"}
