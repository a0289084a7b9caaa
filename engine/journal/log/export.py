"""Exports a person's rows from the Parquet log, and from streams that are not collected yet."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
from redis.exceptions import RedisError

from engine.errors import StoreUnavailable
from engine.journal import stream
from engine.journal.log import commit, locks, parquet
from engine.journal.log.parquet import LogTable
from engine.journal.uncollected import uncollected_records

CUSTOMER_TABLES: tuple[LogTable, ...] = ("decisions", "exposures", "events")
UNREADABLE = {"trace"}


def export_rows(log: Path, ids: set[str], redis: str = "") -> dict[str, list[dict[str, object]]]:
    """The rows of the customers `ids`, by table, oldest day first; times as RFC 3339.

    With the store's address `redis` also the records in its streams that are not collected yet.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    found = _empty_tables()
    collected: dict[int, stream.Position] = {}
    if log.is_dir():
        with locks.log_read_lock(log):
            collected = commit.read_checkpoint(log).progress.positions
            for table in CUSTOMER_TABLES:
                found[table] += _rows_of_files((log / table).glob("day=*/*.parquet"), ids)
    _add_uncollected(found, ids, redis, collected)
    return found


class RecentRows(NamedTuple):
    """A customer's newest rows by table; `since` is the oldest day read, empty if the whole log was read."""

    rows: dict[str, list[dict[str, object]]]
    since: str


def recent_rows(log: Path, ids: set[str], redis: str, *, seconds: float, traced: bool = False) -> RecentRows:
    """Exports as `export_rows` does, newest days first, until all are read or `seconds` have passed.

    A day is read whole. With `traced` the decisions have their traces, as bytes.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    found = _empty_tables()
    collected: dict[int, stream.Position] = {}
    since, end = "", time.monotonic() + seconds
    if log.is_dir():
        with locks.log_read_lock(log):
            collected = commit.read_checkpoint(log).progress.positions
            days = sorted({path.name for table in CUSTOMER_TABLES for path in (log / table).glob("day=*")})
            for day in reversed(days):
                if time.monotonic() > end:
                    break
                since = day.removeprefix("day=")
                for table in CUSTOMER_TABLES:
                    found[table] += _rows_of_files((log / table / day).glob("*.parquet"), ids, traced=traced)
            if days and since == days[0].removeprefix("day="):
                since = ""
    _add_uncollected(found, ids, redis, collected, traced=traced)
    return RecentRows(found, since)


def _empty_tables() -> dict[str, list[dict[str, object]]]:
    return {table: [] for table in CUSTOMER_TABLES}


def _rows_of_files(files: Iterable[Path], ids: set[str], *, traced: bool = False) -> Iterator[dict[str, object]]:
    """The customer's rows of Parquet files, in the order of their names."""
    for file in sorted(files):
        read = parquet.read_table(file, filters=pc.field("customer").isin(sorted(ids)))
        yield from (_plain(row, traced=traced) for row in read.to_pylist())


def _add_uncollected(
    found: dict[str, list[dict[str, object]]],
    ids: set[str],
    redis: str,
    collected: dict[int, stream.Position],
    *,
    traced: bool = False,
) -> None:
    """Add the customer's records in the streams that are not in the log.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    try:
        for record in uncollected_records(redis, collected) if redis else ():
            if record.customer in ids:
                table, _, rows = parquet.rows_of_record(record)
                found[table] += [_plain(row, traced=traced) for row in parquet.as_columns(table, rows).to_pylist()]
    except RedisError as error:
        raise StoreUnavailable(f"Redis: {error}; is it up?") from error


def _plain(row: dict[str, object], *, traced: bool = False) -> dict[str, object]:
    """A row for JSON: times as text, without columns that only Counterpoint reads unless `traced`."""
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in row.items()
        if traced or name not in UNREADABLE
    }
