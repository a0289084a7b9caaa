"""More load than one decision server can take: its answers, its refusals, and the time to recover.

    python -m loadtests.overload [--connections 8000] [--seconds S] [--impatient]

Each connection sends a decision when the last is answered. Refused, it waits as long as `Retry-After` says; with
`--impatient` it sends again at once, which no server can stop. Meanwhile another process requests `/readyz` ten times a
second, over a new connection each. Then the load ends, and decisions are sent until one is answered within the budget.

Exits with 1 if an answer took longer than twice the budget (99 %), a refusal longer than 100 ms (99 %) or had no
`Retry-After`, `/readyz` longer than 100 ms (95 %), or the recovery longer than ten seconds.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import uvloop

from engine import embedded
from loadtests import load

ROOT = Path(__file__).parents[1]
PORT = 18_084
BUDGET, REFUSAL, READY, RECOVERY = 0.05, 0.1, 0.1, 10.0
"""Seconds: of a decision (the setting's default), of a refusal, of `/readyz`, and of the way back."""
_SETTLE = 3.0
"""Seconds after all connections are open that do not count: until then some wait to be accepted."""
BODY = '{"customer": {"user_id": "u-%d"}, "channel": "web", "placements": ["home_hero"]}'
PROBE = """
import sys, time, urllib.error, urllib.request
while True:
    began = time.perf_counter()
    try:
        urllib.request.urlopen(sys.argv[1], timeout=30).read()
    except urllib.error.HTTPError as error:
        error.read()
    print(time.perf_counter() - began, flush=True)
    time.sleep(0.1)
"""


class Customer(asyncio.Protocol):
    """One connection, which waits for each answer."""

    answered, refused = array("d"), array("d")
    degraded = failed = cut_off = 0
    without_retry_after = 0
    stopped = False

    def __init__(self, request: bytes, *, patient: bool) -> None:
        self._request = request
        self._patient = patient
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        if not Customer.stopped:
            self._sent = time.perf_counter()
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count a whole answer, and send the next request now or when its `Retry-After` says."""
        data = self._buffer + data
        head = data.find(b"\r\n\r\n")
        at = data.find(b"content-length: ", 0, max(head, 0)) + 16
        if head < 0 or len(data) < head + 4 + int(data[at : data.find(b"\r", at)]):
            self._buffer = data
            return
        self._buffer, pause, took = b"", 0.0, time.perf_counter() - self._sent
        if data.startswith(b"HTTP/1.1 200"):
            Customer.answered.append(took)
            Customer.degraded += load.DEGRADED in data
        elif data.startswith((b"HTTP/1.1 503", b"HTTP/1.1 429")):
            Customer.refused.append(took)
            after = data.find(b"retry-after: ", 0, head)
            Customer.without_retry_after += after < 0
            pause = float(data[after + 13 : data.find(b"\r", after)]) if self._patient and after > 0 else 0.0
        else:
            Customer.failed += 1
        if pause:
            asyncio.get_running_loop().call_later(pause, self._send)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count requests that the server cut off."""
        del exc
        Customer.cut_off += not Customer.stopped


async def overload(connections: int, seconds: float, *, patient: bool) -> None:
    """Keep the server busy from this many connections, opened within three seconds."""
    loop = asyncio.get_running_loop()
    requests = load.requests("/v1/decide", BODY, connections)
    for start in range(0, connections, 200):
        made = [Customer(request, patient=patient) for request in requests[start : start + 200]]
        await asyncio.gather(*(loop.create_connection(lambda one=one: one, "127.0.0.1", PORT) for one in made))
        await asyncio.sleep(600 / connections)
    await asyncio.sleep(_SETTLE)
    for counted in (Customer.answered, Customer.refused):
        del counted[:]
    Customer.degraded = Customer.failed = 0
    await asyncio.sleep(seconds)
    Customer.stopped = True


def quantile(values: Sequence[float], q: float) -> float:
    """The value (s) that a share of `q` does not exceed; 0 without values."""
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] if values else 0.0


