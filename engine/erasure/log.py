"""State *log rewritten*: no file of the Parquet log has a row of the erased customers, and none will.

First the checkpoint gets the customers' digests, so the collector drops rows that are still in flight. Then each file
with rows of theirs is copied without them, beside the collector, and each copy is a commit of its own: no commit waits
for a second file. Other customers' rows made on an erased customer's device stay and lose `device` and `trace`.
"""

import functools
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from pathlib import Path
from threading import Event

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import StoppedError
from engine.hashing import identifier_digest
from engine.journal.log import commit, parquet
from engine.journal.log.erased_rows import without_device
from engine.journal.log.parquet import LogTable
from engine.keyspace import ERASURES_LIFE
from engine.settings import PARTIALS_FOLDER

RowMask = Callable[[pa.RecordBatch | pa.Table], pa.Array]
"""Rows to a boolean for each: true where the row stays."""
FileId = tuple[str, int, int]
"""Path, inode and modification time (ns): what distinguishes a file from its replacement of the same name."""
PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds before a commit is retried that a reader of the log prevented: the first pause, and the longest."""


def erase_from_log(log: Path, ids: Collection[str], now: float) -> int:
    """Delete all rows of the customers `ids`; drop those made before `now` (s since 1970) that arrive later.

    The rewards of their decisions are deleted with them, and quarantined records in which one of the ids occurs. Other
    customers' rows are in the log at every moment. If it is interrupted, call it again.

    Returns:
        The number of rows deleted.
    """
    record_erased(log, {identifier_digest(identifier): now for identifier in ids})
    return delete_rows(log, ids)


def delete_partials(log: Path) -> None:
    """Delete reports' daily statistics, which name customers; the next report computes them again."""
    shutil.rmtree(log / PARTIALS_FOLDER, ignore_errors=True)


def delete_rows(log: Path, ids: Collection[str], unaffected: Container[FileId] = (), stop: Event | None = None) -> int:
    """Delete the rows of `ids` from the log's files, except those known to be `unaffected`.

    Returns:
        The number of rows deleted.

    Raises:
        StoppedError: if `stop` was set before the end.
    """
    decisions: set[str] = set()
    for path in files_to_search(log, "decisions", unaffected, stop):
        rows = parquet.read_table(path, ["decision_id", "customer"])
        erased = rows.filter(pc.invert(_rows_of_others(rows, "decisions", ids, ())))
        decisions.update(erased["decision_id"].to_pylist())
    deleted = 0
    # A reward names its decision, not its customer: delete rewards first, while the decisions still say whose they are.
    for table in reversed(parquet.TABLES):
        stays = functools.partial(_rows_of_others, table=table, ids=ids, decisions=decisions)
        if table != "rewards" or decisions:
            deleted += sum(
                _FileEraser(log, table, path, ids, stays).rewrite(stop)
                for path in files_to_search(log, table, unaffected, stop)
            )
    if deleted:
        delete_partials(log)
    return deleted


def files_to_search(log: Path, table: LogTable, unaffected: Container[FileId], stop: Event | None) -> Iterator[Path]:
    """The files of a table not known to be `unaffected`, those that appeared meanwhile last.

    Raises:
        StoppedError: if `stop` was set before the end.
    """
    seen: set[FileId] = set()
    found_new = True
    while found_new:  # the collector and compaction add files during the search
        found_new = False
        for path in sorted((log / table).glob("day=*/*.parquet")):
            _raise_if_stopped(stop)
            this = file_id(path)
            if this is not None and this not in seen and this not in unaffected:
                seen.add(this)
                found_new = True
                yield path


