"""A decision server is killed under load while the last items of a place are reserved: none is reserved twice."""

import os
import random
import socket
import threading
import time
from decimal import Decimal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import duckdb
import httpx
import redis
import yaml

from engine import keyspace
from engine.analysis.measure.sources import EventSource
from engine.analysis.measure.value.ledger import archived_offers, measure_ledger
from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.service.access.listener import listen
from engine.settings import Settings
from tests.verbs import start_server

KILLS = 5
LEVEL = 60
HOLD = 20
SHOP = {
    "channels.yaml": {"channels": [{"key": "web"}], "placements": [{"key": "hero", "channels": ["web"]}]},
    "metrics.yaml": {"metrics": [{"key": "click", "event": "click"}]},
    "places.yaml": {"places": [{"key": "hamburg", "latitude": 53.55, "longitude": 9.99}]},
    "hero.yaml": {
        "key": "hero",
        "placement": "hero",
        "offers": ["kettle"],
        "policy": {"kind": "uniform"},
        "reward": {"metric": "click"},
        "fallback": "banner",
    },
    "offers/kettle.yaml": {
        "key": "kettle",
        "budget": {"amount": 1000, "cost": 0.07, "hold": f"{HOLD}s"},
        "stock": {"sku": "KETTLE", "by": "pick_up", "hold": f"{HOLD}s"},
        "renderings": {"web": {"headline": "Kettle"}},
    },
    "offers/banner.yaml": {"key": "banner", "renderings": {"web": {"headline": "Hello"}}},
}


def serve(listener: socket.socket, folder: Path, redis_url: str) -> ForkServerProcess:
    places = {
        "COUNTERPOINT_EXPERIMENTS": str(folder / "experiments"),
        "COUNTERPOINT_DATA": str(folder / "data"),
        "COUNTERPOINT_REDIS": redis_url,
    }
    return start_server(listener, os.environ | places)


class Customers:
    """Ask for the kettle without pause; each reserved one is bought at once by every second customer."""

    def __init__(self, base: str, number: int) -> None:
        self.reserved: list[str] = []
        self.done = threading.Event()
        self._base, self._number = base, number
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        asked = 0
        client = httpx.Client(base_url=self._base, timeout=20)
        while not self.done.is_set():
            asked += 1
            customer = {"user_id": f"u-{self._number}-{asked}"}
            body = {"customer": customer, "channel": "web", "placements": ["hero"], "context": {"place": "hamburg"}}
            try:
                answer = client.post("/v1/decide", json=body)
            except httpx.TransportError:
                client.close()
                client = httpx.Client(base_url=self._base, timeout=20)
                continue
            if answer.status_code == 200 and answer.json()["offers"]["hero"]["offer"] == "kettle":
                self.reserved.append(answer.json()["decision_id"])
            time.sleep(0.02)
        client.close()


def check_ledger(folder: Path, redis_url: str, sold: int) -> None:
    """The ledger of what was answered agrees with the live counter, to the last digit."""
    settings = Settings(redis=redis_url, data=folder / "data", experiments=folder / "experiments")
    collect(settings, LogErasures(), drain=True)
    plan = load_plan(settings.experiments)
    offers_of = archived_offers(Archive(settings.data / "plans"), plan)
    total = measure_ledger(EventSource(log_dir=settings.log), offers_of, plan.version).total
    shown = duckdb.read_parquet(str(settings.log / "decisions/*/*.parquet"))
    kettles = set(shown.filter("kind = 'offer' AND variant = 'kettle'").select("decision_id").fetchall())
    seen = set(duckdb.read_parquet(str(settings.log / "exposures/*/*.parquet")).select("decision_id").fetchall())
    assert len(kettles & seen) >= sold
    assert total.promised == Decimal("0.07") * len(kettles & seen)
    assert total.redeemed == Decimal("0.07") * sold
    with redis.Redis.from_url(redis_url) as client:
        spent = Decimal(int(client.hget(keyspace.pool("budget", "kettle"), "spent") or 0))
    assert spent / 10_000 == total.redeemed


def test_no_item_of_a_place_is_reserved_twice_by_kills_under_load(redis_url: str, tmp_path: Path) -> None:
    chance = random.Random(20261130)
    for name, content in SHOP.items():
        path = tmp_path / "experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    with listen("127.0.0.1", 0) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = serve(listener, tmp_path, redis_url)
        place = f"{base}/v1/stock/KETTLE/places/hamburg"
        httpx.post(place, json={"level": LEVEL}, timeout=120).raise_for_status()
        crowds = [Customers(base, number) for number in range(4)]
        try:
            for _ in range(KILLS):
                before = sum(len(crowd.reserved) for crowd in crowds)
                deadline = time.monotonic() + 20
                while sum(len(crowd.reserved) for crowd in crowds) < before + 3 and time.monotonic() < deadline:
                    time.sleep(0.01)
                    if httpx.get(place, timeout=120).json()["left"] == 0:
                        break
                time.sleep(chance.uniform(0, 0.05))
                server.kill()
                server.join()
                server = serve(listener, tmp_path, redis_url)
            left = httpx.get(place, timeout=120).json()["left"]
        finally:
            for crowd in crowds:
                crowd.done.set()
            for crowd in crowds:
                crowd.thread.join()
        reserved = [decision for crowd in crowds for decision in crowd.reserved]
        assert len(reserved) == len(set(reserved)) > 0
        # A kill between a claim and its answer leaves a hold that ends by itself.
        events = [
            {"type": "track", "event": "purchase", "message_id": f"m-{n}", "user_id": f"b-{n}", "decision_id": one}
            for n, one in enumerate(reserved)
        ]
        statuses = httpx.post(f"{base}/v1/events", json={"batch": events}, timeout=120).json()["statuses"]
        assert {one["status"] for one in statuses} == {"accepted"}
        deadline = time.monotonic() + 60
        while (left := httpx.get(place, timeout=120).json()["left"]) + len(reserved) != LEVEL:
            assert left + len(reserved) <= LEVEL
            assert time.monotonic() < deadline
            time.sleep(0.25)
        server.kill()
        server.join()
    check_ledger(tmp_path, redis_url, len(reserved))
