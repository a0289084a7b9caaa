"""Reads a folder of YAML into `Specs`, or reports every problem in it at once.

A file with problems does not hide those of others. What is valid in it is decoded without the rest, references of other
files to it are still checked, and a name that it may define is not reported as missing.
"""

import copy
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from engine.catalog.archived_plan import KEPT, named_versions, read_kept_plans, unpack_plan
from engine.catalog.check.decode import find_problems
from engine.catalog.check.references import reference_problems
from engine.catalog.check.yaml_text import MAX_BYTES, decode_yaml
from engine.catalog.feeds.check import read_feeds, with_feeds
from engine.catalog.feeds.rows import SUFFIXES
from engine.catalog.spec.experiment import ExperimentSpec, IdentitiesFile, LayersFile, SegmentsFile
from engine.catalog.spec.flags import expand_flag
from engine.catalog.spec.folder import SINGLE, TESTS, UNWRAPPED, Specs
from engine.catalog.spec.limits.stock import PlacesFile
from engine.catalog.spec.metrics import MetricsFile
from engine.catalog.spec.notify import NotifyFile
from engine.catalog.spec.offer import CampaignsFile, ChannelsFile, MomentsFile, OfferSpec, SelectionSpec
from engine.catalog.spec.sources import SourcesFile
from engine.catalog.spec.traits import TraitsFile
from engine.catalog.spec.units import UnitsFile
from engine.errors import CatalogError, Problem
from engine.settings import DATA

Keyed = TypeVar("Keyed", ExperimentSpec, SelectionSpec, OfferSpec)
REQUIRED = ("channels.yaml", "metrics.yaml")


ENVIRONMENT = "COUNTERPOINT_ENVIRONMENT"
"""The variable that names the environment: what flags have for it under `environments` applies."""


class _DecodedFile(NamedTuple):
    """One decoded file: its spec (None if too little of it is valid), its key and its problems."""

    spec: msgspec.Struct | None
    key: str | None
    problems: list[Problem]


def load_specs(folder: Path, plans: Path | None = None) -> Specs:
    """The checked specs of `folder`; `plans` is the archive that `read_folder` reads.

    Raises:
        CatalogError: with every problem of every file, if there is one.
    """
    files, problems = read_folder(folder, plans)
    return build_specs(folder.name, files, problems)


def read_folder(folder: Path, plans: Path | None = None) -> tuple[dict[str, bytes], list[Problem]]:
    """The bytes of a folder's files by name, and the problems of unreadable ones.

    The plans that its holdouts keep are among the files; `plans` is their archive, by default that of the data
    directory which the environment names.

    Raises:
        CatalogError: if `folder` is not a directory.
    """
    if not folder.is_dir():
        raise CatalogError([Problem(str(folder), "", "is not a folder; name the folder that has channels.yaml")])
    problems: list[Problem] = []
    files: dict[str, bytes] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("offers/*.yaml")]):
        name = path.relative_to(folder).as_posix()
        try:
            with path.open("rb") as stream:
                files[name] = stream.read(MAX_BYTES + 1)  # one byte more shows that the file is too long
        except OSError as error:
            message = f"cannot be read: {error.strerror}; let this user read it"
            problems.append(Problem(f"{folder.name}/{name}", "", message))
    archive = plans or Path(os.environ.get("COUNTERPOINT_DATA", DATA)) / "plans"
    kept, missing = read_kept_plans(folder.name, files, archive)
    return {**files, **read_feeds(folder, files), **kept}, [*problems, *missing, *_find_stray_files(folder)]


def build_specs(
    folder: str, files: Mapping[str, bytes], problems: Sequence[Problem] = (), environment: str | None = None
) -> Specs:
    """The checked specs of files that were read.

    Args:
        folder: the name of the folder, with which every problem names its file.
        files: the bytes of each file by its name in the folder.
        problems: those found while the folder was read.
        environment: the environment of the flags; None takes that of the process.

    Raises:
        CatalogError: with every problem of every file, if there is one.
    """
    kept, problems = _build_kept(files, problems)
    files = {name: data for name, data in files.items() if not name.startswith(KEPT)}
    texts = {name: data for name, data in files.items() if not name.endswith(SUFFIXES)}
    decoded = {name: _decode_file(folder, name, data) for name, data in sorted(texts.items())}
    environment = os.environ.get(ENVIRONMENT, "") if environment is None else environment
    read = {name: file.spec for name, file in decoded.items() if file.spec is not None}
    specs = with_feeds(_collect_specs(folder, _digest_files(files, environment), read, environment), files)
    specs = replace(specs, kept=kept)
    found = [*problems, *(problem for file in decoded.values() for problem in file.problems)]
    found += [
        Problem(f"{folder}/{name}", "", "is missing; every shop has one") for name in REQUIRED if name not in files
    ]
    # A key that is wrong in itself is not also reported for what it refers to.
    reported = {(problem.file, _first_key(problem.path)) for problem in found}
    found += [
        problem
        for problem in reference_problems(specs, _find_unread(folder, decoded, found))
        if (problem.file, _first_key(problem.path)) not in reported
    ]
    if found:
        raise CatalogError(found)
    return specs


