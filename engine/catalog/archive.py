"""Every plan that ever ran, with who made it and when, so that last week's record is explained by last week's plan."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import msgspec

from engine.catalog.check.load import build_specs
from engine.catalog.spec.folder import Specs
from engine.errors import BadInput


class ArchivedPlan(msgspec.Struct, frozen=True):
    """One plan as it is kept: its files, when it first ran (seconds since 1970), who last changed a file of it."""

    version: str
    time: float
    who: str
    folder: str
    files: dict[str, str]


class Archive:
    """The plans of one data directory, each in a file of its own that is written once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def store(self, specs: Specs, files: Mapping[str, bytes], who: str, now: float) -> None:
        """Keep a plan that begins to run, and remember it as the newest."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self._path(specs.version)
        if not path.exists():
            text = {name: data.decode() for name, data in files.items()}
            _write(path, msgspec.json.encode(ArchivedPlan(specs.version, now, who, specs.folder, text)))
        _write(self.directory / "newest", specs.version.encode())

    def read_specs(self, version: str) -> Specs:
        """The specs of a plan that ran.

        Raises:
            BadInput: if no such plan is kept here.
        """
        path = self._path(version)
        if not path.exists():
            raise BadInput(f"plan {version!r} is not kept in {self.directory}; use the data directory it ran on")
        kept = msgspec.json.decode(path.read_bytes(), type=ArchivedPlan)
        return build_specs(kept.folder, {name: text.encode() for name, text in kept.files.items()})

    def read_newest(self) -> Specs | None:
        """The specs of the plan that ran last; None where none ran yet."""
        try:
            version = (self.directory / "newest").read_text()
        except FileNotFoundError:
            return None
        return self.read_specs(version)

    def list_plans(self) -> list[ArchivedPlan]:
        """All plans that ran, in the order of their first run."""
        kept = [msgspec.json.decode(path.read_bytes(), type=ArchivedPlan) for path in self.directory.glob("*.json")]
        return sorted(kept, key=lambda plan: plan.time)

    def _path(self, version: str) -> Path:
        return self.directory / f"{version}.json"


def last_author(folder: Path) -> str:
    """The owner of the file that was changed last; its number where the machine does not know the name."""
    paths = [*folder.glob("*.yaml"), *folder.glob("offers/*.yaml")]
    owner = max((path.stat() for path in paths), key=lambda stat: stat.st_mtime_ns).st_uid if paths else os.getuid()
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.rename(path)
