"""Each customer's events, from the Parquet log and from streams that are not collected yet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import pyarrow as pa
from redis.exceptions import RedisError

from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.merged_customers import create_merged_customers
from engine.errors import StoreUnavailable
from engine.journal.log import commit, locks, parquet
from engine.journal.records import EventRecord
from engine.journal.uncollected import uncollected_records
from engine.vocabulary import MERGED

ROWS = 10_000
"""Rows that are in memory at once, and those of one customer."""
_STREAMED = """
CREATE TEMP TABLE happened AS SELECT message_id, time, received, customer, event, properties FROM uncollected
"""
_LOGGED = """
INSERT INTO happened SELECT message_id, time, received, customer, event, properties
FROM read_parquet($1, union_by_name = true, hive_partitioning = false)
"""
_MERGES = """
(SELECT properties ->> '$.from' AS old, properties ->> '$.into' AS target, received
    FROM happened WHERE event = '$merge')
"""
_BY_CUSTOMER = """
SELECT coalesce(became.customer, happened.customer) AS person, message_id, epoch_us(time), epoch_us(received), event,
    CASE WHEN list_contains($1, event) THEN properties END
FROM happened LEFT JOIN {became} AS became
    ON happened.customer = became.old AND happened.received <= became.until
WHERE event <> $2 {only}
ORDER BY person, received, time, message_id
"""
_properties = msgspec.json.Decoder(dict[str, object]).decode


class LoggedEvent(NamedTuple):
    """One event of a customer; times in seconds since 1970. `properties` is None if no trait reads the event."""

    message_id: str
    time: float
    received: float
    event: str
    properties: dict[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """A log's folder, and the address of the store with the streams; empty for the log alone."""

    folder: Path
    redis: str = ""

    def by_customer(
        self, events: Sequence[str], customers: Sequence[str] = ()
    ) -> Iterator[tuple[str, list[LoggedEvent]]]:
        """Yield each customer (of `customers`, or all) with their events as they arrived, merges applied.

        The properties of `events` are read, of others only that they were counted.

        Raises:
            StoreUnavailable: if the store does not answer.
        """
        source = DuckDB()
        with locks.log_read_lock(self.folder):
            source.connection.register("uncollected", self._uncollected())
            source.connection.execute(_STREAMED)
            if next((self.folder / "events").glob("**/*.parquet"), None) is not None:
                source.connection.execute(_LOGGED, [f"{escape(str(self.folder / 'events'))}/**/*.parquet"])
        became = create_merged_customers(source, self.folder, _MERGES)
        only = "AND list_contains($3, person)" if customers else ""
        nobody = "(SELECT NULL::VARCHAR AS old, NULL::TIMESTAMPTZ AS until, NULL::VARCHAR AS customer)"
        cursor = source.connection.execute(
            _BY_CUSTOMER.format(became=became or nobody, only=only),
            [list(events), MERGED, *([list(customers)] if customers else [])],
        )
        rows = iter(lambda: cursor.fetchmany(ROWS), [])
        for person, theirs in groupby((row for batch in rows for row in batch), key=lambda row: row[0]):
            if person:
                yield str(person), [_event(*row[1:]) for row in theirs]

    def _uncollected(self) -> pa.Table:
        """The events in the streams that the log does not have."""
        rows: list[parquet.Row] = []
        if self.redis:
            collected = commit.read_checkpoint(self.folder).progress.positions
            try:
                for record in uncollected_records(self.redis, collected):
                    if isinstance(record, EventRecord):
                        rows += parquet.rows_of_record(record)[2]
            except RedisError as error:
                raise StoreUnavailable(f"Redis: {error}; is it up?") from error
        if not rows:
            return parquet.SCHEMAS["events"].empty_table()
        return pa.Table.from_batches([parquet.as_columns("events", rows)])


def _event(message_id: object, time: object, received: object, event: object, properties: object) -> LoggedEvent:
    return LoggedEvent(
        message_id=str(message_id),
        time=cast("int", time) / 1e6,
        received=cast("int", received) / 1e6,
        event=str(event),
        properties=_properties(properties) if isinstance(properties, str) else None,
    )
