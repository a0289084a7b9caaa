import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest
from litestar import Litestar

from engine.catalog.plan.plan import Plan
from engine.service.access import fast_path
from engine.service.access.connection import ConnectionLimits
from engine.service.access.fast_path import HeadReader, fast_path_protocol, parse_plain_request
from engine.service.app import create_app
from engine.service.endpoints.flag_stream import FlagChanges
from engine.service.http import Call, Reply, endpoint
from engine.service.server import HOT_PATHS
from engine.settings import Settings

ServeProtocol = Callable[[Litestar, type], AbstractContextManager[int]]
HEAD = b"POST /echo HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"


def request(body: bytes, more: bytes = b"") -> bytes:
    return HEAD + more + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def served() -> list[str]:
    """The bodies that the fast path served."""
    return []


@pytest.fixture(scope="module")
def port(served: list[str], echo_app: Litestar, serve_protocol: ServeProtocol) -> Iterator[int]:
    protocol = fast_path_protocol(echo_app, ["/echo"])
    answer = protocol._answer

    async def counted(self: object, route: object, headers: object, body: bytes, cycle: object) -> None:
        served.append(body.decode())
        await answer(self, route, headers, body, cycle)

    protocol._answer = counted
    with serve_protocol(echo_app, protocol) as port:
        yield port


