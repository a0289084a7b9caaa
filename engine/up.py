"""Everything on one machine: the store, the decision servers, the learner and the collector, kept running."""

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

import httpx
import msgspec
import structlog

from engine import embedded
from engine.catalog.archive import Archive
from engine.catalog.watch import PlanWatch
from engine.errors import BadInput, CounterpointError, StoppedError
from engine.journal import stream
from engine.processes import Child, Keeper, verb
from engine.service.auth import load_keys_from_settings
from engine.service.server import listen
from engine.settings import ADDRESS, Settings

log = structlog.get_logger(__name__)

START_SECONDS = 30.0
SYNC_SECONDS = 1.0  # what the end of the machine may take of what the store answered


class NotReadyError(CounterpointError):
    """The engine was started and did not become ready in time; its log lines say why."""


@contextmanager
def run_engine(settings: Settings, stop: threading.Event) -> Iterator[tuple[str, Settings]]:
    """Run the whole engine on its embedded store for as long as the block lasts.

    Yields its base URL and the settings as they came to be.

    Raises:
        BadInput: if the port is taken or the data directory cannot be used, or is another engine's for too long.
        CatalogError: if the experiments have problems and no earlier plan is kept.
        NotReadyError: if it does not become ready.
    """
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--data {settings.data}: {error.strerror}; name a folder that can be written") from error
    # Raises where a server would refuse the folder.
    PlanWatch(settings.experiments, Archive(settings.data / "plans"), logs_changes=False)
    load_keys_from_settings(settings)
    _await_free(settings.data, stop)
    with listen(settings.host, settings.port) as listener, _store(settings.data, stop) as store:
        port = listener.getsockname()[1]
        settings = msgspec.structs.replace(settings, redis=store.url, port=port)
        meters = settings.data / "meters"
        shutil.rmtree(meters, ignore_errors=True)
        meters.mkdir()
        environment = _environment(settings, meters)
        fd = listener.fileno()
        keeper = Keeper()
        with stream.connect_stream(store.url) as client:
            stream.register_reader(
                client, stream.LEARNER, settings.partitions
            )  # slow to start; the collector trims meanwhile
        with _tended(keeper, store):
            keeper.add(Child("collector", verb("collect"), environment))
            keeper.add(Child("learner", verb("learn", "--quiet"), environment))
            for index in range(settings.workers):
                keeper.add(_server(index, environment, fd))
            base = f"http://{settings.host}:{port}"
            _await_ready(base, keeper, stop)
            yield base, settings


@contextmanager
def store_of(settings: Settings, *, named: bool) -> Iterator[Settings]:
    """Settings whose store answers for as long as the block lasts.

    It is the one that is `named`, or the one that runs on the data directory, or one started on what a run there left.
    """
    directory = settings.data / "store"
    if named or ((settings.data / ADDRESS).is_file() and _answers(settings.redis)):
        yield settings
        return
    if not directory.is_dir():
        raise BadInput(f"{settings.data}: no store ran here; give the --data of `counterpoint up`, or name --redis")
    with embedded.running(directory) as store:
        yield msgspec.structs.replace(settings, redis=store.url)


def serve_many(settings: Settings, listener: socket.socket) -> None:
    """Decision servers alone, `settings.workers` processes behind one address, until SIGTERM or Ctrl-C."""
    stop = stop_on_signals()
    keeper = Keeper()
    fd = listener.fileno()
    with TemporaryDirectory(prefix="counterpoint-meters-") as meters:  # machines may share the data folder
        environment = _environment(settings, Path(meters))
        try:
            for index in range(settings.workers):
                keeper.add(_server(index, environment, fd))
            while not stop.wait(0.1):
                keeper.tend()
        finally:
            keeper.end()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _server(index: int, environment: Mapping[str, str], fd: int) -> Child:
    """One of the servers; the first tells of changed plans."""
    words = ("--fd", str(fd)) if index == 0 else ("--fd", str(fd), "--quiet")
    return Child(f"server {index + 1}", verb("serve", *words), environment, (fd,))


def _environment(settings: Settings, meters: Path) -> Mapping[str, str]:
    ours = {
        f"COUNTERPOINT_{name.upper()}": _text(getattr(settings, name))
        for name in Settings.__struct_fields__
        if getattr(settings, name) is not None
    }
    return {**os.environ, **ours, "PROMETHEUS_MULTIPROC_DIR": str(meters.resolve())}


def _text(value: object) -> str:
    return str(value.resolve()) if isinstance(value, Path) else str(value)


def _await_free(data: Path, stop: threading.Event) -> None:
    """An engine that is just ending is waited for."""
    if embedded.held(data / "store"):
        log.warning("another engine runs on this data folder; waiting for its end", data=str(data), s=START_SECONDS)
    deadline = time.monotonic() + START_SECONDS
    while embedded.held(data / "store"):
        if time.monotonic() > deadline:
            raise BadInput(f"--data {data}: another engine runs there; end it, or name another folder")
        if stop.wait(0.1):
            raise StoppedError(StoppedError.__doc__)


def _await_ready(base: str, keeper: Keeper, stop: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if stop.is_set():
            raise StoppedError(StoppedError.__doc__)
        for child in keeper.children:
            if child.deaths or not child.running:
                raise NotReadyError(f"{child.name} ended while it started; its lines above say why")
        try:
            if httpx.get(f"{base}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        stop.wait(0.1)
    raise NotReadyError(f"{base}/readyz did not say ready within {START_SECONDS:g} s; ask it, or read the lines above")


class _Store:
    """The embedded store, its file brought to the disk, started again on its port and its file when it dies."""

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
            log.warning("the embedded store ended; starting it again on its file", code=code)
            self._server = embedded.start(self._directory, port=self._server.port, stop=self._stop)
        elif time.monotonic() - self._synced >= SYNC_SECONDS:
            self._server.sync()
            self._synced = time.monotonic()

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def _store(data: Path, stop: threading.Event) -> Iterator[_Store]:
    store = _Store(data / "store", stop)
    address = data / ADDRESS
    address.write_text(store.url)
    try:
        yield store
    finally:
        address.unlink(missing_ok=True)
        store.stop()


@contextmanager
def _tended(keeper: Keeper, store: _Store) -> Iterator[None]:
    """Tend children and store, each in a thread that outlives them: a store ends with the thread that started it."""
    done = threading.Event()

    def tend(one: Keeper | _Store) -> None:
        pause = 0.1
        while not done.wait(pause):
            try:
                one.tend()
                pause = 0.1
            except (CounterpointError, OSError) as error:
                log.warning("cannot be started yet", error=str(error))
                pause = 1.0

    tenders = [threading.Thread(target=tend, args=(one,), daemon=True) for one in (keeper, store)]
    for tender in tenders:
        tender.start()
    try:
        yield
    finally:
        keeper.end()
        done.set()
        for tender in tenders:
            tender.join()


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=1):
            return True
    except OSError:
        return False
