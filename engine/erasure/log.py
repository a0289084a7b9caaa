"""Takes people out of the Parquet log, and keeps what of them is still on its way from coming in."""

import functools
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
from engine.journal.log.parquet import Table
from engine.keyspace import ERASURES_LIFE

Keep = Callable[[pa.RecordBatch | pa.Table], pa.Array]
FileId = tuple[str, int, int]
PAUSE, LONGEST_PAUSE = 0.05, 2.0


def erase_customers(log: Path, ids: Collection[str], now: float) -> int:
    """Remove all rows of the customers `ids`, and what came before `now` and is still to come.

    The rewards of their decisions go with them; so does what is in quarantine and has one of the ids in it. Others who
    used one of the devices keep their rows, which do not say so any more. The log is never without the rows of others.
    Killed halfway, it is finished by calling it again.

    Returns:
        The number of rows removed.
    """
    remember(log, {identifier_digest(identifier): now for identifier in ids})
    return remove(log, ids)


def remove(log: Path, ids: Collection[str], free: Container[FileId] = (), stop: Event | None = None) -> int:
    """Take `ids` out of the files of the log, as `erase_customers`, but for those that are known to be `free` of them.

    Each file is written anew beside the collector and is a commit of its own, so that nobody waits for all of them.

    Returns:
        The number of rows removed.

    Raises:
        StoppedError: if `stop` was set before the end.
    """
    decisions: set[str] = set()
    for path in files_of(log, "decisions", free, stop):
        found = parquet.read_table(path, ["decision_id", "customer"])
        decisions.update(found.filter(pc.invert(_others(found, "decisions", ids, ())))["decision_id"].to_pylist())
    removed = 0
    for table in reversed(parquet.TABLES):  # rewards before the decisions that say whose they are
        keep = functools.partial(_others, table=table, ids=ids, decisions=decisions)
        if table != "rewards" or decisions:
            removed += sum(_rewrite(log, table, path, ids, keep, stop) for path in files_of(log, table, free, stop))
    return removed


def files_of(log: Path, table: Table, free: Container[FileId], stop: Event | None) -> Iterator[Path]:
    """The files of a table that are not known to be `free` of whom is looked for; at last those that came meanwhile.

    Raises:
        StoppedError: if `stop` was set before the end.
    """
    seen: set[FileId] = set()
    fresh = True
    while fresh:
        fresh = False
        for path in sorted((log / table).glob("day=*/*.parquet")):
            _go_on(stop)
            this = id_of(path)
            if this is not None and this not in seen and this not in free:
                seen.add(this)
                fresh = True
                yield path


def _go_on(stop: Event | None) -> None:
    if stop is not None and stop.is_set():
        raise StoppedError(StoppedError.__doc__)


def id_of(path: Path) -> FileId | None:
    """What tells a file of the log from what stands there after it; None if it is gone."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return str(path), stat.st_ino, stat.st_mtime_ns


def remember(log: Path, erased: Mapping[str, float]) -> None:
    """Keep what was made by these before they were erased, and is still to come, from coming in: by digest, when."""
    oldest = max(erased.values(), default=0.0) - ERASURES_LIFE

    def change(before: commit.Checkpoint) -> commit.LogChange:
        latest = {one: max(at, before.erased.get(one, at)) for one, at in erased.items()}
        after = {one: at for one, at in before.erased.items() if at > oldest} | latest
        return commit.LogChange() if after == before.erased else commit.LogChange(erased=after)

    commit.commit_change(log, change)


def _rewrite(log: Path, table: Table, path: Path, ids: Collection[str], keep: Keep, stop: Event | None) -> int:
    """Put a file without the rows that are not to `keep` in the place of `path`; how many they were."""
    columns = [name for name in ("customer", "device", "decision_id", "body") if name in parquet.SCHEMAS[table].names]
    prepared = path.with_name(f".{uuid.uuid4().hex}.tmp")
    pause = PAUSE

    def clean(batch: pa.RecordBatch) -> pa.RecordBatch:
        kept = batch.filter(keep(batch))
        return without_device(kept, _is_on(kept, ids)) if "device" in kept.schema.names else kept

    def put(hidden: Path) -> None:
        prepared.replace(hidden)

    while True:
        before = id_of(path)
        found = parquet.read_table(path, columns)
        count: int = found.num_rows - (pc.sum(keep(found)).as_py() or 0)
        if not count and not ("device" in columns and pc.any(_is_on(found, ids)).as_py()):
            return 0
        same = True

        def change(_: commit.Checkpoint, before: FileId | None = before) -> commit.LogChange:
            nonlocal same
            same = id_of(path) == before  # else it was compacted, or is clean already
            return commit.LogChange({path: put}) if same else commit.LogChange()

        try:
            parquet.copy_files(prepared, table, [path], clean)
            if commit.commit_change(log, change, wait=False):
                return count
        except FileNotFoundError:
            same = False
        finally:
            prepared.unlink(missing_ok=True)
        if not same:
            return 0  # it is looked for again
        _go_on(stop)
        time.sleep(pause)  # somebody reads: the collector is not to wait for that too
        pause = min(2 * pause, LONGEST_PAUSE)


def _others(
    rows: pa.RecordBatch | pa.Table, table: Table, ids: Collection[str], decisions: Collection[str]
) -> pa.Array:
    """For each row whether it is of others."""
    match table:
        case "rewards":
            return pc.invert(pc.is_in(rows["decision_id"], pa.array(sorted(decisions), pa.string())))
        case "quarantine":
            words = [identifier.encode() for identifier in ids]
            return pa.array([not any(word in body for word in words) for body in rows["body"].to_pylist()], pa.bool_())
        case _:
            people = pa.array(sorted(ids), pa.string())
            return pc.invert(pc.is_in(rows["customer"], people))


def _is_on(rows: pa.RecordBatch | pa.Table, ids: Collection[str]) -> pa.Array:
    """For each row whether it was asked for on a device of these."""
    return pc.is_in(rows["device"], pa.array(sorted(ids), pa.string()))
