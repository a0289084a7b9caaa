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
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from engine.catalog.check.load import build_specs
from engine.catalog.feeds.rows import SUFFIXES
from engine.catalog.spec.folder import Specs
from engine.errors import BadInput


class ArchivedPlan(msgspec.Struct, frozen=True, kw_only=True, rename={"author": "who"}):
    """One archived plan: its files and environment, its first run (s since 1970), the author of its last change.

    `feeds` has the digest of each feed, whose bytes are stored once beside the plans.
    """

    version: str
    time: float
    author: str
    folder: str
    files: dict[str, str]
    environment: str | msgspec.UnsetType = msgspec.UNSET
    feeds: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


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
            text = {name: data.decode() for name, data in files.items() if not name.endswith(SUFFIXES)}
            feeds = {name: self._store_feed(data) for name, data in files.items() if name.endswith(SUFFIXES)}
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
        """The specs of a plan that ran.

        Raises:
            BadInput: if the archive has no plan of this version.
        """
        path = self._path(version)
        if not path.exists():
            raise BadInput(
                f"plan {version!r} is not in the archive {self.directory}; use the data directory on which it ran"
            )
        plan = msgspec.json.decode(path.read_bytes(), type=ArchivedPlan)
        files = {name: text.encode() for name, text in plan.files.items()} | self.read_feeds(plan)
        return build_specs(plan.folder, files, environment=plan.environment or "")

    def read_newest(self) -> Specs | None:
        """The specs of the plan that ran last; None where none has run."""
        try:
            version = (self.directory / "newest").read_text()
        except FileNotFoundError:
            return None
        return self.read_specs(version)

    def read_feeds(self, plan: ArchivedPlan) -> dict[str, bytes]:
        """The bytes of the feeds that a plan read, by name.

        Raises:
            BadInput: if one is not in the archive any more.
        """
        found: dict[str, bytes] = {}
        for name, digest in (plan.feeds or {}).items():
            path = self._feed_path(digest)
            try:
                found[name] = gzip.decompress(path.read_bytes())
            except (OSError, EOFError, zlib.error) as error:
                raise BadInput(f"{path}: {error}; restore it, the plan {plan.version} reads {name} there") from error
        return found

    def _store_feed(self, data: bytes) -> str:
        """Store a feed unless it is stored already; returns its digest."""
        digest = sha256(data).hexdigest()
        path = self._feed_path(digest)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            _replace_file(path, gzip.compress(data, 6, mtime=0))
        return digest

    def _feed_path(self, digest: str) -> Path:
        return self.directory / "feeds" / f"{digest}.gz"

    def _path(self, version: str) -> Path:
        return self.directory / f"{version}.json"


def last_author(folder: Path) -> str:
    """The owner of the file that changed last, by name, or by number where the machine has no name for it."""
    paths = [*folder.glob("*.yaml"), *folder.glob("offers/*.yaml")]
    owner = max((path.stat() for path in paths), key=lambda stat: stat.st_mtime_ns).st_uid if paths else os.getuid()
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)


def _replace_file(path: Path, data: bytes) -> None:
    """Write a file by renaming a draft, whose name has the process id so that two servers do not share it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
