"""One learner for each partition of a data folder: two would take over each other's policies and rewards."""

import fcntl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_learner(data: Path, partitions: Collection[int]) -> Iterator[bool]:
    """Whether no other process learns any of these partitions with its state in `data`, nor can within.

    A lock is a byte of one file for each partition. It ends with the process, however that ends.
    """
    folder = data / "learn"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        try:
            for partition in sorted(partitions):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, partition)
        except (BlockingIOError, PermissionError):
            yield False
            return
        yield True
