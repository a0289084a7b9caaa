"""A folder of YAML -> Specs, or every problem in it at once."""

import copy
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.catalog.check.decode import find_problems
from engine.catalog.check.references import reference_problems
from engine.catalog.check.yaml_text import MAX_BYTES, decode_yaml
from engine.catalog.spec.experiment import ExperimentSpec, IdentitiesFile, LayersFile, MetricsFile, SegmentsFile
from engine.catalog.spec.folder import SINGLE, Specs
from engine.catalog.spec.offer import ChannelsFile, MomentsFile, OfferSpec, SelectionSpec
from engine.errors import CatalogError, Problem

Keyed = TypeVar("Keyed", ExperimentSpec, SelectionSpec, OfferSpec)


def load_specs(folder: Path) -> Specs:
    """The checked specs of `folder`.

    Raises:
        CatalogError: with every problem of every file, if there is one.
    """
    files, problems = read_folder(folder)
    return build_specs(folder.name, files, problems)


def read_folder(folder: Path) -> tuple[dict[str, bytes], list[Problem]]:
    """The bytes of a folder's files by their names in it, and what could not be read."""
    if not folder.is_dir():
        raise CatalogError([Problem(str(folder), "", "is no folder; name the folder that holds channels.yaml")])
    problems: list[Problem] = []
    files: dict[str, bytes] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("offers/*.yaml")]):
        name = path.relative_to(folder).as_posix()
        data = _bytes(path, f"{folder.name}/{name}", problems)
        if data is not None:
            files[name] = data
    return files, [*problems, *_stray(folder)]


def build_specs(folder: str, files: Mapping[str, bytes], problems: Sequence[Problem] = ()) -> Specs:
    """The checked specs of files that were read; `problems` are those of the reading.

    Raises:
        CatalogError: with every problem of every file, if there is one.
    """
    unread = {problem.file.removeprefix(f"{folder}/") for problem in problems if problem.file.endswith(".yaml")}
    problems = list(problems)
    read: dict[str, msgspec.Struct] = {}
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        file = f"{folder}/{name}"
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
        value, found = decode_yaml(data, file)
        problems += found
        if not found:
            spec = _converted(value, file, _kind(name, value), problems)
            if spec is not None:
                read[name] = spec
            elif isinstance(value, dict) and isinstance(value.get("key"), str):
                unread.add(f"{name.rpartition('/')[0]}/{value['key']}.yaml".removeprefix("/"))
    problems += [
        Problem(f"{folder}/{name}", "", "is missing; every shop has one")
        for name in ("channels.yaml", "metrics.yaml")
        if name not in files
    ]
    specs = _specs(folder, digest.hexdigest()[:12], read)
    told = {(problem.file, _top(problem.path)) for problem in problems}
    unread |= {*files, "channels.yaml", "metrics.yaml"} - read.keys()
    tops = {problem.file.removeprefix(f"{folder}/") for problem in problems if problem.path == _top(problem.path)}
    unread |= tops & SINGLE.keys()  # whose lists may be what is misspelt
    problems += [
        problem for problem in reference_problems(specs, unread) if (problem.file, _top(problem.path)) not in told
    ]
    if problems:
        raise CatalogError(problems)
    return specs


def _top(path: str) -> str:
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _specs(folder: str, version: str, read: Mapping[str, msgspec.Struct]) -> Specs:
    channels, metrics = read.get("channels.yaml"), read.get("metrics.yaml")
    layers, segments = read.get("layers.yaml"), read.get("segments.yaml")
    customers = read.get("identities.yaml")
    moments = read.get("moments.yaml")
    return Specs(
        folder=folder,
        version=version,
        files={spec.key: f"{folder}/{name}" for name, spec in read.items() if isinstance(spec, ExperimentSpec)}
        | {spec.key: f"{folder}/{name}" for name, spec in read.items() if isinstance(spec, SelectionSpec)},
        experiments=_by_key(read, ExperimentSpec),
        selections=_by_key(read, SelectionSpec),
        offers=_by_key(read, OfferSpec),
        channels=channels if isinstance(channels, ChannelsFile) else ChannelsFile(channels=[]),
        layers=layers if isinstance(layers, LayersFile) else LayersFile(),
        segments={s.key: s for s in segments.segments} if isinstance(segments, SegmentsFile) else {},
        metrics=metrics if isinstance(metrics, MetricsFile) else MetricsFile(metrics=[]),
        customers=customers if isinstance(customers, IdentitiesFile) else IdentitiesFile(),
        moments={moment.key: moment for moment in moments.moments} if isinstance(moments, MomentsFile) else {},
    )


def _by_key(read: Mapping[str, msgspec.Struct], kind: type[Keyed]) -> dict[str, Keyed]:
    return {spec.key: spec for spec in read.values() if isinstance(spec, kind)}


def _bytes(path: Path, file: str, problems: list[Problem]) -> bytes | None:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        problems.append(Problem(file, "", f"cannot be read: {error.strerror}; make it readable"))
        return None


def _kind(name: str, value: object) -> type[msgspec.Struct]:
    if name in SINGLE:
        return SINGLE[name]
    if name.startswith("offers/"):
        return OfferSpec
    keys = value.keys() if isinstance(value, dict) else set[str]()
    chooses = "fallback" in keys or ("variants" not in keys and keys & {"offers", "policy", "reward"})
    return SelectionSpec if chooses else ExperimentSpec


def _converted(value: object, file: str, kind: type[msgspec.Struct], problems: list[Problem]) -> msgspec.Struct | None:
    found = [Problem(file, path, message) for path, message in find_problems(value, kind)]
    stem = file.rpartition("/")[2].removesuffix(".yaml")
    key = value.get("key") if isinstance(value, dict) else None
    if kind in {ExperimentSpec, SelectionSpec, OfferSpec} and key is not None and key != stem:
        found.append(
            Problem(file, "key", f"{key!r} is not the file's name; call the file {key}.yaml or the key {stem}")
        )
    problems += found
    return msgspec.convert(_without(value, found), kind, strict=False) if _mendable(value, found, kind) else None


def _mendable(value: object, problems: Sequence[Problem], kind: type[msgspec.Struct]) -> bool:
    """Whether what is left without its problems is a spec, so that what it says of others can be judged as well."""
    if not problems:
        return True
    try:
        msgspec.convert(_without(value, problems), kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _without(value: object, problems: Sequence[Problem]) -> object:
    if not problems:
        return value
    left = copy.deepcopy(value)
    for problem in problems:
        *way, last = re.findall(r"[^.\[\]]+", problem.path) or [""]
        place = left
        for step in way:
            place = _in(place, step)
        if isinstance(place, dict):
            place.pop(last, None)
    return left


def _in(place: object, step: str) -> object:
    if isinstance(place, list) and step.isdigit() and int(step) < len(place):
        return place[int(step)]
    return place.get(step) if isinstance(place, dict) else None


def _stray(folder: Path) -> Iterator[Problem]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in {".yml", ".json", ".py"}:
            yield Problem(f"{folder.name}/{name}", "", "is not read here; only .yaml files are, rename or remove it")
        elif path.suffix == ".yaml" and name.count("/") > (1 if name.startswith("offers/") else 0):
            yield Problem(f"{folder.name}/{name}", "", "is in a folder that is not read; move it up or to offers/")
