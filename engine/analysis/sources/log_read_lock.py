"""A report reads the log several times; while it does, no compaction or erasure takes files away from under it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def lock_log_for_reading(log_dir: Path) -> Iterator[None]:
    """Holds the log's files where they are; a log that is missing or read-only has no one to hold them from."""
    with ExitStack() as stack:
        if log_dir.is_dir():
            from engine.journal.log.commit import log_read_lock  # noqa: PLC0415 # slow to import, and tables do not need it

            try:
                stack.enter_context(log_read_lock(log_dir))
            except OSError:  # no lock can be taken in a folder that may not be written
                stack.pop_all()
        yield
