"""Forgets here whoever was erased elsewhere: a server knows neither every learner's files nor where the log is."""

import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pyarrow.compute as pc
import structlog
from redis import Redis, RedisCluster
from redis.exceptions import RedisError, ResponseError

from engine.erasure.learner_files import erase_pending
from engine.erasure.log import FileId, files_of, id_of, remember, remove
from engine.errors import JournalError, StoppedError
from engine.hashing import identifier_digest
from engine.journal import stream
from engine.journal.log import parquet
from engine.journal.log.parquet import Table
from engine.journal.log_once import LogOnce
from engine.journal.records import QuarantineRecord, RewardRecord, decode
from engine.journal.stream import BEGINNING, Position, StreamClient
from engine.keyspace import ERASURES

_HEARD = ".erasures"
_PIECE = 1000
_SLACK = 5.0
_STEP_SECONDS = 2.0
_OTHERS = 1_000_000  # names that are known to be of others, so that they are not digested for every file
_NAMING: dict[Table, list[str]] = {
    "decisions": ["customer", "device"],
    "exposures": ["customer"],
    "events": ["customer"],
}
_log = structlog.get_logger(__name__)
_TOLD = "INSERT INTO erased VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)"


def forget_pending(client: StreamClient, data: Path, since: Position) -> Position:
    """Take out of the learners' files under `data` who was erased after `since`; up to where that is now.

    Raises:
        redis.RedisError: if the store does not answer. Nothing is skipped by calling again.
    """
    news, position = _hear(client, since)
    unheard: dict[Path, list[tuple[str, float]]] = {}
    names: set[str] = set()
    for path in sorted((data / "learn").glob("*.sqlite")) if news else ():
        with _open(path) as db:
            known: dict[str, float] = dict(db.execute("SELECT digest, at FROM erased"))
            new = {one: at for one, at in news.items() if at > known.get(one, 0.0)}
            if new:
                unheard[path] = list(new.items())
                names |= {name for name in _customers(db) if identifier_digest(name) in new}
    if names:
        erase_pending(data, names, max(news.values()))
    for path, told in unheard.items():  # last: what a file has heard of is not looked for in it again
        with _open(path) as db:
            db.executemany(_TOLD, told)
    return position


def forget_logged(client: StreamClient, log: Path) -> int:
    """Take out of the log who was erased since this was last finished for it; the number of rows removed.

    Killed halfway, it is done again by the next call.

    Raises:
        redis.RedisError: if the store does not answer. Nothing is skipped by calling again.
        OSError: if the disk takes no more.
    """
    return Forgetter(client, log).step(time.time())


class Forgetter:
    """Takes the erased out of the log, and at last out of the file that the store keeps its writes in.

    `step` it again and again; all that were erased since the last time are looked for together.
    """

    def __init__(self, client: StreamClient, log: Path, stop: Event | None = None) -> None:
        self._client = client
        self._log = log
        self._stop = stop
        self._place = log / _HEARD
        self._heard = self._place.read_text() if self._place.is_file() else BEGINNING
        self._settles: list[tuple[float, Position]] = []

    def step(self, now: float) -> int:
        """Look for who was erased since the last step; the number of rows removed. `now` is in seconds since 1970.

        Raises:
            redis.RedisError: if the store does not answer. Nothing is skipped by calling again.
            OSError: if the disk takes no more.
            StoppedError: if it was told to stop before the end.
        """
        news, position = _hear(self._client, self._heard)
        removed = 0
        if news:
            remember(self._log, news)
            names, free = _logged(self._log, news, self._stop)
            removed = remove(self._log, names, free, self._stop) if names else 0
            self._heard = position
            self._settles.append((max(news.values()), position))
        self._settle(now)
        return removed

    def _settle(self, now: float) -> None:
        """Of whom the store has nothing left its file has nothing either, once it is written anew; then it is done."""
        settled = [one for one in self._settles if one[0] + _SLACK < now]
        if not settled:
            return
        if stream.has_entries_before(self._client, max(at for at, _ in settled)) or not _written_anew(self._client):
            return
        prepared = self._place.with_suffix(".tmp")
        prepared.write_text(settled[-1][1])
        prepared.replace(self._place)
        self._settles = [one for one in self._settles if one not in settled]


