"""`collect --drain` beside a running `up` ends only when all that was acknowledged before it is in the log.

Before each drain a decision server is killed: its spool is then shipped by the other one, or by the drain itself.
"""

import itertools
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pyarrow.parquet as pq

from tests.faults.test_up_kills import ready, running, until, up
from tests.verbs import run_verb

SENDERS = 2
DRAINS = 3
EACH = 20  # ids acknowledged before each drain, at least


class Sender:
    """One client of the server; `acknowledged` are the ids of decisions and messages that were answered."""

    def __init__(self, base: str, number: int) -> None:
        self.base = base
        self.number = number
        self.acknowledged: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.send)
        self.thread.start()

    def send(self) -> None:
        with httpx.Client(base_url=self.base, timeout=30) as client:
            for count in itertools.count():
                if self.stop.wait(0.02):
                    return
                with suppress(httpx.TransportError):  # a killed server acknowledges nothing
                    self.ask(client, f"u-{self.number}-{count % 50}", f"m-{self.number}-{count}")

    def ask(self, client: httpx.Client, user: str, message: str) -> None:
        ask = {"customer": {"user_id": user}, "channel": "web", "placements": ["home_hero"]}
        decided = client.post("/v1/decide", json=ask)
        if decided.status_code == 200:
            self.acknowledged.append(decided.json()["decision_id"])
        item = {"type": "track", "event": "view", "user_id": user, "message_id": message}
        answer = client.post("/v1/events", json={"batch": [item]})
        statuses = answer.json()["statuses"] if answer.status_code == 200 else []
        self.acknowledged += [one["message_id"] for one in statuses if one["status"] == "accepted"]


def servers(pid: int) -> list[int]:
    """The decision servers of `up`, a process of `pid`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid and "serve" in (place / "cmdline").read_text().split("\0"):
                found.append(int(place.name))
    return [one for one in sorted(found) if running(one)]


def logged(log: Path) -> set[str]:
    """The ids of all rows of the log."""
    found: set[str] = set()
    for table, column in (("decisions", "decision_id"), ("events", "message_id")):
        for file in (log / table).rglob("*.parquet"):
            found.update(pq.read_table(file, columns=[column], partitioning=None)[column].to_pylist())
    return found


def test_a_drain_ends_with_all_that_was_acknowledged_before_it(tmp_path: Path) -> None:
    with up(tmp_path, "--workers", "2") as (engine, base):
        until(lambda: ready(base))
        senders = [Sender(base, number) for number in range(SENDERS)]
        try:
            for drain in range(1, DRAINS + 1):
                least = drain * EACH
                until(lambda: sum(len(sender.acknowledged) for sender in senders) >= least)  # noqa: B023 — waits here
                until(lambda: len(servers(engine.pid)) == 2)
                os.kill(servers(engine.pid)[0], signal.SIGKILL)
                acknowledged = {name for sender in senders for name in list(sender.acknowledged)}
                done = run_verb("collect", "--drain", "--data", str(tmp_path))
                assert done.returncode == 0, done.stderr
                assert acknowledged - logged(tmp_path / "log") == set()
        finally:
            for sender in senders:
                sender.stop.set()
            for sender in senders:
                sender.thread.join()
        assert len(acknowledged) >= DRAINS * EACH
        engine.terminate()
        assert engine.wait(60) == 0
