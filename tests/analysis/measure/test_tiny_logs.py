"""Reports of logs with hardly a customer: every number is a count of theirs, and what is estimated says why not."""

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.analysis.measure.all_reports import measure_all
from engine.analysis.measure.model import MoneyFigure
from engine.analysis.measure.sources import EventSource
from engine.analysis.render.measure_page import measure_html
from engine.analysis.stats.estimate import NotEstimable
from engine.journal.log.parquet import as_columns, rows_of_record, write_table
from engine.journal.records import EventRecord
from loadtests.year_shop import Shop, simulate_shop, write_shop
from tests.analysis.measure.test_refreshes import KPIS, STEPS
from tests.catalog.folder import plan

DAYS = 30


def write_log(log: Path, customers: int) -> None:
    """The log of the first customers of a shop; of none an empty folder."""
    log.mkdir()
    whole = simulate_shop(5, 60, DAYS, 1200)
    tables: dict[str, dict[str, object]] = {}
    for name, columns in whole.tables.items():
        kept = np.asarray(columns["who"]) < customers
        tables[name] = {key: np.asarray(column)[kept] for key, column in columns.items()}
    if customers:
        write_shop(log, Shop(tables, {}), DAYS)


def intervals(found: Any) -> list[Any]:
    """What has both ends of an interval, anywhere in a report."""
    if isinstance(found, dict):
        own = [found] if isinstance(found.get("low"), float) else []
        return own + [one for value in found.values() for one in intervals(value)]
    return [one for value in found for one in intervals(value)] if isinstance(found, list) else []


@pytest.mark.parametrize("customers", [0, 1, 3, 30])
def test_nothing_is_invented_of_hardly_any_customers(tmp_path: Path, customers: int) -> None:
    write_log(tmp_path / "log", customers)
    found = measure_all(EventSource(log_dir=tmp_path / "log"), plan(metrics=KPIS), steps=STEPS)
    assert len(found) == 12
    for name, report in found.items():
        assert report.sentence.endswith((".", "?"))
        assert not re.search(r"\b(nan|inf)\b", report.sentence)
        assert isinstance(report.money, NotEstimable) or np.isfinite(report.money.estimate)
        for one in intervals(msgspec.to_builtins(report)):
            assert one["low"] <= one["high"], name
        if customers < 5:  # counted, but not estimated
            assert isinstance(report.money, NotEstimable) or report.money.low is None, name
            money = report.money.estimate if isinstance(report.money, MoneyFigure) else 0.0
            assert customers or not money
    page = measure_html(*found.values())
    assert "What this is not" in page
    assert not re.search(r">-?(nan|inf|None)<", page)


def test_a_log_whose_events_name_no_customer_is_as_empty_as_one_without_files(tmp_path: Path) -> None:
    rows = EventRecord(
        message_id="m", time=1.78e9, received=1.78e9, customer="", event="click", decision_id=None,
        channel="web", revenue=None, properties=b"{}",
    )  # fmt: skip
    table, day, columns = rows_of_record(rows)
    for place in ("nobody", "no_file"):
        (tmp_path / place / "events" / f"day={day}").mkdir(parents=True)
        (tmp_path / place / "decisions" / f"day={day}").mkdir(parents=True)
    file = tmp_path / "nobody" / "events" / f"day={day}" / "1.parquet"
    write_table(file, table, [as_columns(table, columns)])
    for place in ("nobody", "no_file"):
        found = measure_all(EventSource(log_dir=tmp_path / place), plan(metrics=KPIS), steps=STEPS)
        assert all(isinstance(report.money, NotEstimable) for report in found.values())
