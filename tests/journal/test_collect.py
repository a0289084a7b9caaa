"""The Parquet log has the documented columns, and each record once, whatever arrives."""

import asyncio
import datetime as dt
import functools
import os
import shutil
import threading
import time
from pathlib import Path

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest
import time_machine

from engine import keyspace
from engine.erasure.listener import LogErasures
from engine.errors import JournalError, StoreUnavailable
from engine.journal import stream
from engine.journal.log import commit
from engine.journal.log.collect import CollectSummary, collect
from engine.journal.log.compact import compact_due
from engine.journal.log.export import export_rows
from engine.journal.log.parquet import SCHEMAS, TABLES
from engine.journal.records import (
    AnyRecord,
    DecisionRecord,
    DecisionRow,
    EventRecord,
    ExposureRecord,
    QuarantineRecord,
    RewardRecord,
    encode,
)
from engine.journal.spool import ship
from engine.journal.spool.spool import Spool
from engine.settings import Settings

DAY = 86_400.0
NOON = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC).timestamp()
DECISION = DecisionRecord(
    "d-1",
    NOON + 0.123456,
    "u-1",
    None,
    "web",
    "plan-1",
    [
        DecisionRow("experiment", "layout", None, "coverage", 1.0),
        DecisionRow(
            "offer", "hero", "tea", "policy", 0.25, ["tea", "milk"], {"tier": "gold", "hour": 7.0}, "h@1", True
        ),
    ],
    b"\x00trace",
)
NO_CREATIVE = (None, None, None, None)
EVENT = EventRecord("m-1", NOON - DAY, NOON, "u-1", "purchase", "d-1", "store", 12.5, b'{"revenue": 12.5}')


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(data=tmp_path, redis=redis_url, partitions=2)


def answered(settings: Settings, *records: AnyRecord | bytes) -> None:
    own = Spool(settings.spool)
    own.append_many([(record if isinstance(record, bytes) else encode(record), 0) for record in records])
    own.close()


def drain(settings: Settings) -> CollectSummary:
    return collect(settings, LogErasures(), drain=True)


def rows(settings: Settings, table: str) -> list[tuple[object, ...]]:
    found = duckdb.read_parquet(str(settings.log / table / "*/*.parquet"), hive_partitioning=True).to_arrow_table()
    return [tuple(row.values()) for row in found.to_pylist()]


def test_every_record_becomes_its_rows(settings: Settings) -> None:
    answered(
        settings,
        DECISION,
        ExposureRecord("d-1", NOON, "u-1", ["layout", "hero"]),
        EVENT,
        RewardRecord("d-1", "hero", 1.0, NOON),
        QuarantineRecord(NOON, "too old", "events", b"\xff"),
    )
    assert drain(settings) == CollectSummary(
        {"decisions": 2, "exposures": 2, "events": 1, "rewards": 1, "quarantine": 1}, lost=0, waiting=0
    )
    noon, day = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC), dt.date(2026, 11, 1)
    at = noon + dt.timedelta(microseconds=123_456)
    common = ("d-1", at, "u-1", None, "web")
    assert rows(settings, "decisions") == [
        (
            *common,
            "experiment",
            "layout",
            None,
            "coverage",
            1.0,
            [],
            "{}",
            "plan-1",
            None,
            False,
            "",
            b"\x00trace",
            *(None, None),
            *NO_CREATIVE,
            day,
        ),
        (
            *(*common, "offer", "hero", "tea", "policy", 0.25, ["tea", "milk"], '{"tier":"gold","hour":7.0}', "plan-1"),
            *("h@1", True, "", None, None, None, *NO_CREATIVE, day),
        ),
    ]
    assert rows(settings, "exposures") == [
        ("d-1", noon, "layout", "u-1", None, day),
        ("d-1", noon, "hero", "u-1", None, day),
    ]
    assert rows(settings, "events") == [
        ("m-1", noon - dt.timedelta(days=1), noon, "u-1", "purchase", "d-1", "store", 12.5, '{"revenue": 12.5}', day)
    ]
    assert rows(settings, "rewards") == [("d-1", "hero", 1.0, noon, None, day)]
    assert rows(settings, "quarantine") == [(noon, "too old", "events", b"\xff", day)]


