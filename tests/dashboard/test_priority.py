"""The dashboard's processes have the priority that the guide to operating promises, so that decisions come first."""

import os
import re
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from engine.settings import Settings
from engine.up import run_engine

ROOT = Path(__file__).resolve().parents[2]
BODY = {"customer": {"user_id": "u-1"}, "channel": "web", "expose": True, "experiments": ["checkout_layout"]}


def children_of(parent: int) -> dict[str, int]:
    """The processes that `parent` started, by their command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            above = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if above == parent:
            found[command] = int(path.parent.name)
    return found


def child_of(parent: int, part: str) -> int:
    """The process that `parent` started with `part` in its command line, once it runs."""
    deadline = time.monotonic() + 30
    while True:
        found = [pid for command, pid in children_of(parent).items() if part in command]
        if found:
            return found[0]
        assert time.monotonic() < deadline, part
        time.sleep(0.1)


def priorities(pid: int) -> set[tuple[int, int]]:
    """Niceness and scheduling policy of the threads of a process."""
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    return {(os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread)) for thread in threads}


def await_priority(pid: int, expected: tuple[int, int]) -> None:
    """Wait until all threads have it: a process lowers its priority after its first instructions."""
    deadline = time.monotonic() + 30
    while priorities(pid) != {expected}:
        assert time.monotonic() < deadline, (priorities(pid), expected)
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads priorities from /proc")
def test_pages_and_reports_yield_to_decisions(tmp_path: Path) -> None:
    page = " ".join((ROOT / "docs" / "how-to" / "operate.md").read_text().split())
    promised = re.search(r"pages run at niceness (\d+).* reports runs at niceness (\d+) and, on Linux, as batch", page)
    assert promised
    mine = (os.getpriority(os.PRIO_PROCESS, 0), os.SCHED_OTHER)
    settings = Settings(experiments=ROOT / "experiments", data=tmp_path, port=0, store_timeout=5.0)
    with run_engine(settings, threading.Event()) as (base, _):
        assert httpx.post(f"{base}/v1/decide", json=BODY, timeout=30).is_success
        pages = child_of(os.getpid(), " dashboard ")
        await_priority(pages, (int(promised[1]), os.SCHED_OTHER))
        await_priority(child_of(pages, "spawn_main"), (int(promised[2]), os.SCHED_BATCH))
        server = child_of(os.getpid(), " serve ")
        assert priorities(server) == {mine}
        group = Path(f"/proc/{pages}/autogroup")
        if group.exists() and (text := group.read_text()).strip():
            assert text.split()[-1] == promised[1]
            # The file of a process without a group of its own is empty: it runs at the niceness it inherited.
            served = Path(f"/proc/{server}/autogroup").read_text().split()
            assert not served or served[-1] == "0"
