"""Channels: keen customers use several and spend more; only the holdout says what an effect is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.channels import measure_channels
from engine.analysis.measure.sources import EventSource
from engine.analysis.stats.estimate import Effect, NotEstimable

DAY = 86_400.0


def test_the_naive_difference_is_wrong_where_the_holdout_is_right(write_log: Callable[..., Path]) -> None:
    """Being let in adds 2 to what a customer spends; channels add nothing, and keen customers use two."""
    rng = np.random.default_rng(12)
    decisions: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for n in range(600):
        keen, held_out = rng.random() < 0.5, rng.random() < 0.3
        reason = {"reason": "holdout", "variant": None} if held_out else {"reason": "assigned", "variant": "x"}
        decisions.append({"decision_id": f"d{n}", "time": 10.0, "customer": f"c{n}", **reason})
        spends = (15.0 if keen else 5.0) + (0.0 if held_out else 2.0) + rng.uniform(-3, 3)
        for channel in ("web", "app") if keen else ("web",):
            seen = {"message_id": f"{channel}{n}", "event": "visit", "customer": f"c{n}", "channel": channel}
            events.append({**seen, "time": 20.0, "properties": '{"intent": "buy"}'})
        order = {"message_id": f"o{n}", "event": "purchase", "customer": f"c{n}", "channel": "web"}
        events.append({**order, "time": DAY, "revenue": spends})
    report = measure_channels(EventSource(log_dir=write_log(decisions=decisions, events=events)))
    assert isinstance(report.naive, Effect)
    assert isinstance(report.holdout, Effect)
    assert report.naive.low > 8
    assert report.holdout.low < 2 < report.holdout.high
    assert sum(row.customers for row in report.counts) == 600
    spent = sum(row["revenue"] for row in events if "revenue" in row)
    assert sum(row.revenue for row in report.channels) == pytest.approx(spent)
    assert {row.motive for row in report.motives} == {"buy"}
    assert max(row.revenue for row in report.motives) == pytest.approx(spent)


def test_nothing_is_invented(tmp_path: Path) -> None:
    report = measure_channels(EventSource(log_dir=tmp_path))
    assert (report.channels, report.counts, report.picture()) == ([], [], None)
    assert isinstance(report.naive, NotEstimable)
    assert isinstance(report.holdout, NotEstimable)
    assert isinstance(report.money, NotEstimable)
