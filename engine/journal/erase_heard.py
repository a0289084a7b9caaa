"""Forgets here whoever was erased elsewhere: a server knows neither every learner's files nor where the log is."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.erasures import STREAM, digest
from engine.journal import publish
from engine.journal.erase import erase_customers, remember
from engine.journal.erase_pending import erase_pending
from engine.journal.records import QuarantineRecord, RewardRecord, decode
from engine.journal.stream import BEGINNING, Client, Position

_HEARD = ".erasures"
_PIECE = 1000
_TOLD = "INSERT INTO erased VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)"


def forget_pending(client: Client, data: Path, since: Position) -> Position:
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
                names |= {name for name in _customers(db) if digest(name) in new}
    if names:
        erase_pending(data, names, max(news.values()))
    for path, told in unheard.items():  # last: what a file has heard of is not looked for in it again
        with _open(path) as db:
            db.executemany(_TOLD, told)
    return position


def forget_logged(client: Client, log: Path) -> int:
    """Take out of the log who was erased since this was last called for it; the number of rows removed.

    Killed halfway, it is done again by the next call.

    Raises:
        redis.RedisError: if the store does not answer. Nothing is skipped by calling again.
        OSError: if the disk takes no more.
    """
    place = log / _HEARD
    news, position = _hear(client, place.read_text() if place.is_file() else BEGINNING)
    if not news:
        return 0
    remember(log, news)
    names = {name for name in _logged(log) if digest(name) in news}
    removed = erase_customers(log, names, max(news.values())) if names else 0
    prepared = place.with_suffix(".tmp")
    prepared.write_text(position)
    prepared.replace(place)
    return removed


def _hear(client: Client, since: Position) -> tuple[Mapping[str, float], Position]:
    """When whose digest was erased after `since`, and up to where that is."""
    news: dict[str, float] = {}
    while True:
        pipeline = client.pipeline(transaction=False)
        pipeline.xread({STREAM: since}, count=_PIECE)
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


def _logged(log: Path) -> Iterator[str]:
    """Whom the log names."""
    with publish.reading(log):
        for table, columns in (
            ("decisions", ["customer", "device"]),
            ("exposures", ["customer"]),
            ("events", ["customer"]),
        ):
            for path in sorted((log / table).glob("day=*/*.parquet")):
                found = pq.read_table(path, columns=columns, partitioning=None)
                for column in columns:
                    yield from filter(None, pc.unique(found[column]).to_pylist())
