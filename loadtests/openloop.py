"""Latency for customers who do not wait for each other: Poisson arrivals at shares of the capacity.

    python -m loadtests.openloop [--workers 2] [--shares 0.25,0.5,0.7] [--seconds S] [--rounds N] [--picture FILE.svg]

In a closed loop a slow answer delays the requests after it, which hides it. Here each request has a time at which it is
due, drawn in advance, and its latency counts from that time, whether or not a connection was free. Capacity is the rate
in a closed loop of 32 connections per worker, measured first, of each server by itself. Ours alternates with the
idiomatic handler; each runs at the same shares of its own capacity. Both decide for the shop of `bench`.

Latencies are in a histogram with classes of 1 % (as HdrHistogram's two digits). Exits with 1 if at half of the capacity
our p99 is more than three times our p50 or more than the handler's, or if an answer failed.
"""

import argparse
import asyncio
import json
import math
import random
import statistics
import sys
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from loadtests import bench, load, shop

QUANTILES = (0.5, 0.99, 0.999)
SPREAD, GATE = 3.0, 0.5
"""Most that p99 may be of p50, at this share of the capacity."""
CONNECTIONS = 256
"""Connections that are open; a request that finds none free waits for one, and its latency says so."""
_GROWTH = math.log(1.01)
_LEAST = 1e-5


@dataclass
class Histogram:
    """Counts of latencies (s) in classes whose limits grow by 1 % from 10 µs on."""

    counts: "array[int]" = field(default_factory=lambda: array("q", bytes(8 * 2000)))

    def add(self, latency: float) -> None:
        """Count one latency."""
        self.counts[min(1999, max(0, int(math.log(max(latency, _LEAST) / _LEAST) / _GROWTH)))] += 1

    def quantile(self, q: float) -> float:
        """The latency (s) that a share of `q` does not exceed, by the upper limit of its class."""
        left = q * sum(self.counts)
        for place, count in enumerate(self.counts):
            left -= count
            if left <= 0:
                return _LEAST * math.exp((place + 1) * _GROWTH)
        return math.nan

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram."""
        for place, count in enumerate(other.counts):
            self.counts[place] += count


@dataclass
class Outcome:
    """One run: the latencies, and how many answers failed or were degraded."""

    histogram: Histogram = field(default_factory=Histogram)
    failed: int = 0
    degraded: int = 0


class Line(asyncio.Protocol):
    """One connection, which takes the next waiting request once its answer is complete."""

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender
        self._buffer = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Offer the connection to the sender."""
        self._transport = cast("asyncio.Transport", transport)
        self._sender.take_free(self)

    def send(self, due: float, request: bytes) -> None:
        """Send a request that was due at this time of the loop's clock."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is complete."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.lower().find(b"content-length:", 0, head) + 15
        if len(self._buffer) >= head + 4 + int(self._buffer[at : self._buffer.find(b"\r", at)]):
            answer, self._buffer = self._buffer, b""
            self._sender.count(self._due, answer)
            self._sender.take_free(self)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


class Sender:
    """Sends requests when they are due, over a free connection or once there is one."""

    def __init__(self, requests: Sequence[bytes], rate: float, seconds: float, warm: float, seed: int) -> None:
        self._requests = requests
        self._due = arrivals(rate, seconds + warm, seed)
        self._counted_from = warm
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._free: list[Line] = []
        self._open = 0
        self._is_over = False
        self.ended = asyncio.Event()
        self.outcome = Outcome()

    async def run(self, port: int) -> Outcome:
        """Send all requests, and wait for their answers."""
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            await loop.create_connection(lambda: Line(self), "127.0.0.1", port)
        self._began = loop.time()
        self._next, self._number = next(self._due, math.inf), 0
        loop.call_soon(self._send_due)
        await self.ended.wait()
        for line in self._free:
            line.close()
        return self.outcome

    def count(self, due: float, answer: bytes) -> None:
        """Count an answer to the request that was due at this time."""
        self._open -= 1
        if due - self._began >= self._counted_from:
            self.outcome.histogram.add(asyncio.get_running_loop().time() - due)
            self.outcome.failed += not answer.startswith(b"HTTP/1.1 200")
            self.outcome.degraded += load.DEGRADED in answer

    def take_free(self, line: Line) -> None:
        """Use a connection that became free."""
        if self._waiting:
            line.send(*self._waiting.popleft())
        else:
            self._free.append(line)
            if self._open == 0 and self._is_over:
                self.ended.set()

    def _send_due(self) -> None:
        """Send due requests, and schedule itself for the next."""
        loop = asyncio.get_running_loop()
        while self._began + self._next <= loop.time():
            due, request = self._began + self._next, self._requests[self._number % len(self._requests)]
            self._open += 1
            if self._free:
                self._free.pop().send(due, request)
            else:
                self._waiting.append((due, request))
            self._next, self._number = next(self._due, math.inf), self._number + 1
        if self._next == math.inf:
            self._is_over = True
            if self._open == 0:
                self.ended.set()
        else:
            loop.call_at(self._began + self._next, self._send_due)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """The times (s) of a Poisson process."""
    chance, at = random.Random(seed), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        yield at


def capacity(port: int, requests: list[bytes], workers: int, seconds: float) -> float:
    """Requests per second in a closed loop."""
    return uvloop.run(load.load(port, requests, 32 * workers, 1.0, seconds)).rate


def measure(port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int) -> Outcome:
    async def run() -> Outcome:
        return await Sender(requests, rate, seconds, 1.0, seed).run(port)

    return uvloop.run(run())


Found = dict[tuple[str, float], list[Outcome]]


def compare(
    ports: dict[str, int], workers: int, shares: Sequence[float], seconds: float, rounds: int
) -> tuple[dict[str, float], Found]:
    """The capacity of each server, and its outcomes by share of it, in alternating rounds."""
    requests = load.requests("/v1/decide", json.dumps(shop.BODY), bench.CUSTOMERS)
    rates = {name: capacity(port, requests, workers, seconds) for name, port in ports.items()}
    found: Found = {}
    for number in range(rounds):
        for share in shares:
            for name, port in ports.items():
                outcome = measure(port, requests, rates[name] * share, seconds, number)
                found.setdefault((name, share), []).append(outcome)
                print(f"round {number + 1}: {name} at {share:.0%} measured", file=sys.stderr)
    return rates, found


def quantiles(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Median over the rounds of each quantile, in milliseconds."""
    return {f"p{q * 100:g}": statistics.median(one.histogram.quantile(q) * 1e3 for one in outcomes) for q in QUANTILES}


