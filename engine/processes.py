"""Processes that are kept running: each is started, started again when it dies, and ended in order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import multiprocess

from engine.embedded import die_with

log = structlog.get_logger(__name__)

STEADY_SECONDS = 10.0
LONGEST_PAUSE = 5.0


@dataclass
class Child:
    """One process by its command; `fds` are open files that it inherits."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    fds: Sequence[int] = ()
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0

    def start(self) -> None:
        """Start it; its output goes where ours goes."""
        self.process = subprocess.Popen(  # noqa: S603 (our own command line)
            self.command,
            env=dict(self.environment),
            pass_fds=self.fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the keeper, which ends its children in order
            preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 (nothing in it takes a lock)
        )
        self.started = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether it is alive now."""
        return self.process is not None and self.process.poll() is None


@dataclass
class Keeper:
    """Keeps children running until it is told to end them, the last added first."""

    children: list[Child] = field(default_factory=list)
    ending: bool = False

    def add(self, child: Child) -> Child:
        """Start a child and keep it."""
        child.start()
        self.children.append(child)
        return child

    def tend(self) -> None:
        """Start again what has died: at once, then after ever longer pauses while it keeps dying."""
        now = time.monotonic()
        for child in self.children:
            if self.ending or child.running or now < child.due:
                continue
            if child.due == 0.0:
                child.deaths = 0 if now - child.started > STEADY_SECONDS else child.deaths + 1
                child.due = now + min(0.05 * 2**child.deaths, LONGEST_PAUSE)
                code = child.process.returncode if child.process else None
                log.warning("process ended; starting it again", process=child.name, code=code, deaths=child.deaths)
                _forget_gauges(child)
                continue
            child.due = 0.0
            child.start()

    def end(self, seconds: float = 15.0) -> None:
        """Ask each to end, the last added first, and kill what has not ended in time."""
        self.ending = True
        for child in reversed(self.children):
            if child.process is None or not child.running:
                continue
            child.process.send_signal(signal.SIGTERM)
            try:
                child.process.wait(seconds)
            except subprocess.TimeoutExpired:
                log.warning("process did not end; killing it", process=child.name, seconds=seconds)
                child.process.kill()
                child.process.wait()


def _forget_gauges(child: Child) -> None:
    """Take what a dead process had waiting off the page of meters; what it counted stays."""
    meters = child.environment.get("PROMETHEUS_MULTIPROC_DIR")
    if meters and child.process:
        multiprocess.mark_process_dead(child.process.pid, meters)  # type: ignore[no-untyped-call]


def verb(*words: str) -> list[str]:
    """The command line of one of our own verbs in this same environment."""
    return [sys.executable, "-m", "engine", *words]
