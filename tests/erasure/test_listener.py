"""An erasure on one server reaches the learners and logs of other machines through the store alone."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq
import pytest

from engine import embedded
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore
from engine.erasure.learner_files import erase_pending
from engine.erasure.listener import LogEraser, LogErasures, erase_logged
from engine.erasure.profiles import erase_profile
from engine.errors import StoppedError
from engine.hashing import identifier_digest
from engine.journal import stream
from engine.journal.log import commit, locks
from engine.journal.log.collect import collect
from engine.journal.records import ExposureRecord, encode
from engine.journal.spool.spool import Spool
from engine.keyspace import ERASURES
from engine.learn.state import State, state_path
from engine.settings import Settings

NOW = 1_790_000_000.0
COLUMNS = "decision_id, key, selection, customer, partition, arm, propensity, context, time, status, due, exposed"


async def silent(accepted: list[Accepted]) -> None: ...


def erase(url: str, who: str) -> None:
    """As a server does, that has neither log nor learner."""

    async def run() -> None:
        store = ProfileStore.open(url, timeout=10)
        login = Event("identify", f"m-{who}", user_id=who, anonymous_id=f"browser-of-{who}", timestamp=NOW)
        await store.ingest([login], NOW, silent)
        await erase_profile(store, who)
        await store.close()

    asyncio.run(run())


def waiting(data: Path) -> State:
    state = State(state_path(data, None))
    for who in ("gone", "browser-of-gone", "stays"):
        state.db.execute(
            f"INSERT INTO pending ({COLUMNS}, reward, learnt, rewarded, cause, purchase) "
            "VALUES (?, 'k', 's', ?, 0, 'a', 0.5, x'', 1.0, 0, 9e9, 0.0, 0.0, 0.0, 0.0, '', '')",
            [f"d-{who}", who],
        )
    return state


def customers(log: Path) -> set[str]:
    files = (log / "exposures").rglob("*.parquet")
    return {name for file in files for name in pq.read_table(file, partitioning=None)["customer"].to_pylist()}


def test_a_learner_elsewhere_erases_in_its_next_round(redis_url: str, tmp_path: Path) -> None:
    with closing(waiting(tmp_path)) as state, stream.connect_stream(redis_url) as client:
        since = erase_pending(client, tmp_path, stream.BEGINNING)
        assert since == stream.BEGINNING
        erase(redis_url, "gone")
        after = erase_pending(client, tmp_path, since)
        assert state.db.execute("SELECT customer FROM pending").fetchall() == [("stays",)]
        known = {one for (one,) in state.db.execute("SELECT digest FROM erased")}
        assert known >= {identifier_digest("gone"), identifier_digest("browser-of-gone")}
        assert erase_pending(client, tmp_path, after) == after
        assert erase_pending(client, tmp_path, stream.BEGINNING) == after  # as after a restart


def test_a_learner_that_dies_during_an_erasure_repeats_it(redis_url: str, tmp_path: Path) -> None:
    with closing(waiting(tmp_path)) as state, stream.connect_stream(redis_url) as client:
        erase(redis_url, "gone")
        broken = state_path(tmp_path, None).with_name("a.sqlite")
        with closing(sqlite3.connect(broken)) as db:
            db.execute("CREATE TABLE erased (digest TEXT PRIMARY KEY, at REAL NOT NULL)")
        with pytest.raises(sqlite3.OperationalError):
            erase_pending(client, tmp_path, stream.BEGINNING)
        broken.unlink()
        erase_pending(client, tmp_path, stream.BEGINNING)
        assert state.db.execute("SELECT customer FROM pending").fetchall() == [("stays",)]


def test_a_log_elsewhere_erases_and_drops_late_records(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path / "here")

    def seen(number: int, at: float = NOW) -> None:
        spool = Spool(settings.spool, fsync=False)
        records = [ExposureRecord(f"d-{number}-{who}", at, who, ["k"]) for who in ("gone", "browser-of-gone", "stays")]
        spool.append_many([(encode(record), 0) for record in records])
        spool.close()

    seen(1)
    collect(settings, LogErasures(), drain=True)
    assert customers(settings.log) == {"gone", "browser-of-gone", "stays"}
    erase(redis_url, "gone")
    seen(2)  # made before the erasure, and only now on its way
    seen(3, time.time())  # let in while it was going on
    collect(settings, LogErasures(), drain=True)
    assert customers(settings.log) == {"stays"}
    with stream.connect_stream(redis_url) as client:
        assert erase_logged(client, settings.log) == 0


def seen_by(settings: Settings, *names: str) -> None:
    """A file of the log in which each of them saw something."""
    spool = Spool(settings.spool)
    spool.append_many([(encode(ExposureRecord(f"d-{name}", NOW, name, ["k"])), 0) for name in names])
    spool.close()
    collect(settings, LogErasures(), drain=True)


def announce(client: stream.StreamClient, *names: str) -> None:
    for name in names:
        client.xadd(ERASURES, {"at": repr(time.time()), "who": identifier_digest(name)})


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_erasures_share_one_search_and_unaffected_files_stay(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    for names in (("a", "b"), ("c", "stays"), ("stays", "too")):
        seen_by(settings, *names)
    *_, untouched = sorted((settings.log / "exposures").rglob("*.parquet"))
    before = untouched.stat()
    with stream.connect_stream(redis_url) as client:
        announce(client, "a", "b", "c", "nobody")
        assert LogEraser(client, settings.log).step(time.time()) == 3
    assert customers(settings.log) == {"stays", "too"}
    assert (untouched.stat().st_ino, untouched.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not list(settings.log.rglob(".*.tmp"))


class After(threading.Event):
    """Set from the `looks`th look at it on."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_an_interrupted_erasure_loses_no_rows_and_is_repeated(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    for number in range(3):
        seen_by(settings, "gone", f"stays-{number}")
    with stream.connect_stream(redis_url) as client:
        announce(client, "gone")
        for looks in range(8):
            with pytest.raises(StoppedError):
                LogEraser(client, settings.log, After(looks)).step(time.time())
            assert customers(settings.log) >= {"stays-0", "stays-1", "stays-2"}
        erase_logged(client, settings.log)
    assert customers(settings.log) == {"stays-0", "stays-1", "stays-2"}


