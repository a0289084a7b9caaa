"""The free space of a spool's disk."""

import math
import os
from pathlib import Path


def free_bytes(place: int | Path) -> float:
    """Free bytes on the disk of an open file, or of a folder that may not exist yet.

    Infinite where the file system does not report them.
    """
    try:
        disk = os.fstatvfs(place) if isinstance(place, int) else os.statvfs(_nearest_folder(place))
    except OSError:
        return math.inf
    if not disk.f_blocks:
        return math.inf
    return (disk.f_bavail if os.geteuid() else disk.f_bfree) * disk.f_frsize


def _nearest_folder(path: Path) -> Path:
    """The path itself, or its nearest parent that is a folder."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.is_dir()), Path("/"))
