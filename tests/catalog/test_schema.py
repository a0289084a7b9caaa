import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine.catalog.check.yaml_text import decode_yaml
from engine.catalog.schema.schema import build_schemas, write_schemas

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "schema"
SHIPPED = sorted((ROOT / "experiments").rglob("*.yaml"))
COMMENT = "# yaml-language-server: $schema="


def test_the_committed_schemas_are_current(tmp_path: Path) -> None:
    fresh = {path.name: path.read_text() for path in write_schemas(tmp_path)}
    committed = {path.name: path.read_text() for path in COMMITTED.iterdir()}
    assert fresh == committed, "run `counterpoint schema docs/schema`"


@pytest.mark.parametrize("name", sorted(build_schemas()))
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(build_schemas()[name])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_names_its_schema_and_fits_it(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    assert first.startswith(COMMENT)
    schema = (path.parent / first.removeprefix(COMMENT)).resolve()
    assert schema.parent == COMMITTED
    value, problems, _ = decode_yaml(path.read_bytes(), path.name)
    assert problems == []
    jsonschema.validate(value, json.loads(schema.read_text()), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("experiment.json", {"key": "x", "variants": []}),
        ("experiment.json", {"key": "x", "variants": [{"key": "a"}], "hypotesis": "a typo"}),
        ("experiment.json", {"key": "x", "variants": [{"key": "a", "weight": 1.4}]}),
        ("experiment.json", {"key": "no spaces", "variants": [{"key": "a"}]}),
        ("offer.json", {"key": "x"}),
        ("metrics.json", {"metrics": [{"key": "m", "event": "e", "kind": "median"}]}),
    ],
)
def test_a_mistake_does_not_fit(name: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, build_schemas()[name], jsonschema.Draft202012Validator)
