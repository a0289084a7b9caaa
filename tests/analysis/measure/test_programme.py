"""The programme: every experiment of the log counts, also without its file, and the winners' sum is shrunken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.analysis.measure.programme import measure_programme
from engine.analysis.measure.sources import EventSource
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.catalog.archive import Archive
from engine.catalog.archived_plan import ArchivedPlan
from engine.catalog.check.load import read_folder

SHOP = Path(__file__).parents[3] / "experiments"


def test_every_experiment_of_the_log_is_in_the_programme(write_log: Callable[..., Path]) -> None:
    rng = np.random.default_rng(3)
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}
    truth = {"one": 3.0, "two": 0.0, "three": 0.0, "four": -3.0}
    for key, gain in truth.items():
        for n in range(200):
            ids = {"decision_id": f"{key}{n}", "customer": f"{key}-c{n}", "key": key}
            variant = ("control", "new")[n % 2]
            tables["decisions"].append({**ids, "time": 5.0, "variant": variant})
            tables["exposures"].append({**ids, "time": 6.0})
            spends = 10 + (gain if variant == "new" else 0.0) + rng.uniform(-4, 4)
            order = {"message_id": f"m{key}{n}", "event": "purchase", "customer": ids["customer"]}
            tables["events"].append({**order, "time": 60.0, "revenue": spends})
    tables["events"].append({"message_id": "last", "event": "visit", "customer": "z", "time": 15 * 86_400.0})
    files = {"one": ("shipped", "control"), "two": ("stopped", "control")}
    report = measure_programme(EventSource(log_dir=write_log(**tables)), files)
    rows = {row.experiment: row for row in report.effects}
    assert report.experiments == 4
    assert report.by_status == {"deleted": 2, "shipped": 1, "stopped": 1}
    assert report.decision_days is not None
    assert report.tables()[1].rows[-1] == ["median days to a decision", report.decision_days]
    assert {key: row.status for key, row in rows.items()} == {
        "one": "shipped",
        "two": "stopped",
        "three": "deleted",
        "four": "deleted",
    }
    assert (rows["one"].outcome, rows["four"].outcome) == ("gain", "loss")
    for row in rows.values():
        assert isinstance(row.measured, Effect)
        assert row.shrunken is not None
        assert row.customers == 200
    assert isinstance(report.naive, float)
    assert isinstance(report.shrunken, float)
    assert 0 < report.shrunken < report.naive
    assert report.naive == pytest.approx(
        sum(
            row.measured.estimate for row in rows.values() if isinstance(row.measured, Effect) and row.outcome == "gain"
        )
    )
    assert isinstance(report.holdout, NotEstimable)


def write_experiments(write_log: Callable[..., Path], *, late: int) -> EventSource:
    """An experiment of variants `before` and `amber`, the newest customers exposed within the last 14 days."""
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "events": []}
    for n in range(200):
        ids = {"decision_id": f"d{n}", "customer": f"c{n}", "key": "checkout_layout"}
        at = 86_400.0 * (20 if n < late else 1)
        tables["decisions"].append({**ids, "time": at, "variant": ("before", "amber")[n % 2], "plan": "p1"})
        tables["exposures"].append({**ids, "time": at + 1})
        order = {"message_id": f"m{n}", "event": "purchase", "customer": f"c{n}", "time": at + 60}
        tables["events"].append({**order, "revenue": 10.0 + 3 * (n % 2) + n % 7})
    tables["events"].append({"message_id": "last", "event": "visit", "customer": "z", "time": 30 * 86_400.0})
    return EventSource(log_dir=write_log(**tables))


def test_the_control_is_the_first_variant_of_the_file_or_of_the_archived_plan(
    write_log: Callable[..., Path], tmp_path: Path
) -> None:
    source = write_experiments(write_log, late=0)
    (row,) = measure_programme(source, {"checkout_layout": ("running", "before")}).effects
    assert (row.control, row.variant, row.outcome) == ("before", "amber", "gain")
    (row,) = measure_programme(source, {}).effects
    assert (row.control, row.variant, row.outcome) == ("amber", "before", "loss")
    files = {name: data.decode() for name, data in read_folder(SHOP)[0].items()}
    name = "checkout_layout.yaml"
    files[name] = files[name].replace("key: control", "key: before").replace("one_page", "amber")
    files[name] = files[name].replace("status: running", "status: stopped")
    files[name] += "\ndecided: {on: 2026-11-20, why: One page sells more.}\n"
    archive = tmp_path / "plans"
    archive.mkdir()
    plan = ArchivedPlan(version="p1", time=0.0, author="a", folder="shop", files=files)
    (archive / "p1.json").write_bytes(msgspec.json.encode(plan))
    (row,) = measure_programme(source, {}, archive=Archive(archive)).effects
    assert (row.status, row.control, row.outcome) == ("deleted", "before", "gain")
    assert row.why == "One page sells more."
    report = measure_programme(
        source, {"checkout_layout": ("shipped", "before")}, whys={"checkout_layout": "It sells."}
    )
    assert report.tables()[2].rows[0][-1] == "It sells."


@pytest.mark.parametrize("late", [0, 50, 200])
def test_customers_whose_window_is_open_are_left_out(write_log: Callable[..., Path], late: int) -> None:
    report = measure_programme(write_experiments(write_log, late=late), {"checkout_layout": ("running", "before")})
    (row,) = report.effects
    assert (row.customers, row.waiting) == (200 - late, late)
    assert report.waiting == pytest.approx(late / 200)
    assert isinstance(row.measured, NotEstimable) == (late == 200)
    assert ("wait" in report.sentence) == (late > 0)


def test_nothing_is_invented(tmp_path: Path) -> None:
    report = measure_programme(EventSource(log_dir=tmp_path), {"draft": ("draft", "control")})
    assert (report.experiments, report.effects, report.picture()) == (0, [], None)
    assert isinstance(report.naive, NotEstimable)
    assert isinstance(report.money, NotEstimable)
