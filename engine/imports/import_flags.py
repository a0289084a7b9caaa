"""Turns a document of another flag system into YAML that passes `check`, and says what it could not keep."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from engine.catalog.check.load import build_specs
from engine.errors import BadInput, CatalogError
from engine.imports.confidence.flags import read_confidence
from engine.imports.draft import Draft
from engine.imports.eppo import read_eppo
from engine.imports.flagd import read_flagd
from engine.imports.flagsmith import read_flagsmith
from engine.imports.growthbook import read_growthbook
from engine.imports.launchdarkly import read_launchdarkly
from engine.imports.model import ImportResult, Json, Note, Unsupported
from engine.imports.shared_parts import FlagReader, ReadFlag, SharedParts, file_of
from engine.imports.unleash import read_unleash
from engine.vocabulary import PURCHASE

SYSTEMS: Mapping[str, FlagReader] = {
    "growthbook": read_growthbook,
    "unleash": read_unleash,
    "launchdarkly": read_launchdarkly,
    "flagd": read_flagd,
    "flagsmith": read_flagsmith,
    "eppo": read_eppo,
    "confidence": read_confidence,
}
CHANNELS: Json = {"channels": [{"key": "web", "title": "Web"}]}
METRICS: Json = {"metrics": [{"key": "conversion", "title": "Ordered", "kind": "proportion", "event": PURCHASE}]}


class _Dumper(yaml.SafeDumper):
    """Writes every value in full, as the YAML here has no anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 (the base has it)
        return True


def import_flags(system: str, document: Json, existing: Mapping[str, bytes] | None = None) -> ImportResult:
    """The flags of a document of `system`, as files of a folder.

    Args:
        system: a key of `SYSTEMS`.
        document: what the other system exports, decoded from JSON or YAML.
        existing: the files that the folder has already, which are kept; None for a new folder.

    Raises:
        BadInput: if it is no document of that system.
    """
    shop, drafts = SharedParts(), dict[str, Draft | None]()
    try:
        for name, read in SYSTEMS[system](document, shop):
            drafts[name] = _read(name, read, shop)
    except Unsupported as error:
        raise BadInput(f"the document {error}") from None
    before = dict(existing or {})
    while True:
        files = _build_files(shop, drafts, before)
        dropped = _find_dropped(before, files, drafts)
        if not dropped:
            break
        for name, why in dropped.items():
            drafts[name] = None
            shop.notes.append(Note(name, "", "not kept", f"check says: {why}"))
    notes = [*shop.notes, *(note for draft in drafts.values() if draft for note in draft.notes)]
    flags = {name: draft.key if draft else None for name, draft in drafts.items()}
    return ImportResult(system, flags, files, notes)


def write_import(result: ImportResult, folder: Path) -> list[Path]:
    """Write the files of an import; the paths.

    Raises:
        BadInput: if one of them exists, so that nothing is overwritten.
    """
    paths = {folder / name: content for name, content in result.files.items()}
    taken = sorted(path.name for path in paths if path.exists())
    if taken:
        raise BadInput(f"{folder} has {', '.join(taken)} already; import into a new folder and merge by hand")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in paths.items():
        path.write_bytes(to_yaml(content))
    return list(paths)


def to_yaml(content: Json) -> bytes:
    """The text of a file; lists and mappings of plain values stand in one line."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return text.encode()


def _read(name: str, read: ReadFlag, shop: SharedParts) -> Draft | None:
    """One flag; None with a note where it cannot be kept."""
    try:
        return read()
    except Unsupported as error:
        shop.notes.append(Note(name, "", "not kept", str(error)))
        return None
    except (ValueError, ArithmeticError) as error:  # a number that no calculation of a reader expects
        shop.notes.append(Note(name, "", "not kept", f"has a value that cannot be read: {error}"))
        return None


def _build_files(shop: SharedParts, drafts: Mapping[str, Draft | None], before: Mapping[str, bytes]) -> dict[str, Json]:
    """The new files: one for each flag, and those that a folder needs and does not have."""
    files = {file_of(draft.key): draft.to_yaml() for draft in drafts.values() if draft}
    units: Json = {unit: {"trait": of} for draft in drafts.values() if draft for unit, of in draft.units.items()}
    if units:
        files["units.yaml"] = units
    if shop.segments:
        files["segments.yaml"] = {"segments": list(shop.segments.values())}
    needed = {"channels.yaml": CHANNELS, "metrics.yaml": METRICS}
    return files | {name: content for name, content in needed.items() if name not in before}


def _find_dropped(
    before: Mapping[str, bytes], files: Mapping[str, Json], drafts: Mapping[str, Draft | None]
) -> dict[str, str]:
    """The flags that `check` refuses, with its reason.

    Raises:
        BadInput: where it refuses a file that is no flag.
    """
    by_file = {file_of(draft.key): name for name, draft in drafts.items() if draft}
    try:
        build_specs("to", {**before, **{name: to_yaml(content) for name, content in files.items()}})
    except CatalogError as error:
        found: dict[str, str] = {}
        for problem in error.problems:
            name = by_file.get(problem.file.removeprefix("to/"))
            if name is None:
                raise BadInput(f"{problem}; remove that from the document and import again") from None
            found.setdefault(name, f"{problem.path}: {problem.message}")
        return found
    return {}
