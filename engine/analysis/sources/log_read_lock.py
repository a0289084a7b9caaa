"""Prevents compaction and erasure from removing the log's files while a report reads them several times."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from engine.errors import require_extras
from engine.journal.log.locks import log_read_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def lock_log_for_reading(log_dir: Path) -> Iterator[None]:
    """Holds a shared lock on the log; a missing or read-only folder needs none, since nothing changes it.

    Raises:
        MissingExtra: if the libraries that read the log are not installed; no lock is taken then.
    """
    require_extras("a report from the log", "analysis")
    with ExitStack() as stack:
        if log_dir.is_dir():
            try:
                stack.enter_context(log_read_lock(log_dir))
            except OSError:  # no lock can be taken in a folder that may not be written
                stack.pop_all()
        yield
