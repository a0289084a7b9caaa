"""What one core serves, what a customer and a record take, and what a large shop needs: measured, then computed.

    python -m loadtests.sizing [--customers 20000] [--seconds 8] [--json]

Runs the shipped shop as it is deployed: a store, one server process, a learner and a collector. Customers view, buy and
are decided for; then the CPU seconds of each process are divided by the decisions of the counted time, the bytes of
each kind of key by the customers, and the bytes of the log by its rows. The generator runs beside them, so rates are
those of a busy machine; CPU per decision is what the sizes below are computed from.

The queue of a server is simulated with these costs: Poisson arrivals, one process, exponential times of a decision (a
wider spread than the measured one), and a store whose answers take a millisecond, and fifty in one of 10,000. The
busiest share of a core at which 99.9 % are answered within the budget is the one that sizes are computed with.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import redis
import uvloop
from pyarrow import parquet

from engine import embedded
from engine.journal.spool.frames import decode_frames
from engine.keyspace import KEYSPACE, partition, store_pattern
from loadtests import load
from loadtests.servers import wait_until_ready

ROOT = Path(__file__).resolve().parents[1]
BODY = '{"customer": {"user_id": "u-%d"}, "channel": "web", "placements": ["home_hero"]}'
BUDGET, STORE_SECONDS, STALL_SECONDS, STALLS = 0.05, 0.001, 0.05, 1e-4
HEADROOM = 0.6
"""The most of a core or a store's thread that a size plans for, however well its queue does."""
PARTITIONS = 4
TICKS = os.sysconf("SC_CLK_TCK")
SHOPS = (
    ("a shop", 1_000_000, 500),
    ("a large shop", 50_000_000, 20_000),
    ("a billion profiles", 1_000_000_000, 1_000_000),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--customers", type=int, default=20_000)
    arguments.add_argument("--seconds", type=float, default=8.0)
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given.customers, given.seconds)
    figures["busy"] = busiest(figures["server_us"] / 1e6)
    sizes = {name: size(figures, customers, rate) for name, customers, rate in SHOPS}
    if given.json:
        print(json.dumps({"figures": figures, "queue": queue(figures["server_us"] / 1e6), "sizes": sizes}, indent=1))
    else:
        show(figures, sizes)


def measure(folder: Path, customers: int, seconds: float) -> dict[str, float]:
    """The costs of this machine: CPU (µs) by process and decision, bytes by customer, decision and row."""
    with ExitStack() as stack:
        store = stack.enter_context(embedded.running(folder / "store"))
        client = stack.enter_context(redis.Redis.from_url(store.url))
        port = free_port()
        roles = {"server": ["serve", "--port", str(port)], "learner": ["learn"], "collector": ["collect"]}
        pids = {"store": store.process.pid}
        for role, words in roles.items():
            more = [] if role == "collector" else ["--experiments", str(ROOT / "experiments")]
            command = [sys.executable, "-m", "engine", *words, *more, "--data", str(folder), "--redis", store.url]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
            pids[role] = process.pid
        base = f"http://127.0.0.1:{port}"
        wait_until_ready(base)
        asyncio.run(live(base, customers))
        sent = load.requests("/v1/decide", BODY, customers)
        before = cpu_of(pids)
        counted = uvloop.run(load.load(port, sent, 64, 1.0, seconds))
        decided = counted.answered * (seconds + 1.0) / seconds  # those of the warm-up cost CPU too
        served = {role: after - before[role] for role, after in cpu_of(pids).items()}
        waiting = stream_bytes(client)
        await_collected(client)
        whole = {role: after - before[role] for role, after in cpu_of(pids).items()}
        log = log_bytes(folder / "log")
        return {
            "rate": counted.rate,
            "p50_ms": counted.p50,
            "p99_ms": counted.p99,
            "server_us": served["server"] / decided * 1e6,
            "store_us": served["store"] / decided * 1e6,
            "learner_us": whole["learner"] / decided * 1e6,
            "collector_us": whole["collector"] / decided * 1e6,
            "customer_bytes": sum(key_bytes(client, customers).values()),
            "stream_record_bytes": waiting,
            **log,
            **{f"bytes of {kind}": size for kind, size in key_bytes(client, customers).items()},
        }


async def live(base: str, customers: int) -> None:
    """Have every customer view, and every third buy."""
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        for first in range(0, customers, 500):
            batch: list[dict[str, object]] = []
            for number in range(first, min(first + 500, customers)):
                who = {"type": "track", "user_id": f"u-{number}", "anonymous_id": f"a-{number}"}
                batch.append(who | {"message_id": f"v-{number}", "event": "product_viewed"})
                if number % 3 == 0:
                    bought = {"revenue": 20.0, "order_id": f"o-{number}"}
                    batch.append(who | {"message_id": f"b-{number}", "event": "purchase", "properties": bought})
            for part in (batch[:500], batch[500:]):
                if part:
                    (await client.post("/v1/events", json={"batch": part})).raise_for_status()


