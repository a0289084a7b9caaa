"""The plan of a folder that people edit: a good change replaces it whole, a bad one only leaves its problems."""

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

log = structlog.get_logger(__name__)


class PlanWatch:
    """Holds the running plan of `folder`. `poll` from any one thread; readers take `plan`, one reference.

    Who has something to make ready for a new plan first takes it from `read_change` and gives it to `swap` then.

    With an archive each plan that runs is kept, and a start on a bad folder runs the plan that ran last. Of the
    processes that watch one folder for one engine, one `tells` what became of a change.

    Raises:
        CatalogError: if the folder has problems when it is first read and no earlier plan is kept.
    """

    def __init__(self, folder: Path, archive: Archive | None = None, *, logs_changes: bool = True) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.refused = 0
        self._archive = archive
        self._logs_changes = logs_changes
        self._seen = _fingerprint(folder)
        try:
            self.plan: Plan = self._load()
        except CatalogError as error:
            earlier = archive.read_newest() if archive else None
            if earlier is None:
                raise
            self._refuse(error)
            self.plan = compile_plan(earlier)

    def poll(self) -> bool:
        """Read the folder again if a file in it changed; whether there is a new plan."""
        plan = self.read_change()
        if plan is None:
            return False
        self.swap(plan)
        return True

    def read_change(self) -> Plan | None:
        """The plan that waits to be swapped in, if a file in the folder changed and made a new one."""
        seen = _fingerprint(self.folder)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            plan = self._load()
        except CatalogError as error:
            self._refuse(error)
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

    def _refuse(self, error: CatalogError) -> None:
        self.problems = error.problems
        self.refused += 1
        if self._logs_changes:
            told = [str(problem) for problem in error.problems]
            log.warning("plan refused; the one that ran before keeps running", problems=told)


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
