"""A server with more decisions than it can make in time refuses the next at once; those that wait are answered."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine import embedded
from engine.service.access.admission import MOST

EXCESS = 100
BODY = json.dumps({"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}).encode()
REQUEST = b"POST /v1/decide HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask_all(base: str, hung: Any) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """The answers that come while the store hangs, those that come after it, and those to the refused once more."""
    port = urlsplit(base).port
    lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST + EXCESS)]
    for _, writer in lines:
        writer.write(REQUEST % len(BODY) + BODY)
    reading = {asyncio.ensure_future(read_answer(line)): line for line in lines}
    early: dict[asyncio.Future[bytes], Connection] = {}
    while len(early) < EXCESS:
        done, _ = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        assert done
        early |= {one: reading.pop(one) for one in done}
    hung.send_signal(signal.SIGCONT)
    late = await asyncio.gather(*reading)
    for _, writer in early.values():
        writer.write(REQUEST % len(BODY) + BODY)
    again = await asyncio.gather(*map(read_answer, early.values()))
    for _, writer in lines:
        writer.close()
    return [one.result() for one in early], late, again


async def read_answer(line: Connection) -> bytes:
    head = await line[0].readuntil(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await line[0].readexactly(length)


def test_what_does_not_fit_is_refused_while_the_others_wait(tmp_path: Path, serve: Any, shop: Path) -> None:
    more = {"COUNTERPOINT_STORE_TIMEOUT": "30"}
    with embedded.running(tmp_path / "store") as store, serve(tmp_path, store.url, shop, more) as server:
        assert server.post("/v1/decide", json.loads(BODY)).status_code == 200
        store.process.send_signal(signal.SIGSTOP)
        early, late, again = asyncio.run(ask_all(server.base, store.process))
        assert {one.partition(b"\r\n")[0] for one in early} == {b"HTTP/1.1 503 Service Unavailable"}
        assert all(b"retry-after: 1\r\n" in one and b"x-request-id: " in one for one in early)
        assert {one.partition(b"\r\n")[0] for one in [*late, *again]} == {b"HTTP/1.1 200 OK"}
        assert (len(late), len(again)) == (MOST, EXCESS)
        assert all(b'"degraded":false' in one for one in [*late, *again])
        assert f"counterpoint_overload_refused_total {EXCESS}.0" in server.get("/metrics").text
        assert server.get("/readyz").status_code == 200
