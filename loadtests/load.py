"""A load generator: keep-alive connections in a closed loop, each sending a request once the last is answered.

`python -m loadtests.load --port P --path /v1/decide --body '{"customer": {"user_id": "u-%d"}, …}'`. `%d` becomes the
number of a customer, a different one each time. Raw HTTP/1.1, so that the generator's CPU does not limit the server.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from array import array
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

DEGRADED = b'"degraded":true'


@dataclass
class Counted:
    """Outcomes of the requests sent while counting; latencies in seconds."""

    answered: int = 0
    failed: int = 0
    degraded: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class Figures:
    """One run; rates per second, times in milliseconds.

    In a closed loop a stall also delays the requests after it, so percentiles are those of busy clients.
    """

    seconds: float
    answered: int
    failed: int
    degraded: int
    rate: float
    p50: float
    p99: float
    cpu_us: float


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, requests: list[bytes], first: int, step: int) -> None:
        self._requests = requests
        self._next = first
        self._step = step
        self._sent = 0.0
        self._buffer = b""
        self._end = 0
        self.counted = Counted()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is complete, and send the next request."""
        data = self._buffer + data if self._buffer else data
        if not self._end:
            head = data.find(b"\r\n\r\n")
            if head < 0:
                self._buffer = data
                return
            at = data.lower().find(b"content-length:", 0, head) + 15
            self._end = head + 4 + int(data[at : data.find(b"\r", at)])
        if len(data) < self._end:
            self._buffer = data
            return
        counted = self.counted
        counted.latencies.append(time.perf_counter() - self._sent)
        if data.startswith(b"HTTP/1.1 200"):
            counted.answered += 1
            counted.degraded += DEGRADED in data
        else:
            counted.failed += 1
        self._buffer, self._end = b"", 0
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection that the server closed as a failed request."""
        del exc
        if not self.closed:
            self.counted.failed += 1

    def close(self) -> None:
        """Stop sending."""
        self.closed = True
        self._transport.close()

    def _send(self) -> None:
        if self.closed:
            return
        request = self._requests[self._next]
        self._next = (self._next + self._step) % len(self._requests)
        self._sent = time.perf_counter()
        self._transport.write(request)


def requests(path: str, body: str, customers: int, headers: str = "") -> list[bytes]:
    """One request per customer, shuffled the same way each time."""
    made = []
    for number in range(customers):
        text = body.replace("%d", str(number)).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}"
        made.append(f"{head}content-length: {len(text)}\r\n\r\n".encode() + text)
    random.Random(1).shuffle(made)
    return made


async def load(port: int, sent: list[bytes], connections: int, warm: float, seconds: float) -> Figures:
    """Load the server from `connections` for `warm` uncounted and `seconds` counted seconds."""
    loop = asyncio.get_running_loop()
    callers = [Caller(sent, n * len(sent) // connections, 1) for n in range(connections)]
    for caller in callers:
        await loop.create_connection(lambda one=caller: one, "127.0.0.1", port)
    await asyncio.sleep(warm)
    for caller in callers:
        caller.counted = Counted()
    print("counting", flush=True)
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    for caller in callers:
        caller.close()
    answered = sum(caller.counted.answered for caller in callers)
    latencies = sorted(latency for caller in callers for latency in caller.counted.latencies) or [float("nan")]
    return Figures(
        seconds=took,
        answered=answered,
        failed=sum(caller.counted.failed for caller in callers),
        degraded=sum(caller.counted.degraded for caller in callers),
        rate=answered / took,
        p50=latencies[len(latencies) // 2] * 1e3,
        p99=latencies[len(latencies) * 99 // 100] * 1e3,
        cpu_us=cpu / max(answered, 1) * 1e6,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--path", default="/v1/decide")
    arguments.add_argument("--body", required=True)
    arguments.add_argument("--header", default="", help="one more header, as 'name: value'")
    arguments.add_argument("--customers", type=int, default=20_000)
    arguments.add_argument("--connections", type=int, default=64)
    arguments.add_argument("--warm", type=float, default=1.0)
    arguments.add_argument("--seconds", type=float, default=5.0)
    given = arguments.parse_args()
    header = f"{given.header}\r\n" if given.header else ""
    made = requests(given.path, given.body, given.customers, header)
    figures = uvloop.run(load(given.port, made, given.connections, given.warm, given.seconds))
    json.dump(asdict(figures), sys.stdout)
    print()


if __name__ == "__main__":
    main()
