"""Reads customers' records that are in the streams but not in the Parquet log yet."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import cast

import msgspec
from redis.exceptions import RedisError

from engine import keyspace
from engine.errors import StoreUnavailable
from engine.journal import stream
from engine.journal.records import DecisionRecord, EventRecord, ExposureRecord, decode
from engine.journal.spool.frames import decode_frames

CustomerRecord = DecisionRecord | ExposureRecord | EventRecord
_Entry = tuple[bytes, dict[bytes, bytes]]
_PIECE = 256
_CLOCKS_APART = 60.0
"""Seconds by which the clock of a server may be ahead of the store's."""


def uncollected_records(redis: str, collected: Mapping[int, stream.Position]) -> Iterator[CustomerRecord]:
    """The records after the collector's position.

    Args:
        redis: the store's address.
        collected: per partition the position that the log has on disk, which may be ahead of the store's.

    Raises:
        redis.RedisError: if the store does not answer.
    """
    with stream.connect_stream(redis) as client:
        for partition in sorted(int(one) for one in client.smembers(keyspace.PARTITIONS)):
            names = keyspace.partition(partition)
            committed = client.hget(names.positions, "collector")
            known = (collected.get(partition, stream.BEGINNING), committed.decode() if committed else stream.BEGINNING)
            yield from _records_after(client, names.stream, max(known, key=stream.position_key))


def find_streamed_decision(client: stream.StreamClient, decision_id: str, time: float) -> DecisionRecord | None:
    """The record of a decision made at `time` (s since 1970), if the streams still have it; else None.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    before = f"{max(round((time - _CLOCKS_APART) * 1e3), 0)}-0"
    try:
        for partition in sorted(int(one) for one in client.smembers(keyspace.PARTITIONS)):
            for record in _records_after(client, keyspace.partition(partition).stream, before):
                if isinstance(record, DecisionRecord) and record.decision_id == decision_id:
                    return record
    except RedisError as error:
        raise StoreUnavailable(f"Redis: {error}; is it up?") from error
    return None


def _records_after(client: stream.StreamClient, name: str, position: stream.Position) -> Iterator[CustomerRecord]:
    # redis-py types answers as text too: this client decodes none.
    while entries := cast("list[_Entry]", client.xrange(name, min=f"({position}", count=_PIECE)):
        position = entries[-1][0].decode()
        for _, fields in entries:
            yield from _of_customers(fields.get(b"f", b""))


def _of_customers(data: bytes) -> Iterator[CustomerRecord]:
    """The records of an entry's frames that belong to a customer."""
    for frame in decode_frames(data):
        with suppress(msgspec.MsgspecError):  # the collector quarantines it
            record = decode(frame.payload)
            if isinstance(record, DecisionRecord | ExposureRecord | EventRecord):
                yield record
