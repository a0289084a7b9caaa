"""A start that is refused says why in one line, exits with 2 and writes nothing."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.catalog.archive import Archive
from engine.catalog.watch import PlanWatch
from tests.verbs import run_verb

SHOP = Path(__file__).resolve().parents[2] / "experiments"
NOWHERE = ("--redis", "redis://127.0.0.1:1")
STARTS = [("up",), ("serve", *NOWHERE), ("learn", *NOWHERE)]


def start(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return run_verb(
        *words, "--data", str(folder / "data"), cwd=folder, env={"PYTHONPATH": str(SHOP.parent), **variables}
    )


@pytest.fixture(params=[False, True], ids=["a new folder", "a folder on which a plan ran"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param:
        PlanWatch(SHOP, Archive(tmp_path / "data" / "plans"))
    return tmp_path


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


@pytest.mark.parametrize("words", STARTS, ids=[words[0] for words in STARTS])
def test_a_misspelled_folder_is_refused_and_no_old_plan_served(folder: Path, words: tuple[str, ...]) -> None:
    before = sorted(folder.rglob("*"))
    done = start(folder, *words, "--experiments", "nope")
    assert done.returncode == 2
    assert done.stderr == "--experiments nope: is not a folder; name the folder that has channels.yaml\n"
    assert sorted(folder.rglob("*")) == before


def test_a_taken_port_and_bad_keys_write_nothing(folder: Path, taken: str) -> None:
    before = sorted(folder.rglob("*"))
    for verb in STARTS[:2]:
        done = start(folder, *verb, "--experiments", str(SHOP), "--port", taken)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"--port {taken}" in done.stderr
        assert sorted(folder.rglob("*")) == before
        done = start(folder, *verb, "--experiments", str(SHOP), COUNTERPOINT_API_KEYS="nope.yaml")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert sorted(folder.rglob("*")) == before


def test_a_partition_that_does_not_exist_writes_nothing(tmp_path: Path) -> None:
    done = start(tmp_path, "learn", *NOWHERE, "--experiments", str(SHOP), "--partition", "99")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_yaml_with_problems_is_refused_where_no_plan_ran(tmp_path: Path) -> None:
    shutil.copytree(SHOP, tmp_path / "shop")
    (tmp_path / "shop" / "channels.yaml").write_text("x: [")
    before = sorted(tmp_path.rglob("*"))
    for words in STARTS:
        done = start(tmp_path, *words, "--experiments", "shop")
        assert done.returncode == 2
        assert "shop/channels.yaml" in done.stderr.splitlines()[0]
        assert done.stderr.endswith("Nothing was started or changed.\n")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["list", "replay"])
def test_a_misspelled_data_folder_has_no_quarantine_and_is_not_made(tmp_path: Path, verb: str) -> None:
    done = run_verb("quarantine", verb, "--data", "nope", cwd=tmp_path, env={"PYTHONPATH": str(SHOP.parent)})
    assert (done.returncode, done.stderr) == (2, "nope: no such folder; give the --data of `counterpoint up`\n")
    assert not list(tmp_path.iterdir())
