"""Watches a folder of YAML and replaces the running plan when its files change.

A change without problems replaces the plan whole; one with problems leaves the running plan as it is, and `problems`
lists them until the folder is valid again.

| folder | archive | at the start | at a change |
|---|---|---|---|
| valid | any | runs its plan | swaps to its plan |
| has problems | has a plan | runs the plan that ran last | keeps the running plan |
| has problems | none, or empty | raises `CatalogError` | keeps the running plan |

A file that is still being written may be valid YAML without its last keys, and an offer without its `caps` would be
shown to everybody. So a change is read only after the folder was still for `STILL_SECONDS`, seen by at least two polls.
A change that takes a restriction away, or adds an offer without any, waits for `LOOSENING_SECONDS`. An editor that
writes a new file and renames it over the old one is safe at any speed.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from engine.catalog.archive import Archive, last_author
from engine.catalog.check.load import build_specs, read_folder
from engine.catalog.feeds.rows import FEEDS, SUFFIXES
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.fields import Spec, restricting_fields
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.notify import NotifyFile
from engine.catalog.spec.offer import OffersSpec
from engine.errors import BadInput, CatalogError, Problem

Fingerprint = tuple[tuple[str, int, int], ...]
"""The path, the time of change (ns) and the size of every YAML file and of every file that may be a feed."""

STILL_SECONDS = 1.0
"""Seconds without a change in the folder before a change is read."""
LOOSENING_SECONDS = 5.0
"""The same seconds for a change that takes a restriction away."""

log = structlog.get_logger(__name__)


class PlanWatch:
    """The running plan of `folder`, replaced when its files change.

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
        self._candidate: Fingerprint | None = None
        self._still_since = 0.0
        self._specs: Specs | None = None
        try:
            self.plan: Plan = self._store(*self._load())
        except CatalogError as error:
            newest = archive.read_newest() if archive else None
            if newest is None:
                raise
            self._reject(error)
            self._specs = newest
            self.plan = compile_plan(newest)

    @property
    def specs(self) -> Specs:
        """The specs of the running plan, drafts included."""
        if self._specs is None:
            raise RuntimeError("the folder was not read")
        return self._specs

    @property
    def notify(self) -> NotifyFile:
        """The receivers of notices in the running plan's folder."""
        return self._specs.notify if self._specs is not None else NotifyFile()

    def poll(self) -> bool:
        """Read the folder again if a file changed, and swap to its plan; returns whether there is a new one."""
        plan = self.read_change()
        if plan is None:
            return False
        self.swap(plan)
        return True

    def read_change(self) -> Plan | None:
        """The new plan, if a file changed, the folder is valid, and its plan differs from the running one."""
        fingerprint = _read_fingerprint(self.folder)
        if fingerprint == self._fingerprint:
            self._candidate = None
            return None
        if fingerprint != self._candidate:
            self._candidate, self._still_since = fingerprint, time.monotonic()
            return None
        still = time.monotonic() - self._still_since
        if still < STILL_SECONDS:
            return None
        try:
            specs, files = self._load()
            if still < LOOSENING_SECONDS and self._specs is not None and any(find_loosened(self._specs, specs)):
                return None
            plan = self._store(specs, files)
        except CatalogError as error:
            self._fingerprint = fingerprint
            self._reject(error)
            return None
        self._fingerprint = fingerprint
        self.problems = []
        return plan if plan.version != self.plan.version else None

    def swap(self, plan: Plan) -> None:
        """Make `plan` the running plan."""
        self.plan = plan
        if self._logs_changes:
            log.info("plan swapped", plan=plan.version)
            if any(plan.bad_rows.values()):
                log.warning("rows of feeds are left out; `counterpoint check` names them", rows=dict(plan.bad_rows))

    def _load(self) -> tuple[Specs, dict[str, bytes]]:
        """The checked specs of the folder, and the bytes of its files."""
        files, problems = read_folder(self.folder, self._archive.directory if self._archive else None)
        return build_specs(self.folder.name, files, problems), files

    def _store(self, specs: Specs, files: dict[str, bytes]) -> Plan:
        """The plan of the specs, archived."""
        plan = compile_plan(specs)
        if self._archive:
            self._archive.store(specs, files, last_author(self.folder), time.time())
        self._specs = specs
        return plan

    def _reject(self, error: CatalogError) -> None:
        """Record the problems of a rejected change."""
        self.problems = error.problems
        self.rejected_changes += 1
        if self._logs_changes:
            problems = [str(problem) for problem in error.problems]
            log.warning("plan rejected; the running plan is unchanged", problems=problems)


def check_start(folder: Path, archive: Archive) -> None:
    """Raise an error if an engine should not start on `folder`; nothing is written.

    A running engine keeps its plan while its folder is away; one that starts was given a wrong name.

    Raises:
        BadInput: if `folder` is no folder, whatever ran before.
        CatalogError: if it has problems and the archive has no plan.
    """
    if not folder.is_dir():
        raise BadInput(f"--experiments {folder}: is not a folder; name the folder that has channels.yaml")
    files, problems = read_folder(folder, archive.directory)
    try:
        build_specs(folder.name, files, problems)
    except CatalogError:
        if archive.read_newest() is None:
            raise


def find_loosened(before: Specs, after: Specs) -> Iterator[str]:
    """Yield specs that reach more customers, or reach them more often, because a restriction is missing.

    A restriction is missing where a spec lost it, has fewer of it, or is new and has none.
    """
    olds = _restricted_specs(before)
    for place, new in _restricted_specs(after).items():
        old = olds.get(place)
        fields = restricting_fields(type(new))
        if old is None:
            if not any(_count_restrictions(new, name) for name in fields):
                yield place[1]
        elif any(_count_restrictions(old, name) > _count_restrictions(new, name) for name in fields):
            yield place[1]


def _restricted_specs(specs: Specs) -> dict[tuple[str, str], Spec]:
    """Every spec with restrictions of its own, by kind and key."""
    feeds = {key: one.offers for key, one in specs.selections.items() if isinstance(one.offers, OffersSpec)}
    named: dict[str, Mapping[str, Spec]] = {
        "offer": specs.offers,
        "experiment": specs.experiments,
        "moment": specs.moments,
        "campaign": specs.campaigns,
        "channel": {one.key: one for one in specs.channels.channels},
        "feed": {key: entry for key, entry in feeds.items() if entry.feed},
        "shop": {"channels.yaml": specs.channels},
    }
    return {(kind, key): spec for kind, rows in named.items() for key, spec in rows.items()}


def _count_restrictions(spec: Spec, name: str) -> int:
    """The number of restrictions in a field."""
    value = getattr(spec, name)
    return len(value) if isinstance(value, list | dict) else int(value is not None)


def _read_fingerprint(folder: Path) -> Fingerprint:
    """Path, time of change and size of each file, without reading any; empty for a missing folder."""
    files: list[tuple[str, int, int]] = []
    for place in (folder, folder / "offers", folder / FEEDS):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.endswith((".yaml", *SUFFIXES)):
                        stat = entry.stat()
                        files.append((entry.path, stat.st_mtime_ns, stat.st_size))
        except FileNotFoundError:
            continue
    return tuple(sorted(files))