def draw(found: Found, path: Path) -> None:
    """Write a picture: latency by percentile, for each server and share; the tail is on a logarithmic scale."""
    import altair as alt  # noqa: PLC0415 (only a picture needs it)

    rows = []
    for (name, share), outcomes in found.items():
        merged = Histogram()
        for one in outcomes:
            merged.merge(one.histogram)
        for nines in range(1, 61):
            beyond = 10 ** (-nines / 20)
            at = merged.quantile(1 - beyond) * 1e3
            rows.append({"server": name, "load": f"{share:.0%}", "1 in": 1 / beyond, "latency, ms": at})
    axes = {"x": alt.X("1 in:Q", scale=alt.Scale(type="log"), title="slowest one in … requests")}
    axes["y"] = alt.Y("latency, ms:Q", scale=alt.Scale(type="log"))
    chart = alt.Chart(alt.Data(values=rows)).mark_line().encode(color="load:N", strokeDash="server:N", **axes)
    chart.properties(title="Latency from the time a request was due", width=560, height=340).save(str(path))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--shares", default="0.25,0.5,0.7")
    arguments.add_argument("--seconds", type=float, default=5.0)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--picture", type=Path, help="an .svg or .png to write")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    shares = [float(one) for one in given.shares.split(",")]
    with bench.serving(given.workers) as servers:
        ports = {"decide": servers.ours[0], "idiomatic": servers.peer[0]}
        rates, found = compare(ports, given.workers, shares, given.seconds, given.rounds)
    figures = {key: quantiles(outcomes) for key, outcomes in found.items()}
    bad = {key: (sum(o.failed for o in of), sum(o.degraded for o in of)) for key, of in found.items()}
    if given.json:
        report = [
            {"server": name, "share": share, "rate": rates[name] * share, **figures[name, share]}
            | dict(zip(("failed", "degraded"), bad[name, share], strict=True))
            for name, share in found
        ]
        print(json.dumps({"workers": given.workers, "capacity": rates, "runs": report}))
    else:
        print(f"{given.workers} workers; capacity {', '.join(f'{n} {r:,.0f}/s' for n, r in rates.items())}")
        for share in shares:
            for name in ports:
                at = "".join(f"{q} {ms:8.2f} ms  " for q, ms in figures[name, share].items())
                failed, degraded = bad[name, share]
                print(
                    f"{share:>4.0%}  {name:10}{rates[name] * share:8,.0f}/s  {at}failed {failed}, degraded {degraded}"
                )
    if given.picture:
        draw(found, given.picture)
    if GATE not in shares:
        return 0
    ours, theirs = figures["decide", GATE], figures["idiomatic", GATE]
    failed = any(failed + degraded for (name, _), (failed, degraded) in bad.items() if name == "decide")
    return 1 if ours["p99"] > SPREAD * ours["p50"] or ours["p99"] > theirs["p99"] or failed else 0


if __name__ == "__main__":
    sys.exit(main())
