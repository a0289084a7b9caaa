"""The columns of the Parquet log, and the rows that each record becomes.

Columns are added, never renamed or removed: they are null in files of an earlier release that lack them.
"""

import datetime as dt
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from engine.journal.records import (
    AnyRecord,
    DecisionRecord,
    EventRecord,
    ExposureRecord,
    LoggedDecision,
    LoggedRecord,
    RewardRecord,
    candidates_of,
)
from engine.vocabulary import split_item

LogTable = Literal["decisions", "exposures", "events", "rewards", "quarantine"]
TABLES: tuple[LogTable, ...] = get_args(LogTable)
Row = tuple[object, ...]

_TIME = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()
_log = structlog.get_logger(__name__)
_END_OF_TIME = 253_402_300_800.0
_DAY = 86_400_000_000
"""Microseconds."""
_NO_CREATIVE = (None, None, None, None)
_encode_context = msgspec.json.Encoder().encode

SCHEMAS: dict[LogTable, pa.Schema] = {
    "decisions": pa.schema(
        {
            "decision_id": _TEXT,
            "time": _TIME,
            "customer": _TEXT,
            "device": _TEXT,
            "channel": _TEXT,
            "kind": _TEXT,
            "key": _TEXT,
            "variant": _TEXT,
            "reason": _TEXT,
            "propensity": pa.float64(),
            "candidates": pa.list_(_TEXT),
            "context": _TEXT,
            "plan": _TEXT,
            "policy": _TEXT,
            "crossover": pa.bool_(),
            "version": _TEXT,
            "trace": pa.binary(),  # on the first row of a decision only
            "position": pa.int32(),  # from 1, of an item of a list
            "joint": pa.float64(),  # the probability of the list
            "creative": _TEXT,
            "creative_propensity": pa.float64(),  # given the offer; `propensity` is that of both
            "creatives": pa.list_(_TEXT),  # the candidates of the creative
            "creative_policy": _TEXT,
        }
    ),
    "exposures": pa.schema(
        {"decision_id": _TEXT, "time": _TIME, "key": _TEXT, "customer": _TEXT, "position": pa.int32()}
    ),
    "events": pa.schema(
        {
            "message_id": _TEXT,
            "time": _TIME,
            "received": _TIME,
            "customer": _TEXT,
            "event": _TEXT,
            "decision_id": _TEXT,
            "channel": _TEXT,
            "revenue": pa.float64(),
            "properties": _TEXT,
        }
    ),
    "rewards": pa.schema(
        {"decision_id": _TEXT, "key": _TEXT, "reward": pa.float64(), "time": _TIME, "position": pa.int32()}
    ),
    "quarantine": pa.schema({"time": _TIME, "reason": _TEXT, "source": _TEXT, "body": pa.binary()}),
}