def exchange(port: int, *pieces: bytes, answers: int = 1, pause: float = 0.05) -> bytes:
    """What comes back for pieces sent one after the other."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        got = b""
        while got.count(b"HTTP/1.1 ") < answers or not got.endswith(b"}"):
            data = connection.recv(65536)
            if not data:
                break
            got += data
        return got


def test_a_whole_request_takes_the_fast_path(port: int, served: list[str]) -> None:
    got = exchange(port, request(b'{"n": 1}', b"x-request-id: mine\r\n"))
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nx-request-id: mine\r\n" in got
    assert b"\r\ncontent-length: 8\r\n" in got
    assert got.endswith(b'\r\n\r\n{"n": 1}')
    assert '{"n": 1}' in served


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("in two pieces", (request(b'{"n": 2}')[:60], request(b'{"n": 2}')[60:])),
        ("body apart", (request(b'{"n": 2}')[:-8], b'{"n": 2}')),
        ("chunked", (HEAD + b'transfer-encoding: chunked\r\n\r\n8\r\n{"n": 2}\r\n0\r\n\r\n',)),
        ("to be closed", (request(b'{"n": 2}', b"connection: close\r\n"),)),
        ("expecting 100", (request(b'{"n": 2}', b"expect: 100-continue\r\n"),)),
    ],
)
def test_anything_unusual_goes_to_uvicorn(port: int, served: list[str], name: str, pieces: tuple[bytes, ...]) -> None:
    before = len(served)
    assert exchange(port, *pieces).endswith(b'{"n": 2}'), name
    assert len(served) == before


def test_one_connection_takes_both_paths_in_turn(port: int, served: list[str]) -> None:
    whole, halves = request(b'{"n": 3}'), (request(b'{"n": 4}')[:50], request(b'{"n": 4}')[50:])
    got = exchange(port, whole, *halves, whole, answers=3)
    assert [part[-8:] for part in got.split(b"HTTP/1.1 200 OK")[1:]] == [b'{"n": 3}', b'{"n": 4}', b'{"n": 3}']
    assert served.count('{"n": 3}') == 2


def test_requests_sent_ahead_are_answered_in_their_order(port: int) -> None:
    ahead = b"".join(request(b'{"n": %d}' % n) for n in range(5))
    got = exchange(port, request(b'{"n": 9}') + ahead, answers=6)
    assert [part[-2:-1] for part in got.split(b"HTTP/1.1 200 OK")[1:]] == [b"9", b"0", b"1", b"2", b"3", b"4"]
    got = exchange(port, request(b'{"n": 7}'), request(b'{"n": 8}'), answers=2, pause=0.0)
    assert [part[-2:-1] for part in got.split(b"HTTP/1.1 200 OK")[1:]] == [b"7", b"8"]


def test_errors_are_the_same_problems(port: int) -> None:
    assert b" 413 " in exchange(port, request(b'"' + b"x" * 2000 + b'"'))
    assert b" 415 " in exchange(port, request(b"{}").replace(b"application/json", b"text/plain"))


def test_a_client_that_disconnects_early_harms_no_other(port: int) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request(b'{"n": 5}'))
    assert exchange(port, request(b'{"n": 6}')).endswith(b'{"n": 6}')


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"x",
        lambda data: data[:-1],
        lambda data: data[:-6].replace(b"content-length: 2", b"content-length: 0"),
        lambda data: data.replace(b"content-length: 2", b"content-length: 2\r\ncontent-length: 2"),
        lambda data: data.replace(b"content-length: 2", b"content-length: +2"),
        lambda data: data.replace(b"content-length: 2", b"content-length : 2"),
        lambda data: data.replace(b"content-length: 2", b"transfer-encoding: chunked\r\ncontent-length: 2"),
        lambda data: data.replace(b"host: h", b"host: h\nx: y"),
        lambda data: data.replace(b"host: h", b"host: h\rx: y"),
        lambda data: data.replace(b"host: h", b"host: \0"),
        lambda data: data.replace(b"host: h", b"host: h\r\n folded"),
        lambda data: data.replace(b"host: h", b": h"),
    ],
)
def test_whatever_is_in_doubt_leaves_the_fast_path(change: Callable[[bytes], bytes]) -> None:
    limits = ConnectionLimits()
    assert parse_plain_request(request(b"{}"), limits) is not None
    assert parse_plain_request(change(request(b"{}")), limits) is None
    reader = HeadReader(limits)
    for _ in range(2):
        assert reader.read(request(b"{}")) == parse_plain_request(request(b"{}"), limits)
        assert reader.read(change(request(b"{}"))) is None


def test_requests_with_one_head_each_get_their_own_answer(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for body in (b'{"n": 1}', b'{"n": 2}', b'{"n": 33}', b'{"n": 4}'):
            connection.sendall(request(body))
            answer = b""
            while not answer.endswith(body):
                received = connection.recv(4096)
                assert received, answer
                answer += received


@pytest.mark.parametrize("kind", ["str", "path"])
def test_a_plain_parameter_at_the_end_of_a_path_takes_the_fast_path(kind: str) -> None:
    async def handle(call: Call) -> Reply:
        return Reply(str(call.path["key"]).encode())

    path = f"/flags/{{key:{kind}}}"
    app = Litestar([endpoint(path, {"POST": handle}, limit=100)], openapi_config=None)
    protocol = fast_path_protocol(app, [path])

    def params(line: bytes) -> object:
        route = protocol._parameter_route(protocol, line)
        return route and (route.path, route.params)

    assert params(b"POST /flags/a.b-c:1 HTTP/1.1") == ("/flags/a.b-c:1", {"key": "a.b-c:1"})
    for other in (b"", b".", b"..", b"a/b", b"a%2fb", b"a?b=c", b"a b", b"a#b", b"a\xc3\xa9", b"a;b"):
        assert params(b"POST /flags/" + other + b" HTTP/1.1") is None, other
    assert params(b"POST /flags/a HTTP/1.0") is None
    assert params(b"GET /flags/a HTTP/1.1") is None


def test_open_streams_leave_room_for_requests(serve_protocol: ServeProtocol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "MOST_IN_PROGRESS", 2)
    changes, released = FlagChanges(lambda: cast("Plan", None)), asyncio.Event()

    async def stream(_: Call) -> Reply:
        return changes.reply()

    async def wait(_: Call) -> Reply:
        await released.wait()
        return Reply(b"{}")

    async def release(_: Call) -> Reply:
        released.set()
        changes.close()
        return Reply(b"{}")

    routes = [endpoint("/stream", {"GET": stream}, limit=0), endpoint("/release", {"GET": release}, limit=0)]
    app = Litestar([*routes, endpoint("/echo", {"POST": wait}, limit=100)], openapi_config=None)
    with serve_protocol(app, fast_path_protocol(app, ["/echo"])) as port, ExitStack() as opened:

        def send(message: bytes) -> socket.socket:
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            connection.sendall(message)
            return connection

        streams = [send(b"GET /stream HTTP/1.1\r\nhost: h\r\n\r\n") for _ in range(4)]
        assert all(one.recv(15) == b"HTTP/1.1 200 OK" for one in streams)
        # Two wait at their handler; the third finds no room.
        asked = [send(request(b"{}")) for _ in range(3)]
        [refused], _, _ = select.select(asked, [], [], 60)
        assert b"503 Service Unavailable" in refused.recv(1000)
        send(b"GET /release HTTP/1.1\r\nhost: h\r\n\r\n").recv(1000)
        assert all(b"200 OK" in one.recv(1000) for one in asked if one is not refused)


def test_every_hot_path_is_a_route_that_takes_the_fast_path(tmp_path: Path, shop: Path, redis_url: str) -> None:
    app = create_app(Settings(data=tmp_path, experiments=shop, redis=redis_url))
    assert set(HOT_PATHS) <= {route.path for route in app.routes}
    protocol = fast_path_protocol(app, HOT_PATHS)
    assert len(protocol.endpoints) + len(protocol.prefixes) == len(HOT_PATHS)


@pytest.mark.parametrize("path", ["dark_mode", "nowhere.b", "nowhere/b", "nowhere%2Fb", "nowhere%2fb"])
def test_a_flag_is_evaluated_by_its_key_on_either_path(server: Any, path: str) -> None:
    body = {"context": {"targetingKey": "ada", "channel": "web"}}
    fast = server.post(f"/ofrep/v1/evaluate/flags/{path}", body)
    slow = server.post(f"/ofrep/v1/evaluate/flags/{path}", body, TE="trailers")  # uvicorn's
    assert fast.json()["key"] == slow.json()["key"] == unquote(path)
    assert fast.status_code == slow.status_code == (200 if path == "dark_mode" else 404)
