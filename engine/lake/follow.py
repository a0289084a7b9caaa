"""Keeps the copy of the log up to date beside a collector."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from engine.errors import CounterpointError, require_extras
from engine.journal import stream
from engine.journal.log.commit import CHECKPOINT
from engine.journal.log_once import LogOnce
from engine.lake.log_copy import CopyManifest, CopySummary, ObjectStore, copy_log
from engine.settings import Settings

EVERY_SECONDS = 10.0
LAST_SECONDS = 5.0
"""How long a collector that is stopped waits for its last copy: it must end within ten seconds."""

log = structlog.get_logger(__name__)


class LogFollower:
    """Copies a log whenever it has changed."""

    def __init__(self, settings: Settings, url: str) -> None:
        """Open the object store and, where configured, the catalog.

        Raises:
            BadInput: if the address is none of an object store.
            MissingExtra: if a catalog is configured and PyIceberg is not installed.
        """
        self._log = settings.log
        self._store = ObjectStore(url)
        self._tables = _open_tables(settings.iceberg, self._store.url)
        self._copied: tuple[int, int] | None = None
        self._is_first = True

    def copy(self) -> CopySummary | None:
        """Copy the log; None if it has not changed since. Errors as in `copy_log`."""
        state = _state_of(self._log)
        if state == self._copied and not self._is_first:
            return None
        sweep, self._is_first = self._is_first, True  # after a copy that fails, the next deletes what it left
        summary = copy_log(self._log, self._store, self._tables, sweep=sweep)
        self._copied, self._is_first = state, False
        return summary


@dataclass
class LastCopy:
    """Whether the last copy still waits for its object store; then the interpreter would wait for it as it ends."""

    is_hanging: bool = False


@contextmanager
def copying(settings: Settings, *, last_seconds: float | None = None) -> Iterator[LastCopy]:
    """Copy the log beside the block if settings name a place for it, and once more after the block.

    An object store that is away only delays the copy: nothing waits for it, except the last copy. With `last_seconds`
    that one may take so long; what is not copied then, the collector that starts next copies first.

    Raises:
        JournalError: after the block without `last_seconds`, if the last copy failed.
    """
    copy = LastCopy()
    if settings.log_copy is None:
        yield copy
        return
    follower, ended = LogFollower(settings, settings.log_copy), threading.Event()

    def follow() -> None:
        outage = LogOnce("the log is not copied to the object store", "the log is copied again")
        while not ended.wait(EVERY_SECONDS):
            try:
                began = time.time()
                follower.copy()
                outage.over()
                _publish(settings, began)
            except CounterpointError as error:
                outage.failed(error)

    def finish() -> None:
        thread.join()
        try:
            follower.copy()
        except CounterpointError as error:
            log.warning("the last copy of the log failed; the next collector completes it", error=str(error))

    thread = threading.Thread(target=follow, name="log copy", daemon=True)
    thread.start()
    try:
        yield copy
    finally:
        ended.set()
        if last_seconds is None:
            thread.join()
    if last_seconds is None:
        follower.copy()
        return
    last = threading.Thread(target=finish, name="last log copy", daemon=True)
    last.start()
    last.join(last_seconds)
    copy.is_hanging = last.is_alive()
    if copy.is_hanging:
        log.warning("the object store did not take the last copy of the log in time; the next collector completes it")


def _open_tables(catalog: str | None, prefix: str) -> Callable[[CopyManifest], None] | None:
    """What brings Iceberg tables up to date, if a catalog is configured."""
    if catalog is None:
        return None
    require_extras(f"COUNTERPOINT_ICEBERG {catalog}", "iceberg")
    from engine.lake.iceberg import IcebergTables  # noqa: PLC0415

    return IcebergTables(catalog, prefix).take_over


def _publish(settings: Settings, at: float) -> None:
    """Publish up to when the log is copied, for servers to export; without the store the next copy does."""
    with suppress(RedisError), stream.connect_stream(settings.redis) as client:
        stream.publish_counts(client, {"copied|log|collector": int(at)})


def _state_of(log: Path) -> tuple[int, int] | None:
    """What changes with each commit: the checkpoint's time and number of its file."""
    try:
        status = (log / CHECKPOINT).stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
