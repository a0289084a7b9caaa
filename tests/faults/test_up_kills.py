"""A killed process of `counterpoint up` is restarted, and all of them end when `up` itself is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from engine.service.access.listener import listen

ROOT = Path(__file__).parents[2]
ASK = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}
ROLES = {"serve", "learn", "collect", "dashboard", "supervise"}
LAG = "counterpoint_spool_lag_records"


@contextmanager
def up(data: Path, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running `counterpoint up` and its address."""
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    words = ("--experiments", str(ROOT / "experiments"), "--data", str(data), "--port", str(port), *more)
    process = subprocess.Popen([sys.executable, "-m", "engine", "up", *words], stderr=subprocess.DEVNULL)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def descendants(pid: int) -> dict[str, int]:
    """The child processes of a process, by role."""
    found = {}
    parents = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            words = (place / "cmdline").read_text().split("\0")
            starting = not any(words) or words == parents  # between fork and exec
            if int(parent) == pid and state != "Z" and not starting:
                role = next((word for word in words if word in ROLES), "store")
                assert role not in found, f"two children are the {role}: {words}"
                found[role] = int(place.name)
    return found


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ready(base: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{base}/readyz", timeout=5).status_code == 200
    return False


def lag(base: str) -> float:
    lines = httpx.get(f"{base}/metrics", timeout=20).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{LAG} "))


def running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_killed_processes_are_restarted_and_end_with_up(tmp_path: Path) -> None:
    with up(tmp_path) as (engine, base):
        until(lambda: ready(base) and descendants(engine.pid).keys() == ROLES | {"store"})
        before = descendants(engine.pid)
        os.kill(before["store"], signal.SIGSTOP)
        assert httpx.post(f"{base}/v1/decide", json=ASK, timeout=20).json()["degraded"]
        assert lag(base) > 0
        os.kill(before["serve"], signal.SIGKILL)
        os.kill(before["store"], signal.SIGKILL)
        until(lambda: ready(base) and lag(base) == 0)  # what the killed server had waiting, the new one has shipped
        after = descendants(engine.pid)
        assert after.keys() == before.keys()
        assert not {before["serve"], before["store"]} & set(after.values())
        engine.kill()
        engine.wait()
        until(lambda: not any(map(running, after.values())))
