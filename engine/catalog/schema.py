"""JSON Schemas of the YAML, made from the structs that read it: an editor completes and underlines as `check` does.

Beside them a page for people, `README.md`.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from engine.catalog.offer_spec import OfferSpec, SelectionSpec
from engine.catalog.page import reference
from engine.catalog.spec import ExperimentSpec
from engine.catalog.specs import SINGLE

DIALECT = "https://json-schema.org/draft/2020-12/schema"
KINDS: Mapping[str, type[msgspec.Struct]] = {
    "experiment": ExperimentSpec,
    "selection": SelectionSpec,
    "offer": OfferSpec,
    **{name.removesuffix(".yaml"): kind for name, kind in SINGLE.items()},
}
"""Every kind of file, by the name of its schema."""


def schemas() -> dict[str, dict[str, object]]:
    """The schema of every kind of file, by its file's name."""
    return {
        f"{name}.json": {"$schema": DIALECT, **msgspec.json.schema(kind, schema_hook=_anything)}
        for name, kind in KINDS.items()
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema, and the page, into `folder`, which is made if need be.

    Raises:
        OSError: if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, schema in schemas().items():
        path = folder / name
        path.write_bytes(msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n")
        paths.append(path)
    page = folder / "README.md"
    page.write_text(reference(), encoding="utf-8")
    return [*paths, page]


def _anything(_kind: type) -> dict[str, object]:
    """Payloads and conditions hold any JSON."""
    return {"description": "any value"}
