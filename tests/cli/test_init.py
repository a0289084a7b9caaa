"""`counterpoint init` writes a folder that is valid, keeps its own assertions, and names what is next."""

import json
import re
import shlex
from pathlib import Path

import pytest

from engine.cli import app
from engine.errors import BadInput


def test_the_folder_is_valid_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my shop"
    assert app(["init", str(folder)], result_action="return_value") == 0
    said = capsys.readouterr().out
    written = re.findall(r"^counterpoint .*$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    assert written == re.findall(r"^counterpoint .*$", said, flags=re.MULTILINE)
    check, up = (shlex.split(line)[1:] for line in written)
    assert up == ["up", "--experiments", str(folder)]
    assert app([*check, "--json"], result_action="return_value") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["problems"], found["warnings"]) == (True, [], [])
    assert app(["test", str(folder), "--json"], result_action="return_value") == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 0
    names = re.findall(r"`([a-z_/]+\.yaml)`", (folder / "README.md").read_text())
    assert names
    assert all((folder / name).is_file() for name in names)
    with pytest.raises(BadInput, match="is there already and not empty"):
        app(["init", str(folder)], result_action="return_value")
