"""Merges the collector's small files of a day into one file with the same rows."""

import functools
from pathlib import Path

import pyarrow as pa
import structlog

from engine.journal.log import commit, parquet

SMALL = 32 << 20
"""Bytes below which a file is merged."""
_MANY = 64
"""Small files from which a day that is still open is merged."""
_LATE = 3600.0
"""Seconds after midnight for which a day counts as open: late records still arrive."""
_log = structlog.get_logger(__name__)


def compact(log: Path, table: parquet.LogTable, day: str, *, least: int = 2) -> bool:
    """Merge a day's files below `SMALL` bytes if there are at least `least`; returns whether it did.

    It does nothing while a reader holds `locks.log_read_lock`.
    """

    def change(_: commit.Checkpoint) -> commit.LogChange:
        small = [path for path in _files(log, table, day) if path.stat().st_size < SMALL]
        if len(small) < least:
            return commit.LogChange()
        first, last = small[0].stem.partition("-")[0], small[-1].stem.rpartition("-")[2]
        target = small[0].with_name(f"{first}-{last}.parquet")
        return commit.LogChange({target: functools.partial(parquet.copy_files, table=table, sources=small)}, small)

    return commit.commit_change(log, change, wait=False)


def compact_due(log: Path, now: float) -> None:
    """Compact closed days, and an open day with many files. `now` is in seconds since 1970."""
    open_since = parquet.day_of(now - _LATE)
    for table in parquet.TABLES:
        for directory in sorted((log / table).glob("day=*")):
            day = directory.name.removeprefix("day=")
            least = _MANY if day >= open_since else 2
            if sum(path.stat().st_size < SMALL for path in _files(log, table, day)) >= least:
                try:
                    compact(log, table, day, least=least)
                except pa.ArrowException as error:
                    _log.error(
                        "cannot compact a day with a damaged file; restore the file from a backup",
                        table=table,
                        day=day,
                        error=str(error),
                    )


def _files(log: Path, table: parquet.LogTable, day: str) -> list[Path]:
    """A day's files in the order of their commits."""
    return sorted((log / table / f"day={day}").glob("*.parquet"))
