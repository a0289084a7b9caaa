"""A decision server as it is deployed: its own process, a real store, the shipped shop and a few flags beside it."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop
from litestar import Litestar

from engine import embedded
from engine.journal.records import AnyRecord, decode
from engine.journal.spool import spool
from engine.service.http import Call, Reply, endpoint

SHOP = Path(__file__).resolve().parents[2] / "experiments"

FLAGS = {
    "dark_mode": "variants: [{key: 'on', payload: {value: true}}]",
    "greeting": "variants: [{key: warm, payload: {value: Good morning}}]",
    "page_size": "variants: [{key: small, payload: {value: 24}}]",
    "discount": "variants: [{key: no, payload: {value: 1}}, {key: some, payload: {value: 0.9}}]",
    "full_price": "variants: [{key: full, payload: {value: 1.0}}]",
    "theme": "variants: [{key: autumn, payload: {colour: brown, leaves: 3}}]",
    "markets": "variants: [{key: both, payload: {value: [DE, AT]}}]",
    "beta_search": "audience: {country: {$in: [DE, AT]}}\nvariants: [{key: 'on', payload: {value: true}}]",
    "rollout": "coverage: 0.5\nvariants: [{key: 'on', payload: {value: true}}]",
    "filtered": "filters: [{seed: part, ranges: [[0, 0.9]]}]\nvariants: [{key: 'on', payload: {value: true}}]",
    "bound": "sticky: true\nvariants: [{key: 'on', payload: {value: true}}]",
    "after": (
        "prerequisites: [{experiment: dark_mode, variants: ['on']}]\nvariants: [{key: 'on', payload: {value: true}}]"
    ),
    "bare": "variants: [{key: left, weight: 0.5}, {key: right, weight: 0.5}]",
    "resting": "status: paused\nvariants: [{key: 'on', payload: {value: true}}]",
    "null_value": "variants: [{key: 'null', payload: {value: null}}]",
    "app_only": "channels: [app]\nvariants: [{key: 'on', payload: {value: true}}]",
}


@dataclass(frozen=True)
class Server:
    base: str
    data: Path
    experiments: Path
    process: "subprocess.Popen[bytes]"

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes):
            return httpx.post(
                self.base + path, content=body, headers={"content-type": "application/json"} | sent, timeout=30
            )
        return httpx.post(self.base + path, json=body, headers=sent, timeout=120)

    def get(self, path: str, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.get(self.base + path, headers=sent, timeout=120)

    def request(self, method: str, path: str) -> httpx.Response:
        return httpx.request(method, self.base + path, timeout=120)

    def records(self) -> list[AnyRecord]:
        """All that is in the spools: nothing collects here, so all that was ever answered."""
        found = []
        for path in spool.list_spools(self.data / "spool"):
            cursor = spool.START
            while (page := spool.read_frames(path, cursor))[0]:
                cursor = page[1]
                found += [decode(frame.payload) for frame in page[0]]
        return found


def write_shop(folder: Path) -> Path:
    shutil.copytree(SHOP, folder)
    for key, text in FLAGS.items():
        (folder / f"{key}.yaml").write_text(f"key: {key}\nkind: flag\n{text}\n")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Serve = Callable[..., AbstractContextManager[Server]]


@contextmanager
def serving(
    place: Path,
    redis_url: str,
    experiments: Path,
    more: Mapping[str, str] = MappingProxyType({}),
    *words: str,
    files: int | None = None,
) -> Iterator[Server]:
    """A server of its own; with `files` it may open that many files."""
    port = free_port()
    command = [sys.executable, "-m", "engine", "serve", "--port", str(port), "--data", str(place / "data")]
    command += ["--experiments", str(experiments), "--redis", redis_url, *words]
    if files is not None:
        command = ["sh", "-c", f'ulimit -Sn {files}; exec "$@"', "sh", *command]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COUNTERPOINT_")} | dict(more)
    place.mkdir(parents=True, exist_ok=True)
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=environment)
        server = Server(f"http://127.0.0.1:{port}", place / "data", experiments, process)
        try:
            _await_live(server, place / "server.log")
            yield server
        finally:
            process.terminate()
            process.wait(20)


def _await_live(server: Server, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.get("/readyz").status_code in (200, 503):
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def serve() -> Serve:
    """`with serve(place, redis_url, experiments, environment, *options) as server`: one more server."""
    return serving


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("catalog") / "experiments")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, valkey: embedded.Embedded, shop: Path) -> Iterator[Server]:
    patient = {"COUNTERPOINT_STORE_TIMEOUT": "5"}  # degraded answers on a busy machine are tested elsewhere
    with serving(tmp_path_factory.mktemp("server"), valkey.url, shop, patient) as running:
        yield running


@pytest.fixture(scope="session")
def echo_app() -> Litestar:
    """`POST /echo` answers the body and two headers of the request; its body may have 1,000 bytes.

    It takes 10 ms, or the seconds that the header `x-pause` asks for.
    """

    async def echo(call: Call) -> Reply:
        await asyncio.sleep(float(call.header(b"x-pause") or 0.01))
        return Reply(call.body + call.header(b"x-extra").strip().encode("latin-1"))

    async def large(call: Call) -> Reply:
        return Reply(b"x" * int(call.header(b"x-size")))

    routes = [endpoint("/echo", {"POST": echo}, limit=1000), endpoint("/large", {"POST": large}, limit=1000)]
    return Litestar(routes, openapi_config=None, logging_config=None)


@contextmanager
def _serving_protocol(app: Litestar, protocol: type) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        config = uvicorn.Config(app, http=protocol, log_config=None, ws="none", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)

        def serve() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=serve)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def serve_protocol() -> Callable[[Litestar, type], AbstractContextManager[int]]:
    """`with serve_protocol(app, protocol) as port`: uvicorn with a protocol of ours, in a thread."""
    return _serving_protocol