def test_files_have_the_contract_s_columns_even_where_all_are_null(settings: Settings) -> None:
    answered(settings, EVENT, EventRecord("m-2", NOON, NOON + DAY, "u-2", "view", None, None, None, b"{}"))
    drain(settings)
    assert len(list((settings.log / "events").glob("day=*"))) == 2
    schema = duckdb.read_parquet(str(settings.log / "events/day=2026-11-02/*.parquet"), hive_partitioning=True)
    assert dict(zip(schema.columns, map(str, schema.types), strict=True)) == {
        **dict.fromkeys(SCHEMAS["events"].names, "VARCHAR"),
        "time": "TIMESTAMP WITH TIME ZONE",
        "received": "TIMESTAMP WITH TIME ZONE",
        "revenue": "DOUBLE",
        "day": "DATE",
    }
    assert TABLES == ("decisions", "exposures", "events", "rewards", "quarantine")


def test_an_unusable_record_is_quarantined_and_stops_nothing(settings: Settings) -> None:
    answered(
        settings,
        b"\xc1 no msgpack",
        ExposureRecord("d-1", float("nan"), "u-1", ["hero"]),
        RewardRecord("d-1", "hero", 1.0, 1e300),
        EventRecord("m-3", -5.0, NOON, "u-1", "view", None, None, None, b"{}"),
        EventRecord("m-4", NOON, NOON, "u-1", "view", None, None, None, b"\xff"),
        DECISION,
    )
    assert drain(settings).rows == {"decisions": 2, "quarantine": 5}
    reasons = [row[1] for row in rows(settings, "quarantine")]
    assert "time nan is not between 1970 and 9999" in str(reasons[1])
    assert all(row[3] for row in rows(settings, "quarantine"))


def test_a_message_id_counts_once_also_after_a_restart(settings: Settings) -> None:
    for _ in range(2):
        answered(settings, EVENT, EVENT)
        drain(settings)
    assert len(rows(settings, "events")) == 1


def test_a_message_id_of_two_customers_counts_for_each(settings: Settings) -> None:
    theirs = msgspec.structs.replace(EVENT, customer="u-2")
    for _ in range(2):
        answered(settings, EVENT, theirs, theirs)
        drain(settings)
    assert [row[3] for row in rows(settings, "events")] == ["u-1", "u-2"]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize("restart", [False, True])
def test_a_message_sent_again_after_a_login_counts_once(
    settings: Settings, order: tuple[int, ...], *, restart: bool
) -> None:
    """Spooled for the visitor, it never reached the profile, so the server accepts it again for the customer."""
    before = msgspec.structs.replace(EVENT, customer="a-1")
    merge = EventRecord(
        "merge:a-1:u-1", NOON, NOON, "u-1", "$merge", None, None, None, b'{"from": "a-1", "into": "u-1"}'
    )
    other = msgspec.structs.replace(EVENT, customer="u-2")
    come = [(before, merge, EVENT)[place] for place in order] + [other]
    for batch in [[one] for one in come] if restart else [come]:
        answered(settings, *batch)
        drain(settings)
    assert sorted(str(row[3]) for row in rows(settings, "events") if row[0] == "m-1")[1:] == ["u-2"]


def test_a_message_from_a_spool_that_was_left_for_days_counts_once(settings: Settings) -> None:
    answered(settings, EVENT)
    (left,) = settings.spool.glob("*[0-9a-f]")
    away = left.rename(settings.data / "away")
    again = msgspec.structs.replace(EVENT, received=NOON + DAY)
    for day in range(1, 5):
        another = msgspec.structs.replace(EVENT, message_id=f"m-{day + 1}", received=NOON + day * DAY)
        answered(settings, *([again] if day == 1 else []), another)
        drain(settings)
    away.rename(left)
    drain(settings)
    assert sorted(str(row[0]) for row in rows(settings, "events")) == ["m-1", "m-2", "m-3", "m-4", "m-5"]


