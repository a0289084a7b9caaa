"""Compaction loses no row, erasure loses no row of others, and no file disappears while it is read."""

import datetime as dt
from pathlib import Path

import duckdb
import msgspec
import pytest

from engine.erasure.listener import LogErasures
from engine.erasure.log import erase_from_log
from engine.journal.log import commit, locks
from engine.journal.log.collect import collect
from engine.journal.log.compact import compact, compact_due
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
from engine.journal.spool.spool import Spool
from engine.settings import Settings

NOON = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC).timestamp()
LATER = NOON + 86_400


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(data=tmp_path, redis=redis_url, partitions=2)


def collected(settings: Settings, *records: AnyRecord) -> None:
    own = Spool(settings.spool)
    own.append_many([(encode(record), 0) for record in records])
    own.close()
    collect(settings, LogErasures(), drain=True)


def of_customer(name: str, time: float = NOON, device: str | None = None) -> list[AnyRecord]:
    rows = [DecisionRow("offer", "hero", "tea", "policy", 0.5, ["tea", "milk"])]
    return [
        DecisionRecord(f"d-{name}-{time}", time, name, device, "web", "p", rows),
        ExposureRecord(f"d-{name}-{time}", time, name, ["hero"]),
        EventRecord(f"m-{name}-{time}", time, time, name, "view", None, None, None, b"{}"),
        RewardRecord(f"d-{name}-{time}", "hero", 1.0, time),
        QuarantineRecord(time, "odd", "events", name.encode()),
    ]


def counts(log: Path) -> dict[str, int]:
    return {
        table: len(duckdb.read_parquet(str(log / table / "*/*.parquet")).select("*").to_arrow_table())
        for table in ("decisions", "exposures", "events", "rewards", "quarantine")
        if list((log / table).rglob("*.parquet"))
    }


def content(log: Path, table: str) -> list[dict[str, object]]:
    found = duckdb.read_parquet(str(log / table / "*/*.parquet"), hive_partitioning=True).to_arrow_table().to_pylist()
    return sorted(found, key=str)


def test_compaction_keeps_every_row_in_one_file(settings: Settings) -> None:
    for number in range(4):
        collected(settings, *of_customer(f"u-{number}"))
    before = content(settings.log, "decisions")
    assert compact(settings.log, "decisions", "2026-11-01")
    (first,) = settings.log.glob("decisions/*/*")
    assert content(settings.log, "decisions") == before
    assert not compact(settings.log, "decisions", "2026-11-01")
    collected(settings, *of_customer("u-9"))
    assert compact(settings.log, "decisions", "2026-11-01")
    (second,) = settings.log.glob("decisions/*/*")
    assert second.stem.partition("-")[0] == first.stem.partition("-")[0]
    assert second.stem > first.stem
    assert len(content(settings.log, "decisions")) == 5


def test_only_closed_days_are_compacted_at_once(settings: Settings) -> None:
    for time in (NOON, LATER):
        for number in range(2):
            collected(settings, *of_customer(f"u-{number}", time))
    compact_due(settings.log, LATER)
    assert len(list(settings.log.glob("events/day=2026-11-01/*"))) == 1
    assert len(list(settings.log.glob("events/day=2026-11-02/*"))) == 2


def test_compaction_waits_for_readers(settings: Settings) -> None:
    for number in range(2):
        collected(settings, *of_customer(f"u-{number}"))
    with locks.log_read_lock(settings.log), locks.log_read_lock(settings.log):
        assert not compact(settings.log, "events", "2026-11-01")
        collected(settings, *of_customer("u-2"))
    assert len(list(settings.log.glob("events/*/*"))) == 3
    assert not list(settings.log.rglob("*.tmp"))


def test_an_unfinished_compaction_is_finished_by_the_next_process(settings: Settings) -> None:
    for number in range(2):
        collected(settings, *of_customer(f"u-{number}"))
    small = {path: path.read_bytes() for path in settings.log.glob("events/*/*")}
    compact(settings.log, "events", "2026-11-01")
    (merged,) = settings.log.glob("events/*/*")
    ((hidden, _),) = commit.read_checkpoint(settings.log).publish.items()
    merged.rename(settings.log / hidden)
    for path, data in small.items():
        path.write_bytes(data)
    commit.recover_log(settings.log)
    assert list(settings.log.glob("events/*/*")) == [merged]


def test_an_erased_customer_is_in_no_table(settings: Settings) -> None:
    for name in ("u-1", "u-2", "u-3"):
        collected(settings, *of_customer(name), *of_customer(name, LATER))
    assert erase_from_log(settings.log, {"u-1", "u-3"}, LATER + 1) == 20
    assert counts(settings.log) == {"decisions": 2, "exposures": 2, "events": 2, "rewards": 2, "quarantine": 2}
    for path in settings.log.rglob("*"):
        if path.is_file() and path.stat().st_size:
            found = path.read_bytes()
            assert b"u-1" not in found
            assert b"u-3" not in found
    assert erase_from_log(settings.log, {"u-1"}, LATER + 2) == 0


def test_records_in_flight_at_the_erasure_are_dropped(settings: Settings) -> None:
    collected(settings, *of_customer("u-2"))
    erase_from_log(settings.log, {"u-1", "phone"}, LATER)
    collected(settings, *of_customer("u-1"), *of_customer("u-1", LATER + 5), *of_customer("u-3", device="phone"))
    assert {row["customer"] for row in content(settings.log, "exposures")} == {"u-1", "u-2", "u-3"}
    assert [(row["customer"], row["decision_id"], row["device"]) for row in content(settings.log, "decisions")] == [
        ("u-1", f"d-u-1-{LATER + 5}", None),
        ("u-2", f"d-u-2-{NOON}", None),
        ("u-3", f"d-u-3-{NOON}", None),  # who used the device too is not erased
    ]


def test_others_on_an_erased_device_stay_without_its_name(settings: Settings) -> None:
    before = [msgspec.structs.replace(of_customer(who, device="tablet")[0], trace=b"on tablet") for who in ("a", "b")]
    reward = RewardRecord(f"d-b-{NOON}", "hero", 1.0, NOON)
    collected(settings, *before, *of_customer("b", LATER, device="till"), reward)
    assert erase_from_log(settings.log, {"a", "tablet"}, LATER + 1) == 1
    assert [(row["customer"], row["device"], row["trace"]) for row in content(settings.log, "decisions")] == [
        ("b", None, None),
        ("b", "till", None),
    ]
    assert len(content(settings.log, "rewards")) == 2
    assert not [path for path in settings.log.rglob("decisions/*/*") if b"tablet" in path.read_bytes()]
    assert erase_from_log(settings.log, {"a", "tablet"}, LATER + 2) == 0
