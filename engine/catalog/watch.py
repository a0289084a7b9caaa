"""The plan of a folder that people edit: a good change replaces it whole, a bad one only leaves its problems."""

import os
from pathlib import Path

from engine.catalog.compile import compile_plan
from engine.catalog.load import load_specs
from engine.catalog.plan import Plan
from engine.errors import CatalogError, Problem

Fingerprint = tuple[tuple[str, int, int], ...]


class PlanWatch:
    """Holds the running plan of `folder`. `poll` from any one thread; readers take `plan`, one reference.

    Raises:
        CatalogError: if the folder has problems when it is first read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.refused = 0
        self._seen = _fingerprint(folder)
        self.plan: Plan = compile_plan(load_specs(folder))

    def poll(self) -> bool:
        """Read the folder again if a file in it changed; whether there is a new plan."""
        seen = _fingerprint(self.folder)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            plan = compile_plan(load_specs(self.folder))
        except CatalogError as error:
            self.problems = error.problems
            self.refused += 1
            return False
        self.problems = []
        changed = plan.version != self.plan.version
        self.plan = plan
        return changed


def _fingerprint(folder: Path) -> Fingerprint:
    found: list[tuple[str, int, int]] = []
    for place in (folder, folder / "offers"):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.endswith(".yaml"):
                        stat = entry.stat()
                        found.append((entry.path, stat.st_mtime_ns, stat.st_size))
        except FileNotFoundError:
            continue
    return tuple(sorted(found))
