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

from engine.errors import JournalError
from engine.journal.spool import sync_directory
from engine.journal.stream import Progress

_CHECKPOINT = ".checkpoint.json"


class Checkpoint(msgspec.Struct, frozen=True):
    """What the log holds: up to `progress` of the streams, after `commit`; `publish` maps hidden names to names."""

    commit: int = 0
    progress: Progress = Progress()
    publish: dict[str, str] = {}
    remove: list[str] = []


class Change(msgspec.Struct, frozen=True):
    """Files to add, or to put in the place of those of the same name, each with what writes it; files to remove."""

    add: dict[Path, Callable[[Path], None]] = {}
    remove: list[Path] = []


def commit(log: Path, change: Callable[[int], Change], progress: Progress | None = None) -> None:
    """Make a change of the log, given the number of its commit; and what was read of the streams, if it did change.

    Raises:
        OSError: if the disk takes no more. The log is unchanged then.
    """
    log.mkdir(parents=True, exist_ok=True)
    with _locked(log / ".commit.lock"):
        before = settle(log)
        number = before.commit + 1
        wanted = change(number)
        hidden: dict[str, str] = {}
        try:
            for path, write in wanted.add.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{number}-{path.name}.tmp")
                hidden[str(temporary.relative_to(log))] = str(path.relative_to(log))
                write(temporary)
                _sync(temporary)
            for directory in {path.parent for path in wanted.add}:
                sync_directory(directory)
                sync_directory(directory.parent)
            after = Checkpoint(
                number,
                before.progress if progress is None else progress,
                hidden,
                [str(path.relative_to(log)) for path in wanted.remove],
            )
            temporary = log / f"{_CHECKPOINT}.tmp"
            temporary.write_bytes(msgspec.json.encode(after))
            _sync(temporary)
        except OSError:
            for name in hidden:
                (log / name).unlink(missing_ok=True)
            raise
        replaced = bool(wanted.remove) or any(path.exists() for path in wanted.add)
        with _locked(log / ".reading.lock", needed=replaced):
            temporary.replace(log / _CHECKPOINT)
            sync_directory(log)
            settle(log)


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
def only_collector(log: Path) -> Iterator[bool]:
    """True for the one process that may collect into this log; False while there is another."""
    log.mkdir(parents=True, exist_ok=True)
    with (log / ".collector.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _locked(path: Path, *, shared: bool = False, needed: bool = True) -> Iterator[None]:
    with path.open("ab") as lock:
        if needed:
            fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
