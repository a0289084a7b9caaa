"""Archives every plan that ran, so that `explain` replays a logged decision with the plan that made it.

On disk, in `DATA/plans/`:

| file | content | written |
|---|---|---|
| `<version>.json` | an `ArchivedPlan`: the YAML files, the time of the first run, the author | once, never changed |
| `feeds/<digest>.gz` | a feed's bytes, by their SHA-256, for all plans that read them | once, never changed |
| `newest` | the version of the plan that ran last | at every change |

Both are written to a draft and renamed, so that a reader never sees half a file. Several servers may archive the same
plan at once: they write the same content. The version is a digest of the files, so a plan that runs again is found.
"""

import gzip
import os
import pwd
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from engine.catalog.archived_plan import (
    KEPT,
    ArchivedPlan,
    feed_path,
    read_archived_files,
    read_archived_plan,
    read_kept_plans,
)
from engine.catalog.check.load import build_specs
from engine.catalog.feeds.rows import SUFFIXES
from engine.catalog.spec.folder import Specs


class Archive:
    """The plans of one data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def store(self, specs: Specs, files: Mapping[str, bytes], author: str, now: float) -> None:
        """Store a plan that starts to run, unless it is stored already, and record it as the newest.

        Args:
            specs: the specs of the plan.
            files: the bytes of its YAML files, by name.
            author: who last changed a file.
            now: seconds since 1970.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self._path(specs.version)
        if not path.exists():
            own = {name: data for name, data in files.items() if not name.startswith(KEPT)}
            text = {name: data.decode() for name, data in own.items() if not name.endswith(SUFFIXES)}
            feeds = {name: self._store_feed(data) for name, data in own.items() if name.endswith(SUFFIXES)}
            plan = ArchivedPlan(
                version=specs.version,
                time=now,
                author=author,
                folder=specs.folder,
                files=text,
                environment=specs.environment or msgspec.UNSET,
                feeds=feeds or msgspec.UNSET,
            )
            _replace_file(path, msgspec.json.encode(plan))
        newest, version = self.directory / "newest", specs.version.encode()
        if not newest.exists() or newest.read_bytes() != version:  # a server restarts on a full disk too
            _replace_file(newest, version)

    def read_specs(self, version: str) -> Specs:
        """The specs of an archived plan.

        Raises:
            BadInput: if the archive has no plan of this version.
            CatalogError: if this release finds a problem in it, such as a plan that it keeps and that is missing.
        """
        plan = read_archived_plan(self.directory, version)
        files = read_archived_files(self.directory, plan)
        kept, problems = read_kept_plans(plan.folder, files, self.directory)
        return build_specs(plan.folder, {**files, **kept}, problems, environment=plan.environment or "")

    def read_newest(self) -> Specs | None:
        """The specs of the plan that ran last; None if no plan has run."""
        try:
            version = (self.directory / "newest").read_text()
        except FileNotFoundError:
            return None
        return self.read_specs(version)

    def _store_feed(self, data: bytes) -> str:
        """Store a feed unless it is stored already; returns its digest."""
        digest = sha256(data).hexdigest()
        path = feed_path(self.directory, digest)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            _replace_file(path, gzip.compress(data, 6, mtime=0))
        return digest

    def _path(self, version: str) -> Path:
        return self.directory / f"{version}.json"


def last_author(folder: Path) -> str:
    """The owner of the file that changed last, by name, or by number if the machine has no name for it."""
    paths = [*folder.glob("*.yaml"), *folder.glob("offers/*.yaml")]
    owner = max((path.stat() for path in paths), key=lambda stat: stat.st_mtime_ns).st_uid if paths else os.getuid()
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)


def _replace_file(path: Path, data: bytes) -> None:
    """Write a file by renaming a temporary one, whose name has the process id so that two servers do not share it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
