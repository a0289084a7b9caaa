"""Plans archived by earlier versions stay readable, and stored bytes keep their keys."""

import json
from pathlib import Path

import pytest

from engine.catalog.archive import Archive
from engine.catalog.check.load import build_specs, read_folder
from engine.errors import BadInput

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "tests/vectors/archived_plan.json").read_text())
"""One plan as written by version 1.0: `version`, `time`, `who`, `folder`, and the text of each file."""


def test_a_plan_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / f"{STORED['version']}.json").write_text(json.dumps(STORED))
    (tmp_path / "newest").write_text(STORED["version"])
    specs = Archive(tmp_path).read_newest()
    assert specs is not None
    assert specs.version == STORED["version"]
    assert list(specs.experiments) == ["layout"]


def test_a_stored_plan_has_the_same_bytes(tmp_path: Path) -> None:
    files = {name: text.encode() for name, text in STORED["files"].items()}
    specs = build_specs(STORED["folder"], files)
    Archive(tmp_path).store(specs, files, STORED["who"], STORED["time"])
    written = (tmp_path / f"{STORED['version']}.json").read_text()
    assert list(json.loads(written).items()) == list(STORED.items())


def test_a_plan_that_runs_again_is_stored_once_and_is_the_newest(tmp_path: Path) -> None:
    folder = ROOT / "experiments"
    files, problems = read_folder(folder)
    specs = build_specs(folder.name, files, problems)
    archive = Archive(tmp_path)
    assert archive.read_newest() is None
    archive.store(specs, files, "a", 1.0)
    archive.store(specs, files, "b", 2.0)
    assert json.loads((tmp_path / f"{specs.version}.json").read_text())["who"] == "a"
    assert archive.read_newest() == specs
    with pytest.raises(BadInput, match="is not in the archive"):
        archive.read_specs("another")
