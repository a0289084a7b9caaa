"""Makes few files of many: the collector's small files of a day become one, which holds the same rows."""

import functools
from pathlib import Path

import pyarrow as pa
import structlog

from engine.journal.log import commit, parquet

SMALL = 32 << 20
_MANY = 64
_LATE = 3600.0
_log = structlog.get_logger(__name__)


def compact(log: Path, table: parquet.Table, day: str, *, least: int = 2) -> bool:
    """Merge the files of a table's day that are smaller than `SMALL`, if there are `least`; whether it did.

    It does nothing while somebody is `publish.reading` the log.
    """

    def change(_: commit.Checkpoint) -> commit.Change:
        small = [path for path in _files(log, table, day) if path.stat().st_size < SMALL]
        if len(small) < least:
            return commit.Change()
        first, last = small[0].stem.partition("-")[0], small[-1].stem.rpartition("-")[2]
        target = small[0].with_name(f"{first}-{last}.parquet")
        return commit.Change({target: functools.partial(parquet.copy, table=table, sources=small)}, small)

    return commit.commit(log, change, wait=False)


def compact_due(log: Path, now: float) -> None:
    """Compact the days that are over, and a day with very many files. `now` is in seconds since 1970."""
    open_since = parquet.day_of(now - _LATE)
    for table in parquet.TABLES:
        for directory in sorted((log / table).glob("day=*")):
            day = directory.name.removeprefix("day=")
            least = _MANY if day >= open_since else 2
            if sum(path.stat().st_size < SMALL for path in _files(log, table, day)) >= least:
                try:
                    compact(log, table, day, least=least)
                except pa.ArrowException as error:
                    _log.error("a day with a damaged file stays as it is", table=table, day=day, error=str(error))


def _files(log: Path, table: parquet.Table, day: str) -> list[Path]:
    return sorted((log / table / f"day={day}").glob("*.parquet"))
