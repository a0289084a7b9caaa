"""`/v1/decide` against an idiomatic Litestar handler: one worker each, same server, store and load.

`python -m loadtests.bench [--pairs N] [--seconds S] [--connections 1,4,16,64] [--trips 1,64,256] [--json]`. Runs
alternate; medians of the pairs' ratios are printed. Ours decides one experiment and one placement of 20 offers by
linear Thompson, for a customer whose profile is in the store, and writes the record to its spool before it answers; at
the most connections also the experiment alone. The peer (`idiomatic.py`) awaits one `redis.get`.

The gate is CPU per request, at each number of connections. Round trips per decision are counted by the store: its MGET
commands, which only decisions send, and all that it read from any socket (`total_reads_processed`), which includes the
records on their way to the streams. Exits with 1 if a figure misses its budget or an answer failed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import redis

from engine import embedded
from loadtests import shop

HERE = Path(__file__).parent
CUSTOMERS = 20_000
OURS, PEER = 18_080, 18_081
BUDGETS = {1: 0.7, 4: 0.9, 16: 1.5, 64: 1.8}
"""Least ratio of CPU per request, peer / ours, by connections."""
EXPERIMENT_BUDGET = 2.2
"""The same with one experiment and no placement, at the most connections."""
TRIP_BUDGETS = {1: 1.0, 64: 0.05, 256: 0.02}
"""Most round trips of decisions to the store per decision, by connections."""
EXPERIMENT = shop.BODY | {"placements": []}
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """One run of one server: requests per second, CPU microseconds per request, latencies in milliseconds.

    `trips` are the reads of decisions from the store per request, `store_reads` all that the store read from sockets.
    """

    rate: float
    server_us: float
    store_us: float
    p50: float
    p99: float
    failed: int
    degraded: int
    trips: float
    store_reads: float


class StoreUse(NamedTuple):
    """The store's counters since its start."""

    cpu: float
    gets: int
    reads: int


@contextmanager
def server(command: list[str], port: int, extra: Mapping[str, str] | None = None) -> Iterator[int]:
    """Start a server, wait until it answers on `port`, and yield its pid; it ends with the block."""
    environment = {**os.environ, **(extra or {}), "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen(command, env=environment, cwd=HERE.parent) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(
                        f"{' '.join(command)} did not answer on port {port} within 30 s; its output is above"
                    )
                time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used, threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def store_use(client: redis.Redis) -> StoreUse:
    used, gets = client.info("cpu"), client.info("commandstats").get("cmdstat_mget", {"calls": 0})
    seconds = float(used["used_cpu_sys"]) + float(used["used_cpu_user"])
    return StoreUse(seconds, int(gets["calls"]), int(client.info("stats")["total_reads_processed"]))


