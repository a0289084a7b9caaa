"""A server with more decisions than it can make in time refuses the next at once; those that wait are answered."""

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.service.access.admission import MOST, Admission

EXCESS = 100
BODY = json.dumps({"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}).encode()
REQUEST = b"POST /v1/decide HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask_all(base: str, server: Any) -> tuple[list[bytes], list[bytes]]:
    """The answers to requests that all arrived while the server was stopped, and those to the refused once more."""
    port = urlsplit(base).port
    lines: list[Connection] = []
    while len(lines) < MOST + EXCESS:  # each is accepted before the server stops
        lines += [await asyncio.open_connection("127.0.0.1", port) for _ in range(EXCESS)]
        for _, writer in lines[-EXCESS:]:
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await asyncio.gather(*map(read_answer, lines[-EXCESS:]))
    server.send_signal(signal.SIGSTOP)
    for _, writer in lines:
        writer.write(REQUEST % len(BODY) + BODY)
    server.send_signal(signal.SIGCONT)
    first = await asyncio.gather(*map(read_answer, lines))
    again = [line for line, answer in zip(lines, first, strict=True) if answer.startswith(REFUSED)]
    for _, writer in again:
        writer.write(REQUEST % len(BODY) + BODY)
    second = await asyncio.gather(*map(read_answer, again))
    for _, writer in lines:
        writer.close()
    return first, second


async def read_answer(line: Connection) -> bytes:
    head = await line[0].readuntil(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await line[0].readexactly(length)


def test_what_does_not_fit_is_refused_while_the_others_wait(
    redis_url: str, serve: Any, shop: Path, tmp_path: Path
) -> None:
    more = {"COUNTERPOINT_STORE_TIMEOUT": "30"}
    with serve(tmp_path, redis_url, shop, more) as server:
        assert server.post("/v1/decide", json.loads(BODY)).status_code == 200
        first, again = asyncio.run(ask_all(server.base, server.process))
        refused = [one for one in first if one.startswith(REFUSED)]
        assert 0 < len(refused) <= len(first) - MOST
        assert all(b"retry-after: 1\r\n" in one and b"x-request-id: " in one for one in refused)
        answered = [*(one for one in first if not one.startswith(REFUSED)), *again]
        assert {one.partition(b"\r\n")[0] for one in answered} == {b"HTTP/1.1 200 OK"}
        assert all(b'"degraded":false' in one for one in answered)
        assert f"counterpoint_overload_refused_total {len(refused)}.0" in server.get("/metrics").text
        assert server.get("/readyz").status_code == 200


def test_retry_after_grows_with_the_overload_and_falls_after_it() -> None:
    def retries(admission: Admission, now: float, refused: int, made: int) -> set[int]:
        admission.made += made
        headers = [admission.refuse(now).headers for _ in range(refused)]
        return {int(value) for of_one in headers for name, value in of_one if name == b"retry-after"}

    admission = Admission(0.05)
    assert retries(admission, 100.0, 900, 1000) == {1}
    assert retries(admission, 100.6, 2500, 1000) == {1}  # counted from now on
    assert min(retries(admission, 101.2, 2000, 1000)) == 3  # so that as many come back as are answered
    for at in (101.8, 102.4, 103.0):
        most = retries(admission, at, 90_000, 1000)
    assert (min(most), max(most)) == (4, 6)
    for at in range(8):
        least = retries(admission, 110.0 + 2 * at, 1, 1000)
    assert least == {1}


def probe(port: int, host: str = "localhost") -> bytes:
    """The answer to a probe that asks to close its connection, as most do."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        line.sendall(
            b"GET /readyz HTTP/1.1\r\nhost: %s\r\nx-request-id: p-1\r\nconnection: close\r\n\r\n" % host.encode()
        )
        return b"".join(iter(lambda: line.recv(65536), b""))


def test_probes_are_answered_alike_whether_or_not_the_server_is_behind(
    redis_url: str, serve: Any, shop: Path, tmp_path: Path
) -> None:
    with serve(tmp_path, redis_url, shop) as server:
        port = urlsplit(server.base).port
        assert port is not None
        calm = probe(port)
        assert calm.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"x-request-id: p-1\r\n" in calm
        for _ in range(5):
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            server.process.send_signal(signal.SIGCONT)
            for _ in range(3):
                behind = probe(port)
                assert behind.partition(b"\r\n")[0] == calm.partition(b"\r\n")[0]
                assert b'"ready":true' in behind
                assert b"x-request-id: p-1\r\n" in behind
                assert probe(port, "shop.example.org").startswith(b"HTTP/1.1 421 ")