def test_a_decision_asked_for_with_an_idempotency_key_counts_once_also_after_a_restart(settings: Settings) -> None:
    decision_id = f"{'0' * 12}r{'0' * 19}"
    decision = msgspec.structs.replace(DECISION, decision_id=decision_id)
    seen = ExposureRecord(decision_id, NOON, "u-1", ["hero"])
    answered(settings, decision, seen, decision, seen, DECISION, DECISION)
    assert drain(settings).rows == {"decisions": 6, "exposures": 1}
    answered(settings, decision, seen, ExposureRecord(decision_id, NOON, "u-1", ["hero", "layout"]))
    assert drain(settings).rows == {"exposures": 1}


def test_a_prefetched_decision_is_exposed_once_per_key_also_after_a_restart(settings: Settings) -> None:
    decision_id = f"{'0' * 12}p{'0' * 19}"
    answered(
        settings,
        *(ExposureRecord(decision_id, NOON + i, "u-1", keys) for i, keys in enumerate((["a", "a"], ["a"], ["a", "b"]))),
    )
    assert drain(settings).rows == {"exposures": 2}
    answered(settings, ExposureRecord(decision_id, NOON, "u-1", ["b", "c", "c"]))
    assert drain(settings).rows == {"exposures": 1}
    assert [row[2] for row in rows(settings, "exposures")] == ["a", "b", "c"]


def test_a_drain_beside_a_working_collector_waits_for_it(settings: Settings) -> None:
    stop = threading.Event()
    worker = threading.Thread(
        target=collect, args=(settings, LogErasures()), kwargs={"stop": stop, "flush_seconds": 0.3}
    )
    worker.start()
    try:
        while not (settings.log / ".collector.lock").exists():
            pass
        answered(settings, DECISION)
        drain(settings)
        assert len(rows(settings, "decisions")) == 2
        assert not list(settings.spool.glob("*/*"))
    finally:
        stop.set()
        worker.join()


def test_a_stopped_collector_finishes_what_is_in_the_streams(settings: Settings) -> None:
    answered(settings, DECISION)
    drain(settings)
    answered(settings, EVENT)
    asyncio.run(ship.ship_spools(ship.adopt_spools(settings.spool), settings.redis))
    stop = threading.Event()
    stop.set()
    assert collect(settings, LogErasures(), stop=stop).rows == {"events": 1}


