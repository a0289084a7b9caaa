"""Partial statistics of the log by day: a report reads new or changed days, and stored statistics of the rest.

On disk, in `LOG/.partials/<layout>/`:

| file | content |
|---|---|
| `<table>.json` | the blocks of a table: file, and for each of its days the digest of the log's files |
| `<table>-<id>.parquet` | a block: the rows of one or more days, with the column `day` |

A day whose files changed (late rows, compaction, erasure) has another digest: its rows are left out wherever they are
stored, and made again. A block is written to a draft and renamed; the list names it only then. Blocks that no day is
valid in are deleted, and many small ones become one. It is a cache: delete the folder at any time. Erasure does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.sources.duckdb_expressions import identifier, text_literal, with_added_columns
from engine.errors import BadInput
from engine.settings import PARTIALS_FOLDER

if TYPE_CHECKING:
    from engine.analysis.sources.engines import DuckDB

LAYOUT: Final = 7
"""The version of the tables' meaning; tables of another one are not read."""
ITEM_TABLES: Final = frozenset(("decisions", "exposures"))
"""Tables of the log with a row per item of a list."""
MOST_BLOCKS: Final = 12
ABANDONED: Final = 3600.0
"""Seconds after which a file that no list names belongs to no report that runs."""
Fill = Callable[[Mapping[str, str]], str]
"""SQL of a table's rows with a `day`, over the SQL of each of the log's tables that it reads."""


class Block(msgspec.Struct, frozen=True):
    """A stored file, the digest of each valid day in it, and its number of days including stale ones."""

    file: str
    days: dict[str, str]
    held: int


@dataclass(frozen=True, kw_only=True)
class DailyTable:
    """A table of partial statistics, with the log tables that it reads day by day.

    One that depends on the order of events has the days `ahead` that it reads beside each day (see `daily.ordered`).
    """

    name: str
    reads: tuple[str, ...]
    sql: Fill
    ahead: int = 0


