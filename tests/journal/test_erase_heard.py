"""Who is erased at a server is forgotten by learners and logs of other machines, which know nothing but the store."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.erasures import digest
from engine.journal import stream
from engine.journal.collect import collect
from engine.journal.erase_heard import forget_logged, forget_pending
from engine.journal.records import ExposureRecord, encode
from engine.journal.spool import Spool
from engine.learn.state import State, path_of
from engine.profiles.events import Accepted, Event
from engine.profiles.store import ProfileStore
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
        await store.erase(who)
        await store.close()

    asyncio.run(run())


def waiting(data: Path) -> State:
    state = State(path_of(data, None))
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
    with closing(waiting(tmp_path)) as state, stream.connect(redis_url) as client:
        since = forget_pending(client, tmp_path, stream.BEGINNING)
        assert since == stream.BEGINNING
        erase(redis_url, "gone")
        after = forget_pending(client, tmp_path, since)
        assert state.db.execute("SELECT customer FROM pending").fetchall() == [("stays",)]
        known = {one for (one,) in state.db.execute("SELECT digest FROM erased")}
        assert known >= {digest("gone"), digest("browser-of-gone")}
        assert forget_pending(client, tmp_path, after) == after
        assert forget_pending(client, tmp_path, stream.BEGINNING) == after  # as after a restart


def test_a_learner_that_ends_halfway_through_forgets_when_it_is_back(redis_url: str, tmp_path: Path) -> None:
    with closing(waiting(tmp_path)) as state, stream.connect(redis_url) as client:
        erase(redis_url, "gone")
        broken = path_of(tmp_path, None).with_name("a.sqlite")
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
    collect(settings, drain=True)
    assert customers(settings.log) == {"gone", "browser-of-gone", "stays"}
    erase(redis_url, "gone")
    seen(2)  # made before the erasure, and only now on its way
    seen(3, time.time())  # let in while it was going on
    collect(settings, drain=True)
    assert customers(settings.log) == {"stays"}
    with stream.connect(redis_url) as client:
        assert forget_logged(client, settings.log) == 0
