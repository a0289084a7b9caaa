"""The files through which the servers of a machine share counters; space is allocated before they are mapped.

`prometheus_client` maps sparse files. Where the disk has no block for a page of one, the first write to that page kills
the process with SIGBUS, which no handler can answer.
"""

import os
from pathlib import Path

import structlog
from prometheus_client import values

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_BYTES = 1 << 18
"""The size of each file. A counter takes some hundred bytes; labels are names of the plan or of the code."""
_KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemax", "gauge_livemin")
"""The first parts of the names of files: every type of metric, a gauge with its mode, has one file per process."""
_log = structlog.get_logger(__name__)


def share_counters() -> bool:
    """Prepare this process's files if counters are shared; False if this process counts for itself.

    On a full disk it does, so that it starts and answers: a scrape shows the counters of the process that it reaches.
    """
    if FOLDER not in os.environ:
        return False
    folder = Path(os.environ[FOLDER])
    try:
        for kind in _KINDS:
            _allocate(folder / f"{kind}_{os.getpid()}.db")
    except OSError as error:
        _log.error("no space for shared counters; this process counts for itself", folder=str(folder), error=str(error))
        for kind in _KINDS:
            (folder / f"{kind}_{os.getpid()}.db").unlink(missing_ok=True)
        del os.environ[FOLDER]
        # The environment chose the class of values when the module was imported.
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
        return False
    return True


def _allocate(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(file, 0, _BYTES)
    finally:
        os.close(file)