def test_a_drain_without_a_store_reports_it(tmp_path: Path) -> None:
    away = Settings(data=tmp_path, redis="redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable, match="nothing is lost"):
        drain(away)


def test_a_commit_is_finished_or_undone_by_the_next_process(settings: Settings) -> None:
    answered(settings, DECISION)
    drain(settings)
    (file,) = (settings.log / "decisions").rglob("*.parquet")
    checkpoint = commit.read_checkpoint(settings.log)
    ((hidden, name),) = checkpoint.publish.items()
    assert settings.log / name == file
    file.rename(settings.log / hidden)  # killed between the checkpoint and the renaming
    stray = file.with_name(".9-0000000009.parquet.tmp")
    stray.touch()  # killed before the checkpoint
    assert commit.recover_log(settings.log) == checkpoint
    assert file.exists()
    assert not stray.exists()
    assert drain(settings).rows == {}


def test_a_failed_commit_changes_nothing(settings: Settings) -> None:
    answered(settings, DECISION)
    drain(settings)
    before = sorted(settings.log.rglob("*.*"))

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        commit.commit_change(
            settings.log, lambda _: commit.LogChange({settings.log / "events/day=2026-11-01/x.parquet": fail})
        )
    assert [path for path in sorted(settings.log.rglob("*.*")) if path.is_file()] == [p for p in before if p.is_file()]


def test_a_file_that_somebody_removes_before_its_commit_is_not_committed(settings: Settings) -> None:
    first, second = (settings.log / "events/day=2026-11-01" / name for name in ("x.parquet", "y.parquet"))

    def tidy(path: Path) -> None:
        for other in path.parent.glob(".*.tmp"):
            other.unlink()
        path.touch()

    with pytest.raises(FileNotFoundError):
        commit.commit_change(settings.log, lambda _: commit.LogChange({first: Path.touch, second: tidy}))
    assert commit.read_checkpoint(settings.log) == commit.Checkpoint()
    assert not list(first.parent.iterdir())


def test_an_unreadable_checkpoint_is_not_overwritten(settings: Settings) -> None:
    settings.log.mkdir(parents=True)
    (settings.log / ".checkpoint.json").write_text("{")
    with pytest.raises(JournalError, match="restore it"):
        drain(settings)


def test_the_streams_are_trimmed_to_what_is_in_the_log(settings: Settings) -> None:
    for number in range(5):
        answered(settings, ExposureRecord(f"d-{number}", NOON, "u", ["k"]))
        drain(settings)
    with stream.connect_stream(settings.redis) as client:
        assert client.xlen(keyspace.partition(0).stream) == 0


def test_a_log_that_is_deleted_under_its_collector_has_one_collector_after(settings: Settings) -> None:
    def logged() -> set[str]:
        files = (settings.log / "exposures").rglob("[!.]*.parquet")
        return {name for file in files for name in pq.read_table(file, partitioning=None)["customer"].to_pylist()}

    def seen(name: str) -> None:
        answered(settings, ExposureRecord(f"d-{name}", NOON, name, ["k"]))
        asyncio.run(ship.ship_spools(ship.adopt_spools(settings.spool), settings.redis))
        deadline = time.monotonic() + 30
        while name not in logged():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    stop = threading.Event()
    start = functools.partial(threading.Thread, target=collect, args=(settings, LogErasures()))
    collectors = [start(kwargs={"stop": stop, "flush_seconds": 0.05}) for _ in range(2)]
    collectors[0].start()
    seen("before")
    shutil.rmtree(settings.log)
    collectors[1].start()
    names = [f"u-{number}" for number in range(5)]
    for name in names:
        seen(name)
    stop.set()
    for one in collectors:
        one.join()
    rows = duckdb.read_parquet(str(settings.log / "exposures/*/*.parquet")).aggregate("customer, count(*)").fetchall()
    assert sorted((who, count) for who, count in rows if who in names) == [(name, 1) for name in names]


def test_a_damaged_file_does_not_stop_the_collector(settings: Settings) -> None:
    answered(settings, DECISION)
    drain(settings)
    (file,) = (settings.log / "decisions").rglob("*.parquet")
    for table in ("decisions", "exposures", "events"):
        damaged = settings.log / table / file.parent.name / "0000000000.parquet"
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(file.read_bytes()[:-100])
    answered(settings, EVENT, ExposureRecord("d-1", NOON, "u-1", ["hero"]))
    assert drain(settings).rows == {"events": 1, "exposures": 1}
    compact_due(settings.log, NOON + 7 * DAY)
    found = export_rows(settings.log, {"u-1"})
    assert {table: len(rows) for table, rows in found.items()} == {"decisions": 2, "exposures": 1, "events": 1}


def test_a_spool_that_was_left_for_weeks_is_not_collected_twice(settings: Settings) -> None:
    answered(settings, DECISION)
    ((shipment, lock),) = adopted = ship.adopt_spools(settings.spool)
    asyncio.run(ship.ship_spools(adopted, settings.redis))
    os.close(lock)  # killed before it removed what was collected
    stop = threading.Event()
    stop.set()
    assert collect(settings, LogErasures(), stop=stop).rows == {"decisions": 2}
    with time_machine.travel(time.time() + 8 * DAY):
        assert drain(settings).rows == {}
    assert not shipment.path.exists()
    answered(settings, EVENT)
    with time_machine.travel(time.time() + 16 * DAY):
        assert drain(settings).rows == {"events": 1}
    assert shipment.path.name not in str(commit.read_checkpoint(settings.log).progress.marks)  # it is gone for good
