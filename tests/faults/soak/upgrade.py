"""A rolling upgrade from an earlier commit under load: no decision is refused, lost or doubled.

    python -m tests.faults.soak.upgrade [--from HEAD~1] [--seconds 30] [--seed N] [--callers 8]

Two servers, a learner and a collector run the earlier commit. Under load each in turn ends with SIGTERM, and one of
this commit takes its place, on the same data folder and store. Every answer goes into a ledger, which is compared with
the log. Exits with 1 if a decision or an event is lost, doubled or invented, or if a decision was answered with 5xx.
"""

import argparse
import asyncio
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine import embedded
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.service.access.listener import listen
from engine.settings import Settings
from tests.faults.cluster.cluster import await_ready
from tests.faults.soak.ledger import Ledger, describe_latencies
from tests.faults.soak.soak import SHOP, Callers

ROOT = Path(__file__).parents[3]
ROLES = {"server 1": "serve", "server 2": "serve", "learner": "learn", "collector": "collect"}
"""In the order in which they are upgraded."""


class UpgradedEngine:
    """An installation whose processes may run different commits."""

    def __init__(self, place: Path, redis: str, fd: int) -> None:
        self.settings = Settings(data=place / "data", experiments=place / "experiments", redis=redis)
        shutil.copytree(SHOP, self.settings.experiments)
        self._fd = fd
        self._log = (place / "engine.log").open("ab")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str, code: Path) -> None:
        """Start a role with the engine in a folder."""
        words = [ROLES[role], *(("--fd", str(self._fd)) if role.startswith("server") else ())]
        environment = os.environ | {
            "COUNTERPOINT_DATA": str(self.settings.data),
            "COUNTERPOINT_REDIS": self.settings.redis,
            "COUNTERPOINT_EXPERIMENTS": str(self.settings.experiments),
            "PYTHONPATH": str(code),
        }
        command = [sys.executable, "-m", "engine", *words]
        self._processes[role] = subprocess.Popen(
            command, cwd=code, env=environment, pass_fds=(self._fd,), stderr=self._log
        )

    def end(self, role: str) -> int:
        """End a role in order; its exit code."""
        self._processes[role].terminate()
        return self._processes[role].wait(60)

    def stop(self) -> None:
        """End all roles."""
        for role in self._processes:
            self.end(role)
        self._log.close()


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The code of an earlier commit, in a folder of its own."""
    with tempfile.TemporaryDirectory() as place:
        command = ["git", "archive", revision]
        packed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(place, filter="data")
        yield Path(place)


def run(before: Path, seconds: float, seed: int, *, callers: int = 8) -> tuple[Ledger, dict[str, int]]:
    """Upgrade everything from the code in `before` to this; the ledger, and what is wrong by name."""
    ledger = Ledger()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = stack.enter_context(embedded.running(place / "store"))
        listener = stack.enter_context(listen("127.0.0.1", 0))
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        engine = UpgradedEngine(place, store.url, listener.fileno())
        load = Callers(base, ledger, seed)

        async def upgrade() -> list[int]:
            loop, codes = asyncio.get_running_loop(), []
            calling = asyncio.create_task(load.run(callers))
            for role in ROLES:
                await asyncio.sleep(seconds / (len(ROLES) + 1))
                codes.append(await loop.run_in_executor(None, engine.end, role))
                engine.start(role, ROOT)
            await asyncio.sleep(seconds / (len(ROLES) + 1))
            load.stopped = True
            await calling
            return codes

        try:
            for role in ROLES:
                engine.start(role, before)
            await_ready(base)
            codes = asyncio.run(upgrade())
        except BaseException:
            sys.stderr.write((place / "engine.log").read_text()[-5000:])
            raise
        finally:
            engine.stop()
        collect(engine.settings, LogErasures(), drain=True)
        found = ledger.compare(engine.settings.log)
    return ledger, found | {"processes of before that ended with an error": sum(code != 0 for code in codes)}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--from", dest="revision", default="HEAD~1")
    arguments.add_argument("--seconds", type=float, default=30.0)
    arguments.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments.add_argument("--callers", type=int, default=8)
    given = arguments.parse_args()
    sys.stderr.write(f"seed {given.seed}, from {given.revision}\n")
    with checked_out(given.revision) as before:
        ledger, found = run(before, given.seconds, given.seed, callers=given.callers)
    lines = [
        f"from {given.revision}, seed {given.seed}, {ledger.unanswered:,} broken connections",
        f"{len(ledger.decisions):,} decisions ({ledger.degraded:,} degraded), {len(ledger.accepted):,} events",
        f"decide: {describe_latencies(ledger.calm)}",
        *(f"{name}: {count}" for name, count in found.items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
