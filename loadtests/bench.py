"""`/v1/decide` against an idiomatic Litestar handler: one worker each, same server, store and load.

`python -m loadtests.bench [--pairs N] [--seconds S] [--json]`. Runs alternate; medians are printed. Ours decides one
experiment and one placement of 20 offers by linear Thompson, for a customer whose profile is in the store, and writes
the record to its spool before it answers. The peer (`idiomatic.py`) awaits one `redis.get`. Exits with 1 if the ratio
is below the budget or an answer failed.
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

import redis

from engine import embedded
from loadtests import shop

HERE = Path(__file__).parent
CUSTOMERS = 20_000
CONNECTIONS = 64
OURS, PEER = 18_080, 18_081
BUDGET = 1.0
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Run:
    """One run of one server: requests per second, CPU microseconds per request, latencies in milliseconds."""

    rate: float
    server_us: float
    store_us: float
    p50: float
    p99: float
    failed: int
    degraded: int


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
                    raise SystemExit(f"{' '.join(command)} did not answer on port {port}")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.terminate()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used, threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def store_cpu(client: redis.Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_sys"]) + float(used["used_cpu_user"])


def run(port: int, pid: int, client: redis.Redis, seconds: float) -> Run:
    """Load one server. CPU and the requests that it is divided by are counted from the end of the warm-up."""
    command = [sys.executable, str(HERE / "load.py"), "--port", str(port), "--body", json.dumps(shop.BODY)]
    command += ["--customers", str(CUSTOMERS), "--connections", str(CONNECTIONS), "--seconds", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as loading:
        assert loading.stdout is not None  # noqa: S101 (it is a pipe)
        loading.stdout.readline()
        before = cpu(pid), store_cpu(client)
        figures = json.loads(loading.stdout.readline())
        after = cpu(pid), store_cpu(client)
    answered = figures["answered"]
    return Run(
        figures["rate"],
        (after[0] - before[0]) / answered * 1e6,
        (after[1] - before[1]) / answered * 1e6,
        figures["p50"],
        figures["p99"],
        figures["failed"],
        figures["degraded"],
    )


def medians(runs: list[Run]) -> dict[str, float]:
    return {name: statistics.median(getattr(run, name) for run in runs) for name in asdict(runs[0])}


def measured(pairs: int, seconds: float) -> dict[str, list[Run]]:
    """Alternating runs of both servers."""
    runs: dict[str, list[Run]] = {"decide": [], "idiomatic": []}
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
            with (
                server(ours, OURS, {"PROMETHEUS_MULTIPROC_DIR": str(data / "meters")}) as our_pid,
                server(theirs, PEER) as peer_pid,
            ):
                for number in range(pairs):
                    for kind, port, pid in (("decide", OURS, our_pid), ("idiomatic", PEER, peer_pid)):
                        got = run(port, pid, client, seconds)
                        runs[kind].append(got)
                        print(f"{number + 1}/{pairs} {kind:9} {got.rate:8,.0f} /s", file=sys.stderr)
                    _drop_log(client)
    return runs


def _drop_log(client: redis.Redis) -> None:
    """Trim the streams, as no collector runs here: the store's memory must not slow the later runs."""
    for key in client.scan_iter("cp:*", _type="stream"):
        client.xtrim(key, maxlen=0, approximate=False)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=6)
    arguments.add_argument("--seconds", type=float, default=4.0)
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    runs = measured(given.pairs, given.seconds)
    pairs = list(zip(runs["decide"], runs["idiomatic"], strict=True))
    ratio = statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)
    cost = statistics.median(theirs.server_us / ours.server_us for ours, theirs in pairs)
    bad = sum(run.failed + run.degraded for kind in runs.values() for run in kind)
    if given.json:
        found = {kind: medians(of) for kind, of in runs.items()}
        print(json.dumps({**found, "ratio": ratio, "cpu_ratio": cost, "budget": BUDGET, "failed": bad}))
    else:
        print(f"{'':10}{'requests/s':>12}{'server µs':>12}{'store µs':>12}{'p50 ms':>9}{'p99 ms':>9}")
        for kind, of in runs.items():
            m = medians(of)
            figures = f"{m['rate']:12,.0f}{m['server_us']:12.1f}{m['store_us']:12.1f}{m['p50']:9.2f}{m['p99']:9.2f}"
            print(f"{kind:10}{figures}")
        print(f"decide / idiomatic: {ratio:.2f} in requests per second (budget {BUDGET}), {cost:.2f} per CPU second")
        print(f"{bad} answers failed or degraded; µs are CPU per request; {CONNECTIONS} connections, one worker each")
    return 0 if ratio >= BUDGET and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
