"""Runs everything on one machine: store, decision servers, learner and collector, restarted if one dies.

Start:  check the plan and the keys -> wait for an engine that is ending -> listen -> store -> register the learner
        -> servers -> wait until /readyz answers 200 -> the other children, whose start would take the servers' CPU
Run:    two threads restart what died, one for the children and one for the store, and sync the store's file
End:    servers first and the collector last, so that the spools are shipped and collected -> store

The listening socket is opened first and inherited by every server, so a server that is restarted loses no connection.
"""

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import urlopen

import msgspec
import structlog

from engine import embedded
from engine.catalog.archive import Archive
from engine.catalog.watch import check_start
from engine.errors import BadInput, CounterpointError, StoppedError, has_extra
from engine.journal import stream
from engine.journal.spool.spool import claim_orphans, list_spools
from engine.processes import Child, Supervisor, counterpoint_command
from engine.service.access.listener import listen
from engine.service.auth import load_keys_from_settings
from engine.settings import STORE_ADDRESS_FILE, Settings, settings_environment

log = structlog.get_logger(__name__)

START_SECONDS = 30.0
SYNC_SECONDS = 1.0
"""Seconds of the store's answers that the loss of the machine may take."""
_TEND_SECONDS = 0.1
_RETRY_SECONDS = 1.0


class NotReadyError(CounterpointError):
    """The error that the started engine did not become ready in time; its log lines have the cause."""


@contextmanager
def run_engine(settings: Settings, stop: threading.Event, stderr: int | None = None) -> Iterator[tuple[str, Settings]]:
    """Run the whole engine on its embedded store for the block.

    Args:
        settings: of the engine; port 0 takes a free one.
        stop: ends a start that is under way.
        stderr: a file descriptor for the log lines of its processes; without one they inherit ours.

    Yields:
        The engine's base URL, and the settings with the store and the port that it uses.

    Raises:
        BadInput: if the experiments are no folder, the port is taken, or the data directory cannot be used or is
            another engine's for too long.
        CatalogError: if the experiments have problems and no earlier plan is stored.
        NotReadyError: if it does not become ready.
        StoppedError: if `stop` was set before that.
    """
    # A start that fails writes nothing, so all that can be refused is checked before the data folder is made.
    check_start(settings.experiments, Archive(settings.plans))
    load_keys_from_settings(settings)
    _await_free_folder(settings.data, stop)
    with (
        _listen_when_free(settings, stop) as listener,
        listen("127.0.0.1", 0) as pages,
        _run_store(_make_folder(settings.data), stop) as store,
    ):
        settings = msgspec.structs.replace(settings, redis=store.url, port=listener.getsockname()[1])
        if has_extra("dashboard"):
            settings = msgspec.structs.replace(settings, dashboard=f"http://127.0.0.1:{pages.getsockname()[1]}")
        environment = _child_environment(settings, _new_meters(settings.data))
        supervisor = Supervisor()
        with stream.connect_stream(store.url) as client:
            # The learner starts slowly; without this the collector would trim records that it has not read.
            stream.register_reader(client, stream.LEARNER, settings.partitions)
        with _tend(supervisor, store):
            for index in range(settings.workers):
                supervisor.add(_server(index, environment, listener.fileno(), stderr))
            base = f"http://{settings.host}:{settings.port}"
            _await_ready(base, supervisor, stop)
            learner, collector = counterpoint_command("learn", "--quiet"), counterpoint_command("collect")
            supervisor.add(Child("learner", learner, environment, stderr=stderr), ends_last=True)
            supervisor.add(Child("collector", collector, environment, stderr=stderr), ends_last=True)
            if settings.dashboard is not None:
                supervisor.add(_dashboard(environment, pages.fileno(), stderr))
            command = counterpoint_command("supervise", "--quiet")
            supervisor.add(Child("supervisor", command, environment, stderr=stderr))
            yield base, settings


@contextmanager
def reach_store(settings: Settings, *, is_named: bool) -> Iterator[Settings]:
    """Settings with a store that answers for the block.

    It is the store that is named, or the one that runs on the data directory, or a new one on what a run there left.

    Raises:
        BadInput: if no store was named and none ever ran on the data directory.
    """
    directory = settings.data / "store"
    if is_named or ((settings.data / STORE_ADDRESS_FILE).is_file() and _accepts_connections(settings.redis)):
        yield settings
        return
    if not directory.is_dir():
        raise BadInput(f"{settings.data}: no store ran here; give the --data of `counterpoint up`, or name --redis")
    with embedded.running(directory) as store:
        yield msgspec.structs.replace(settings, redis=store.url)


def serve_many(settings: Settings, listener: socket.socket) -> None:
    """Run `settings.workers` decision servers behind one address until SIGTERM or Ctrl-C."""
    stop = stop_on_signals()
    supervisor = Supervisor()
    # Not under the data folder, which servers on several machines may share.
    with TemporaryDirectory(prefix="counterpoint-meters-") as meters:
        environment = _child_environment(settings, Path(meters))
        try:
            for index in range(settings.workers):
                supervisor.add(_server(index, environment, listener.fileno()))
            while not stop.wait(_TEND_SECONDS):
                supervisor.tend()
        finally:
            supervisor.end(together=True)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set.

    A handler runs in the main thread between two instructions. If it set the event while that thread waits for it and
    holds its lock, both would hang. So it writes to a pipe, and a thread that reads the pipe sets the event.
    """
    stop = threading.Event()
    reader, writer = os.pipe()

    def set_when_signalled() -> None:
        os.read(reader, 1)
        stop.set()

    threading.Thread(target=set_when_signalled, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(writer, b"\0"))
    return stop


def _server(index: int, environment: Mapping[str, str], fd: int, stderr: int | None = None) -> Child:
    """One of the decision servers; only the first logs changes of the plan."""
    arguments = ("--fd", str(fd)) if index == 0 else ("--fd", str(fd), "--quiet")
    return Child(f"server {index + 1}", counterpoint_command("serve", *arguments), environment, (fd,), stderr)


def _dashboard(environment: Mapping[str, str], fd: int, stderr: int | None) -> Child:
    """The process of the dashboard's pages; servers forward requests to it."""
    return Child("dashboard", counterpoint_command("dashboard", "--fd", str(fd)), environment, (fd,), stderr)


