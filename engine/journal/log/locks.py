"""Advisory locks on files of the log. A report takes one and imports nothing else of the journal for it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def log_read_lock(log: Path) -> Iterator[None]:
    """Locks the log for reading: no file is replaced or removed while the block runs; new files may appear."""
    log.mkdir(parents=True, exist_ok=True)
    with hold_lock(log / ".reading.lock", shared=True):
        yield


@contextmanager
def hold_lock(path: Path, *, shared: bool = False, needed: bool = True, wait: bool = True) -> Iterator[None]:
    """Holds an advisory lock on a file; without `wait` raises BlockingIOError if another process holds it."""
    with path.open("ab") as lock:
        if needed:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        yield
