"""Shops over HTTP: decision servers in threads of this process, so that the clock can be set; a real store."""

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop
import yaml

from engine.service.app import create_app
from engine.settings import Settings
from tests.store import empty_store
from tests.verbs import run_verb

CHANNELS = ("web", "app", "email", "store", "call_centre", "desk")
BANNER = {"key": "banner", "renderings": {channel: {"headline": "Good to see you"} for channel in CHANNELS}}
METRICS = [
    {"key": "click", "event": "click"},
    {"key": "revenue", "kind": "revenue", "event": "purchase", "value": "revenue"},
    {"key": "csat", "kind": "mean", "event": "survey", "value": "csat"},
]


def write_shop(folder: Path, shop: Mapping[str, Any]) -> Path:
    """A folder of YAML from plain data: offers by key, on every channel unless said, and placements."""
    (folder / "offers").mkdir(parents=True)
    for key, offer in {"banner": BANNER, **shop["offers"]}.items():
        renderings = {channel: {"headline": key} for channel in CHANNELS}
        _write(folder / "offers" / f"{key}.yaml", {"key": key, "renderings": renderings} | offer)
    for key, chosen in shop["placements"].items():
        plain = {"policy": {"kind": "uniform"}, "reward": {"metric": "click"}, "fallback": "banner"}
        _write(folder / f"{key}.yaml", {"key": key, "placement": key} | plain | chosen)
    for key, experiment in shop.get("experiments", {}).items():
        _write(folder / f"{key}.yaml", {"key": key, "hypothesis": "It helps."} | experiment)
    channels = [{"key": channel} | shop.get("channels", {}).get(channel, {}) for channel in CHANNELS]
    placements = [{"key": key, "channels": list(CHANNELS)} for key in shop["placements"]]
    zone = shop.get("zone", "UTC")
    _write(
        folder / "channels.yaml",
        {"channels": channels, "placements": placements, "zone": zone, **shop.get("folder", {})},
    )
    _write(folder / "metrics.yaml", {"metrics": shop.get("metrics", METRICS), **shop.get("money", {})})
    _write(folder / "moments.yaml", {"moments": shop.get("moments", [])})
    _write(folder / "campaigns.yaml", {"campaigns": shop.get("campaigns", []), "budgets": shop.get("budgets", [])})
    _write(folder / "layers.yaml", shop.get("layers", {}))
    if "sources" in shop:
        _write(folder / "sources.yaml", {"sources": shop["sources"]})
    _write(folder / "identities.yaml", shop.get("identities", {}))
    _write(folder / "units.yaml", shop.get("units", {}))
    if "places" in shop:
        _write(folder / "places.yaml", {"places": shop["places"]})
    if shop.get("segments"):
        _write(folder / "segments.yaml", {"segments": shop["segments"]})
    for name, text in shop.get("feeds", {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    if "traits" in shop:
        _write(folder / "traits.yaml", shop["traits"])
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(yaml.safe_dump(value), encoding="utf-8")


@dataclass
class Shop:
    """A shop at its workers: everything goes to the next of them in turn."""

    settings: Settings
    bases: list[str]
    clients: list[httpx.Client]
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def client(self) -> httpx.Client:
        return self.clients[next(self.numbers) % len(self.clients)]

    def decide(self, channel: str, *placements: str, **more: Any) -> dict[str, Any]:
        context, expose = more.pop("context", {}), more.pop("expose", True)
        experiments = more.pop("experiments", [])
        body = {
            "customer": more,
            "channel": channel,
            "placements": list(placements),
            "experiments": experiments,
            "context": context,
            "expose": expose,
        }
        answer = self.client().post("/v1/decide", json=body)
        assert answer.status_code == 200, answer.text
        decision: dict[str, Any] = answer.json()
        assert not decision["degraded"]
        return decision

    def offer(self, channel: str, placement: str, **more: Any) -> str:
        return str(self.decide(channel, placement, **more)["offers"][placement]["offer"])

    def explain(self, channel: str, placement: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.explain_all(channel, placement, **more)["placements"][placement]
        return found

    def explain_all(self, channel: str, placement: str, **more: Any) -> dict[str, Any]:
        context = more.pop("context", {})
        body = {"customer": more, "channel": channel, "placements": [placement], "context": context}
        answer = self.client().post("/v1/explain", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def tell(self, event: str, *, channel: str = "web", properties: Any = None, **more: Any) -> str:
        """One event; its status."""
        item = {"type": "track", "event": event, "message_id": f"m-{next(self.numbers)}", "channel": channel}
        return self.send(item | more | {"properties": properties or {}})

    def identify(self, traits: Mapping[str, Any], **ids: str) -> str:
        return self.send({"type": "identify", "message_id": f"m-{next(self.numbers)}", "traits": traits, **ids})

    def send(self, item: Mapping[str, Any]) -> str:
        answer = self.client().post("/v1/events", json={"batch": [item]})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["statuses"][0]["status"])

    def consent(self, purpose: str, **ids: str) -> str:
        return self.tell("consent", properties={"purpose": purpose, "granted": True}, **ids)

    def collect(self) -> None:
        """All that was answered until now is in the Parquet log."""
        done = run_verb("collect", "--drain", "--data", str(self.settings.data), "--redis", self.settings.redis)
        assert done.returncode == 0, done.stderr

    def stock(self, sku: str, level: float) -> None:
        answer = self.client().post(f"/v1/stock/{sku}", json={"level": level})
        assert answer.status_code == 200, answer.text


Open = Callable[..., Shop]


@contextmanager
def worker(settings: Settings, started: list[uvicorn.Server] | None = None) -> Iterator[str]:
    """A decision server in a thread of this process; its base URL. The server is added to `started`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(
            create_app(settings),
            http="httptools",
            lifespan="on",
            log_config=None,
            timeout_keep_alive=75,  # as a server has it: a client on a busy machine must not meet a closing connection
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        if started is not None:
            started.append(server)

        def serve() -> None:
            # uvloop keeps its own clock: a traveller's would leave timers waiting for years
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            httpx.get(f"{base}/healthz", timeout=120)
            yield base
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def running_shop(
    redis_url: str,
    place: Path,
    shop: Mapping[str, Any],
    workers: int = 2,
    started: list[uvicorn.Server] | None = None,
) -> Iterator[Shop]:
    """A shop from plain data in an empty folder, at so many workers on one store; they are added to `started`."""
    with ExitStack() as stack:
        folder = write_shop(place / "experiments", shop)
        settings = Settings(redis=redis_url, data=place / "data", experiments=folder, store_timeout=5.0)
        bases = [stack.enter_context(worker(settings, started)) for _ in range(workers)]
        clients = [stack.enter_context(httpx.Client(base_url=base, timeout=120)) for base in bases]
        yield Shop(settings, bases, clients)


@pytest.fixture
def open_shop(redis_url: str, tmp_path: Path) -> Iterator[Open]:
    """`open_shop(shop, workers=2)`: a shop from plain data, at so many workers on one store."""
    servers: list[uvicorn.Server] = []
    with ExitStack() as stack:

        def opened(shop: Mapping[str, Any], workers: int = 2) -> Shop:
            return stack.enter_context(running_shop(redis_url, tmp_path, shop, workers, servers))

        yield opened
        for server in servers:  # they end beside each other
            server.should_exit = True


OpenNext = Callable[..., AbstractContextManager[Shop]]


@pytest.fixture
def open_next_shop(redis_url: str, tmp_path: Path) -> OpenNext:
    """`with open_next_shop(shop, workers=1) as one`: one of many shops, each in an empty store and folder."""

    @contextmanager
    def opened(shop: Mapping[str, Any], workers: int = 1) -> Iterator[Shop]:
        empty_store(redis_url)
        with TemporaryDirectory(dir=tmp_path) as place, running_shop(redis_url, Path(place), shop, workers) as one:
            yield one

    return opened
