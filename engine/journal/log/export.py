"""What the log holds of a person, and the streams on the way there, handed out."""

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
from engine.journal.log.parquet import Table
from engine.journal.records import DecisionRecord, EventRecord, ExposureRecord, decode
from engine.journal.spool import spool

OfACustomer = DecisionRecord | ExposureRecord | EventRecord
OF_A_CUSTOMER: tuple[Table, ...] = ("decisions", "exposures", "events")
UNREADABLE = {"trace"}
_PIECE = 256


def rows_of(log: Path, ids: set[str], redis: str = "") -> dict[str, list[dict[str, object]]]:
    """The rows of the customers `ids`, by table, oldest day first; times as RFC 3339.

    With the store's address `redis` also what waits in its streams to be collected.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    found: dict[str, list[dict[str, object]]] = {table: [] for table in OF_A_CUSTOMER}
    collected: dict[int, stream.Position] = {}
    if log.is_dir():
        with commit.reading(log):
            collected = commit.load(log).progress.positions
            for table in OF_A_CUSTOMER:
                for file in sorted((log / table).glob("day=*/*.parquet")):
                    read = parquet.read(file, filters=pc.field("customer").isin(sorted(ids)))
                    found[table] += [_plain(row) for row in read.to_pylist()]
    try:
        for record in _on_their_way(redis, collected) if redis else ():
            if record.customer in ids:
                table, _, rows = parquet.rows_of(record)
                found[table] += [_plain(row) for row in parquet.columns(table, rows).to_pylist()]
    except RedisError as error:
        raise StoreUnavailable(f"Redis: {error}; is it up?") from error
    return found


def _on_their_way(redis: str, collected: dict[int, stream.Position]) -> Iterator[OfACustomer]:
    """The records of customers in the streams that are not in the log yet."""
    with stream.connect(redis) as client:
        for partition in sorted(int(one) for one in client.smembers(keyspace.PARTITIONS)):
            names = keyspace.partition(partition)
            told = client.hget(names.positions, "collector")
            known = (collected.get(partition, stream.BEGINNING), told.decode() if told else stream.BEGINNING)
            position = max(known, key=stream.order)
            while entries := client.xrange(names.stream, min=f"({position}", count=_PIECE):
                position = entries[-1][0].decode()
                for _, fields in entries:
                    yield from _of_customers(fields.get(b"f", b""))


def _of_customers(data: bytes) -> Iterator[OfACustomer]:
    for frame in spool.decode_frames(data):
        with suppress(msgspec.MsgspecError):  # the collector keeps it aside
            record = decode(frame.payload)
            if isinstance(record, DecisionRecord | ExposureRecord | EventRecord):
                yield record


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in row.items()
        if name not in UNREADABLE
    }
