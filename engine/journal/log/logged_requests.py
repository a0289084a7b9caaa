"""The decisions of the log as they were asked for, to be made again by another plan."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from engine.errors import BadInput
from engine.journal import traces
from engine.journal.log import commit


def logged_requests(log: Path) -> Iterator[traces.Trace]:
    """The traces of all decisions in the log, in the order of their times.

    Raises:
        BadInput: if there are none, or they have a format that this release does not read.
    """
    found = False
    if (log / "decisions").is_dir():
        with commit.log_read_lock(log):
            for day in sorted((log / "decisions").glob("day=*")):
                traced = [trace for path in sorted(day.glob("*.parquet")) for trace in _traces(path)]
                found = found or bool(traced)
                yield from sorted(traced, key=lambda trace: trace.now)
    if not found:
        raise BadInput(f"{log}: has no decisions; name the log of a shop that ran, DATA/log")


def _traces(path: Path) -> Iterator[traces.Trace]:
    """The traces in a file; only the first row of each decision has one."""
    for batch in pq.ParquetFile(path).iter_batches(columns=["trace"]):
        for blob in batch.column("trace").drop_null():
            yield traces.decode_trace(blob.as_py())
