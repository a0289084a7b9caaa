"""The layout of the log on disk: its number, and the steps from earlier ones.

| layout | is |
|---|---|
| 1 | files have the columns of the version that wrote them; readers fill in the others as null |
| 2 | every file has every column of `parquet.SCHEMAS`, so that any reader of Parquet sees one schema |

The checkpoint has the number (`commit.Checkpoint.layout`); a version refuses the log of a later one. A step replaces
files by commits, so it may be killed, is repeated without harm, and runs beside a collector.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from engine.journal.log import commit, parquet


class OutdatedFile(msgspec.Struct, frozen=True):
    """A file that lacks columns of its table, and its bytes."""

    path: str
    missing: list[str]
    size: int


def outdated_files(log: Path) -> Iterator[OutdatedFile]:
    """The files that lack columns of their tables; their footers are read."""
    for table in parquet.TABLES:
        for path in sorted(log.glob(f"{table}/day=*/*.parquet")):
            try:
                missing = [name for name in parquet.SCHEMAS[table].names if name not in pq.read_schema(path).names]
            except FileNotFoundError:
                continue  # compacted meanwhile
            if missing:
                yield OutdatedFile(path.relative_to(log).as_posix(), missing, path.stat().st_size)


def migrate_log(log: Path) -> int:
    """Write the outdated files again with every column, and note the layout; returns how many.

    Waits for readers of the log, a file at a time.

    Raises:
        OSError: if the disk is full. What was written stays, and the next run goes on.
    """
    written = 0
    for one in list(outdated_files(log)):
        path = log / one.path
        table = next(table for table in parquet.TABLES if table == path.parent.parent.name)

        def change(_: commit.Checkpoint, path: Path = path, table: parquet.LogTable = table) -> commit.LogChange:
            if not path.exists():
                return commit.LogChange()
            return commit.LogChange({path: functools.partial(parquet.copy_files, table=table, sources=[path])})

        written += commit.commit_change(log, change)
    commit.commit_change(
        log,
        lambda before: commit.LogChange() if before.layout == commit.LAYOUT else commit.LogChange(layout=commit.LAYOUT),
    )
    return written
