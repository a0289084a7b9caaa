"""The columns of the Parquet log, and the rows that each record becomes.

Columns are only ever added, at the end of meaning: files written by an older version lack them and read as null.
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
    QuarantineRecord,
    RewardRecord,
)

LogTable = Literal["decisions", "exposures", "events", "rewards", "quarantine"]
TABLES: tuple[LogTable, ...] = get_args(LogTable)
Row = tuple[object, ...]

_TIME = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()
_log = structlog.get_logger(__name__)
_END_OF_TIME = 253_402_300_800.0

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
        }
    ),
    "exposures": pa.schema({"decision_id": _TEXT, "time": _TIME, "key": _TEXT, "customer": _TEXT}),
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
    "rewards": pa.schema({"decision_id": _TEXT, "key": _TEXT, "reward": pa.float64(), "time": _TIME}),
    "quarantine": pa.schema({"time": _TIME, "reason": _TEXT, "source": _TEXT, "body": pa.binary()}),
}


def rows_of_record(record: AnyRecord) -> tuple[LogTable, str, list[Row]]:
    """The table of `record`, its partition day and its rows.

    The day is that of the record's time in UTC. An event goes to the day on which it was received, so that a late
    event adds to today's files and not to those of a closed day.

    Raises:
        ValueError: if a time is out of range, or text is not UTF-8.
    """
    match record:
        case DecisionRecord():
            return "decisions", day_of(record.time), _decision_rows(record)
        case ExposureRecord():
            time = _microseconds(record.time)
            exposures: list[Row] = [(record.decision_id, time, key, record.customer) for key in record.keys]
            return "exposures", day_of(record.time), exposures
        case EventRecord():
            return "events", day_of(record.received), [_event_row(record)]
        case RewardRecord():
            reward = (record.decision_id, record.key, record.reward, _microseconds(record.time))
            return "rewards", day_of(record.time), [reward]
        case QuarantineRecord():
            quarantined = (_microseconds(record.time), record.reason, record.source, record.body)
            return "quarantine", day_of(record.time), [quarantined]


def day_of(time: float) -> str:
    """The UTC day of seconds since 1970, as `YYYY-MM-DD`.

    Raises:
        ValueError: if it is before 1970 or after the year 9999.
    """
    return _day(_microseconds(time) // 86_400_000_000)


def as_columns(table: LogTable, rows: list[Row]) -> pa.RecordBatch:
    """Rows as a record batch with every column of the table."""
    schema = SCHEMAS[table]
    return pa.record_batch(
        [pa.array(values, type=field.type) for field, values in zip(schema, zip(*rows, strict=True), strict=True)],
        schema=schema,
    )


def write_table(path: Path, table: LogTable, batches: list[pa.RecordBatch]) -> None:
    """Write record batches as one Parquet file."""
    pq.write_table(pa.Table.from_batches(batches, schema=SCHEMAS[table]), path, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
    """The named columns of a file (all by default), with `filters` some of its rows.

    Empty where the file was compacted away meanwhile, or is damaged: one damaged file does not stop the others.
    """
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    except FileNotFoundError:
        pass
    except (pa.ArrowException, OSError) as error:
        _log.error("cannot read a file of the log; restore it from a backup", path=str(path), error=str(error))
    schema = SCHEMAS[next(table for table in TABLES if table == path.parent.parent.name)]
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
    """A batch with the schema's columns in their order; columns that it lacks are null."""
    return pa.record_batch(
        [
            batch.column(field.name) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
            for field in schema
        ],
        schema=schema,
    )


@functools.lru_cache(maxsize=1024)
def _day(number: int) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=number)).isoformat()


def _microseconds(time: float) -> int:
    """Seconds since 1970 as whole microseconds; ValueError if not between 1970 and 9999."""
    if not 0 <= time < _END_OF_TIME:
        raise ValueError(f"time {time} is not between 1970 and 9999 in seconds since 1970")
    return round(time * 1e6)


def _decision_rows(record: DecisionRecord) -> list[Row]:
    """The rows of a decision; only the first carries the trace, which is the largest part."""
    time = _microseconds(record.time)
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
                row.candidates,
                msgspec.json.encode(row.context).decode() if row.context else "{}",
                record.plan,
                row.policy,
                row.crossover,
                row.version,
                trace,
            )
        )
        trace = None
    return rows


def _event_row(record: EventRecord) -> Row:
    return (
        record.message_id,
        _microseconds(record.time),
        _microseconds(record.received),
        record.customer,
        record.event,
        record.decision_id,
        record.channel,
        record.revenue,
        record.properties.decode(),
    )
