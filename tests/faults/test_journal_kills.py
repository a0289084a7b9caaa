"""Whichever process is killed at whatever instant, every answered decision is in the log exactly once."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import redis

from engine import embedded
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import CollectSummary, collect
from engine.settings import Settings
from tests.verbs import forked_script

SCRIPT = Path(__file__).with_name("journal_process.py")
KILLS = 20


@contextmanager
def process(role: str, data: Path, url: str, name: str = "") -> Iterator[None]:
    with forked_script(SCRIPT, role, str(data), url, name) as (_, printed):
        assert printed.readline() == b"ready\n"
        yield


def drain(data: Path, url: str) -> CollectSummary:
    return collect(Settings(data=data, redis=url, partitions=3), LogErasures(), drain=True)


def check(data: Path, kills: int) -> None:
    answered = (data / "answered").read_text().split()
    log = data / "log"
    decisions = duckdb.read_parquet(str(log / "decisions/*/*.parquet"))
    logged: dict[str, int] = dict(
        decisions.filter("kind = 'offer'").aggregate("decision_id, count(*)", "decision_id").fetchall()
    )
    assert len(answered) > 100
    assert set(answered) <= set(logged)
    assert set(logged.values()) == {1}
    # A batch of at most seven may have been kept and its process killed before it could answer.
    assert len(logged) - len(answered) <= 7 * kills
    assert decisions.aggregate("count(trace)").fetchall() == [(len(logged),)]
    sent = duckdb.read_parquet(str(log / "events/*/*.parquet"))
    ((events, messages),) = sent.aggregate("count(*), count(distinct message_id)").fetchall()
    assert events == messages >= sum(int(name.rpartition("-")[2]) % 5 == 0 for name in answered)
    assert not list(log.glob("quarantine/*/*"))
    assert not list(log.rglob("*.tmp"))


def test_a_worker_killed_twenty_times(tmp_path: Path, redis_url: str) -> None:
    chance = random.Random(20)
    for kill in range(KILLS):
        with process("writer", tmp_path, redis_url, f"w{kill}"):
            time.sleep(chance.uniform(0.0, 0.2))
    summary = drain(tmp_path, redis_url)
    assert (summary.lost, summary.waiting) == (0, 0)
    check(tmp_path, KILLS)
    assert [path for path in (tmp_path / "spool").iterdir() if path.is_dir()] == []


def test_a_collector_killed_twenty_times(tmp_path: Path, redis_url: str) -> None:
    chance = random.Random(21)
    with process("writer", tmp_path, redis_url, "w"):
        for _ in range(KILLS):
            with process("collector", tmp_path, redis_url):
                time.sleep(chance.uniform(0.02, 0.3))
    summary = drain(tmp_path, redis_url)
    assert (summary.lost, summary.waiting) == (0, 0)
    check(tmp_path, 1)


def test_a_compactor_killed_beside_a_collector(tmp_path: Path, redis_url: str) -> None:
    chance = random.Random(23)
    with process("writer", tmp_path, redis_url, "w"), process("collector", tmp_path, redis_url):
        for _ in range(KILLS // 2):
            with process("compactor", tmp_path, redis_url):
                time.sleep(chance.uniform(0.01, 0.2))
    drain(tmp_path, redis_url)
    check(tmp_path, 1)


def test_a_store_killed_and_restarted_on_its_file(tmp_path: Path) -> None:
    chance = random.Random(22)
    store = embedded.start(tmp_path / "valkey")
    with process("writer", tmp_path, store.url, "w"), process("collector", tmp_path, store.url):
        for _ in range(5):
            time.sleep(chance.uniform(0.05, 0.6))
            os.kill(store.process.pid, signal.SIGKILL)
            store.process.wait()
            time.sleep(chance.uniform(0.0, 0.2))
            store = embedded.start(tmp_path / "valkey", port=store.port)
        time.sleep(0.5)
    drain(tmp_path, store.url)
    check(tmp_path, 1)
    store.stop()


def test_a_store_that_lost_its_last_entries_gets_them_again(tmp_path: Path) -> None:
    store = embedded.start(tmp_path / "valkey")
    with process("writer", tmp_path, store.url, "w"):
        with process("collector", tmp_path, store.url):
            time.sleep(0.5)
        os.kill(store.process.pid, signal.SIGKILL)
        store.process.wait()
        (file,) = (tmp_path / "valkey" / "appendonlydir").glob("*.incr.aof")
        with file.open("r+b") as tail:
            tail.truncate(file.stat().st_size * 2 // 3)
        store = embedded.start(tmp_path / "valkey", port=store.port)
        time.sleep(0.5)
    assert drain(tmp_path, store.url).lost == 0
    check(tmp_path, 1)
    store.stop()


def test_a_store_that_lost_everything_gets_what_is_still_in_the_spools(tmp_path: Path, redis_url: str) -> None:
    with process("writer", tmp_path, redis_url, "w"):
        with process("collector", tmp_path, redis_url):
            time.sleep(0.5)
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        time.sleep(0.3)
    drain(tmp_path, redis_url)
    check(tmp_path, 1)