def _build_kept(files: Mapping[str, bytes], problems: Sequence[Problem]) -> tuple[dict[str, Specs], Sequence[Problem]]:
    """The kept plans' specs by version, and `problems` with those that this release finds in them."""
    packed = {name: data for name, data in files.items() if name.startswith(KEPT)}
    kept: dict[str, Specs] = {}
    found = list(problems)
    for version in {version for _, version in named_versions(files)}:
        name = f"{KEPT}{version}"
        if name not in packed:
            continue  # its reader has reported it
        plan = unpack_plan(packed[name])
        try:
            kept[version] = build_specs(plan.folder, {**plan.files, **packed}, environment=plan.environment)
        except CatalogError as error:
            found += [msgspec.structs.replace(one, file=f"{name}/{one.file}") for one in error.problems]
    return kept, found


def _digest_files(files: Mapping[str, bytes], environment: str) -> str:
    """The version of a plan: 48 bits of SHA-256 over its files' names and bytes, and its environment."""
    digest = hashlib.sha256(f"\0{environment}\0".encode() if environment else b"")
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)  # the length separates a name from the bytes before it
    return digest.hexdigest()[:12]


def _find_unread(folder: str, decoded: Mapping[str, _DecodedFile], problems: Sequence[Problem]) -> set[str]:
    """The missing and undecodable files, which may define a name that `Specs` lacks."""
    unreadable = {problem.file.removeprefix(f"{folder}/") for problem in problems if problem.path == ""}
    unread = {name for name in unreadable if name.endswith(".yaml")}
    for name, file in decoded.items():
        if file.spec is None:
            unread.add(name)
            if file.key is not None:  # others may refer to the key although the file has another name
                unread.add(f"{name.rpartition('/')[0]}/{file.key}.yaml".removeprefix("/"))
    unread |= {name for name in REQUIRED if name not in decoded}
    # A misspelt key at the top of such a file may be the list that defines the names.
    tops = {problem.file.removeprefix(f"{folder}/") for problem in problems if problem.path == _first_key(problem.path)}
    return unread | (tops & SINGLE.keys())


def _first_key(path: str) -> str:
    """The first key of a problem's path: `variants` of `variants[1].weight`."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _collect_specs(folder: str, version: str, read: Mapping[str, msgspec.Struct], environment: str) -> Specs:
    """The specs of the decoded files by name; an absent file counts as empty."""
    channels, metrics = read.get("channels.yaml"), read.get("metrics.yaml")
    layers, segments = read.get("layers.yaml"), read.get("segments.yaml")
    customers = read.get("identities.yaml")
    moments, notify, units = read.get("moments.yaml"), read.get("notify.yaml"), read.get("units.yaml")
    traits, campaigns = read.get("traits.yaml"), read.get("campaigns.yaml")
    sources, places = read.get("sources.yaml"), read.get("places.yaml")
    return Specs(
        folder=folder,
        version=version,
        files={spec.key: f"{folder}/{name}" for name, spec in read.items() if isinstance(spec, ExperimentSpec)}
        | {spec.key: f"{folder}/{name}" for name, spec in read.items() if isinstance(spec, SelectionSpec)},
        experiments={
            key: _with_unit(expand_flag(spec, environment)) for key, spec in _by_key(read, ExperimentSpec).items()
        },
        selections=_by_key(read, SelectionSpec),
        offers=_by_key(read, OfferSpec),
        channels=channels if isinstance(channels, ChannelsFile) else ChannelsFile(channels=[]),
        layers=layers if isinstance(layers, LayersFile) else LayersFile(),
        segments={s.key: s for s in segments.segments} if isinstance(segments, SegmentsFile) else {},
        metrics=metrics if isinstance(metrics, MetricsFile) else MetricsFile(metrics=[]),
        customers=customers if isinstance(customers, IdentitiesFile) else IdentitiesFile(),
        moments={moment.key: moment for moment in moments.moments} if isinstance(moments, MomentsFile) else {},
        notify=notify if isinstance(notify, NotifyFile) else NotifyFile(),
        units=units if isinstance(units, UnitsFile) else UnitsFile(),
        campaigns={one.key: one for one in campaigns.campaigns} if isinstance(campaigns, CampaignsFile) else {},
        budgets={one.key: one for one in campaigns.budgets} if isinstance(campaigns, CampaignsFile) else {},
        sources=sources if isinstance(sources, SourcesFile) else SourcesFile(),
        environment=environment or None,
        traits=traits if isinstance(traits, TraitsFile) else TraitsFile(),
        grouping=segments if isinstance(segments, SegmentsFile) else SegmentsFile(),
        places=places.places if isinstance(places, PlacesFile) else (),
    )


def _with_unit(spec: ExperimentSpec) -> ExperimentSpec:
    """The experiment with its switchback's unit, unless it names one itself."""
    if spec.switchback is None or spec.unit != "customer":
        return spec
    return msgspec.structs.replace(spec, unit=spec.switchback.by)