def recover() -> float:
    """Seconds until a decision is answered, undegraded, within the budget."""
    began = time.perf_counter()
    while time.perf_counter() - began < 60:
        sent = time.perf_counter()
        body = (BODY % 1).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORT}/v1/decide", body, {"content-type": "application/json"}
        )
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 (our own)
            if b'"degraded":false' in answer.read() and time.perf_counter() - sent < BUDGET:
                break
        time.sleep(0.02)
    return time.perf_counter() - began


def report(capacity: float, seconds: float, ready: Sequence[float], back: float) -> bool:
    """Print the figures; returns whether all are within their limits."""
    answered, refused = Customer.answered, Customer.refused
    arrived = (len(answered) + len(refused)) / seconds
    rows = (
        ("capacity, closed loop of 64 connections", f"{capacity:,.0f}/s", True),
        ("arrived", f"{arrived:,.0f}/s, {arrived / capacity:.1f} times the capacity", True),
        ("answered", f"{len(answered) / seconds:,.0f}/s, {Customer.degraded} degraded", Customer.failed == 0),
        ("", *_milliseconds(answered, 0.99, 2 * BUDGET)),
        ("refused", f"{len(refused) / seconds:,.0f}/s", Customer.without_retry_after == 0),
        ("", *_milliseconds(refused, 0.99, REFUSAL)),
        ("/readyz", *_milliseconds(ready, 0.95, READY)),
        ("cut off or failed", f"{Customer.cut_off + Customer.failed}", Customer.cut_off + Customer.failed == 0),
        ("back to normal after", f"{back:.2f} s", back < RECOVERY),
    )
    for name, figure, is_good in rows:
        sys.stdout.write(f"{name:<42}{figure}{'' if is_good else '   missed'}\n")
    return all(is_good for _, _, is_good in rows)


def _milliseconds(values: Sequence[float], gate: float, limit: float) -> tuple[str, bool]:
    """Quantiles in ms, and whether the one at `gate` is within the limit."""
    shown = ", ".join(f"p{100 * q:g} {1000 * quantile(values, q):.0f} ms" for q in (0.5, 0.95, 0.99))
    return shown, quantile(values, gate) <= limit


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--connections", type=int, default=8000)
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--impatient", action="store_true")
    given = arguments.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    base = f"http://127.0.0.1:{PORT}"
    with tempfile.TemporaryDirectory() as place, embedded.running(Path(place) / "store") as store:
        words = ["serve", "--port", str(PORT), "--data", f"{place}/data", "--redis", store.url]
        words += ["--experiments", str(ROOT / "experiments")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERPOINT_")}
        server = subprocess.Popen([sys.executable, "-m", "engine", *words], env=environment, stderr=subprocess.DEVNULL)
        try:
            wait_until_ready(base)
            requests = load.requests("/v1/decide", BODY, 2000)
            capacity = uvloop.run(load.load(PORT, requests, 64, 1.0, 3.0)).rate
            probe = subprocess.Popen(
                [sys.executable, "-c", PROBE, f"{base}/readyz"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            uvloop.run(overload(given.connections, given.seconds, patient=not given.impatient))
            back = recover()
            probe.kill()
            # By time: those of the last seconds, when all connections were open.
            ready, left = [], given.seconds
            for line in reversed(probe.communicate()[0].splitlines()):
                ready.append(float(line))
                left -= ready[-1] + 0.1
                if left < 0:
                    break
        finally:
            server.terminate()
            server.wait()
    return 0 if report(capacity, given.seconds, ready, back) else 1


def wait_until_ready(base: str) -> None:
    """Wait until the server answers that it is ready."""
    for _ in range(600):
        with suppress(OSError), urllib.request.urlopen(f"{base}/readyz", timeout=5):  # noqa: S310 (our own address)
            return
        time.sleep(0.1)
    sys.exit(json.dumps({"error": f"{base}/readyz is not ready"}))


if __name__ == "__main__":
    sys.exit(main())
