"""JSON Schemas of the YAML, made from the structs that read it: an editor completes and underlines as `check` does.

Beside them a page for people, `README.md`.
"""

from collections.abc import Mapping
from inspect import cleandoc
from pathlib import Path

import msgspec

from engine.catalog.schema.reference_page import render_reference
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.folder import SINGLE
from engine.catalog.spec.offer import OfferSpec, SelectionSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS: Mapping[str, type[msgspec.Struct]] = {
    "experiment": ExperimentSpec,
    "selection": SelectionSpec,
    "offer": OfferSpec,
    **{name.removesuffix(".yaml"): kind for name, kind in SINGLE.items()},
}
"""Every kind of file, by the name of its schema."""


def build_schemas() -> dict[str, dict[str, object]]:
    """The schema of every kind of file, by its file's name."""
    return {
        f"{name}.json": {"$schema": DIALECT, **_clean(msgspec.json.schema(kind, schema_hook=_anything))}
        for name, kind in KINDS.items()
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema, and the page, into `folder`, which is made if need be.

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


def _anything(_kind: type) -> dict[str, object]:
    """Payloads and conditions hold any JSON."""
    return {"description": "any value"}


def _clean(schema: dict[str, object]) -> dict[str, object]:
    """The schema with its descriptions as an editor shows them: docstrings without their indent."""
    return {name: _cleaned(name, value) for name, value in schema.items()}


def _cleaned(name: str, value: object) -> object:
    if name == "description" and isinstance(value, str):
        return cleandoc(value)
    if isinstance(value, dict):
        return _clean(value)
    return [_cleaned("", each) for each in value] if isinstance(value, list) else value
