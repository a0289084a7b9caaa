"""Windows that are still open on the report's date: not counted, and said so, with the date when they will be."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment
from engine.analysis.design.methods import Inference
from engine.analysis.render.terminal import render
from engine.analysis.report.model import MetricReport, Report
from engine.analysis.stats.estimate import Effect, NotEstimable

Write = Callable[..., Path]
START, HOUR, DAY = 1_793_491_200.0, 3_600.0, 86_400.0
CONVERSION = MeasuredMetric(name="conversion", kind="proportion", event="purchase", window=7 * DAY)
OTHERS = (
    MeasuredMetric(name="revenue", kind="mean", event="purchase", value="revenue", window=7 * DAY, winsorize=0.9),
    MeasuredMetric(name="basket", kind="quantile", event="purchase", value="revenue", window=7 * DAY, quantile=0.5),
    MeasuredMetric(name="per view", kind="ratio", event="purchase", denominator="view", window=7 * DAY),
    MeasuredMetric(name="happy", kind="csat", event="answer", value="csat", window=7 * DAY),
    MeasuredMetric(name="later", kind="count", event="purchase", delay=2 * DAY),
    MeasuredMetric(name="so far", kind="count", event="purchase"),
)
QUESTION = ExperimentQuestion(
    key="checkout",
    control="control",
    weights={"control": 0.5, "new": 0.5},
    primary="conversion",
    secondary=tuple(metric.name for metric in OTHERS),
    inference=Inference(method="fixed"),
)


def shop(per_day: int = 20) -> dict[str, list[dict[str, Any]]]:
    """Eight days; half of each variant's customers buy: control within an hour, the others after six days."""
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}
    for day in range(8):
        for variant, wait in (("control", HOUR), ("new", 6 * DAY)):
            for number in range(per_day):
                customer, at = f"{variant}-{day}-{number}", day * DAY + number
                tables["decisions"].append(
                    {"decision_id": customer, "time": at, "customer": customer, "variant": variant}
                )
                tables["exposures"].append({"decision_id": customer, "time": at, "customer": customer})
                did = [("view", 60.0, None, "{}"), ("answer", 90.0, None, f'{{"csat": {number % 5 + 1}}}')]
                if number % 2:
                    did.append(("purchase", wait, 10.0 + number, "{}"))
                tables["events"] += [
                    {
                        "message_id": f"{customer}-{event}",
                        "time": at + later,
                        "customer": customer,
                        "event": event,
                        "revenue": revenue,
                        "properties": properties,
                    }
                    for event, later, revenue, properties in did
                ]
    return tables


def report(folder: Path, days: float, conversion: MeasuredMetric = CONVERSION) -> Report:
    as_of = datetime.fromtimestamp(START + days * DAY, UTC)
    return analyze_experiment(QUESTION, [conversion, *OTHERS], folder, as_of=as_of)


def find(found: Report, metric: str) -> MetricReport:
    return next(row for row in found.metrics if row.metric == metric)


def printed(found: Report) -> str:
    console = Console(width=200, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(found))
    return capture.get()


def test_a_customer_counts_once_the_window_is_over(write_log: Write) -> None:
    found = report(write_log(**shop()), 8.5)
    assert found.units == {"control": 160, "new": 160}
    row = find(found, "conversion")
    assert row.units == {"control": 40, "new": 40}  # of the first two days
    assert row.mean == {"control": 0.5, "new": 0.5}
    assert row.open_windows is not None
    assert row.open_windows.customers == {"control": 120, "new": 120}
    assert row.open_windows.share == 0.75
    assert (row.open_windows.next[:10], row.open_windows.until[:10]) == ("2026-11-10", "2026-11-15")
    sentence = "conversion, revenue, basket, per view, happy: 240 of 320 customers (75.0%) are not counted yet"
    assert f"{sentence}: their 7 days are over from 2026-11-10 to 2026-11-15." in printed(found)
    assert msgspec.json.decode(found.json())["metrics"][0]["open_windows"]["counted"] is False


def test_every_kind_waits_for_its_own_window(write_log: Write) -> None:
    found = report(write_log(**shop()), 8.5)
    assert find(found, "revenue").units == {"control": 40, "new": 40}
    assert find(found, "revenue").winsorized == msgspec.structs.replace(
        find(found, "revenue").winsorized,  # type: ignore[arg-type] # it is winsorized
        share=4 / 80,
    )
    assert find(found, "basket").mean == {"control": 20.0, "new": 20.0}
    assert find(found, "basket").units == {"control": 20, "new": 20}
    assert find(found, "per view").mean == {"control": 0.5, "new": 0.5}
    assert find(found, "happy").response == {"control": 1.0, "new": 1.0}
    assert find(found, "happy").units == {"control": 40, "new": 40}
    assert find(found, "later").units == {"control": 140, "new": 140}  # two days are over for seven of eight days
    assert find(found, "so far").units == {"control": 160, "new": 160}
    assert find(found, "so far").open_windows is None


def test_open_windows_count_as_they_are_if_asked_for_and_said(write_log: Write) -> None:
    found = report(write_log(**shop()), 8.5, msgspec.structs.replace(CONVERSION, ripe=False))
    row = find(found, "conversion")
    assert row.mean == {"control": 0.5, "new": 0.1875}
    assert row.open_windows is not None
    assert row.open_windows.counted
    assert "240 of 320 customers (75.0%) are counted although their 7 days are not over" in printed(found)


def test_before_the_first_window_is_over_the_report_names_the_date(write_log: Write) -> None:
    found = report(write_log(**shop()), 3)
    absolute = find(found, "conversion").absolute
    assert isinstance(absolute, NotEstimable)
    assert absolute.not_estimable == "the 7 days of nearly all customers are not over yet, the first on 2026-11-08"
    assert found.recommendation.verdict == "keep running"
    waiting = "Waiting would change this: windows are over from 2026-11-08 00:00 UTC on."
    assert found.recommendation.would_change == waiting


def test_once_all_windows_are_over_nothing_waits(write_log: Write) -> None:
    row = find(report(write_log(**shop()), 30), "conversion")
    assert row.open_windows is None
    assert isinstance(row.absolute, Effect)
    assert row.absolute.estimate == pytest.approx(0.0)
    assert row.units == {"control": 160, "new": 160}
