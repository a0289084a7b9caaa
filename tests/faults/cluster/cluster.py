"""Four servers, two learners and two collectors on a cluster of six nodes, of which some are killed under load.

    python -m tests.faults.cluster.cluster [--seconds 60] [--seed N] [--callers 8] [--letters 100]

A primary, a learner and a collector are killed with SIGKILL, each at its own time, drawn by the seed. Afterwards the
ledger of all answers is compared with the Parquet log, and what the two learners know with what one learns from the
same records. Exits with 1 if anything was lost, doubled, exceeded, or rewarded wrongly.
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

from engine import keyspace
from engine.catalog import load_plan
from engine.erasure.listener import LogErasures
from engine.journal import stream
from engine.journal.log.collect import collect
from engine.learn import learn
from engine.service.access.listener import listen
from engine.settings import Settings
from engine.snapshots.publish import current_headers, current_snapshot
from policies import load_policy
from tests.faults.cluster.callers import ClusterLedger, Visitors
from tests.faults.cluster.ledger import compare
from tests.faults.cluster.nodes import ClusterNodes
from tests.faults.cluster.shop import STOCK, write_shop

SERVERS = 4
PARTITIONS = 4
REFERENCE = "reference"
"""A reader that is registered so that the streams retain all records for the one learner of the comparison."""


class Cluster:
    """The roles of one installation on a cluster, each a process of its own."""

    def __init__(self, place: Path) -> None:
        self.nodes = ClusterNodes(place / "nodes")
        self.settings = Settings(
            data=place / "data",
            experiments=write_shop(place / "experiments"),
            redis=self.nodes.url,
            partitions=PARTITIONS,
        )
        self._log = (place / "engine.log").open("ab")
        self._listeners = [listen("127.0.0.1", 0) for _ in range(SERVERS)]
        self.bases = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in self._listeners]
        self.roles: dict[str, subprocess.Popen[bytes]] = {}
        with stream.connect_stream(self.settings.redis) as client:
            for reader in (REFERENCE, stream.LEARNER):
                stream.register_reader(client, reader, PARTITIONS)

    def start(self, role: str) -> None:
        """Start the process of a role."""
        number = int(role[-1])
        if role.startswith("server"):
            words = ["serve", "--fd", str(self._listeners[number - 1].fileno())]
        elif role.startswith("learner"):
            own = [str(one) for one in range(PARTITIONS) if one % 2 == number - 1]
            words = ["learn", *(word for one in own for word in ("--partition", one))]
        else:
            words = ["collect"]
        environment = os.environ | {
            "COUNTERPOINT_DATA": str(self.settings.data),
            "COUNTERPOINT_REDIS": self.settings.redis,
            "COUNTERPOINT_EXPERIMENTS": str(self.settings.experiments),
            "COUNTERPOINT_PARTITIONS": str(PARTITIONS),
        }
        fds = tuple(one.fileno() for one in self._listeners)
        command = [sys.executable, "-m", "engine", *words]
        self.roles[role] = subprocess.Popen(command, env=environment, pass_fds=fds, stderr=self._log)

    def kill(self, role: str) -> None:
        """Kill a role at once."""
        self.roles[role].kill()
        self.roles[role].wait()

    def end(self, *roles: str) -> None:
        """End roles in order."""
        for role in roles:
            self.roles[role].send_signal(signal.SIGTERM)
        for role in roles:
            self.roles[role].wait(60)

    def takeovers(self) -> int:
        """The number of learners whose place another one took."""
        return Path(self._log.name).read_text().count("taking over its partitions")

    def stop(self) -> None:
        """Kill whatever runs."""
        for process in self.roles.values():
            process.kill()
            process.wait()
        for one in self._listeners:
            one.close()
        self._log.close()
        self.nodes.stop()


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A whole installation that is ready."""
    with tempfile.TemporaryDirectory() as place:
        cluster = Cluster(Path(place))
        try:
            for role in [f"server {n + 1}" for n in range(SERVERS)] + ["learner 1", "learner 2"]:
                cluster.start(role)
            for role in ("collector 1", "collector 2"):
                cluster.start(role)
            for base in cluster.bases:
                await_ready(base)
            stock = httpx.post(f"{cluster.bases[0]}/v1/stock/BAG", json={"level": STOCK}, timeout=10)
            stock.raise_for_status()
            yield cluster
        except BaseException:
            sys.stderr.write((Path(place) / "engine.log").read_text()[-5000:])
            raise
        finally:
            cluster.stop()