def key_bytes(client: "redis.Redis", customers: int, sampled: int = 4000) -> dict[str, float]:
    """Bytes of the store by kind of key and customer, of keys sampled at random."""
    kinds = [(key.pattern, re.compile(glob_as_regex(store_pattern(key.pattern)))) for key in KEYSPACE]
    found: defaultdict[str, list[int]] = defaultdict(list)
    for _ in range(sampled):
        name = client.randomkey().decode()
        kind = next((pattern for pattern, matches in kinds if matches.fullmatch(name)), "others")
        found[kind].append(client.memory_usage(name) or 0)
    keys = client.dbsize()
    share = {kind: len(sizes) / sampled for kind, sizes in found.items()}
    return {
        kind: round(keys * share[kind] / customers * float(np.mean(sizes)), 1)
        for kind, sizes in sorted(found.items())
        if "{HASH}" in kind or "{d:ID}" in kind
    }


def glob_as_regex(glob: str) -> str:
    """The regular expression of a pattern of the store's."""
    return re.sub(r"[{}]", r"\\\g<0>", glob).replace("*", ".*")


def stream_bytes(client: "redis.Redis") -> float:
    """Bytes of the store by record that waits in the streams."""
    size = records = 0
    for number in range(PARTITIONS):
        stream = partition(number).stream
        size += client.memory_usage(stream) or 0
        for _, fields in client.xrange(stream):
            records += sum(1 for value in fields.values() for _ in decode_frames(value))
    return size / max(records, 1)


def log_bytes(log: Path) -> dict[str, float]:
    """Bytes of Parquet by row of each table."""
    found = {}
    for table in ("decisions", "exposures", "events"):
        files = list(log.glob(f"{table}/day=*/*.parquet"))
        rows = sum(parquet.read_metadata(file).num_rows for file in files)
        if not rows:
            raise SystemExit(f"{log}/{table}: has no rows yet; measure for more --seconds")
        found[f"log_{table}_bytes"] = sum(file.stat().st_size for file in files) / rows
    return found


def queue(service: float, shares: Sequence[float] = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)) -> list[dict[str, float]]:
    """Latencies (ms) and the part over the budget of a process that is busy for a share of its time."""
    random = np.random.default_rng(7)
    found = []
    for share in shares:
        number = 2_000_000
        arrivals = random.exponential(service / share, number)
        steps = random.exponential(service, number)
        # Lindley: the wait of one is that of the one before, plus its step, less the time between them.
        walk = np.concatenate(([0.0], np.cumsum(steps[:-1] - arrivals[1:])))
        waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
        stored = np.where(random.random(number) < STALLS, STALL_SECONDS, STORE_SECONDS)
        times = waits + steps + stored
        p50, p99, p999 = (float(one) * 1e3 for one in np.quantile(times, (0.5, 0.99, 0.999)))
        found.append({"busy": share, "p50": p50, "p99": p99, "p999": p999, "late": float(np.mean(times > BUDGET))})
    return found


def busiest(service: float) -> float:
    """The share of a core that sizes plan for."""
    good = [one["busy"] for one in queue(service) if one["p999"] <= BUDGET * 1e3]
    return min(max(good, default=0.3), HEADROOM)


def size(figures: Mapping[str, float], customers: int, rate: int) -> dict[str, float]:
    """The resources for this many customers and decisions a second; all are exposed, one in ten has an event."""
    busy = figures["busy"]
    store_cores = rate * figures["store_us"] / 1e6 / busy
    memory = customers * figures["customer_bytes"] / 1e9
    row = figures["log_decisions_bytes"] + figures["log_exposures_bytes"] + 0.1 * figures["log_events_bytes"]
    return {
        "customers": customers,
        "rate": rate,
        "server_cores": rate * figures["server_us"] / 1e6 / busy,
        "store_primaries": max(store_cores, memory / 32, 1.0),
        "store_gb": memory,
        "learner_cores": rate * figures["learner_us"] / 1e6 / busy,
        "collector_cores": rate * figures["collector_us"] / 1e6 / busy,
        "log_gb_day": rate * 86_400 * row / 1e9,
        "stream_gb_minute": rate * 60 * 2 * figures["stream_record_bytes"] / 1e9,
    }


def show(figures: Mapping[str, float], sizes: Mapping[str, Mapping[str, float]]) -> None:
    """Print the page's tables."""
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        print(f"| {name} | {value:,.2f} |")
    print("\n| busy | p50 ms | p99 ms | p99.9 ms | over the budget |\n|---|---|---|---|---|")
    for one in queue(figures["server_us"] / 1e6):
        print(f"| {one['busy']:.0%} | {one['p50']:.2f} | {one['p99']:.2f} | {one['p999']:.2f} | {one['late']:.5%} |")
    names = list(next(iter(sizes.values())))
    print(f"\n| | {' | '.join(sizes)} |\n|---|{'---|' * len(sizes)}")
    for name in names:
        print(f"| {name} | {' | '.join(f'{one[name]:,.1f}' for one in sizes.values())} |")


def cpu_of(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of each process since it started."""
    found = {}
    for role, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[role] = (int(fields[11]) + int(fields[12])) / TICKS
    return found


def await_collected(client: "redis.Redis") -> None:
    """Wait until the readers have read the streams to their ends."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        behind = 0
        for number in range(PARTITIONS):
            keys = partition(number)
            newest = client.xrevrange(keys.stream, count=1)
            last = newest[0][0] if newest else b"0-0"
            behind += sum(position_of(at) < position_of(last) for at in client.hgetall(keys.positions).values())
        if not behind:
            return
        time.sleep(0.5)
    raise TimeoutError("the streams were not read within two minutes")


def position_of(text: bytes) -> tuple[int, int]:
    """A stream's position as numbers."""
    time_, _, number = text.partition(b"-")
    return int(time_), int(number or 0)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