def _new_meters(data: Path) -> Path:
    """An empty folder for the metrics that the servers share."""
    meters = data / "meters"
    shutil.rmtree(meters, ignore_errors=True)  # counters of dead processes would be added to the new ones
    meters.mkdir()
    return meters


def _child_environment(settings: Settings, meters: Path) -> Mapping[str, str]:
    """The environment from which a child reads the same settings."""
    return {**os.environ, **settings_environment(settings), "PROMETHEUS_MULTIPROC_DIR": str(meters.resolve())}


def _make_folder(data: Path) -> Path:
    """The data folder, made if necessary."""
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--data {data}: {error.strerror}; name a folder that can be written") from error
    return data


def _await_free_folder(data: Path, stop: threading.Event) -> None:
    """Wait for an engine on the same data folder that is shutting down."""
    if embedded.is_in_use(data / "store"):
        log.warning("another engine runs on this data folder; waiting for its end", data=str(data), s=START_SECONDS)
    deadline = time.monotonic() + START_SECONDS
    while embedded.is_in_use(data / "store"):
        if time.monotonic() > deadline:
            raise BadInput(f"--data {data}: another engine runs there; end it, or name another folder")
        if stop.wait(_TEND_SECONDS):
            raise StoppedError


def _listen_when_free(settings: Settings, stop: threading.Event) -> socket.socket:
    """Listen; if the port is in use, wait for servers of a killed engine on the same data folder."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return listen(settings.host, settings.port)
        except BadInput:
            if time.monotonic() > deadline or not _has_servers(settings.spool):
                raise
        if stop.wait(_TEND_SECONDS):
            raise StoppedError


def _has_servers(spools: Path) -> bool:
    """Whether a process holds one of the spools."""
    found = claim_orphans(spools) if spools.is_dir() else []
    for _, lock in found:
        os.close(lock)
    return len(found) < len(list_spools(spools))


def _await_ready(base: str, supervisor: Supervisor, stop: threading.Event) -> None:
    """Wait until the engine reports that it is ready, or a child fails."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if stop.is_set():
            raise StoppedError
        for child in supervisor.children:
            if child.failed:
                raise NotReadyError(f"{child.name} ended while it started; its lines above have the reason")
        try:
            with urlopen(f"{base}/readyz", timeout=2):  # noqa: S310 # our own address; it raises unless 200 # nosec B310
                return
        except OSError:  # not ready (`HTTPError` is one), or not listening yet
            pass
        stop.wait(_TEND_SECONDS)
    raise NotReadyError(f"{base}/readyz was not ready within {START_SECONDS:g} s; request it, or read the lines above")


class _Store:
    """The embedded store: its file is synced every `SYNC_SECONDS`; if it dies it restarts on its port and file."""

    def __init__(self, directory: Path, stop: threading.Event) -> None:
        self._directory = directory
        self._stop = stop
        self._server = embedded.start(directory, stop=stop)
        self._synced = time.monotonic()

    @property
    def url(self) -> str:
        return self._server.url

    def tend(self) -> None:
        code = self._server.process.poll()
        if code is not None:
            log.warning("the embedded store ended; restarting it on its file", code=code)
            self._server = embedded.start(self._directory, port=self._server.port, stop=self._stop)
        elif time.monotonic() - self._synced >= SYNC_SECONDS:
            self._server.sync()
            self._synced = time.monotonic()

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def _run_store(data: Path, stop: threading.Event) -> Iterator[_Store]:
    """Run the store for the block, with its address in a file for the verbs that run beside the engine."""
    store = _Store(data / "store", stop)
    address = data / STORE_ADDRESS_FILE
    address.write_text(store.url)
    try:
        yield store
    finally:
        address.unlink(missing_ok=True)
        store.stop()


@contextmanager
def _tend(supervisor: Supervisor, store: _Store) -> Iterator[None]:
    """Restart children and store when they die, each in its own thread, which must outlive what it started.

    Linux ends a store together with the thread that started it (`PR_SET_PDEATHSIG`).
    """
    done = threading.Event()

    def tend(one: Supervisor | _Store) -> None:
        pause = _TEND_SECONDS
        while not done.wait(pause):
            try:
                one.tend()
                pause = _TEND_SECONDS
            except (CounterpointError, OSError) as error:
                log.warning("a process of this engine cannot be restarted yet; trying again", error=str(error))
                pause = _RETRY_SECONDS

    threads = [threading.Thread(target=tend, args=(one,), daemon=True) for one in (supervisor, store)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        supervisor.end()
        done.set()
        for thread in threads:
            thread.join()


def _accepts_connections(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=1):
            return True
    except OSError:
        return False
