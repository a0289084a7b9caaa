"""Archived plans as stored on disk, and the plans that a folder's holdouts keep.

A holdout with `keeps: VERSION` has its units decided by an archived plan, so a folder is read together with that plan.
Its files go into the folder's own as one packed entry, `plans/VERSION`, and so do those that it keeps itself. Their
bytes are not in the folder's version: the version that `layers.yaml` names is their digest already.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from engine.catalog.check.yaml_text import decode_yaml
from engine.errors import BadInput, Problem

KEPT = "plans/"
"""The beginning of the name under which a folder's files have a kept plan."""
_LAYERS = "layers.yaml"


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


class KeptPlan(msgspec.Struct, frozen=True, array_like=True):
    """The folder, environment and files of an archived plan, feeds included."""

    folder: str
    environment: str
    files: dict[str, bytes]


def read_archived_plan(directory: Path, version: str) -> ArchivedPlan:
    """The archived plan of a version.

    Raises:
        BadInput: if the archive has no such plan, or it is damaged.
    """
    path = directory / f"{version}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=ArchivedPlan)
    except FileNotFoundError:
        message = f"plan {version!r} is not in the archive {directory}; use the data directory on which it ran"
        raise BadInput(message) from None
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"{path}: {error}; restore it from a backup") from error


def feed_path(directory: Path, digest: str) -> Path:
    """The file of a feed by its digest."""
    return directory / "feeds" / f"{digest}.gz"


def read_archived_files(directory: Path, plan: ArchivedPlan) -> dict[str, bytes]:
    """The bytes of a plan's files by name, feeds included.

    Raises:
        BadInput: if a feed is not in the archive any more.
    """
    found = {name: text.encode() for name, text in plan.files.items()}
    for name, digest in (plan.feeds or {}).items():
        path = feed_path(directory, digest)
        try:
            found[name] = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"{path}: {error}; restore it, the plan {plan.version} reads {name} there") from error
    return found


def read_kept_plans(folder: str, files: Mapping[str, bytes], directory: Path) -> tuple[dict[str, bytes], list[Problem]]:
    """The packed plans that the files' holdouts keep, by their names in the folder, and the missing ones.

    Args:
        folder: the name of the folder, for problems.
        files: the bytes of its files.
        directory: the archive.
    """
    found: dict[str, bytes] = {}
    problems: list[Problem] = []
    for path, version in named_versions(files):
        try:
            _pack(directory, version, found)
        except BadInput as error:
            problems.append(Problem(f"{folder}/{_LAYERS}", path, str(error)))
    return found, problems


def unpack_plan(data: bytes) -> KeptPlan:
    """The plan of a packed entry."""
    return msgspec.msgpack.decode(data, type=KeptPlan)


def _pack(directory: Path, version: str, found: dict[str, bytes]) -> None:
    """Add a plan to `found`, together with the plans that it keeps."""
    name = f"{KEPT}{version}"
    if name in found:
        return
    plan = read_archived_plan(directory, version)
    files = read_archived_files(directory, plan)
    for _, own in named_versions(files):
        _pack(directory, own, found)
    found[name] = msgspec.msgpack.encode(KeptPlan(plan.folder, plan.environment or "", files))


def named_versions(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the path and version of each holdout that keeps a plan; malformed ones are reported elsewhere."""
    if b"keeps" not in files.get(_LAYERS, b""):
        return
    value, _, _ = decode_yaml(files[_LAYERS], _LAYERS)
    holdouts = value.get("holdouts") if isinstance(value, dict) else None
    for index, holdout in enumerate(holdouts if isinstance(holdouts, list) else []):
        version = holdout.get("keeps") if isinstance(holdout, dict) else None
        if isinstance(version, str) and version.isalnum():
            yield f"holdouts[{index}].keeps", version
