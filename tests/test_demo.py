"""The README's first command: a shop, learning, a report that says so."""

import os
import subprocess
import sys
from pathlib import Path

from engine.analysis import policy_report

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
