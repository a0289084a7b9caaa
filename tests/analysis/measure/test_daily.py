"""Partial statistics by day: what they give is what the whole log gives, also after days change or customers go."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis.measure.channels import measure_channels
from engine.analysis.measure.journeys.attribution import AttributionOptions, measure_attribution
from engine.analysis.measure.journeys.journeys import measure_journeys
from engine.analysis.measure.model import MeasureReport
from engine.analysis.measure.opportunity.report import measure_opportunity
from engine.analysis.measure.programme import measure_programme
from engine.analysis.measure.satisfaction import measure_satisfaction
from engine.analysis.measure.sources import EventSource
from engine.analysis.measure.value.clv import measure_clv
from engine.analysis.measure.value.cohorts import measure_cohorts
from engine.analysis.measure.value.rfm import measure_rfm
from engine.erasure.log import delete_rows
from engine.settings import PARTIALS_FOLDER
from loadtests.year_shop import DAY, START, TIME, simulate_shop, write_shop

DAYS = 30
REPORTS: dict[str, Callable[[EventSource], MeasureReport]] = {
    "clv": lambda source: measure_clv(source)[0],
    "rfm": lambda source: measure_rfm(source)[0],
    "cohorts": measure_cohorts,
    "satisfaction": measure_satisfaction,
    "attribution": lambda source: measure_attribution(source, AttributionOptions(by="offer")),
    "journeys": measure_journeys,
    "channels": measure_channels,
    "opportunity": measure_opportunity,
    "programme": lambda source: measure_programme(source, {}),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder / "log", simulate_shop(3, 300, DAYS, 9000), DAYS)
    last = max((folder / "log" / "events").iterdir())
    visit = pq.read_table(last / "0.parquet").slice(0, 1)
    end = pa.array([START + DAYS * DAY - 1], TIME)  # after every exposure, so that both readings have the same end
    visit = visit.set_column(1, "time", end).set_column(0, "message_id", pa.array(["end"]))
    pq.write_table(visit.set_column(4, "event", pa.array(["page_view"])), last / "1.parquet")
    return folder / "log"


def answer(log: Path, name: str, *, whole: bool = False) -> dict[str, object]:
    """A report's numbers; `whole` reads all of the log, as a report up to a moment does."""
    until = EventSource(log_dir=log).last if whole else None
    found: dict[str, object] = msgspec.to_builtins(REPORTS[name](EventSource(log_dir=log, until=until)))
    return found


def same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-6, abs=1e-9)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", REPORTS)
def test_days_together_give_what_the_whole_log_gives(shop: Path, name: str) -> None:
    assert same(answer(shop, name), answer(shop, name, whole=True))
    assert (shop / PARTIALS_FOLDER).is_dir()


def blocks(log: Path) -> set[str]:
    return {path.name for path in (log / PARTIALS_FOLDER).rglob("order_rows-*.parquet")}


def test_a_refresh_reads_new_and_changed_days_only(shop: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shutil.copytree(shop, log, ignore=shutil.ignore_patterns(PARTIALS_FOLDER))
    last = max((log / "events").iterdir())
    aside = tmp_path / "aside"
    last.rename(aside)
    answer(log, "rfm")
    first = blocks(log)
    assert len(first) == 1
    aside.rename(last)
    assert same(answer(log, "rfm"), answer(log, "rfm", whole=True))
    assert len(blocks(log) - first) == 1
    (fresh,) = (log / PARTIALS_FOLDER).rglob((blocks(log) - first).pop())
    assert {last.name.removeprefix("day=")} == set(pq.read_table(fresh)["day"].to_pylist())
    day = min((log / "events").iterdir()) / "0.parquet"
    rows = pq.read_table(day)
    pq.write_table(rows.slice(0, rows.num_rows // 2), day)
    assert same(answer(log, "rfm"), answer(log, "rfm", whole=True))
    assert same(answer(log, "channels"), answer(log, "channels", whole=True))


def test_erased_customers_leave_the_partial_statistics(shop: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shutil.copytree(shop, log)
    answer(log, "rfm")
    assert delete_rows(log, ["c7"]) > 0
    assert not (log / PARTIALS_FOLDER).exists()
    assert same(answer(log, "rfm"), answer(log, "rfm", whole=True))
    stored = [path for path in (log / PARTIALS_FOLDER).rglob("*.parquet") if "customer" in pq.read_schema(path).names]
    assert stored
    assert all("c7" not in pq.read_table(path)["customer"].to_pylist() for path in stored)


def test_a_log_that_may_not_be_written_is_read_whole(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    shutil.copytree(shop, log, ignore=shutil.ignore_patterns(PARTIALS_FOLDER))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert answer(log, "channels")
    assert not (log / PARTIALS_FOLDER).exists()