def test_readers_delay_the_eraser_but_not_the_collector(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    seen_by(settings, "gone", "stays")
    stop = threading.Event()
    collecting = Thread(target=collect, args=(settings, LogErasures()), kwargs={"stop": stop, "flush_seconds": 0.05})
    with stream.connect_stream(redis_url) as client:
        with locks.log_read_lock(settings.log):
            announce(client, "gone")
            collecting.start()
            until(lambda: identifier_digest("gone") in commit.read_checkpoint(settings.log).erased)
            spool = Spool(settings.spool)
            spool.append(encode(ExposureRecord("d-new", NOW, "new", ["k"])), 0)
            spool.close()
            collect(settings, LogErasures(), drain=True)
            assert customers(settings.log) == {"gone", "stays", "new"}
            stop.set()
            collecting.join(30)
            assert not collecting.is_alive()
        assert erase_logged(client, settings.log) == 1
        assert customers(settings.log) == {"stays", "new"}


def written(store: Path) -> bytes:
    """The bytes of the store's files, which the store may rewrite and remove meanwhile."""
    while True:
        with suppress(FileNotFoundError):
            return b"".join(file.read_bytes() for file in store.rglob("*.[ar][od][fb]"))


def test_a_settled_erasure_has_rewritten_the_append_only_file(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "store") as store, stream.connect_stream(store.url) as client:
        settings = Settings(redis=store.url, data=tmp_path)
        seen_by(settings, "gone")
        client.set("profile", "of gone", ex=1000)
        announce(client, "gone")
        client.delete("profile")
        eraser = LogEraser(client, settings.log)
        eraser.step(time.time())  # records of theirs may still arrive in the store
        assert b"gone" in b"".join(file.read_bytes() for file in (tmp_path / "store").rglob("*.aof"))
        assert not (settings.log / ".erasures").exists()
        eraser.step(time.time() + 60)
        assert (settings.log / ".erasures").exists()
        until(lambda: b"gone" not in written(tmp_path / "store"))


def test_a_damaged_file_does_not_stop_an_erasure_in_others(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    seen_by(settings, "gone", "stays")
    damaged = settings.log / "exposures" / "day=2026-09-21" / "0000000000.parquet"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"PAR1 and no more")
    with stream.connect_stream(redis_url) as client:
        announce(client, "gone")
        assert erase_logged(client, settings.log) == 1
