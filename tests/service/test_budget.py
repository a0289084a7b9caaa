"""One budget of waiting for the store bounds a decision, however many round trips it has."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

TRIP, BUDGET = 1.0, 3.5  # unbounded, the decisions below take more than seven trips
LIMITED = """
key: limited_{n}
caps: [{{count: 5, per: 7d, event: exposure}}]
stock: {{sku: SKU-{n}, at_least: 1, hold: 15m}}
renderings: {{web: {{headline: Limited}}}}
"""
SELECTION = """
key: shelf_{n}
placement: shelf_{n}
channels: [web]
offers: [limited_{n}]
policy: {{kind: uniform}}
reward: {{metric: click, window: 24h}}
fallback: generic_banner
"""


@contextlib.contextmanager
def far_away(url: str) -> Iterator[str]:
    """The address of a proxy to a store by which every answer comes `TRIP` seconds later."""
    loop, listening = asyncio.new_event_loop(), threading.Event()
    address = urlsplit(url)
    port = 0

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):
            while data := await reader.read(65536):
                loop.call_later(delay, writer.write, data)
        loop.call_later(delay, writer.close)

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.gather(copy(reader, back, 0.0), copy(there, writer, TRIP))

    async def serve() -> None:
        nonlocal port
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        listening.set()

    def run() -> None:
        loop.create_task(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    listening.wait()
    yield f"redis://127.0.0.1:{port}/0"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def limited_shop(tmp_path: Path, shop: Path) -> Path:
    folder = tmp_path / "experiments"
    folder.mkdir()
    for path in shop.rglob("*"):
        target = folder / path.relative_to(shop)
        target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    channels = folder / "channels.yaml"
    shelves = "".join(f"  - {{key: shelf_{n}, channels: [web]}}\n" for n in range(3))
    channels.write_text(channels.read_text().replace("placements:\n", f"placements:\n{shelves}"))
    for n in range(3):
        (folder / "offers" / f"limited_{n}.yaml").write_text(LIMITED.format(n=n))
        (folder / f"shelf_{n}.yaml").write_text(SELECTION.format(n=n))
    return folder


def ask(server: Any, body: dict[str, Any], **headers: str) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    answer = server.post("/v1/decide", {"channel": "web"} | body, **headers)
    assert answer.status_code == 200, answer.text
    return answer.json(), time.monotonic() - began


def test_a_decision_of_many_round_trips_is_degraded_in_time(
    tmp_path: Path, serve: Any, limited_shop: Path, redis_url: str
) -> None:
    environment = {"COUNTERPOINT_STORE_TIMEOUT": str(BUDGET)}
    shelves = {"placements": ["shelf_0", "shelf_1", "shelf_2"]}
    with far_away(redis_url) as store, serve(tmp_path, store, limited_shop, environment) as server:
        for n in range(3):
            assert server.post(f"/v1/stock/SKU-{n}", {"level": 9}).status_code == 200
        plain = {"customer": {"user_id": "near"}, "experiments": ["dark_mode"]}
        # The first answers may open a connection to the store, whose greeting takes trips of its own.
        assert any(ask(server, plain)[0]["degraded"] is False for _ in range(5))
        login = {"customer": {"user_id": "far", "anonymous_id": "far-a"}} | shelves
        for more in ({}, {"idempotency_key": "far"}):
            answer, seconds = ask(server, login, **more)
            assert answer["degraded"] is True
            assert {offer["reason"] for offer in answer["offers"].values()} <= {"fallback", "shown"}
            assert seconds < 2 * BUDGET, (more, seconds)
        prefetch, seconds = ask(server, login | {"expose": False})
        assert seconds < 2 * BUDGET, ("prefetch", seconds)
        assert server.get("/readyz").json()["store"] is True  # it answers: only its work is too much
        decided = {record.decision_id for record in server.records() if type(record).__name__ == "DecisionRecord"}
        assert {answer["decision_id"], prefetch["decision_id"]} <= decided