def await_ready(base: str, seconds: float = 60.0) -> None:
    """Wait until a server is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{base}/readyz", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{base} is not ready after {seconds:.0f} s")


async def storm(cluster: Cluster, visitors: Visitors, *, seconds: float, seed: int, letters: int, callers: int) -> None:
    """Kill a primary, a learner and a collector under load, at drawn times."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    running = asyncio.create_task(visitors.run(callers, letters))
    victims = ["primary", f"learner {chance.choice((1, 2))}", f"collector {chance.choice((1, 2))}"]
    chance.shuffle(victims)
    for victim in victims:
        await asyncio.sleep(seconds / 4 * chance.uniform(0.7, 1.0))
        if victim == "primary":
            port = await loop.run_in_executor(None, cluster.nodes.kill_primary, chance.randrange(3))
            cluster.nodes.restart(port)
        else:
            await loop.run_in_executor(None, cluster.kill, victim)
            if not victim.startswith("learner"):  # the other learner takes over
                await asyncio.sleep(1.0)
                cluster.start(victim)
        sys.stderr.write(f"{victim} killed\n")
    await asyncio.sleep(seconds / 4)
    visitors.stopped = True
    await running
    await asyncio.sleep(2.0)  # the last exposures settle
    async with httpx.AsyncClient(timeout=30) as client:  # and the clock of every partition goes on
        marks = [{"type": "track", "event": "look", "message_id": f"end-{n}", "user_id": f"end-{n}"} for n in range(60)]
        await visitors.send(client, marks)


def statistics(settings: Settings) -> dict[str, dict[str, np.ndarray]]:
    """The published statistics of every selection."""
    with stream.connect_stream(settings.redis) as client:
        keys = [key for key in current_headers(client) if "/" not in key]
        found = {key: current_snapshot(client, key) for key in keys}
    return {key: load_policy(one.blob).statistics for key, one in found.items() if one is not None}


def learn_alone(settings: Settings) -> dict[str, dict[str, np.ndarray]]:
    """What one learner of all partitions learns from the same records."""
    with stream.connect_stream(settings.redis) as client:
        for key in list(current_headers(client)):
            client.delete(keyspace.snapshot(key), keyspace.stored_snapshots(key))
        client.delete(keyspace.SNAPSHOT_HEADERS)
        stream.unregister_reader(client, stream.LEARNER)
    plan = load_plan(settings.experiments)
    fresh = settings.data.with_name("alone")
    alone = Settings(data=fresh, experiments=settings.experiments, redis=settings.redis, partitions=PARTITIONS)
    learn(alone, lambda: plan, threading.Event(), once=True)
    return statistics(alone)


def difference(one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]]) -> float:
    """The largest difference between two sets of statistics."""
    if one.keys() != other.keys():
        return float("inf")
    return max(
        (float(np.abs(values - other[key][name]).max()) for key in one for name, values in one[key].items()),
        default=float("inf"),
    )


def settle(cluster: Cluster) -> None:
    """End everything in order, so that what was answered is learnt and in the log."""
    cluster.end(*(role for role in cluster.roles if role.startswith("server")))
    settings = cluster.settings
    time.sleep(2.0)  # learners read to the end of the streams
    cluster.end("learner 1", "learner 2")  # and what took over from one
    plan = load_plan(settings.experiments)
    for number in (0, 1):
        owned = [one for one in range(PARTITIONS) if one % 2 == number]
        learn(settings, lambda: plan, threading.Event(), once=True, owned=owned)
    cluster.end("collector 1", "collector 2")
    collect(settings, LogErasures(), drain=True)


def run(seconds: float, seed: int, *, callers: int = 8, letters: int = 100) -> tuple[ClusterLedger, dict[str, float]]:
    """Run the storm; the ledger, and what is wrong by name: all must be 0."""
    with running_cluster() as cluster:
        visitors = Visitors(cluster.bases, seed)
        asyncio.run(storm(cluster, visitors, seconds=seconds, seed=seed, letters=letters, callers=callers))
        settle(cluster)
        found = compare(visitors.ledger, cluster.settings)
        together = statistics(cluster.settings)
        sys.stderr.write(f"sets of partitions taken over: {cluster.takeovers()}\n")
        found["difference to one learner"] = round(difference(together, learn_alone(cluster.settings)), 9)
    return visitors.ledger, found


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments.add_argument("--callers", type=int, default=8)
    arguments.add_argument("--letters", type=int, default=100)
    given = arguments.parse_args()
    sys.stderr.write(f"seed {given.seed}\n")
    ledger, found = run(given.seconds, given.seed, callers=given.callers, letters=given.letters)
    degraded = sum(ledger.decisions.values())
    lines = [
        f"seed {given.seed}, {ledger.unanswered:,} broken connections",
        f"{len(ledger.decisions):,} decisions ({degraded:,} degraded), {ledger.logged_in:,} logins",
        f"{len(ledger.clicked):,} clicks, {len(ledger.letters):,} letters",
        *(f"{name}: {count:g}" for name, count in found.items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
