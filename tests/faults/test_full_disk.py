"""The disk of the spool is full, as a tmpfs of a few megabytes is: early refusals or counted answers, and no crash."""

import os
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

from engine.journal.records import DecisionRecord, decode
from engine.journal.spool import spool
from engine.service.access.listener import listen

ROOT = Path(__file__).parents[2]
ASK = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}
FLAG = "/ofrep/v1/evaluate/flags/checkout_layout"


@dataclass
class Server:
    """A server on a folder of the small disk; `mode` is its `full_disk`."""

    folder: Path
    redis: str
    mode: str
    fd: int
    base: str
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        (self.folder / "meters").mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "COUNTERPOINT_EXPERIMENTS": str(ROOT / "experiments"),
            "COUNTERPOINT_DATA": str(self.folder),
            "COUNTERPOINT_REDIS": self.redis,
            "COUNTERPOINT_FULL_DISK": self.mode,
            "COUNTERPOINT_STORE_TIMEOUT": "5",
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "meters"),
        }
        command = [sys.executable, "-m", "engine", "serve", "--fd", str(self.fd)]
        self.process = subprocess.Popen(command, env=environment, pass_fds=(self.fd,), stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def ask(self, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"{self.base}/v1/decide", json=ASK, headers=sent, timeout=240)

    def evaluate(self) -> httpx.Response:
        return httpx.post(self.base + FLAG, json={"context": {"targetingKey": "u-1"}}, timeout=240)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.base + path, timeout=240)

    def recorded(self) -> set[str]:
        """The decisions in the spools."""
        found = set()
        for path in spool.list_spools(self.folder / "spool"):
            cursor = spool.START
            while (page := spool.read_frames(path, cursor))[0]:
                cursor = page[1]
                records = (decode(frame.payload) for frame in page[0])
                found |= {one.decision_id for one in records if isinstance(one, DecisionRecord)}
        return found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    with suppress(FileNotFoundError):
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 (it is where mount is)
            return
    pytest.skip("a small disk needs the right to mount one")


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_is_told_and_answered_as_its_setting_says(disk: Path, redis_url: str) -> None:
    with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as other:
        refusing, answering = (
            Server(disk / mode, redis_url, mode, at.fileno(), f"http://127.0.0.1:{at.getsockname()[1]}")
            for mode, at in (("refuse", one), ("answer", other))
        )
        try:
            for server in (refusing, answering):
                server.start()
            before = [server.ask().json()["decision_id"] for server in (refusing, answering)]
            fill(disk)
            for server in (refusing, answering):
                check_full(server)
                server.kill()
                server.start()
            for server in (refusing, answering):
                check_full(server)
                assert "counterpoint_degraded_total" in server.get("/metrics").text
            (disk / "filler").unlink()
            for server, first in zip((refusing, answering), before, strict=True):
                deadline = time.monotonic() + 30
                while server.ask().json().get("degraded") is not False:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                last = server.ask().json()["decision_id"]
                assert {first, last} <= server.recorded()
        finally:
            refusing.kill()
            answering.kill()


def check_full(server: Server) -> None:
    """What a server answers while its disk is full, which it looks at every few milliseconds."""
    deadline = time.monotonic() + 30
    while server.get("/readyz").status_code != 503:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    answers = [server.ask(), server.ask(idempotency_key="full"), server.evaluate()]
    ready = server.get("/readyz")
    assert ready.status_code == 503
    assert "the disk of the spool is full" in ready.json()["why"][0]
    if server.mode == "refuse":
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "5")] * 3
        assert server.get("/readyz/degraded").status_code == 503
        return
    assert [answer.status_code for answer in answers] == [200] * 3
    for answer in answers[:2]:
        body = answer.json()
        assert (body["degraded"], body["offers"]["home_hero"]["reason"]) == (True, "fallback")
        assert body["warnings"][0].startswith("not recorded")
        assert body["decision_id"] not in server.recorded()
    assert server.get("/readyz/degraded").status_code == 200
    assert "counterpoint_unrecorded_total 3.0" in server.get("/metrics").text
