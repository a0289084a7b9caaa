"""The records that the learner adds to the log: kept in its file, then in the stream once, as those of a spool are."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from engine import keyspace
from engine.journal import stream
from engine.journal.records import AnyRecord, encode
from engine.journal.spool import ship
from engine.journal.spool.spool import encode_frame

_SCRIPT = Path(ship.__file__).with_name("ship.lua").read_text(encoding="utf-8")
_BATCH = 2000


class Outbox:
    """Ships what lies in the learner's file under the name `id`; what is in Parquet is dropped from the file."""

    def __init__(self, db: sqlite3.Connection, id_: str) -> None:
        self._db = db
        self._id = id_
        self._shipped: dict[int, int] = {}

    def put(self, records: Iterable[tuple[int, AnyRecord]]) -> None:
        """Add (partition, record)s, within the caller's transaction."""
        rows = [(partition, encode(record)) for partition, record in records]
        self._db.executemany("INSERT INTO outbox (partition, record) VALUES (?, ?)", rows)

    def ship(self, client: stream.StreamClient) -> int:
        """Bring what is not in the stream yet into it; how many records.

        Raises:
            redis.RedisError: if the store does not take them. They are shipped again, once, by the next call.
        """
        moved = 0
        for partition, last in self._db.execute("SELECT partition, max(seq) FROM outbox GROUP BY partition").fetchall():
            if partition not in self._shipped:
                self._shipped[partition] = int(client.hget(keyspace.partition(partition).shipped, self._id) or 0)
            while self._shipped[partition] < last:
                moved += self._step(client, partition)
        return moved

    def drop_collected(self, client: stream.StreamClient) -> None:
        """Forget what the collector has written to Parquet."""
        for partition in tuple(self._shipped):
            collected = client.hget(keyspace.partition(partition).collected, self._id)
            if collected:
                dropped = "DELETE FROM outbox WHERE partition = ? AND seq <= ?"
                self._db.execute(dropped, (partition, int(collected)))

    def _step(self, client: stream.StreamClient, partition: int) -> int:
        before = self._shipped[partition]
        rows = self._db.execute(
            "SELECT seq, record FROM outbox WHERE partition = ? AND seq > ? ORDER BY seq LIMIT ?",
            (partition, before, _BATCH),
        ).fetchall()
        last = rows[-1][0]
        data = b"".join(encode_frame(seq, partition, record) for seq, record in rows)
        names = keyspace.partition(partition)
        there = int(client.eval(_SCRIPT, 2, names.stream, names.shipped, self._id, before, last, data))
        self._shipped[partition] = there
        return len(rows) if there == last else 0
