"""Exports a person's rows: from the Parquet log, and from the streams that are not collected yet."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pyarrow.compute as pc
from redis.exceptions import RedisError

from engine import keyspace
from engine.errors import StoreUnavailable
from engine.journal import stream
from engine.journal.log import commit, parquet
from engine.journal.log.parquet import LogTable
from engine.journal.records import DecisionRecord, EventRecord, ExposureRecord, decode
from engine.journal.spool import spool

CustomerRecord = DecisionRecord | ExposureRecord | EventRecord
CUSTOMER_TABLES: tuple[LogTable, ...] = ("decisions", "exposures", "events")
UNREADABLE = {"trace"}
_PIECE = 256


def export_rows(log: Path, ids: set[str], redis: str = "") -> dict[str, list[dict[str, object]]]:
    """The rows of the customers `ids`, by table, oldest day first; times as RFC 3339.

    With the store's address `redis` also the records in its streams that are not collected yet.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    found: dict[str, list[dict[str, object]]] = {table: [] for table in CUSTOMER_TABLES}
    collected: dict[int, stream.Position] = {}
    if log.is_dir():
        with commit.log_read_lock(log):
            collected = commit.read_checkpoint(log).progress.positions
            for table in CUSTOMER_TABLES:
                for file in sorted((log / table).glob("day=*/*.parquet")):
                    read = parquet.read_table(file, filters=pc.field("customer").isin(sorted(ids)))
                    found[table] += [_plain(row) for row in read.to_pylist()]
    try:
        for record in _uncollected(redis, collected) if redis else ():
            if record.customer in ids:
                table, _, rows = parquet.rows_of_record(record)
                found[table] += [_plain(row) for row in parquet.as_columns(table, rows).to_pylist()]
    except RedisError as error:
        raise StoreUnavailable(f"Redis: {error}; is it up?") from error
    return found


def _uncollected(redis: str, collected: dict[int, stream.Position]) -> Iterator[CustomerRecord]:
    """Records in the streams that are not in the log yet."""
    with stream.connect_stream(redis) as client:
        for partition in sorted(int(one) for one in client.smembers(keyspace.PARTITIONS)):
            names = keyspace.partition(partition)
            committed = client.hget(names.positions, "collector")
            known = (collected.get(partition, stream.BEGINNING), committed.decode() if committed else stream.BEGINNING)
            position = max(known, key=stream.position_key)
            while entries := client.xrange(names.stream, min=f"({position}", count=_PIECE):
                position = entries[-1][0].decode()
                for _, fields in entries:
                    yield from _of_customers(fields.get(b"f", b""))


def _of_customers(data: bytes) -> Iterator[CustomerRecord]:
    """The records in an entry's frames that belong to a customer."""
    for frame in spool.decode_frames(data):
        with suppress(msgspec.MsgspecError):  # the collector quarantines it
            record = decode(frame.payload)
            if isinstance(record, DecisionRecord | ExposureRecord | EventRecord):
                yield record


def _plain(row: dict[str, object]) -> dict[str, object]:
    """A row for JSON: times as text, without the columns that only Counterpoint reads."""
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in row.items()
        if name not in UNREADABLE
    }
