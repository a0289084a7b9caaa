"""Limits of a connection, over real sockets: sizes, times, requests ahead, clients that do not read, the stop."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar

from engine.service.access.connection import ConnectionLimits
from engine.service.access.fast_path import fast_path_protocol

ServeProtocol = Callable[[Litestar, type], AbstractContextManager[int]]
QUICK = ConnectionLimits(
    connections=40,
    first_byte_seconds=0.6,
    gap_seconds=0.5,
    head_seconds=1.0,
    linger_seconds=0.5,
    write_seconds=1.0,
)
HEAD = b"POST /echo HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def port(echo_app: Litestar, serve_protocol: ServeProtocol) -> Iterator[int]:
    with serve_protocol(echo_app, fast_path_protocol(echo_app, ["/echo", "/large"], QUICK)) as port:
        yield port


def request(body: bytes, more: bytes = b"", head: bytes = HEAD) -> bytes:
    return head + more + b"content-length: %d\r\n\r\n" % len(body) + body


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    got = b""
    try:
        while data := connection.recv(65536):
            got += data
    except ConnectionResetError:
        pass
    return got


def ask(port: int, *pieces: bytes, pause: float = 0.02) -> bytes:
    """All that comes back until the server closes."""
    with connect(port) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(pause)
        return read_all(connection)


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (431, HEAD + b"x: " + b"y" * 17_000 + b"\r\n\r\n"),
        (431, HEAD + b"x: " + b"y" * 17_000),
        (431, HEAD + b"y" * 17_000),
        (431, HEAD + b"x: y\r\n" * 120 + b"content-length: 2\r\n\r\n{}"),
        (431, b"GET /echo HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n"),
        (414, b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n"),
        (414, b"GET /" + b"a" * 17_000),
        (431, b"\r\n" * 20_000),
        (400, b"GET / HTTP/9.9\r\n\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        (400, HEAD + b"x: a\x01b\r\ncontent-length: 2\r\n\r\n{}"),
        (400, HEAD + b"x\x01: ab\r\ncontent-length: 2\r\n\r\n{}"),
        (400, HEAD + b"content-length: " + b"9" * 5000 + b"\r\n\r\n{}"),
        (400, HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n"),
        (400, HEAD + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 200_000),
        (400, b"CONNECT h:80 HTTP/1.1\r\nhost: h\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("size", [1 << 30, 1460])
def test_what_is_too_large_or_no_http_is_refused_as_a_problem(port: int, status: int, head: bytes, size: int) -> None:
    got = ask(port, *(head[start : start + size] for start in range(0, len(head), size)), pause=0.001)
    assert got.startswith(b"HTTP/1.1 %d " % status), got[:300]
    assert b"content-type: application/problem+json\r\n" in got
    assert b"connection: close\r\n" in got
    assert b'"status":%d' % status in got


def test_a_content_length_of_5000_zeros_is_its_number(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + b"content-length: " + b"0" * 5000 + b"2\r\n\r\n{}")
        assert connection.recv(65536).endswith(b"{}")


def test_a_head_within_the_limits_is_served(port: int) -> None:
    got = ask(port, request(b"{}", b"x: " + b"y" * 15_000 + b"\r\nconnection: close\r\n"))
    assert got.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("status", "pieces"),
    [
        (None, []),
        (None, [b"\r\n"] * 10),
        (408, [b"P"]),
        (408, [b"POST /echo HTTP/1.1\r\n", b"x", b": ", b"y", b"y", b"y", b"y", b"y"]),
        (408, [request(b"{}"), b"POST"]),
    ],
    ids=["silent", "blank lines", "one byte", "dripping head", "second head"],
)
def test_a_connection_that_is_slow_ends(port: int, status: int | None, pieces: list[bytes]) -> None:
    got = ask(port, *pieces, pause=0.2)
    last = got.rpartition(b"HTTP/1.1 ")[2]
    assert last.startswith(b"%d " % status) if status else got == b""


@pytest.mark.parametrize(
    ("count", "sent"),
    [
        (100, b"".join(request(b'{"n": %d}' % n) for n in range(100))),
        (3000, request(b"{}", b"x-pause: 0.001\r\n") * 3000),
    ],
)
def test_requests_sent_ahead_are_all_answered_in_order(port: int, count: int, sent: bytes) -> None:
    with connect(port) as connection:
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        got = b""
        while got.count(b"HTTP/1.1 200") < count or not got.endswith(b"}"):
            got += connection.recv(1 << 20)
    numbers = [part.partition(b'"n": ')[2][:-1] for part in got.split(b"HTTP/1.1 200 OK")[1:]]
    assert count == 3000 or numbers == [b"%d" % n for n in range(100)]


def test_a_refusal_waits_for_the_answers_before_it(port: int) -> None:
    got = ask(port, request(b"{}") * 4 + b"nonsense\r\n\r\n")
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 4 + [b"400"]
    got = ask(port, request(b"{}") * 2 + HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n")
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 2 + [b"400"]


def test_an_upgrade_is_answered_and_what_follows_is_not_a_request(port: int) -> None:
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n"
    got = ask(port, request(request(b"{}"), upgrade) + request(b"{}"))
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in got


def test_an_offer_of_http2_is_ignored_and_the_body_read(port: int) -> None:
    """Java's client offers it with every request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    got = ask(port, request(b'{"n": 1}', offer), request(b'{"n": 2}', offer.lower()) + request(b'{"n": 3}'))
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3
    assert re.findall(rb'{"n": (\d)}', got) == [b"1", b"2", b"3"]


