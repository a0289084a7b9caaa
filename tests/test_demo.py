"""The README's first command: a shop, learning, a report that says so."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine import demo, embedded
from engine.analysis import policy_report
from engine.cli.app import err, out
from engine.errors import BadInput
from engine.settings import from_environment

ROOT = Path(__file__).parents[1]


def test_after_the_demo_the_learned_placement_beats_uniform_by_more_than_its_interval(tmp_path: Path) -> None:
    environment = {**os.environ, "COUNTERPOINT_EXPERIMENTS": str(ROOT / "experiments")}
    command = [sys.executable, "-m", "engine", "demo", "--once", "--customers", "1500", "--port", "0"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "demo")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in ("home_hero", "checkout_layout", "hero_policy", "sample ratio"):
        assert word in done.stdout
    report = policy_report(tmp_path / "demo" / "log", "home_hero")
    rates = {row.policy: row.rate for row in report.policies}
    assert rates["home_hero"].low > rates["hero_policy.uniform"].high


def test_a_second_demo_on_the_folder_of_one_that_runs_is_refused(tmp_path: Path) -> None:
    log = _left_by_a_demo(tmp_path)
    with embedded.running(tmp_path / "store"), pytest.raises(BadInput, match="another demo runs there"):
        demo.run_demo(from_environment(port=0, data=tmp_path), 1, once=True, stop=threading.Event(), out=out, err=err)
    assert log.exists()


def test_a_port_that_is_taken_costs_no_earlier_demo_its_log(tmp_path: Path) -> None:
    log = _left_by_a_demo(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadInput, match="cannot listen on"):
        demo.run_demo(
            from_environment(port=taken.getsockname()[1], data=tmp_path),
            1,
            once=True,
            stop=threading.Event(),
            out=out,
            err=err,
        )
    assert log.exists()


def _left_by_a_demo(folder: Path) -> Path:
    (folder / demo.MARK).touch()
    log = folder / "log"
    log.mkdir()
    return log