def _written_anew(client: StreamClient) -> bool:
    """Whether every node of the store that keeps its writes in a file begins it anew, or cannot be told to."""
    for node in _nodes(client):
        if not node.info("persistence").get("aof_enabled"):
            continue
        try:
            node.bgrewriteaof()
        except ResponseError as error:
            if "in progress" in str(error):
                return False
            _log.warning("the store's append-only file keeps who was erased until it is written anew", error=str(error))
    return True


def _nodes(client: StreamClient) -> Iterator[Redis]:
    if isinstance(client, RedisCluster):
        yield from (node.redis_connection for node in client.nodes_manager.nodes_cache.values())
    else:
        yield client


def _hear(client: StreamClient, since: Position) -> tuple[Mapping[str, float], Position]:
    """When whose digest was erased after `since`, and up to where that is."""
    news: dict[str, float] = {}
    while True:
        pipeline = client.pipeline(transaction=False)
        pipeline.xread({ERASURES: since}, count=_PIECE)
        (answer,) = pipeline.execute()
        if not answer:
            return news, since
        for entry, said in answer[0][1]:
            since = entry.decode()
            news |= dict.fromkeys(said[b"who"].decode().split(), float(said[b"at"]))


def _open(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None, timeout=30.0))


def _customers(db: sqlite3.Connection) -> Iterator[str]:
    """Whom a learner's file names, in whatever table."""
    columns = "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = ?"
    for (table,) in db.execute(columns, ["customer"]).fetchall():
        yield from (name for (name,) in db.execute(f"SELECT DISTINCT customer FROM {table}"))  # noqa: S608 (its own)
    for (table,) in db.execute(columns, ["record"]).fetchall():
        for (payload,) in db.execute(f"SELECT record FROM {table}"):  # noqa: S608 (its own)
            record = decode(payload)
            if not isinstance(record, RewardRecord | QuarantineRecord):
                yield record.customer


def _logged(log: Path, news: Collection[str], stop: Event | None) -> tuple[set[str], set[FileId]]:
    """Whom of these digests the log names, and the files that name none of them."""
    names: set[str] = set()
    free: set[FileId] = set()
    others: set[int] = set()
    for table, columns in _NAMING.items():
        for path in files_of(log, table, (), stop):
            this, found = id_of(path), parquet.read_table(path, columns)
            given = {name for column in columns for name in pc.unique(found[column]).to_pylist() if name is not None}
            here = set()
            for name in given:
                if hash(name) not in others:
                    if identifier_digest(name) in news:
                        here.add(name)
                    elif len(others) < _OTHERS:
                        others.add(hash(name))
            names |= here
            if this is not None and not here:
                free.add(this)
    return names, free


class LogErasures:
    """The collector's `ErasureTask`."""

    @contextmanager
    def running(self, client: StreamClient, log: Path) -> Iterator[None]:
        """Delete the rows of erased customers, in a thread of its own, for as long as the block lasts."""
        done = threading.Event()

        def run() -> None:
            forgetter = Forgetter(client, log, done)
            outage = LogOnce(
                "erased customers wait to be looked for in the log", "erased customers are looked for again"
            )
            while not done.wait(_STEP_SECONDS):
                try:
                    forgetter.step(time.time())
                    outage.over()
                except StoppedError:
                    return
                except (RedisError, OSError, JournalError) as error:
                    outage.failed(error)

        thread = threading.Thread(target=run, name="forgetting")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def finish(self, client: StreamClient, log: Path) -> int:
        """Delete the rows of everybody erased so far, as `forget_logged`."""
        return forget_logged(client, log)