def run(
    port: int, pid: int, client: redis.Redis, *, seconds: float, connections: int, body: Mapping[str, object]
) -> Run:
    """Load one server. CPU and requests are counted from the end of the warm-up."""
    command = [sys.executable, str(HERE / "load.py"), "--port", str(port), "--body", json.dumps(body)]
    command += ["--customers", str(CUSTOMERS), "--connections", str(connections), "--seconds", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as loading:
        assert loading.stdout is not None  # noqa: S101 (it is a pipe)
        loading.stdout.readline()
        began, before = cpu(pid), store_use(client)
        figures = json.loads(loading.stdout.readline())
        ended, after = cpu(pid), store_use(client)
    answered = max(1, figures["answered"])
    return Run(
        rate=figures["rate"],
        server_us=(ended - began) / answered * 1e6,
        store_us=(after.cpu - before.cpu) / answered * 1e6,
        p50=figures["p50"],
        p99=figures["p99"],
        failed=figures["failed"],
        degraded=figures["degraded"],
        trips=(after.gets - before.gets) / answered,
        store_reads=(after.reads - before.reads) / answered,
    )


def medians(runs: list[Run]) -> dict[str, float]:
    return {name: statistics.median(getattr(run, name) for run in runs) for name in asdict(runs[0])}


class Servers(NamedTuple):
    """Both servers, each with its port and process, and their store."""

    client: redis.Redis
    ours: tuple[int, int]
    peer: tuple[int, int]


@contextmanager
def serving(workers: int = 1) -> Iterator[Servers]:
    """Run both servers on one store with the benches' shop, each with this many processes."""
    with tempfile.TemporaryDirectory() as name, embedded.running(Path(name) / "store") as store:
        data = Path(name)
        (data / "meters").mkdir()
        plan = shop.folder(data / "experiments")
        with redis.Redis.from_url(store.url) as client:
            shop.fill(client, CUSTOMERS)
            shop.learnt(client, plan)
            ours = [sys.executable, "-m", "engine", "serve", "--experiments", str(plan), "--data", str(data / "data")]
            ours += ["--redis", store.url, "--port", str(OURS)]
            theirs = [sys.executable, str(HERE / "idiomatic.py"), "--port", str(PEER), "--redis", store.url]
            if workers > 1:
                ours, theirs = [*ours, "--workers", str(workers)], [*theirs, "--workers", str(workers)]
            with (
                server(ours, OURS, {"PROMETHEUS_MULTIPROC_DIR": str(data / "meters")}) as our_pid,
                server(theirs, PEER) as peer_pid,
            ):
                yield Servers(client, (OURS, our_pid), (PEER, peer_pid))


class Compared(NamedTuple):
    """The runs of alternating pairs under one load."""

    connections: int
    decide: list[Run]
    idiomatic: list[Run]

    def ratio(self, field: str) -> float:
        """The median of the pairs' ratios of a figure, ours / the peer's."""
        pairs = zip(self.decide, self.idiomatic, strict=True)
        ratios = [float(getattr(ours, field) / getattr(theirs, field)) for ours, theirs in pairs]
        return statistics.median(ratios)

    @property
    def cpu_ratio(self) -> float:
        """The median of the pairs' ratios of CPU per request, the peer's / ours: above 1 ours costs less."""
        pairs = zip(self.decide, self.idiomatic, strict=True)
        return statistics.median(theirs.server_us / ours.server_us for ours, theirs in pairs)

    def figures(self) -> dict[str, object]:
        """The figures as JSON has them."""
        return {
            "connections": self.connections,
            "decide": medians(self.decide),
            "idiomatic": medians(self.idiomatic),
            "cpu_ratio": self.cpu_ratio,
            "rate_ratio": self.ratio("rate"),
            "p50_ratio": self.ratio("p50"),
        }


def compare(
    servers: Servers, connections: int, pairs: int, seconds: float, body: Mapping[str, object] = shop.BODY
) -> Compared:
    """Alternating runs of both servers under one load."""
    found = Compared(connections, [], [])
    for number in range(pairs):
        for runs, (port, pid) in ((found.decide, servers.ours), (found.idiomatic, servers.peer)):
            runs.append(run(port, pid, servers.client, seconds=seconds, connections=connections, body=body))
        rates = f"{found.decide[-1].rate:8,.0f} /s against {found.idiomatic[-1].rate:8,.0f} /s"
        print(f"{connections:3} connections, {number + 1}/{pairs}: {rates}", file=sys.stderr)
        _drop_log(servers.client)
    return found


def _drop_log(client: redis.Redis) -> None:
    """Trim the streams, since no collector runs here and the store's memory must not slow later runs."""
    for key in client.scan_iter("cp:*", _type="stream"):
        client.xtrim(key, maxlen=0, approximate=False)


def show(compared: Compared, label: str, budget: float) -> None:
    """Print the figures of one load."""
    for kind, runs in (("decide", compared.decide), ("idiomatic", compared.idiomatic)):
        m = medians(runs)
        figures = f"{m['rate']:9,.0f}{m['server_us']:10.1f}{m['store_us']:10.1f}{m['p50']:9.2f}{m['p99']:9.2f}"
        print(f"{label:16}{kind:10}{figures}{m['trips']:9.3f}{m['store_reads']:9.3f}")
    rates = f"requests/s {compared.ratio('rate'):.2f}, p50 {compared.ratio('p50'):.2f}"
    print(f"{label:16}by CPU {compared.cpu_ratio:.2f} (budget {budget}); {rates}")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=10)
    arguments.add_argument("--seconds", type=float, default=2.0)
    arguments.add_argument("--connections", default="1,4,16,64")
    arguments.add_argument("--trips", default="1,64,256", help="connections at which round trips are counted")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    levels = [int(one) for one in given.connections.split(",") if one]
    with serving() as servers:
        loads = [compare(servers, level, given.pairs, given.seconds) for level in levels]
        alone = compare(servers, max(levels), given.pairs, given.seconds, EXPERIMENT)
        port, pid = servers.ours
        trips = {
            level: run(port, pid, servers.client, seconds=given.seconds, connections=level, body=shop.BODY)
            for level in (int(one) for one in given.trips.split(",") if one)
        }
    runs = [one for load in (*loads, alone) for one in (*load.decide, *load.idiomatic)]
    bad = sum(one.failed + one.degraded for one in (*runs, *trips.values()))
    if given.json:
        counted = {level: {"trips": one.trips, "store_reads": one.store_reads} for level, one in trips.items()}
        found = {"loads": [one.figures() for one in loads], "experiment_only": alone.figures(), "round_trips": counted}
        print(json.dumps(found | {"failed": bad}))
    else:
        columns = ("requests/s", "server µs", "store µs", "p50 ms", "p99 ms", "trips", "reads")
        print(f"{'':24}{''.join(f'{name:>10}' for name in columns)}")
        for load in loads:
            show(load, f"{load.connections} connections", BUDGETS.get(load.connections, 0.0))
        show(alone, "experiment alone", EXPERIMENT_BUDGET)
        for level, one in trips.items():
            allowed = f"budget {TRIP_BUDGETS.get(level, 1.0)}; {one.store_reads:.4f} socket reads"
            print(f"{level} connections: {one.trips:.4f} round trips per decision ({allowed})")
        print(f"{bad} answers failed or degraded; µs are CPU per request; one worker each")
    cheap = all(load.cpu_ratio >= BUDGETS.get(load.connections, 0.0) for load in loads)
    few = all(one.trips <= TRIP_BUDGETS.get(level, 1.0) for level, one in trips.items())
    return 0 if cheap and few and alone.cpu_ratio >= EXPERIMENT_BUDGET and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
