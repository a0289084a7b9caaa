"""Entries of a stream that are no records are quarantined once each, and hold nothing up."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine import keyspace
from engine.erasure.listener import LogErasures
from engine.journal import stream
from engine.journal.log.collect import collect
from engine.journal.records import ExposureRecord, encode
from engine.journal.spool.spool import Spool
from engine.settings import Settings

BROKEN: list[dict[str, Any]] = [
    {"x": "y"},
    {"s": b"spool", "p": 0, "f": b"no frames at all"},
    {"s": b"spool", "p": b"9" * 40, "f": b""},
    {"s": b"spool", "p": -1, "f": b""},
    {"s": b"\xff", "p": 0, "f": b""},
]


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return Settings(data=tmp_path, redis=redis_url, partitions=2)


def answer(settings: Settings, *ids: str) -> None:
    spool = Spool(settings.spool)
    spool.append_many([(encode(ExposureRecord(id_, 1e9, "u-1", ["hero"])), 0) for id_ in ids])
    spool.close()


def add_broken(settings: Settings, count: int) -> None:
    with stream.connect_stream(settings.redis) as client:
        for n in range(count):
            client.xadd(keyspace.partition(0).stream, BROKEN[n % len(BROKEN)])


def rows(settings: Settings) -> Counter[str]:
    return Counter(
        {
            table: sum(pq.ParquetFile(path).metadata.num_rows for path in settings.log.glob(f"{table}/*/*.parquet"))
            for table in ("exposures", "quarantine")
        }
    )


def test_broken_entries_are_quarantined_once_and_a_drain_ends(settings: Settings) -> None:
    answer(settings, "d-1", "d-2")
    collect(settings, LogErasures(), drain=True)
    add_broken(settings, 40)
    for _ in range(2):
        collect(settings, LogErasures(), drain=True)
        assert rows(settings) == {"exposures": 2, "quarantine": 40}
    answer(settings, "d-3")
    collect(settings, LogErasures(), drain=True)
    assert rows(settings) == {"exposures": 3, "quarantine": 40}


def test_a_collector_that_runs_does_not_read_them_again(settings: Settings) -> None:
    answer(settings, "d-1")
    collect(settings, LogErasures(), drain=True)
    stop = threading.Event()
    arguments = {"stop": stop, "flush_seconds": 0.05}
    thread = threading.Thread(target=collect, args=(settings, LogErasures()), kwargs=arguments)
    thread.start()
    add_broken(settings, 40)
    deadline = time.monotonic() + 30
    while rows(settings)["quarantine"] < 40 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # some dozens of reads
    stop.set()
    thread.join()
    assert rows(settings) == {"exposures": 1, "quarantine": 40}


def test_a_stream_that_the_store_lost_is_still_read_from_its_start(settings: Settings) -> None:
    answer(settings, "d-1")
    collect(settings, LogErasures(), drain=True)
    with stream.connect_stream(settings.redis) as client:
        reader = stream.Reader(client, "probe", stream.Progress(), partitions=2)
        client.xadd(keyspace.partition(0).stream, BROKEN[0], id="9999999999999-0")
        while reader.read():
            pass
        client.delete(keyspace.partition(0).stream, keyspace.partition(0).shipped)
        reader.read()
        client.xadd(keyspace.partition(0).stream, BROKEN[0], id="5-0")
        assert [delivery.position for delivery in reader.read()] == ["5-0"]
