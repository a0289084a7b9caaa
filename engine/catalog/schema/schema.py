"""JSON Schemas of the YAML, generated from the structs that decode it, so that editors complete and validate it.

`write_schemas` writes them together with the reference page, `README.md`.
"""

from collections.abc import Mapping
from inspect import cleandoc
from pathlib import Path
from typing import get_type_hints

import msgspec

from engine.catalog.schema.reference_page import render_reference
from engine.catalog.spec.assertions import AssertionsFile
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.folder import SINGLE, UNWRAPPED
from engine.catalog.spec.offer import OfferSpec, SelectionSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS: Mapping[str, type[msgspec.Struct]] = {
    "experiment": ExperimentSpec,
    "selection": SelectionSpec,
    "offer": OfferSpec,
    **{name.removesuffix(".yaml"): kind for name, kind in SINGLE.items()},
    "tests": AssertionsFile,
}
"""The struct of every kind of file, by the name of its schema."""


def build_schemas() -> dict[str, dict[str, object]]:
    """The JSON Schema of every kind of YAML file, by the name of the schema file."""
    return {
        f"{name}.json": {"$schema": DIALECT, **_clean(msgspec.json.schema(_content(name), schema_hook=_anything))}
        for name in KINDS
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema and the reference page into `folder`, creating it if needed; returns the paths.

    Raises:
        OSError: if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, schema in build_schemas().items():
        path = folder / name
        path.write_bytes(msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n")
        paths.append(path)
    page = folder / "README.md"
    page.write_text(render_reference(), encoding="utf-8")
    return [*paths, page]


def _content(name: str) -> object:
    """The type of a kind of file: its struct, or the bare mapping that the file contains."""
    field = UNWRAPPED.get(f"{name}.yaml")
    return KINDS[name] if field is None else get_type_hints(KINDS[name], include_extras=True)[field]


def _anything(_kind: type) -> dict[str, object]:
    """The schema of `object`: payloads and conditions may contain any JSON."""
    return {"description": "any value"}


def _clean(schema: dict[str, object]) -> dict[str, object]:
    """The schema with docstring indents removed from its descriptions, since editors show them."""
    return {name: _cleaned(name, value) for name, value in schema.items()}


def _cleaned(name: str, value: object) -> object:
    """One value of a schema, cleaned at every depth; `name` is the key it stands under."""
    if name == "description" and isinstance(value, str):
        return cleandoc(value)
    if isinstance(value, dict):
        return _clean(value)
    return [_cleaned("", each) for each in value] if isinstance(value, list) else value
