"""Group-sequential reports hold at planned looks, so a report between two is that of the look before."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment, analyze_table
from engine.analysis.design.methods import Inference
from engine.analysis.report.model import Report
from engine.analysis.stats.estimate import Effect, NotEstimable

Write = Callable[..., Path]
START, MINUTE = 1_793_491_200.0, 60.0
METRICS = [
    MeasuredMetric(name="revenue", kind="mean", event="purchase", value="revenue"),
    MeasuredMetric(name="basket", kind="quantile", event="purchase", value="revenue", quantile=0.5),
]
QUESTION = ExperimentQuestion(
    key="checkout",
    control="control",
    weights={"control": 0.5, "new": 0.5},
    primary="revenue",
    secondary=("basket",),
    inference=Inference(method="group_sequential", planned=200, looks=2),
)


def a_unit_a_minute(units: int) -> dict[str, list[dict[str, Any]]]:
    rng = np.random.default_rng(4)
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}
    for at in range(units):
        row = {"decision_id": f"d{at}", "time": at * MINUTE, "customer": f"c{at}"}
        tables["decisions"].append(row | {"variant": ("control", "new")[at % 2]})
        tables["exposures"].append(row)
        bought = {"message_id": f"m{at}", "customer": f"c{at}", "event": "purchase", "time": at * MINUTE + 1}
        tables["events"].append(bought | {"revenue": float(rng.gamma(2.0, 10.0))})
    return tables


def report(folder: Path, minutes: float) -> Report:
    return analyze_experiment(QUESTION, METRICS, folder, as_of=datetime.fromtimestamp(START + minutes * MINUTE, UTC))


def effects(found: Report) -> list[float]:
    """The units, effects and intervals of all rows, to twelve digits: an engine adds in any order."""
    numbers: list[float] = []
    for row in found.metrics:
        assert isinstance(row.absolute, Effect)
        numbers += [*row.units.values(), row.absolute.estimate, row.absolute.low, row.absolute.high]
    return [float(f"{number:.12g}") for number in numbers]


def test_a_report_between_looks_is_that_of_the_look_before(write_log: Write) -> None:
    folder = write_log(**a_unit_a_minute(300))
    first, between, last, beyond = (report(folder, minutes) for minutes in (99.5, 170, 199.5, 300))
    assert first.metrics[0].units == {"control": 50, "new": 50}
    assert isinstance(first.metrics[0].absolute, Effect)
    assert effects(between) == effects(first)
    assert between.quality.flags == [
        "revenue, basket: planned look 1 of 2, with units until 2026-11-01; 71 later units count at the next look"
    ]
    assert last.metrics[0].units == {"control": 100, "new": 100}
    assert effects(last) != effects(first)
    assert effects(beyond) == effects(last)
    (flag,) = beyond.quality.flags
    assert flag.endswith("100 later units do not count, since the plan ends there: conclude it")
    assert beyond.units == {"control": 150, "new": 150}


def read_table(folder: Path, units: int) -> Report:
    rng = np.random.default_rng(5)
    lines = [f"{('control', 'new')[at % 2]},{rng.gamma(2.0, 10.0)}" for at in range(units)]
    file = folder / "units.csv"
    file.write_text("variant,revenue\n" + "\n".join(lines))
    return analyze_table(
        str(file),
        variant="variant",
        control="control",
        metrics=["mean:revenue"],
        method="group_sequential",
        planned=200,
        looks=2,
    )


def test_a_table_beyond_the_plan_has_no_error_left_to_spend(tmp_path: Path) -> None:
    found = read_table(tmp_path, 260).metrics[0].absolute
    assert isinstance(found, NotEstimable)
    assert found.not_estimable.startswith("260 units are more than the 200 planned")


def test_a_table_between_looks_has_a_wider_interval_and_says_so(tmp_path: Path) -> None:
    reach = {}
    for units in (100, 160, 200, 240):
        report = read_table(tmp_path, units)
        effect = report.metrics[0].absolute
        assert isinstance(effect, Effect)
        assert effect.p is not None
        assert (effect.p < 0.05) == (not effect.low <= 0 <= effect.high)
        reach[units] = (effect.high - effect.low) / 2 / effect.se
        assert any("not one of the 2 looks" in flag for flag in report.quality.flags) == (units in {160, 240})
    assert reach[240] > 1.2 * reach[200]
    assert reach[160] > reach[240]