def rows_of_record(record: AnyRecord | LoggedRecord) -> tuple[LogTable, str, list[Row]]:
    """A record's table, its partition day and its rows.

    The day is that of the record's time in UTC. An event goes to the day on which it was received, so that a late
    event adds to today's files and not to those of a closed day.

    Raises:
        ValueError: if a time is out of range, or text is not UTF-8.
        msgspec.DecodeError: if the candidates of a decision are no list of text.
    """
    if isinstance(record, LoggedDecision | DecisionRecord):
        time = _microseconds(record.time)
        return "decisions", _day(time // _DAY), _decision_rows(record, time)
    if isinstance(record, EventRecord):
        received = _microseconds(record.received)
        return "events", _day(received // _DAY), [_event_row(record, received)]
    time = _microseconds(record.time)
    day = _day(time // _DAY)
    if isinstance(record, ExposureRecord):
        names = map(split_item, record.keys)
        return "exposures", day, [(record.decision_id, time, key, record.customer, at or None) for key, at in names]
    if isinstance(record, RewardRecord):
        key, at = split_item(record.key)
        return "rewards", day, [(record.decision_id, key, record.reward, time, at or None)]
    return "quarantine", day, [(time, record.reason, record.source, record.body)]


def day_of(time: float) -> str:
    """The UTC day of seconds since 1970, as `YYYY-MM-DD`.

    Raises:
        ValueError: if it is before 1970 or after the year 9999.
    """
    return _day(_microseconds(time) // _DAY)


def as_columns(table: LogTable, rows: list[Row]) -> pa.RecordBatch:
    """Rows as a record batch with every column of the table; a record without any part has no rows."""
    schema = SCHEMAS[table]
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.record_batch(
        [_as_column(field.type, values) for field, values in zip(schema, columns, strict=True)],
        schema=schema,
    )


def _as_column(kind: pa.DataType, values: tuple[object, ...]) -> pa.Array:
    """One column. Lists that rows share (`candidates_of`) are converted once."""
    if not pa.types.is_list(kind):
        return pa.array(values, type=kind)
    places: dict[int, int] = {}
    unlike: list[object] = []
    indices: list[int] = []
    for value in values:
        place = places.setdefault(id(value), len(unlike))
        if place == len(unlike):
            unlike.append(value)
        indices.append(place)
    lists = pa.array(unlike, type=kind)
    return lists if len(unlike) == len(indices) else lists.take(pa.array(indices, pa.int32()))


def write_table(path: Path, table: LogTable, batches: list[pa.RecordBatch]) -> None:
    """Write record batches as one Parquet file."""
    pq.write_table(pa.Table.from_batches(batches, schema=SCHEMAS[table]), path, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
    """The named columns of a file (default: all), limited to rows that match `filters`.

    Columns that an older file lacks are null. Empty where the file was compacted away meanwhile, or is damaged: one
    damaged file does not stop the others.
    """
    schema = SCHEMAS[next(table for table in TABLES if table == path.parent.parent.name)]
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None, schema=schema)
    except FileNotFoundError:
        pass
    except (pa.ArrowException, OSError) as error:
        _log.error("cannot read a file of the log; restore it from a backup", path=str(path), error=str(error))
    return schema.empty_table().select(columns or schema.names)


def copy_files(
    path: Path, table: LogTable, sources: list[Path], change: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None
) -> None:
    """Write the rows of several files of a table into one; `change` may filter or alter each batch.

    Columns that an older file lacks are null.
    """
    schema = SCHEMAS[table]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for source in sources:
            with pq.ParquetFile(source) as file:
                for found in file.iter_batches():
                    writer.write_batch(_conformed(found if change is None else change(found), schema))


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with the schema's columns in order; missing columns are null."""
    return pa.record_batch(
        [
            batch.column(field.name) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ],
        schema=schema,
    )


@functools.lru_cache(maxsize=1024)
def _day(number: int) -> str:
    """The date of a day number since 1970, as `YYYY-MM-DD`."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=number)).isoformat()


def _microseconds(time: float) -> int:
    """Seconds since 1970 as whole microseconds; ValueError if not between 1970 and 9999."""
    if not 0 <= time < _END_OF_TIME:
        raise ValueError(f"time {time} is not between 1970 and 9999 in seconds since 1970")
    return round(time * 1e6)


def _decision_rows(record: DecisionRecord | LoggedDecision, time: int) -> list[Row]:
    """The rows of a decision at `time` (µs); only the first has the trace, the largest part."""
    trace: bytes | None = record.trace or None
    rows: list[Row] = []
    for row in record.rows:
        rows.append(
            (
                record.decision_id,
                time,
                record.customer,
                record.device,
                record.channel,
                row.kind,
                row.key,
                row.variant,
                row.reason,
                row.propensity,
                candidates_of(row),
                _encode_context(row.context).decode() if row.context else "{}",
                record.plan,
                row.policy,
                row.crossover,
                row.version,
                trace,
                row.position or None,
                row.joint if row.position else None,
                *(
                    _NO_CREATIVE
                    if (one := row.creative) is None
                    else (one.key, one.propensity, one.candidates, one.policy)
                ),
            )
        )
        trace = None
    return rows


def _event_row(record: EventRecord, received: int) -> Row:
    """The row of an event; times in microseconds, properties as the JSON text that was received."""
    return (
        record.message_id,
        _microseconds(record.time),
        received,
        record.customer,
        record.event,
        record.decision_id,
        record.channel,
        record.revenue,
        record.properties.decode(),
    )
