"""Ships the records that the learner adds to the log, from its file through the stream into Parquet.

The learner is one more spool of the stream, named by the `id` of its file:

    put             stored in table `outbox` with the next `seq`, in the transaction that learnt from their cause
    ship            appended to the stream by the script of the spools, which appends only what follows the last
                    shipped `seq`; a call that failed halfway is repeated without duplicates
    drop_collected  deleted from the file once the collector has written them to Parquet

A record is in the file until it is in Parquet, so a store that loses its streams loses none of them.
"""

import math
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from engine import keyspace
from engine.journal import stream
from engine.journal.records import AnyRecord, EventRecord, LearnerRecord, QuarantineRecord, encode
from engine.journal.spool import ship
from engine.journal.spool.frames import encode_frame
from engine.journal.stream import LEARNER

_SCRIPT = Path(ship.__file__).with_name("ship.lua").read_text(encoding="utf-8")
_encode = msgspec.msgpack.Encoder().encode
_MOST_RECORDS = 2000
"""Records in one call of the script, which blocks the store while it runs."""


FAILED = "failed"
"""What the reason of a record begins with that the learner cannot process."""
FailedRecord = tuple[int, LearnerRecord, str]
"""The partition of a record, itself, and the kind of the error that it causes."""


def quarantine_failed(failed: FailedRecord) -> tuple[int, QuarantineRecord]:
    """The quarantine record of a record on which the learner always fails, in its partition."""
    partition, record, error = failed
    time = record.received if isinstance(record, EventRecord) else record.time
    is_time = math.isfinite(time) and time >= 0
    body = _encode(record)
    return partition, QuarantineRecord(time if is_time else 0.0, f"{FAILED}: {error}", LEARNER, body)


class Outbox:
    """Ships the records in the learner's file under the spool name `id`."""

    def __init__(self, db: sqlite3.Connection, id_: str) -> None:
        self._db = db
        self._id = id_
        self._shipped: dict[int, int] = {}

    def put(self, records: Iterable[tuple[int, AnyRecord]]) -> None:
        """Add records with their partitions, within the caller's transaction."""
        rows = [(partition, encode(record)) for partition, record in records]
        self._db.executemany("INSERT INTO outbox (partition, record) VALUES (?, ?)", rows)

    def ship(self, client: stream.StreamClient) -> int:
        """Append to the stream the records that it lacks; returns their number.

        Raises:
            redis.RedisError: if the store does not answer; the next call continues where this one ended.
        """
        moved = 0
        for partition, last in self._db.execute("SELECT partition, max(seq) FROM outbox GROUP BY partition").fetchall():
            if partition not in self._shipped:
                self._shipped[partition] = int(client.hget(keyspace.partition(partition).shipped, self._id) or 0)
            while self._shipped[partition] < last:
                moved += self._ship_piece(client, partition)
        return moved

    def drop_collected(self, client: stream.StreamClient) -> None:
        """Delete the records that the collector has written to Parquet."""
        for partition in tuple(self._shipped):
            collected = client.hget(keyspace.partition(partition).collected, self._id)
            if collected:
                statement = "DELETE FROM outbox WHERE partition = ? AND seq <= ?"
                self._db.execute(statement, (partition, int(collected)))

    def _ship_piece(self, client: stream.StreamClient, partition: int) -> int:
        """Append one piece of a partition; 0 if another process shipped it, whose position is then adopted."""
        before = self._shipped[partition]
        rows = self._db.execute(
            "SELECT seq, record FROM outbox WHERE partition = ? AND seq > ? ORDER BY seq LIMIT ?",
            (partition, before, _MOST_RECORDS),
        ).fetchall()
        last = rows[-1][0]
        data = b"".join(encode_frame(seq, partition, record) for seq, record in rows)
        names = keyspace.partition(partition)
        shipped = int(client.eval(_SCRIPT, 2, names.stream, names.shipped, self._id, before, last, data))
        self._shipped[partition] = shipped
        return len(rows) if shipped == last else 0
