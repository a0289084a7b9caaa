"""Watches a folder of YAML and replaces the running plan when its files change.

A change without problems replaces the plan whole; one with problems leaves the running plan as it is, and `problems`
lists them until the folder is valid again.

| folder | archive | at the start | at a change |
|---|---|---|---|
| valid | any | runs its plan | swaps to its plan |
| has problems | has a plan | runs the plan that ran last | keeps the running plan |
| has problems | none, or empty | raises `CatalogError` | keeps the running plan |
"""

import os
import time
from pathlib import Path

import structlog

from engine.catalog.archive import Archive, last_author
from engine.catalog.check.load import build_specs, read_folder
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.errors import CatalogError, Problem

Fingerprint = tuple[tuple[str, int, int], ...]
"""The path, the time of change (ns) and the size of every YAML file."""

log = structlog.get_logger(__name__)


class PlanWatch:
    """The running plan of `folder`.

    One thread polls; all others read `plan`, a single reference to an immutable value. A caller that has to prepare for
    a new plan takes it from `read_change` and passes it to `swap` afterwards; any other calls `poll`.

    Args:
        folder: the folder of YAML.
        archive: stores every plan that runs; a start on an invalid folder runs the newest.
        logs_changes: whether this process logs changes, as one of those that watch the folder for an engine should.

    Raises:
        CatalogError: if the folder has problems when it is first read and the archive has no plan.
    """

    def __init__(self, folder: Path, archive: Archive | None = None, *, logs_changes: bool = True) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.rejected_changes = 0
        self._archive = archive
        self._logs_changes = logs_changes
        # Read before the files: a change while they are read is found by the next poll.
        self._fingerprint = _read_fingerprint(folder)
        try:
            self.plan: Plan = self._load()
        except CatalogError as error:
            newest = archive.read_newest() if archive else None
            if newest is None:
                raise
            self._reject(error)
            self.plan = compile_plan(newest)

    def poll(self) -> bool:
        """Read the folder again if a file in it changed, and swap to its plan; returns whether there is a new one."""
        plan = self.read_change()
        if plan is None:
            return False
        self.swap(plan)
        return True

    def read_change(self) -> Plan | None:
        """The new plan where a file changed, the folder is valid and its plan differs from the running one."""
        fingerprint = _read_fingerprint(self.folder)
        if fingerprint == self._fingerprint:
            return None
        self._fingerprint = fingerprint
        try:
            plan = self._load()
        except CatalogError as error:
            self._reject(error)
            return None
        self.problems = []
        return plan if plan.version != self.plan.version else None

    def swap(self, plan: Plan) -> None:
        """Make `plan` the running one."""
        self.plan = plan
        if self._logs_changes:
            log.info("plan swapped", plan=plan.version)

    def _load(self) -> Plan:
        files, problems = read_folder(self.folder)
        specs = build_specs(self.folder.name, files, problems)
        plan = compile_plan(specs)
        if self._archive:
            self._archive.store(specs, files, last_author(self.folder), time.time())
        return plan

    def _reject(self, error: CatalogError) -> None:
        self.problems = error.problems
        self.rejected_changes += 1
        if self._logs_changes:
            problems = [str(problem) for problem in error.problems]
            log.warning("plan rejected; the running plan is unchanged", problems=problems)


def _read_fingerprint(folder: Path) -> Fingerprint:
    files: list[tuple[str, int, int]] = []
    for place in (folder, folder / "offers"):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.endswith(".yaml"):
                        stat = entry.stat()
                        files.append((entry.path, stat.st_mtime_ns, stat.st_size))
        except FileNotFoundError:
            continue
    return tuple(sorted(files))