class DailyStore:
    """The partial statistics of one log."""

    def __init__(self, engine: DuckDB, log_dir: Path) -> None:
        self._engine = engine
        self._log = log_dir
        self.folder = log_dir / PARTIALS_FOLDER / str(LAYOUT)

    def is_usable(self) -> bool:
        """Whether the log is stored by day and its folder is writable."""
        if not self._log.is_dir() or not os.access(self._log, os.W_OK):
            return False
        folders = [one for table in ("events", "decisions", "exposures") for one in self._list(table)]
        return bool(folders) and all(one.startswith("day=") for one in folders)

    def read(self, table: DailyTable) -> str:
        """SQL of a table's rows of all days, after computing the missing days.

        Raises:
            BadInput: if the log cannot be read.
        """
        return self.read_days(table.name, self.digests(table), lambda missing: table.sql(self._sources(table, missing)))

    def read_days(self, name: str, wanted: Mapping[str, str], make: Callable[[list[str]], str]) -> str:
        """SQL of the rows of the days `wanted`, each stored under its digest or computed by SQL of `make`.

        Raises:
            BadInput: if the log cannot be read.
        """
        blocks = [one for one in self._read_list(name) if (self.folder / one.file).exists()]
        kept = [(one, [day for day, digest in one.days.items() if wanted.get(day) == digest]) for one in blocks]
        stored = {day for _, days in kept for day in days}
        missing = [day for day in wanted if day not in stored]
        if missing:
            fresh = self.write(name, make(missing))
            kept.append((Block(fresh, {day: wanted[day] for day in missing}, len(missing)), missing))
        kept = [(one, days) for one, days in kept if days]
        if len(kept) > MOST_BLOCKS:
            merged = self.write(name, self._union(kept))
            kept = [(Block(merged, dict(wanted), len(wanted)), list(wanted))]
        changed = [one.file for one, _ in kept] != [one.file for one in blocks]
        if changed:
            self._write_list(
                name, [Block(one.file, {day: one.days[day] for day in days}, one.held) for one, days in kept]
            )
            self._sweep(name, {one.file for one in blocks} - {one.file for one, _ in kept})
        return self._union(kept)

    def _sweep(self, name: str, dropped: set[str]) -> None:
        """Delete blocks that are no longer listed, and old ones replaced by another report's list."""
        listed = {one.file for one in self._read_list(name)}
        for path in [*self.folder.glob(f"{name}-*.parquet"), *self.folder.glob(f".{name}-*.parquet")]:
            with contextlib.suppress(FileNotFoundError):
                is_old = time.time() - path.stat().st_mtime > ABANDONED
                if path.name not in listed and (is_old or path.name in dropped):
                    path.unlink()

    def _union(self, kept: list[tuple[Block, list[str]]]) -> str:
        parts = []
        for one, days in kept:
            file = text_literal(str(self.folder / one.file))
            listed = "" if len(days) == one.held else f" WHERE day IN ({', '.join(map(text_literal, days))})"
            parts.append(f"SELECT * FROM read_parquet({file}){listed}")  # nosec B608
        return " UNION ALL BY NAME ".join(parts)

    def _list(self, table: str) -> list[str]:
        folder = self._log / table
        return sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []

    def _files(self, table: str, day: str) -> list[Path]:
        return sorted(self._log.joinpath(table, f"day={day}").glob("*.parquet"))

    def states(self, table: str, day: str) -> list[tuple[str, int, int]]:
        """The files of a day of the log with their sizes and times of change."""
        return [
            (str(path.relative_to(self._log)), stat.st_size, stat.st_mtime_ns)
            for path in self._files(table, day)
            for stat in (path.stat(),)
        ]

    def digests(self, table: DailyTable) -> dict[str, str]:
        """The digest of the files of each day: names, sizes, times of change."""
        found: dict[str, str] = {}
        for day in sorted({name.removeprefix("day=") for read in table.reads for name in self._list(read)}):
            states = [state for read in table.reads for state in self.states(read, day)]
            if states:
                found[day] = hashlib.sha256(msgspec.json.encode(states)).hexdigest()[:24]
        return found

    def _sources(self, table: DailyTable, days: list[str]) -> dict[str, str]:
        """SQL of the rows of some days for each table that is read; times in microseconds."""
        return {read: self.source(read, days) for read in table.reads}

    def source(self, read: str, days: list[str]) -> str:
        """SQL of the rows of some days of a table of the log; times in microseconds, empty without a file."""
        files = [text_literal(str(path)) for day in days for path in self._files(read, day)]
        if not files:
            return ""
        listed = f"read_parquet([{', '.join(files)}], union_by_name = true, hive_partitioning = true)"
        return (
            "(SELECT * REPLACE (epoch_us(time) AS time, CAST(day AS VARCHAR) AS day) "
            f"FROM {with_added_columns(listed, read) if read in ITEM_TABLES else listed})"  # nosec B608
        )

    def write(self, name: str, sql: str) -> str:
        """Store the rows of SQL; the name of the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = f"{name}-{uuid.uuid4().hex[:12]}.parquet"
        draft = self.folder / f".{file}"
        self._engine.run(f"COPY ({sql}) TO {text_literal(str(draft))} (FORMAT parquet, COMPRESSION zstd)")
        draft.rename(self.folder / file)
        return file

    def _read_list(self, name: str) -> list[Block]:
        try:
            return msgspec.json.decode((self.folder / f"{name}.json").read_bytes(), type=list[Block])
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return []

    def _write_list(self, name: str, blocks: list[Block]) -> None:
        draft = self.folder / f".{name}.{os.getpid()}"
        draft.write_bytes(msgspec.json.encode(blocks))
        draft.replace(self.folder / f"{name}.json")


def has_files(log_dir: Path, table: str) -> bool:
    """Whether a table of a log has a file; the folder of a day may be empty."""
    return next((log_dir / table).glob("**/*.parquet"), None) is not None


def load_daily(engine: DuckDB, read: Callable[[], str], *, select: str, place: str) -> None:
    """Load what `read` stores into the temporary table `place`; `select` is SQL with `{rows}`.

    A block that vanished meanwhile, since customers were erased, is made again.
    """
    statement = f"CREATE OR REPLACE TEMP TABLE {identifier(place)} AS "
    try:
        engine.run(statement + select.replace("{rows}", f"({read()})"))
    except BadInput:
        engine.run(statement + select.replace("{rows}", f"({read()})"))
