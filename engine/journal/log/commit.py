"""Commits to the Parquet log: files appear, and give way to others, all or none, whatever is killed in between.

Files are written under hidden names; one rename of the checkpoint decides; then they get their names. A process that
dies after the rename leaves the rest of the work to the next one, and before it only hidden files, which are dropped.
A file is named by the commits it holds, so doing it twice is doing it once.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from engine.errors import JournalError
from engine.journal.spool.spool import sync_directory
from engine.journal.stream import Progress

_CHECKPOINT = ".checkpoint.json"
_log = structlog.get_logger(__name__)


class Checkpoint(msgspec.Struct, frozen=True):
    """What the log holds: up to `progress` of the streams, after `commit`; `publish` maps hidden names to names.

    `erased` has the digests of erased customers and when that was: what is still on its way from before is dropped.
    """

    commit: int = 0
    progress: Progress = Progress()
    publish: dict[str, str] = {}
    remove: list[str] = []
    erased: dict[str, float] = {}


class Change(msgspec.Struct, frozen=True):
    """Files to add, or to put in the place of those of the same name, each with what writes it; files to remove."""

    add: dict[Path, Callable[[Path], None]] = {}
    remove: list[Path] = []
    progress: Progress | None = None
    erased: dict[str, float] | None = None


def commit(log: Path, change: Callable[[Checkpoint], Change], *, wait: bool = True) -> bool:
    """Make a change of the log, given its checkpoint; `progress` and `erased` stay as they are where they are None.

    Files that are replaced or removed stay while someone is `reading`: that is waited for, or else the change given
    up. Answers whether there was a change.

    Raises:
        OSError: if the disk takes no more. The log is unchanged then.
    """
    log.mkdir(parents=True, exist_ok=True)
    with _locked(log / ".commit.lock"):
        before = settle(log)
        wanted = change(before)
        if wanted == Change():
            return False
        number = before.commit + 1
        hidden = {path: path.with_name(f".{number}-{path.name}.tmp") for path in wanted.add}
        after = Checkpoint(
            number,
            before.progress if wanted.progress is None else wanted.progress,
            {str(temporary.relative_to(log)): str(path.relative_to(log)) for path, temporary in hidden.items()},
            [str(path.relative_to(log)) for path in wanted.remove],
            before.erased if wanted.erased is None else wanted.erased,
        )
        replaced = bool(wanted.remove) or any(path.exists() for path in wanted.add)
        try:
            for path, write in wanted.add.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                write(hidden[path])
                _sync(hidden[path])
            for directory in {path.parent for path in wanted.add}:
                sync_directory(directory)
                sync_directory(directory.parent)
            prepared = log / f"{_CHECKPOINT}.tmp"
            prepared.write_bytes(msgspec.json.encode(after))
            _sync(prepared)
            with _locked(log / ".reading.lock", needed=replaced, wait=wait):
                for temporary in hidden.values():
                    temporary.stat()  # somebody who tidies up may have removed it
                prepared.replace(log / _CHECKPOINT)
                _complete(log)
        except Exception as error:
            for temporary in hidden.values():
                temporary.unlink(missing_ok=True)
            if isinstance(error, BlockingIOError) and not wait:
                return False
            raise
        return True


def _complete(log: Path) -> None:
    """Past the checkpoint the change is made: what of it fails now, the next commit does."""
    try:
        sync_directory(log)
        settle(log)
    except OSError as error:
        _log.warning("files of the log wait for the next commit to get their names", error=str(error))


def settle(log: Path) -> Checkpoint:
    """The checkpoint of the log, after what its commit left undone is done."""
    checkpoint = load(log)
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


def recover(log: Path) -> Checkpoint:
    """Settle the log and drop the hidden files of what was never committed."""
    log.mkdir(parents=True, exist_ok=True)
    with _locked(log / ".commit.lock"):
        checkpoint = settle(log)
        for temporary in log.glob("*/day=*/.*.tmp"):
            temporary.unlink()
        return checkpoint


def load(log: Path) -> Checkpoint:
    """The checkpoint of the log; an empty one where there is none yet.

    Raises:
        JournalError: if it is no checkpoint.
    """
    path = log / _CHECKPOINT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except FileNotFoundError:
        return Checkpoint()
    except msgspec.MsgspecError as error:
        raise JournalError(f"{path}: {error}; restore it from a backup of the log") from error


@contextmanager
def reading(log: Path) -> Iterator[None]:
    """While this is open no file of the log is replaced or removed; new ones may come."""
    log.mkdir(parents=True, exist_ok=True)
    with _locked(log / ".reading.lock", shared=True):
        yield


@contextmanager
def only_collector(log: Path) -> Iterator[Callable[[], bool] | None]:
    """For the one process that may collect into this log whether it still may; None while there is another.

    It may not any more once the log was deleted or moved away: another may have begun in its place.
    """
    log.mkdir(parents=True, exist_ok=True)
    path = log / ".collector.lock"
    with path.open("ab") as lock:

        def alone() -> bool:
            try:
                return os.path.samestat(os.fstat(lock.fileno()), path.stat())
            except OSError:
                return False

        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield alone


@contextmanager
def _locked(path: Path, *, shared: bool = False, needed: bool = True, wait: bool = True) -> Iterator[None]:
    with path.open("ab") as lock:
        if needed:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
