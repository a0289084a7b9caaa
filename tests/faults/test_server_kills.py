"""A decision server is killed with SIGKILL under load: every answered decision is in the log exactly once."""

import os
import random
import socket
import threading
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import duckdb
import httpx

from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.service.access.listener import listen
from engine.settings import Settings
from tests.verbs import start_server

ROOT = Path(__file__).parents[2]
KILLS = 20
SEED = 20261122


def _serve(listener: socket.socket, settings: Settings) -> ForkServerProcess:
    places = {
        "COUNTERPOINT_EXPERIMENTS": str(ROOT / "experiments"),
        "COUNTERPOINT_DATA": str(settings.data),
        "COUNTERPOINT_REDIS": settings.redis,
    }
    return start_server(listener, os.environ | places)


class Load:
    """Requests decisions without pause and records the id of every answer."""

    def __init__(self, base: str, number: int) -> None:
        self.answered: list[str] = []
        self.done = threading.Event()
        self._base = base
        self._number = number
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        asked = 0
        client = httpx.Client(base_url=self._base, timeout=20)
        while not self.done.is_set():
            asked += 1
            body = {
                "customer": {"user_id": f"u-{self._number}-{asked % 50}"},
                "channel": "web",
                "placements": ["home_hero"],
                "experiments": ["checkout_layout"],
            }
            try:
                answer = client.post("/v1/decide", json=body)
            except httpx.TransportError:
                client.close()
                client = httpx.Client(base_url=self._base, timeout=20)
                continue
            if answer.status_code == 200:
                self.answered.append(answer.json()["decision_id"])
        client.close()


def test_no_answered_decision_is_lost_or_doubled_by_twenty_kills(redis_url: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    settings = Settings(redis=redis_url, data=tmp_path, experiments=ROOT / "experiments")
    with listen("127.0.0.1", 0) as listener:
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = _serve(listener, settings)
        loads = [Load(base, number) for number in range(4)]
        try:
            for _ in range(KILLS):
                before = sum(len(load.answered) for load in loads)
                deadline = time.monotonic() + 30
                while sum(len(load.answered) for load in loads) < before + 5 and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0, 0.2))
                server.kill()
                server.join()
                server = _serve(listener, settings)
            httpx.get(f"{base}/healthz", timeout=120)
        finally:
            for load in loads:
                load.done.set()
            for load in loads:
                load.thread.join()
            server.kill()
            server.join()
    answered = [decision for load in loads for decision in load.answered]
    assert len(answered) == len(set(answered)) > KILLS * 5
    collect(settings, LogErasures(), drain=True)
    logged = duckdb.sql(
        f"select decision_id, key, count(*) from read_parquet('{tmp_path}/log/decisions/*/*.parquet') group by all"
    ).fetchall()
    assert max(times for _, _, times in logged) == 1
    per_decision: dict[str, set[str]] = {}
    for decision, key, _ in logged:
        per_decision.setdefault(decision, set()).add(key)
    missing = [decision for decision in answered if decision not in per_decision]
    assert not missing
    assert all(keys == {"home_hero", "checkout_layout", "hero_policy"} for keys in per_decision.values())
