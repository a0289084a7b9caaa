"""The history of plans from the archive: when each file changed, the author, and the effect of the change."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine.catalog.archived_plan import ArchivedPlan
from engine.catalog.check.load import build_specs
from engine.catalog.diff.experiments import compare_specs
from engine.catalog.diff.offers import Change
from engine.catalog.spec.folder import Specs
from engine.errors import CatalogError


@dataclass(frozen=True, kw_only=True)
class PlanVersion:
    """One plan that ran: its first run (s since 1970), the author of its last change, and the texts of its files."""

    version: str
    time: float
    author: str
    files: dict[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A change of one file: the plan that it began with, the text before it (empty for a new file) and after it."""

    plan: PlanVersion
    before: str
    after: str
    changes: list[Change]


class PlanHistory:
    """Reads the archived plans of a folder; each file is read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, PlanVersion] = {}
        self._lock = threading.Lock()

    def versions(self) -> list[PlanVersion]:
        """All plans that ran, the oldest first."""
        with self._lock:
            for path in self._directory.glob("*.json"):
                if path.stem not in self._known:
                    plan = msgspec.json.decode(path.read_bytes(), type=ArchivedPlan)
                    self._known[path.stem] = PlanVersion(
                        version=plan.version, time=plan.time, author=plan.author, files=plan.files
                    )
            return sorted(self._known.values(), key=lambda plan: plan.time)

    def changes_of(self, file: str, key: str, *, most: int = 20) -> list[FileChange]:
        """The changes of one file, the newest first, each with what it does to the experiment or offer `key`."""
        found: list[FileChange] = []
        before: PlanVersion | None = None
        for plan in self.versions():
            text, old = plan.files.get(file, ""), before.files.get(file, "") if before else ""
            if text != old:
                found.append(FileChange(plan=plan, before=old, after=text, changes=_changes(before, plan, key)))
            before = plan
        return found[::-1][:most]

    def all_changes(self, *, most: int = 100) -> list[tuple[PlanVersion, list[str]]]:
        """The plans that ran, the newest first, each with the names of the files that differ from the plan before."""
        plans = self.versions()
        found = []
        for before, plan in zip([None, *plans], plans, strict=False):
            old = before.files if before else {}
            names = sorted(name for name in {*old, *plan.files} if old.get(name) != plan.files.get(name))
            found.append((plan, names))
        return found[::-1][:most]


def _changes(before: PlanVersion | None, after: PlanVersion, key: str) -> list[Change]:
    """The effects of a change on `key`; empty for the first plan or one that this release cannot read."""
    if before is None:
        return []
    try:
        changes = compare_specs(_specs(before), _specs(after), after.time)
    except CatalogError:
        return []
    return [change for change in changes if change.key == key]


def _specs(plan: PlanVersion) -> Specs:
    return build_specs("experiments", {name: text.encode() for name, text in plan.files.items()})
