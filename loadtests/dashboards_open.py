"""Latency of decisions with ten dashboards open and without: `python -m loadtests.dashboards_open [--windows 12]`.

Runs the whole engine, as `up` does, on a shop of 200 experiments and a log of a million exposures. A process opens ten
tabs as a browser would: each loads its page again when the page asks for it, three read the live figures. Decisions
arrive by a Poisson process, and their latency counts from the time at which each was due. In every other window the
tabs, the dashboard and the process that computes its reports are stopped (SIGSTOP): less runs then than with an idle
dashboard. Prints p50 and p99 of the latency and the decision server's CPU per decision as medians over the windows,
and exits with 1 if p50 or p99 is more than 5 % higher with the dashboards open.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from engine.settings import Settings
from engine.up import run_engine
from loadtests import bench, load, openloop
from loadtests.dashboard import write_log, write_shop

TABS = ("/", "/experiments", "/experiments/e7", "/bandits/home_hero", "/offers", "/moments", "/measure", "/live")
LIVE = 3
"""Tabs of the last page, so that there are ten."""
BODY = {"customer": {"user_id": "u-%d"}, "channel": "web", "expose": True}
BODY |= {"placements": ["home_hero"], "experiments": ["e7", "checkout_layout"]}
EXPERIMENTS, EXPOSURES = 200, 1_000_000
MOST = 1.05
RENEW = re.compile(r'data-renew="(\d+)"')


async def browse(base: str) -> None:
    """Reload ten tabs until the process ends."""
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        await asyncio.gather(*(_tab(client, page) for page in (*TABS, *TABS[-1:] * (LIVE - 1))))


async def _tab(client: httpx.AsyncClient, page: str) -> None:
    while True:
        answer = await client.get(page)
        if page == "/live":
            async with client.stream("GET", "/live/events") as stream:
                async for _ in stream.aiter_bytes():
                    pass
        found = RENEW.search(answer.text)
        await asyncio.sleep(2 if "data-waits" in answer.text else float(found[1]) if found else 10)


def children(parent: int) -> dict[int, str]:
    """The command of every process below `parent`, by its id."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            above = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if above == parent:
            found |= {int(path.parent.name): command, **children(int(path.parent.name))}
    return found


def compare(base: str, windows: int, seconds: float, rate: float) -> int:
    """Measure in alternating windows; returns the exit code."""
    port, requests = int(base.rpartition(":")[2]), load.requests("/v1/decide", json.dumps(BODY), 10_000)
    below = children(os.getpid())
    server = next(pid for pid, command in below.items() if " serve " in command)
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with subprocess.Popen([sys.executable, "-m", "loadtests.dashboards_open", "--browse", base]) as tabs:
        try:
            time.sleep(20)  # until the first reports are computed
            for number in range(2 * windows):
                is_open = number % 4 in {0, 3}  # open, stopped, stopped, open: a trend falls on both alike
                dashboard = next(pid for pid, command in below.items() if " dashboard " in command)
                for pid in (tabs.pid, dashboard, *children(dashboard)):
                    os.kill(pid, signal.SIGCONT if is_open else signal.SIGSTOP)
                before = bench.cpu(server)
                outcome = openloop.measure(port, requests, rate, seconds, number // 2)
                spent = (bench.cpu(server) - before) / (rate * (seconds + 1))
                figures = {name: outcome.histogram.quantile(q) * 1e3 for name, q in (("p50", 0.5), ("p99", 0.99))}
                found[is_open].append(figures | {"cpu": spent * 1e6, "failed": outcome.failed + outcome.degraded})
                for pid in (tabs.pid, dashboard, *children(dashboard)):
                    os.kill(pid, signal.SIGCONT)
        finally:
            tabs.terminate()
    return _show(found, rate)


def _show(found: dict[bool, list[dict[str, float]]], rate: float) -> int:
    medians = {
        is_open: {name: statistics.median(one[name] for one in rows) for name in rows[0]}
        for is_open, rows in found.items()
    }
    print(f"{rate:g} decisions/s, medians of {len(found[True])} windows each")
    print(f"{'':22} {'p50':>9} {'p99':>9} {'CPU per decision':>18}")
    for is_open, name in ((False, "no dashboard"), (True, "ten dashboards open")):
        row = medians[is_open]
        print(f"{name:22} {row['p50']:6.2f} ms {row['p99']:6.2f} ms {row['cpu']:15.0f} µs")
    ratios = {name: medians[True][name] / medians[False][name] for name in ("p50", "p99", "cpu")}
    print(f"{'ratio':22} {ratios['p50']:9.3f} {ratios['p99']:9.3f} {ratios['cpu']:18.3f}")
    failed = sum(row["failed"] for rows in found.values() for row in rows)
    print(f"failed or degraded: {failed:g}")
    return int(max(ratios["p50"], ratios["p99"]) > MOST or failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--browse", default="")
    chosen = parser.parse_args()
    if chosen.browse:
        asyncio.run(browse(chosen.browse))
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_shop(root / "experiments", EXPERIMENTS)
        write_log(root / "data" / "log", EXPERIMENTS, EXPOSURES)
        settings = Settings(experiments=root / "experiments", data=root / "data", port=0)
        with run_engine(settings, threading.Event()) as (base, _):
            return compare(base, chosen.windows, chosen.seconds, chosen.rate)


if __name__ == "__main__":
    sys.exit(main())
