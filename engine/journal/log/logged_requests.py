"""Reads the requests of logged decisions, so that another plan can decide them again."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from engine.errors import BadInput
from engine.journal import traces
from engine.journal.log import locks

BATCH = 10_000
"""Rows that are decoded at a time."""
MOST_FILES = 200
"""Newest files in which recent decisions are looked for."""


def logged_requests(log: Path) -> Iterator[traces.Trace]:
    """The traces of all decisions in the log, in time order.

    Raises:
        BadInput: if there are none, or they have a format that this release does not read.
    """
    found = False
    if (log / "decisions").is_dir():
        with locks.log_read_lock(log):
            for day in sorted((log / "decisions").glob("day=*")):
                traced = [trace for path in sorted(day.glob("*.parquet")) for trace in _traces(path)]
                found = found or bool(traced)
                yield from sorted(traced, key=lambda trace: trace.now)
    if not found:
        raise BadInput(f"{log}: has no decisions; name the log of a shop that ran, DATA/log")


def latest_requests(log: Path, most: int) -> list[traces.Trace]:
    """Up to `most` traces of decisions in the newest files of the log, in time order.

    They are recent, not exactly the last: of a large file its first rows are read, so that the time is bounded.

    Raises:
        BadInput: if there are none, or they have a format that this release does not read.
    """
    found: list[traces.Trace] = []
    if (log / "decisions").is_dir():
        with locks.log_read_lock(log):
            days = sorted((log / "decisions").glob("day=*"), reverse=True)
            files = (file for day in days for file in sorted(day.glob("*.parquet"), key=_written, reverse=True))
            for file in islice(files, MOST_FILES):
                found += islice(_traces(file), most - len(found))
                if len(found) >= most:
                    break
    if not found:
        raise BadInput(f"{log}: has no decisions yet; they appear a few seconds after the first was answered")
    return sorted(found, key=lambda trace: trace.now)


def _written(file: Path) -> int:
    return file.stat().st_mtime_ns


def _traces(path: Path) -> Iterator[traces.Trace]:
    """The traces in a file; only the first row of each decision has one."""
    for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["trace"]):
        for blob in batch.column("trace").drop_null():
            yield traces.decode_trace(blob.as_py())
