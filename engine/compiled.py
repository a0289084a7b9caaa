"""Refuses to run compiled modules whose sources changed since, which Python would import without a warning.

`hatch_build.py` writes `compiled.txt` beside this file when it compiles in place: a line with the size and the time of
change (ns) of each source, and its path from the folder of the packages.
"""

import os


def refuse_outdated(mark: str) -> None:
    """Check the sources that the file `mark` lists.

    Raises:
        ImportError: if one is not as it was when it was compiled.
    """
    root = os.path.dirname(os.path.dirname(mark))  # noqa: PTH120 (runs at every start, and pathlib costs more)
    with open(mark, encoding="utf-8") as lines:  # noqa: PTH123 (as above)
        for line in lines:
            size, changed, path = line.rstrip("\n").split(" ", 2)
            try:
                found = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 (as above)
            except FileNotFoundError:
                found = None
            if found is None or (found.st_size, found.st_mtime_ns) != (int(size), int(changed)):
                raise ImportError(f"{path} changed after it was compiled; run `make fast` again, or `make pure`")
