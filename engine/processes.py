"""Supervises child processes: starts them in order, restarts one that died, and ends them in reverse order.

A child that dies is restarted after `FIRST_PAUSE`. If it dies again within `STEADY_SECONDS` the pause doubles, up to
`LONGEST_PAUSE`, so a child that cannot start does not use up a core.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from engine.embedded import end_with_parent

log = structlog.get_logger(__name__)

STEADY_SECONDS = 10.0
"""Seconds of life after which a child's earlier deaths no longer count."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds before a restart: doubled with every death in a row, up to the longest."""


@dataclass
class Child:
    """One child process: its command, its environment, and the file descriptors that it inherits.

    `stderr` is a descriptor for its standard error; without one it inherits ours.
    `deaths` counts deaths in a row, `code` is the exit code of the last one. `due` is when to restart it
    (`time.monotonic`); 0 if no restart is planned.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    fds: Sequence[int] = ()
    stderr: int | None = None
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0
    code: int | None = None

    def start(self) -> None:
        """Start the process; it inherits standard output."""
        self.process = subprocess.Popen(  # noqa: S603 (our own command line)
            self.command,
            env=dict(self.environment),
            pass_fds=self.fds,
            stdin=subprocess.DEVNULL,
            stderr=self.stderr,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends its children in order
            preexec_fn=end_with_parent(os.getpid()),  # noqa: PLW1509 (nothing in it takes a lock)
        )
        self.started = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.process is not None and self.process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether the process ended by itself with an error; one killed by a signal is simply restarted."""
        code = self.code if self.running or self.process is None else self.process.returncode
        return code is not None and code > 0


@dataclass
class Supervisor:
    """Restarts its children while they die, until `end`. Call `tend` several times a second."""

    children: list[Child] = field(default_factory=list)
    ending: bool = False

    def add(self, child: Child, *, ends_last: bool = False) -> Child:
        """Start a child, which is restarted from now on; `end` ends children that end last after the others."""
        child.start()
        self.children.insert(0 if ends_last else len(self.children), child)
        return child

    def tend(self) -> None:
        """Restart children that died and whose pause is over."""
        now = time.monotonic()
        for child in self.children:
            if self.ending or child.running or now < child.due:
                continue
            if child.due == 0.0:
                child.deaths = 0 if now - child.started > STEADY_SECONDS else child.deaths + 1
                child.due = now + min(FIRST_PAUSE * 2**child.deaths, LONGEST_PAUSE)
                child.code = child.process.returncode if child.process else None
                log.warning("a process died; restarting it", process=child.name, code=child.code, deaths=child.deaths)
                _drop_gauges(child)
                continue
            child.due = 0.0
            child.start()

    def end(self, seconds: float = 15.0, *, together: bool = False) -> None:
        """End the children, the last added first: SIGTERM, and SIGKILL after `seconds`.

        With `together` all get SIGTERM at once: none needs another to end well.
        """
        self.ending = True  # first: `tend` may run in another thread and would restart a child that ends
        for child in self.children if together else ():
            if child.process is not None and child.running:
                child.process.send_signal(signal.SIGTERM)
        for child in reversed(self.children):
            if child.process is None or not child.running:
                continue
            child.process.send_signal(signal.SIGTERM)
            try:
                child.process.wait(seconds)
            except subprocess.TimeoutExpired:
                log.warning("a process did not end in time; killing it", process=child.name, seconds=seconds)
                child.process.kill()
                child.process.wait()


def _drop_gauges(child: Child) -> None:
    """Remove a dead process's gauges from the shared metrics; its counters stay in their sums."""
    meters = child.environment.get("PROMETHEUS_MULTIPROC_DIR")
    if meters and child.process:
        from prometheus_client import multiprocess  # noqa: PLC0415 # most processes start no others

        multiprocess.mark_process_dead(child.process.pid, meters)  # type: ignore[no-untyped-call]


def counterpoint_command(*arguments: str) -> list[str]:
    """The command line that runs `counterpoint` with these arguments in the same Python environment."""
    return [sys.executable, "-m", "engine", *arguments]
