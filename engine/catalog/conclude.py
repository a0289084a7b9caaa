"""Writes the end of an experiment into its YAML file, and leaves every other line and comment as it is."""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from engine.catalog.check.load import build_specs, read_folder
from engine.catalog.spec.conclusion import ConclusionSpec
from engine.catalog.spec.folder import Specs
from engine.errors import BadInput


def write_conclusion(folder: Path, specs: Specs, key: str, *, ship: str | None, decided: ConclusionSpec) -> Path:
    """Set `status`, `ship` and `decided` in the file of an experiment; the file's path.

    Args:
        folder: the folder of YAML.
        specs: its specs.
        key: the experiment.
        ship: the variant that everyone gets; None stops the experiment.
        decided: the day, the person and the reason.

    Raises:
        BadInput: if there is no such experiment, or its file is not written line by line.
        CatalogError: if the folder would have problems; then nothing is written.
    """
    if key not in specs.experiments:
        raise BadInput(f"{key!r} is no experiment of {folder}; name one of {', '.join(sorted(specs.experiments))}")
    name = specs.files[key].partition("/")[2]
    path = folder / name
    text = path.read_bytes().decode()
    if not re.search(r"^key:", text, re.MULTILINE):
        raise BadInput(f"{path}: is not written key by key from the line's start; set status, ship and decided by hand")
    known = {field: value for field, value in asdict(decided).items() if value is not None}
    changed = set_key(text, "status", "shipped" if ship else "stopped")
    changed = set_key(changed, "ship", ship) if ship else drop_key(changed, "ship")
    changed = set_key(changed, "decided", known)
    files, problems = read_folder(folder)
    build_specs(folder.name, {**files, name: changed.encode()}, problems)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(changed.encode())
    draft.replace(path)
    return path


def set_key(text: str, key: str, value: str | Mapping[str, object]) -> str:
    """The YAML with a top-level key set, in its place or at the end."""
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{key}: {_flow(value)}{end}"
    changed, count = re.subn(_block(key), lambda _: line, text, count=1)
    return changed if count else text.rstrip("\r\n") + end + line


def drop_key(text: str, key: str) -> str:
    """The YAML without a top-level key."""
    return re.sub(_block(key), "", text, count=1)


def _block(key: str) -> str:
    """A top-level key with all lines of its value: those that are indented, list items, and blank lines between."""
    return rf"(?m)^{key}:[^\n]*(?:\n|\Z)(?:(?:[ \t]+[^\n]*|- [^\n]*|-)(?:\n|\Z)|\n(?=[ \t]+\S))*"


def _flow(value: str | Mapping[str, object]) -> str:
    """A value in one line: JSON texts are YAML's, dates are written plain."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) else msgspec.json.encode(value).decode()
    parts = [
        f"{name}: {one.isoformat() if isinstance(one, date) else msgspec.json.encode(one).decode()}"
        for name, one in value.items()
    ]
    return "{" + ", ".join(parts) + "}"
