"""Who is erased at a server is forgotten by learners and logs of other machines, which know nothing but the store."""

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
from engine.erasure.listener import Forgetter, LogErasures, forget_logged, forget_pending
from engine.erasure.profiles import erase_profile
from engine.errors import StoppedError
from engine.hashing import identifier_digest
from engine.journal import stream
from engine.journal.log import commit
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


def test_a_learner_elsewhere_forgets_in_its_next_round(redis_url: str, tmp_path: Path) -> None:
    with closing(waiting(tmp_path)) as state, stream.connect_stream(redis_url) as client:
        since = forget_pending(client, tmp_path, stream.BEGINNING)
        assert since == stream.BEGINNING
        erase(redis_url, "gone")
        after = forget_pending(client, tmp_path, since)
        assert state.db.execute("SELECT customer FROM pending").fetchall() == [("stays",)]
        known = {one for (one,) in state.db.execute("SELECT digest FROM erased")}
        assert known >= {identifier_digest("gone"), identifier_digest("browser-of-gone")}
        assert forget_pending(client, tmp_path, after) == after
        assert forget_pending(client, tmp_path, stream.BEGINNING) == after  # as after a restart


def test_a_learner_that_ends_halfway_through_forgets_when_it_is_back(redis_url: str, tmp_path: Path) -> None:
    with closing(waiting(tmp_path)) as state, stream.connect_stream(redis_url) as client:
        erase(redis_url, "gone")
        broken = state_path(tmp_path, None).with_name("a.sqlite")
        with closing(sqlite3.connect(broken)) as db:
            db.execute("CREATE TABLE erased (digest TEXT PRIMARY KEY, at REAL NOT NULL)")
        with pytest.raises(sqlite3.OperationalError):
            forget_pending(client, tmp_path, stream.BEGINNING)
        broken.unlink()
        forget_pending(client, tmp_path, stream.BEGINNING)
        assert state.db.execute("SELECT customer FROM pending").fetchall() == [("stays",)]


def test_a_log_elsewhere_forgets_and_takes_in_nothing_more(redis_url: str, tmp_path: Path) -> None:
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
        assert forget_logged(client, settings.log) == 0


def seen_by(settings: Settings, *names: str) -> None:
    """A file of the log in which each of them saw something."""
    spool = Spool(settings.spool)
    spool.append_many([(encode(ExposureRecord(f"d-{name}", NOW, name, ["k"])), 0) for name in names])
    spool.close()
    collect(settings, LogErasures(), drain=True)


def told(client: stream.StreamClient, *names: str) -> None:
    for name in names:
        client.xadd(ERASURES, {"at": repr(time.time()), "who": identifier_digest(name)})


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_all_that_wait_are_forgotten_together_and_files_of_others_stay(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    for names in (("a", "b"), ("c", "stays"), ("stays", "too")):
        seen_by(settings, *names)
    *_, untouched = sorted((settings.log / "exposures").rglob("*.parquet"))
    before = untouched.stat()
    with stream.connect_stream(redis_url) as client:
        told(client, "a", "b", "c", "nobody")
        assert Forgetter(client, settings.log).step(time.time()) == 3
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


def test_an_end_halfway_loses_nothing_and_the_next_finishes(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    for number in range(3):
        seen_by(settings, "gone", f"stays-{number}")
    with stream.connect_stream(redis_url) as client:
        told(client, "gone")
        for looks in range(8):
            with pytest.raises(StoppedError):
                Forgetter(client, settings.log, After(looks)).step(time.time())
            assert customers(settings.log) >= {"stays-0", "stays-1", "stays-2"}
        forget_logged(client, settings.log)
    assert customers(settings.log) == {"stays-0", "stays-1", "stays-2"}


def test_readers_keep_the_eraser_waiting_and_not_the_collector(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    seen_by(settings, "gone", "stays")
    stop = threading.Event()
    collecting = Thread(target=collect, args=(settings, LogErasures()), kwargs={"stop": stop, "flush_seconds": 0.05})
    with stream.connect_stream(redis_url) as client:
        with commit.log_read_lock(settings.log):
            told(client, "gone")
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
        assert forget_logged(client, settings.log) == 1
        assert customers(settings.log) == {"stays", "new"}


def written(store: Path) -> bytes:
    """What the files of the store hold; they are written anew and removed beside this."""
    while True:
        with suppress(FileNotFoundError):
            return b"".join(file.read_bytes() for file in store.rglob("*.[ar][od][fb]"))


def test_at_last_the_file_of_the_store_has_nothing_of_them(tmp_path: Path) -> None:
    with embedded.running(tmp_path / "store") as store, stream.connect_stream(store.url) as client:
        settings = Settings(redis=store.url, data=tmp_path)
        seen_by(settings, "gone")
        client.set("profile", "of gone", ex=1000)
        told(client, "gone")
        client.delete("profile")
        forgetter = Forgetter(client, settings.log)
        forgetter.step(time.time())  # the store may still get something of them
        assert b"gone" in b"".join(file.read_bytes() for file in (tmp_path / "store").rglob("*.aof"))
        assert not (settings.log / ".erasures").exists()
        forgetter.step(time.time() + 60)
        assert (settings.log / ".erasures").exists()
        until(lambda: b"gone" not in written(tmp_path / "store"))


def test_a_damaged_file_keeps_nobody_else_from_being_forgotten(redis_url: str, tmp_path: Path) -> None:
    settings = Settings(redis=redis_url, data=tmp_path)
    seen_by(settings, "gone", "stays")
    damaged = settings.log / "exposures" / "day=2026-09-21" / "0000000000.parquet"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"PAR1 and no more")
    with stream.connect_stream(redis_url) as client:
        told(client, "gone")
        assert forget_logged(client, settings.log) == 1
