"""Atomic changes of the Parquet log: a commit adds, replaces and removes all its files or none.

A commit has four steps. A process may be killed at any of them:

| step | on disk | if it dies here |
|---|---|---|
| 1. prepare | new files under hidden names, synced | `recover_log` deletes the hidden files |
| 2. decide | the checkpoint is replaced by one rename | the commit has happened |
| 3. publish | hidden files get their names, old files are removed | the next `settle_log` repeats this step |
| 4. done | | |

The checkpoint names the stream positions and sequence numbers that the log contains, so reading the streams again from
it adds nothing twice. A file is named by the commit that wrote it; publishing twice equals publishing once.

Locks in the log's folder: `.commit.lock` (one commit at a time), `.reading.lock` (shared by readers, exclusive while
files are replaced or removed), `.collector.lock` (one collector per log).
"""

import fcntl
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from engine.errors import JournalError
from engine.journal.log import locks
from engine.journal.spool.spool import sync_directory
from engine.journal.stream import Progress

CHECKPOINT = ".checkpoint.json"
LAYOUT = 2
"""The layout that this version writes (`layout`); the log of a later one is refused."""
_log = structlog.get_logger(__name__)


class Checkpoint(msgspec.Struct, frozen=True):
    """The state of the log: it contains the streams up to `progress`, after commit number `commit`.

    `publish` maps hidden names to names and `remove` lists names to delete, until they are settled. `erased` maps
    digests of erased customers to the time of erasure (s since 1970): their earlier records are dropped on arrival.
    """

    commit: int = 0
    progress: Progress = Progress()
    publish: dict[str, str] = {}
    remove: list[str] = []
    erased: dict[str, float] = {}
    layout: int = LAYOUT


class _Layout(msgspec.Struct):
    """The layout in a checkpoint; those of before it was written have the first."""

    layout: int = 1


class LogChange(msgspec.Struct, frozen=True):
    """Files to add or replace, each with the function that writes it, and files to remove."""

    add: dict[Path, Callable[[Path], None]] = {}
    remove: list[Path] = []
    progress: Progress | None = None
    erased: dict[str, float] | None = None
    layout: int | None = None


def commit_change(log: Path, change: Callable[[Checkpoint], LogChange], *, wait: bool = True) -> bool:
    """Change the log; `change` gets the previous checkpoint. A None `progress` or `erased` stays unchanged.

    Replacing or removing files waits for readers (`locks.log_read_lock`), or gives up with `wait=False`. Returns if
    anything changed.

    Raises:
        OSError: if the disk is full. The log is unchanged then.
    """
    log.mkdir(parents=True, exist_ok=True)
    with locks.hold_lock(log / ".commit.lock"):
        before = settle_log(log)
        changes = change(before)
        if changes == LogChange():
            return False
        number = before.commit + 1
        hidden = {path: path.with_name(f".{number}-{path.name}.tmp") for path in changes.add}
        after = Checkpoint(
            commit=number,
            progress=before.progress if changes.progress is None else changes.progress,
            publish={str(temporary.relative_to(log)): str(path.relative_to(log)) for path, temporary in hidden.items()},
            remove=[str(path.relative_to(log)) for path in changes.remove],
            erased=before.erased if changes.erased is None else changes.erased,
            layout=before.layout if changes.layout is None else changes.layout,
        )
        replaced = bool(changes.remove) or any(path.exists() for path in changes.add)
        try:
            for path, write in changes.add.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write(hidden[path])
                _sync(hidden[path])
            for directory in {path.parent for path in changes.add}:
                sync_directory(directory)
                sync_directory(directory.parent)
            prepared = log / f"{CHECKPOINT}.tmp"
            prepared.write_bytes(msgspec.json.encode(after))
            _sync(prepared)
            with locks.hold_lock(log / ".reading.lock", needed=replaced, wait=wait):
                for temporary in hidden.values():
                    temporary.stat()  # raises if another process deleted it while cleaning up
                prepared.replace(log / CHECKPOINT)
                _complete(log)
        except Exception as error:
            for temporary in hidden.values():
                temporary.unlink(missing_ok=True)
            if isinstance(error, BlockingIOError) and not wait:
                return False
            raise
        return True


def _complete(log: Path) -> None:
    """Publish the files of a decided commit; a failure here is left to the next commit."""
    try:
        sync_directory(log)
        settle_log(log)
    except OSError as error:
        _log.warning("committed files keep hidden names until the next commit", error=str(error))


def settle_log(log: Path) -> Checkpoint:
    """Complete the publishing and removing of the last commit; returns the checkpoint."""
    checkpoint = read_checkpoint(log)
    touched: set[Path] = set()
    for temporary, name in checkpoint.publish.items():
        if (log / temporary).exists():
            (log / temporary).replace(log / name)
            touched.add((log / name).parent)
    for name in checkpoint.remove:
        if (log / name).exists():
            (log / name).unlink()
            touched.add((log / name).parent)
    for directory in touched:
        sync_directory(directory)
    return checkpoint


def recover_log(log: Path) -> Checkpoint:
    """Settle the log and delete hidden files that were never committed."""
    log.mkdir(parents=True, exist_ok=True)
    with locks.hold_lock(log / ".commit.lock"):
        checkpoint = settle_log(log)
        for temporary in log.glob("*/day=*/.*.tmp"):
            temporary.unlink()
        return checkpoint


def committed_files(log: Path, tables: Collection[str]) -> tuple[bytes, list[Path]]:
    """The checkpoint's bytes and the files of the tables that belong to it. Call it within `locks.log_read_lock`."""
    with locks.hold_lock(log / ".commit.lock"):
        settle_log(log)
        checkpoint = log / CHECKPOINT
        files = [path for table in tables for path in log.glob(f"{table}/day=*/*.parquet")]
        return checkpoint.read_bytes() if checkpoint.exists() else b"{}", files


def read_checkpoint(log: Path) -> Checkpoint:
    """The checkpoint of the log; empty before the first commit.

    Raises:
        JournalError: if the file is damaged, or the log is of a later version.
    """
    path = log / CHECKPOINT
    try:
        content = path.read_bytes()
        layout = msgspec.json.decode(content, type=_Layout).layout
        checkpoint = msgspec.structs.replace(msgspec.json.decode(content, type=Checkpoint), layout=layout)
    except FileNotFoundError:
        return Checkpoint()
    except msgspec.MsgspecError as error:
        raise JournalError(f"{error}; restore it from a backup of the log", path) from error
    if checkpoint.layout > LAYOUT:
        raise JournalError(
            f"layout {checkpoint.layout} is of a later version, this one reads up to {LAYOUT}; install that version",
            path,
        )
    return checkpoint


@contextmanager
def collector_lock(log: Path) -> Iterator[Callable[[], bool] | None]:
    """Take the log's collector lock: yields None if another process holds it, else a check that we still hold it.

    The check fails once the log was deleted or moved away: another collector may have started in its place.
    """
    log.mkdir(parents=True, exist_ok=True)
    path = log / ".collector.lock"
    with path.open("ab") as lock:

        def is_ours() -> bool:
            try:
                return os.path.samestat(os.fstat(lock.fileno()), path.stat())
            except OSError:
                return False

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield is_ours


def _sync(path: Path) -> None:
    """Flush a file to the disk: the checkpoint must not name a file whose bytes may be lost."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
