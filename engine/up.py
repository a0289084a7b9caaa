"""Everything on one machine: the store, the decision servers, the learner and the collector, kept running."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import structlog

from engine import embedded
from engine.errors import CounterpointError
from engine.processes import Child, Keeper, verb
from engine.service.server import listen
from engine.settings import Settings

log = structlog.get_logger(__name__)

START_SECONDS = 30.0


class NotReadyError(CounterpointError):
    """The engine was started and did not become ready in time; its log lines say why."""


class StoppedError(CounterpointError):
    """The engine was told to stop before it was ready."""


@contextmanager
def running(settings: Settings, stop: threading.Event) -> Iterator[tuple[str, Settings]]:
    """Run the whole engine on its embedded store for as long as the block lasts.

    Yields its base URL and the settings as they came to be.

    Raises:
        BadInput: if the port is taken or the data directory cannot be used.
        NotReadyError: if it does not become ready.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    listener = listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    keeper = Keeper()
    with listener, embedded.running(settings.data / "store") as store:
        settings = msgspec.structs.replace(settings, redis=store.url, port=port)
        environment = _environment(settings)
        fd = listener.fileno()
        tending = threading.Event()
        try:
            keeper.add(Child("collector", verb("collect"), environment))
            keeper.add(Child("learner", verb("learn"), environment))
            for index in range(settings.workers):
                keeper.add(Child(f"server {index + 1}", verb("serve", "--fd", str(fd)), environment, (fd,)))
            base = f"http://{settings.host}:{port}"
            _await_ready(base, keeper, stop)
            tender = threading.Thread(target=_tend, args=(keeper, store, tending), daemon=True)
            tender.start()
            yield base, settings
        finally:
            tending.set()
            keeper.end()


def serve_many(settings: Settings) -> None:
    """Decision servers alone, `settings.workers` processes behind one address, until SIGTERM or Ctrl-C."""
    stop = stop_on_signals()
    keeper = Keeper()
    with listen(settings.host, settings.port) as listener:
        fd = listener.fileno()
        try:
            for index in range(settings.workers):
                keeper.add(Child(f"server {index + 1}", verb("serve", "--fd", str(fd)), _environment(settings), (fd,)))
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


def _environment(settings: Settings) -> Mapping[str, str]:
    meters = settings.data / "meters"
    shutil.rmtree(meters, ignore_errors=True)
    meters.mkdir(parents=True)
    ours = {
        f"COUNTERPOINT_{name.upper()}": _text(getattr(settings, name))
        for name in Settings.__struct_fields__
        if getattr(settings, name) is not None
    }
    return {**os.environ, **ours, "PROMETHEUS_MULTIPROC_DIR": str(meters.resolve())}


def _text(value: object) -> str:
    return str(value.resolve()) if isinstance(value, Path) else str(value)


def _await_ready(base: str, keeper: Keeper, stop: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if stop.is_set():
            raise StoppedError(StoppedError.__doc__)
        for child in keeper.children:
            if not child.running:
                raise NotReadyError(f"{child.name} ended while it started; its lines above say why")
        try:
            if httpx.get(f"{base}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        stop.wait(0.1)
    raise NotReadyError(f"{base}/readyz did not say ready within {START_SECONDS:g} s; ask it, or read the lines above")


def _tend(keeper: Keeper, store: embedded.Embedded, done: threading.Event) -> None:
    while not done.wait(0.1):
        keeper.tend()
        if store.process.poll() is not None:
            log.error("the embedded store ended", code=store.process.returncode, log=str(store.directory))
            return