def test_a_body_that_is_refused_early_ends_the_connection(port: int) -> None:
    got = ask(port, HEAD + b"content-length: 100000000\r\n\r\n" + b"x" * 100_000)
    assert got.startswith(b"HTTP/1.1 413 ")


def test_connections_past_the_limit_are_refused_and_the_others_served(port: int) -> None:
    first = connect(port)
    first.sendall(request(b"{}"))
    assert first.recv(65536).startswith(b"HTTP/1.1 200 ")
    others = [connect(port) for _ in range(41)]
    late = others[-1]
    time.sleep(0.1)
    late.sendall(request(b"{}"))
    got = read_all(late)
    assert got.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in got
    first.sendall(request(b"{}"))
    assert first.recv(65536).startswith(b"HTTP/1.1 200 ")
    for connection in (first, *others):
        connection.close()
    time.sleep(0.1)
    assert ask(port, request(b"{}", b"connection: close\r\n")).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_is_read_no_further_and_dropped(port: int) -> None:
    large = HEAD.replace(b"/echo", b"/large") + b"x-size: 100000\r\n"
    more_than_the_kernel_takes = 50_000_000
    with connect(port) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(request(b"{}", head=large) * (more_than_the_kernel_takes // 130))


# The real server, with the limits that it ships


def resident_megabytes(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def port_of(server: Any) -> int:
    return int(server.base.rpartition(":")[2])


def test_endless_headers_cost_no_memory_and_no_latency(server: Any) -> None:
    server.get("/healthz")
    before = resident_megabytes(server.process.pid)
    for start in (b"GET /healthz HTTP/1.1\r\nx: ", b"GET /"):
        assert ask(port_of(server), start, *[b"y" * 65536] * 200, pause=0).startswith(b"HTTP/1.1 4")
    assert resident_megabytes(server.process.pid) - before < 20
    assert server.get("/healthz").status_code == 200


def test_clients_that_never_read_cost_no_memory(server: Any) -> None:
    before = resident_megabytes(server.process.pid)
    ahead = b"GET /docs/openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 1000
    connections = [connect(port_of(server)) for _ in range(6)]
    for connection in connections:
        connection.settimeout(0.5)
        try:
            for _ in range(50):
                connection.sendall(ahead)
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            pass
    after = resident_megabytes(server.process.pid)
    for connection in connections:
        connection.close()
    assert after - before < 40
    assert server.get("/healthz").status_code == 200


def test_slow_requests_end_by_themselves(server: Any) -> None:
    chunked = HEAD.replace(b"/echo", b"/v1/decide") + b"transfer-encoding: chunked\r\n\r\n"
    slow = {
        "silent": ([], None),
        "head": ([b"GET /healthz HTTP/1.1\r\n", *[b"x"] * 30], 408),
        "no chunk": ([chunked], 408),
        "chunks": ([chunked, *[b"1\r\n \r\n"] * 30], 408),
        "no body": ([chunked.replace(b"transfer-encoding: chunked", b"content-length: 9")], 408),
    }
    got: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda name=name: got.update({name: ask(port_of(server), *slow[name][0], pause=1.0)}))
        for name in slow
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: (int(data[9:12]) if data else None) for name, data in got.items()} == {
        name: status for name, (_, status) in slow.items()
    }


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_server_stops_within_ten_seconds_and_with_0(
    tmp_path: Path, serve: Any, shop: Path, redis_url: str, workers: str
) -> None:
    upload = (
        b"POST /v1/decide HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{"
    )
    with serve(tmp_path, redis_url, shop, {}, "--workers", workers) as server:
        connections = [connect(port_of(server)) for _ in range(12)]
        for connection in connections:
            connection.sendall(upload)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        for connection in connections:
            connection.close()


def test_with_few_file_descriptors_connections_past_them_get_503(
    tmp_path: Path, serve: Any, shop: Path, redis_url: str
) -> None:
    with serve(tmp_path, redis_url, shop, files=200) as server:
        connections = [connect(port_of(server)) for _ in range(102)]
        time.sleep(0.3)
        connections[-1].sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        got = read_all(connections[-1])
        assert got.startswith(b"HTTP/1.1 503 "), got
        assert b"retry-after: 1\r\n" in got
        for connection in connections:
            connection.close()


def test_a_client_that_is_refused_reads_the_answer_while_it_still_sends(port: int) -> None:
    for start in (b"GET / HTTP/1.1\r\nx: ", HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n"):
        with connect(port) as connection:
            connection.sendall(start)
            for _ in range(10):
                connection.sendall(b"y" * 30_000)
                time.sleep(0.02)
            assert connection.recv(65536).startswith(b"HTTP/1.1 4")
            assert connection.recv(65536) == b""
