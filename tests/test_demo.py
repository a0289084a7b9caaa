"""The README's first command: a shop, learning, a report that says so."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engine import embedded
from engine.analysis import policy_report
from engine.analysis.planvalue.line_values import value_plan
from engine.analysis.planvalue.shown_rows import read_shown_log
from engine.analysis.stats.estimate import Effect
from engine.catalog import load_plan
from engine.cli.app import err, out
from engine.errors import BadInput
from engine.settings import from_environment
from engine.traffic import demo

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
    _check_planted_changes(tmp_path)


def _check_planted_changes(folder: Path) -> None:
    """Of three changed lines one earns, one loses and one does nothing: their truth is that of the demo's shoppers."""
    new = shutil.copytree(ROOT / "experiments", folder / "new")
    levers = {"tasting_set": "lever: 4", "free_delivery": "lever: 4"}
    for offer, line in levers.items():
        file = new / "offers" / f"{offer}.yaml"
        file.write_text(f"{file.read_text()}{line}\n")
    file = new / "offers" / "second_coffee.yaml"
    file.write_text(file.read_text().replace("headline: The", "headline: Always the", 1))
    log = folder / "demo" / "log"
    found = {one.lines[0].file: one for one in value_plan(ROOT / "experiments", new, log).lines}
    assert {file: one.verdict for file, one in found.items()} == {
        "offers/tasting_set.yaml": "earns",
        "offers/free_delivery.yaml": "loses",
        "offers/second_coffee.yaml": "no effect",
    }
    for offer, line in levers.items():
        value = found[f"offers/{offer}.yaml"].per_thousand
        assert isinstance(value, Effect)
        # Twice the 95 % interval: about four standard errors, since what the demo logs differs from run to run.
        assert abs(1000 * _true_worth(log, offer, line) - value.estimate) < value.high - value.low


def _true_worth(log: Path, offer: str, line: str) -> float:
    """What a lever would have earned per decision, by the click rates that the demo knows."""
    plan = load_plan(ROOT / "experiments")
    shown = read_shown_log(log)
    factor, total = float(line.removeprefix("lever: ")), 0.0
    for row in shown.rows:
        if row.policy is None:  # a degraded answer has the fallback, with or without the lever
            continue
        trace = shown.traces[row.decision_id]
        features = json.loads(row.context)
        shopper = demo.Shopper("", int(features["loyalty.tier"] or 0), float(features["affinity.coffee"] or 0.0))
        earns = [plan.offers[arm].spec.value * shopper.clicks(arm) for arm in row.candidates]
        chances = np.array(trace.probabilities.get("home_hero", [1 / len(earns)] * len(earns)))
        weights = chances * np.where(np.array(row.candidates) == offer, factor, 1.0)
        floor = plan.policies[row.policy.rpartition("@")[0]].policy.floor
        pulled = weights / weights.sum() * (1 - weights.size * floor) + floor
        total += float((pulled - chances) @ earns)
    return total / len(shown.rows)


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
