"""The how-to guides, followed line by line against a running engine: their files are written, their commands run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from engine.service.access.listener import listen

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/how-to"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
GUARD = "(while kill -0 TESTS; do sleep 1; done; kill -KILL -- -$$) > /dev/null 2>&1 & disown"
"""Ends the guide and all that it runs once the tests are gone, even where these were killed."""
PATIENT_CURL = 'curl() { command curl --retry 15 --retry-all-errors --retry-delay 1 --no-progress-meter "$@"; }'
"""Servers read what a guide has just written within seconds, which pass before a person has read the next line."""


@dataclass(frozen=True)
class Desk:
    """A folder with the shipped shop, and the port that stands in for 8080."""

    folder: Path
    port: int

    def follow(self, guide: str, **replaced: str) -> str:
        """Write the guide's files and run its commands as one script, in their order; returns what they print."""
        script = [
            "set -e",
            GUARD.replace("TESTS", str(os.getpid())),
            "trap 'jobs -p | xargs -r kill' EXIT",
            PATIENT_CURL,
        ]
        for language, text in BLOCK.findall((GUIDES / guide).read_text(encoding="utf-8")):
            block = text.replace("8080", str(self.port))
            for old, new in replaced.items():
                block = block.replace(old, new)
            if language == "sh":
                script.append(block)
            elif name := re.match(r"# (\S+\.\w+)\n", block):
                script.append(f"cat > {name[1]} <<'END_OF_FILE'\n{block}END_OF_FILE\n")
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        running = subprocess.Popen(
            ["/bin/bash", "-c", "\n".join(script)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that what the guide leaves running ends with it, however it ends
        )
        try:
            printed, _ = running.communicate(timeout=300)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        assert running.returncode == 0, printed
        return printed


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    with listen("127.0.0.1", 0) as free:
        return Desk(tmp_path, free.getsockname()[1])


@pytest.fixture
def running_desk(desk: Desk) -> Iterator[Desk]:
    """A desk where `counterpoint up` serves."""
    script = f'{GUARD.replace("TESTS", str(os.getpid()))}\nexec "$@"'
    words = ["/bin/bash", "-c", script, "up", sys.executable, "-m", "engine", "up", "--port", str(desk.port)]
    process = subprocess.Popen(
        words,
        cwd=desk.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not is_ready(desk.port):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield desk
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_growth_team_and_a_storefront_follow_their_guides(running_desk: Desk) -> None:
    started = running_desk.follow("start-an-experiment.md")
    assert "safe  cart_button status" in started
    assert '"variant":' in started
    assert '"paused":false' in started
    assert '"statuses":[{"status":"accepted"' in running_desk.follow("integrate-a-storefront.md")
    collected = subprocess.run(
        [sys.executable, "-m", "engine", "collect", "--drain"], cwd=running_desk.folder, check=False
    )
    assert collected.returncode == 0
    added = running_desk.follow("add-an-offer.md")
    assert "home_hero@" in added
    assert '"offer":"gift_wrap","propensity"' in added
    sent = running_desk.follow("send-messages.md")
    assert '{"items":[' in sent
    assert '"results":{"THE-DECISION-ID":"unknown"}' in sent
    report = running_desk.follow("read-a-report.md")
    assert "KEEP RUNNING" in report
    assert "revenue: before removed" in report


def test_an_operator_follows_the_guide_to_production(desk: Desk, redis_url: str) -> None:
    printed = desk.follow("run-in-production.md", **{"redis://127.0.0.1:6379/0": redis_url})
    assert '"ready":true' in printed
    assert '"reason":"policy"' in printed
    assert list((desk.folder / "data/log/decisions").rglob("*.parquet"))