def file_id(path: Path) -> FileId | None:
    """The identity of a file of the log; None if it is gone."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return str(path), stat.st_ino, stat.st_mtime_ns


def record_erased(log: Path, erased: Mapping[str, float]) -> None:
    """Add erasures (digest -> s since 1970) to the checkpoint: the collector drops their earlier records on arrival."""
    oldest = max(erased.values(), default=0.0) - ERASURES_LIFE

    def change(before: commit.Checkpoint) -> commit.LogChange:
        latest = {digest: max(at, before.erased.get(digest, at)) for digest, at in erased.items()}
        after = {digest: at for digest, at in before.erased.items() if at > oldest} | latest
        return commit.LogChange() if after == before.erased else commit.LogChange(erased=after)

    commit.commit_change(log, change)


class _FileEraser:
    """Replaces one file of the log by a copy that has only the rows that `stays` marks."""

    def __init__(self, log: Path, table: LogTable, path: Path, ids: Collection[str], stays: RowMask) -> None:
        self._log = log
        self._table = table
        self._path = path
        self._ids = ids
        self._stays = stays
        names = parquet.SCHEMAS[table].names
        self._columns = [name for name in ("customer", "device", "decision_id", "body") if name in names]

    def rewrite(self, stop: Event | None) -> int:
        """Replace the file if it has a row or a device of `ids`; returns the number of rows deleted.

        A file that vanished or changed meanwhile counts 0: `files_to_search` yields what took its place.
        """
        prepared = self._path.with_name(f".{uuid.uuid4().hex}.tmp")
        pause = PAUSE
        while True:
            before = file_id(self._path)
            try:
                count = self._count_deletions()
                if count is None:
                    return 0
                parquet.copy_files(prepared, self._table, [self._path], self._without_erased)
                if self._replace(prepared, before):
                    return count
            except FileNotFoundError:
                return 0
            finally:
                prepared.unlink(missing_ok=True)
            if file_id(self._path) != before:
                return 0
            _raise_if_stopped(stop)
            # A reader holds the log. Waiting inside the commit would hold its lock, and the collector would wait too.
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _count_deletions(self) -> int | None:
        """The number of rows to delete; None without a change, 0 if only others' devices are removed."""
        rows = parquet.read_table(self._path, self._columns)
        count: int = rows.num_rows - (pc.sum(self._stays(rows)).as_py() or 0)
        names_device = "device" in self._columns and pc.any(_made_on(rows, self._ids)).as_py()
        return count if count or names_device else None

    def _without_erased(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The remaining rows, without an erased customer's device."""
        rows = batch.filter(self._stays(batch))
        return without_device(rows, _made_on(rows, self._ids)) if "device" in rows.schema.names else rows

    def _replace(self, prepared: Path, before: FileId | None) -> bool:
        """Commit the prepared copy unless the file changed since `before`; False also if a reader prevents it."""

        def move_copy(hidden: Path) -> None:
            prepared.replace(hidden)

        def change(_: commit.Checkpoint) -> commit.LogChange:
            is_same = file_id(self._path) == before  # else compaction replaced it, or another process erased there
            return commit.LogChange({self._path: move_copy}) if is_same else commit.LogChange()

        return commit.commit_change(self._log, change, wait=False)


def _raise_if_stopped(stop: Event | None) -> None:
    """End a long rewrite between two files when the process stops; the next start repeats it."""
    if stop is not None and stop.is_set():
        raise StoppedError


def _rows_of_others(
    rows: pa.RecordBatch | pa.Table, table: LogTable, ids: Collection[str], decisions: Collection[str]
) -> pa.Array:
    """Tests for each row of `table` whether it belongs to customers other than `ids`, who have `decisions`."""
    match table:
        case "rewards":
            return pc.invert(pc.is_in(rows["decision_id"], pa.array(sorted(decisions), pa.string())))
        case "quarantine":
            names = [identifier.encode() for identifier in ids]
            return pa.array([not any(name in body for name in names) for body in rows["body"].to_pylist()], pa.bool_())
        case _:
            customers = pa.array(sorted(ids), pa.string())
            return pc.invert(pc.is_in(rows["customer"], customers))


def _made_on(rows: pa.RecordBatch | pa.Table, ids: Collection[str]) -> pa.Array:
    """Tests for each row whether its decision was made on a device among `ids`."""
    return pc.is_in(rows["device"], pa.array(sorted(ids), pa.string()))
