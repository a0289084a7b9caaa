"""What a terminal, a pipe and another encoding get to see of the same verb."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verbs import run_verb

SHOP = Path(__file__).resolve().parents[2] / "experiments"
NARROW = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "LANG=C": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
WORK = """
import os, subprocess, sys
import structlog
from engine.cli.app import err, log_to_stderr
from engine.progress import relay_lines, track_progress

log_to_stderr()
with relay_lines(err) as stderr, track_progress(err, "Letters are sorted", 40) as advance:
    for letter in range(40):
        if letter % 10 == 5:
            structlog.get_logger().info("a line of this process", letter=letter)
            subprocess.run(["echo", "a line of a child"], stdout=stderr or sys.stderr, check=True)
        advance(1)
"""


def run(*words: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    env = {**os.environ, **variables}
    command = [sys.executable, "-m", "engine", *words]
    return subprocess.run(command, capture_output=True, check=False, env=env, timeout=240)


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The shop with an experiment that has another seed, whose letters ASCII lacks."""
    for file in SHOP.rglob("*.yaml"):
        target = tmp_path / file.relative_to(SHOP)
        target.parent.mkdir(exist_ok=True)
        text = file.read_text()
        if file.name == "checkout_layout.yaml":
            text += "seed: кофе €→\n"
        target.write_text(text)
    return tmp_path


@pytest.mark.parametrize("variables", NARROW.values(), ids=NARROW)
def test_a_terminal_of_another_encoding_gets_every_answer(variables: dict[str, str], changed: Path) -> None:
    shown = run("plan", str(SHOP), str(changed), **variables)
    assert (shown.returncode, b"Traceback" in shown.stderr) == (0, False), shown.stderr
    assert b"->" in shown.stdout
    assert b"Traceback" not in run("plan", str(SHOP), "nowhere-→", **variables).stderr


@pytest.mark.parametrize("variables", NARROW.values(), ids=NARROW)
def test_json_is_the_same_document_in_every_encoding(variables: dict[str, str], changed: Path) -> None:
    words = ("plan", str(SHOP), str(changed), "--json")
    plain = json.loads(run(*words, PYTHONIOENCODING="utf-8").stdout)
    assert "кофе €→" in json.dumps(plain, ensure_ascii=False)
    assert json.loads(run(*words, **variables).stdout.decode("ascii")) == plain


def test_a_log_line_never_breaks_a_progress_bar() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"}
    ):
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 4096):
                shown += piece
        except OSError:  # Linux: the other side is closed
            pass
    os.close(master)
    lines = [re.split(r"\r|\x1b\[2K", line)[-1] for line in shown.decode().replace("\r\n", "\n").split("\n")]
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in lines]
    assert [line for line in plain if "of a child" in line] == ["a line of a child"] * 4
    assert len([line for line in plain if re.fullmatch(r".*a line of this process +letter=\d+", line)]) == 4
    assert any(re.match(r"Letters are sorted .*40/40", line) for line in plain)
    assert not [line for line in plain if "a line" in line and "Letters" in line]


def test_piped_progress_is_lines() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if line.startswith("Letters")]
    assert told == [f"Letters are sorted: {count} of 40" for count in range(4, 41, 4)]
    assert done.stderr.count("a line of a child") == 4


@pytest.mark.parametrize("word", ["erse", "eras", "eraze", "ease"])
def test_a_misspelled_verb_never_suggests_erase(word: str) -> None:
    done = run_verb(word, "u-1")
    assert done.returncode == 2
    assert "erase" not in done.stderr


def test_plan_exits_with_1_where_something_unsafe_is_in_the_change(changed: Path) -> None:
    assert run_verb("plan", str(SHOP), str(changed)).returncode == 0
    assert run_verb("plan", str(SHOP), str(changed), "--exit-code").returncode == 1
    assert run_verb("plan", str(SHOP), str(changed), "--exit-code", "--json").returncode == 1
    assert run_verb("plan", str(SHOP), str(SHOP), "--exit-code").returncode == 0
