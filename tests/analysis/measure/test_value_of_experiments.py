"""Customer value: churn, cost to serve, and the value of an experiment's variants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.sources import EventSource
from engine.analysis.measure.value.clv import ClvOptions, measure_clv
from engine.analysis.measure.value.costs import CostToServe
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

DAY = 86_400.0


def write_customers(write_log: Callable[..., Path], *, gain: float = 0.0, costs: bool = False) -> EventSource:
    """500 customers of one experiment, who differ in how often they order and when they leave; `new` adds orders."""
    rng = np.random.default_rng(8)
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}
    for n in range(500):
        name, variant = f"c{n}", ("control", "new")[n % 2]
        ids = {"decision_id": f"d{n}", "customer": name, "key": "checkout"}
        tables["decisions"].append({**ids, "time": 5.0, "variant": variant})
        tables["exposures"].append({**ids, "time": 6.0})
        at, number, worth, leaves = rng.uniform(0, 30), 0, 30 / rng.gamma(4, 0.3), rng.beta(0.8, 3)
        rate = rng.gamma(0.8, 1 / 40) * (1 + gain * (variant == "new"))
        while at < 240:
            order = {
                "customer": name,
                "event": "purchase",
                "time": float(at) * DAY + 60,
                "revenue": rng.gamma(6, worth / 6),
            }
            tables["events"].append({**order, "message_id": f"{name}-{number}"})
            if costs:
                call = {"customer": name, "event": "support_call", "time": float(at) * DAY + 90}
                tables["events"].append({**call, "message_id": f"k{name}-{number}", "properties": '{"cost": 2.5}'})
            number += 1
            at += rng.exponential(1 / rate) if rng.random() > leaves else 1e9
    tables["events"].append({"message_id": "last", "event": "visit", "customer": "z", "time": 240 * DAY})
    return EventSource(log_dir=write_log(**tables))


def test_churn_and_cost_to_serve(write_log: Callable[..., Path]) -> None:
    report, _ = measure_clv(write_customers(write_log, costs=True))
    assert isinstance(report.churn, Effect)
    assert 0 < report.churn.low < report.churn.estimate < report.churn.high < 1
    cost = report.cost
    assert isinstance(cost, CostToServe)
    assert cost.per_order == pytest.approx(2.5, rel=0.05)  # two orders of one day are one
    assert cost.total == pytest.approx(cost.per_customer.estimate * 500)
    assert not isinstance(cost.net, NotEstimable)
    assert not isinstance(report.money, NotEstimable)
    assert not isinstance(report.expected_orders, NotEstimable)
    assert cost.net.estimate == pytest.approx(report.money.estimate - cost.per_order * report.expected_orders.estimate)
    assert "Churn and cost to serve" in {table.title for table in report.tables()}


@pytest.mark.parametrize(("gain", "is_found"), [(0.0, False), (5.0, True)])
def test_value_is_a_metric_of_experiments(write_log: Callable[..., Path], gain: float, is_found: bool) -> None:  # noqa: FBT001
    source = write_customers(write_log, gain=gain)
    report, _ = measure_clv(source, ClvOptions(experiment="checkout", control="control"))
    rows = {row.variant: row for row in report.variants}
    assert (rows["new"].customers, rows["new"].control) == (250, "control")
    effect = rows["new"].effect
    assert isinstance(effect, Effect)
    assert (effect.low > 0) == is_found
    assert effect.estimate == pytest.approx(rows["new"].value - rows["control"].value)
    assert isinstance(report.cost, NotEstimable)
    with pytest.raises(BadInput, match="other: no customer in "):
        measure_clv(source, ClvOptions(experiment="other"))


def test_a_table_has_costs_too(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    rows = [f"c{n},2026-0{1 + n % 6}-0{1 + at * 3},10,{1 + at}" for n in range(60) for at in range(1 + n % 3)]
    file.write_text("\n".join(["customer,date,revenue,cost", *rows]))
    report, _ = measure_clv(EventSource(files=(str(file),)))
    assert isinstance(report.cost, CostToServe)
    assert report.cost.total == sum(int(row.rsplit(",", 1)[1]) for row in rows)