def _by_key(read: Mapping[str, msgspec.Struct], kind: type[Keyed]) -> dict[str, Keyed]:
    """The specs of one kind by key, without files that could not be read."""
    return {spec.key: spec for spec in read.values() if isinstance(spec, kind)}


@lru_cache(maxsize=1024)
def _decode_file(folder: str, name: str, data: bytes) -> _DecodedFile:
    """Decode and validate one file; after a change of the folder only changed files are decoded again."""
    file = f"{folder}/{name}"
    value, problems, spellings = decode_yaml(data, file)
    if problems:
        return _DecodedFile(spec=None, key=None, problems=problems)
    kind = _infer_kind(name, value)
    if name in UNWRAPPED:
        return _decode_unwrapped(file, UNWRAPPED[name], value, kind)
    problems = [
        Problem(file, path, _quote_as_written(message, spellings.get(path)))
        for path, message in find_problems(value, kind)
    ]
    stem = name.rpartition("/")[2].removesuffix(".yaml")
    key = value.get("key") if isinstance(value, dict) else None
    if kind in {ExperimentSpec, SelectionSpec, OfferSpec} and key is not None and not _is_name_of(key, stem):
        message = f"{key!r} is not the file's name; call the file {key}.yaml or the key {stem}"
        problems.append(Problem(file, "key", message))
    spec = _convert_valid_part(value, problems, kind)
    return _DecodedFile(spec=spec, key=key if isinstance(key, str) else None, problems=problems)


def _decode_unwrapped(file: str, field: str, value: object, kind: type[msgspec.Struct]) -> _DecodedFile:
    """A file that is a mapping by key, as the struct's `field` holds it; problems name places in the file."""
    wrapped = {field: {} if value is None else value}
    problems = [Problem(file, path, message) for path, message in find_problems(wrapped, kind)]
    spec = _convert_valid_part(wrapped, problems, kind)
    within = f"{field}."
    problems = [Problem(file, one.path.removeprefix(within).removeprefix(field), one.message) for one in problems]
    return _DecodedFile(spec=spec, key=None, problems=problems)


def _is_name_of(key: object, stem: str) -> bool:
    """Whether the file name matches its key, in which `_` or `-` may stand for dots, slashes and colons."""
    pattern = re.sub(r"(?:/|:|\\\.)+", "[/:_.-]+", re.escape(str(key)))
    return re.fullmatch(pattern, stem) is not None


def _quote_as_written(message: str, written: str | None) -> str:
    """The message with a number spelled as in the file: '1.10', not '1.1'."""
    return message if written is None else re.sub(r"quote it: '[^']*'", f"quote it: '{written}'", message)


def _infer_kind(name: str, value: object) -> type[msgspec.Struct]:
    """The struct of a file, by its name or else its keys: a selection chooses offers, an experiment has variants."""
    if name in SINGLE:
        return SINGLE[name]
    if name.startswith("offers/"):
        return OfferSpec
    keys = value.keys() if isinstance(value, dict) else set[str]()
    is_selection = "fallback" in keys or (
        not keys & {"variants", "rules", "default"} and keys & {"offers", "policy", "reward"}
    )
    return SelectionSpec if is_selection else ExperimentSpec


def _convert_valid_part(
    value: object, problems: Sequence[Problem], kind: type[msgspec.Struct]
) -> msgspec.Struct | None:
    """The spec without invalid keys, so that its references are checked too; None if the rest is no spec."""
    if not problems:
        return msgspec.convert(value, kind, strict=False)
    try:
        return msgspec.convert(_without_invalid(value, problems), kind, strict=False)
    except msgspec.ValidationError:
        return None


def _without_invalid(value: object, problems: Sequence[Problem]) -> object:
    """A copy of the value without the keys that have a problem."""
    remaining = copy.deepcopy(value)
    for problem in problems:
        *parents, last = re.findall(r"[^.\[\]]+", problem.path) or [""]
        place = remaining
        for step in parents:
            place = _read_step(place, step)
        if isinstance(place, dict):
            place.pop(last, None)
    return remaining


def _read_step(place: object, step: str) -> object:
    """The item or key at a place in the value; None if it does not exist."""
    if isinstance(place, list) and step.isdigit() and int(step) < len(place):
        return place[int(step)]
    return place.get(step) if isinstance(place, dict) else None


def _find_stray_files(folder: Path) -> Iterator[Problem]:
    """Yield files that look like part of the shop but are never read."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in {".yml", ".json", ".py"}:
            yield Problem(f"{folder.name}/{name}", "", "is not read; only .yaml files are, rename or remove it")
        elif path.suffix == ".yaml" and name.count("/") > (1 if name.startswith(("offers/", TESTS)) else 0):
            message = "is in a folder that is not read; move it up, to offers/ or to tests/"
            yield Problem(f"{folder.name}/{name}", "", message)
