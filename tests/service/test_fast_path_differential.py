"""The fast path judges as uvicorn's own parser does: mutated requests over real sockets to both.

A connection with the fast path must answer exactly as one without, and end as uvicorn's own protocol does. Of several
answers only the last is compared with the latter: it sends a refusal before the answers that are still due.

`COUNTERPOINT_TEST_MUTATIONS` sets how many requests are compared.
"""

import asyncio
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.service.access.fast_path import fast_path_protocol

ServeProtocol = Callable[[Litestar, type], AbstractContextManager[int]]
Answer = tuple[int, bytes, bytes, bool]
"""Status class, body (of a success), value of the connection header, whether the connection was closed."""

MUTATIONS = int(os.environ.get("COUNTERPOINT_TEST_MUTATIONS", "2000"))
AT_ONCE = 40
BASE = (
    b"POST /echo HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\naccept: */*\r\n"
    b'x-extra: e\r\nx-request-id: mine\r\nconnection: keep-alive\r\ncontent-length: 8\r\n\r\n{"n": 1}'
)
BYTES = [bytes([n]) for n in (*range(33), *b'"(),/:;<=>?@[\\]{}', 127, 128, 255)]
LINES = [
    b"content-length: 8",
    b"content-length: 7",
    b"content-length: 08",
    b"content-length: +8",
    b"content-length: 8,8",
    b"content-length: " + b"0" * 5000 + b"8",
    b"content-length: " + b"9" * 5000,
    b"content-length:",
    b"content-length: 0x8",
    b"content-length : 8",
    b"content-length: 8 ",
    b"content-length: 8\t",
    b"content-length: -8",
    b"content-length: 8 8",
    b"content-length: 99999999999999999999",
    b"content-length: 18446744073709551624",
    b"content-length: \xb28",
    b"transfer-encoding: chunked",
    b"transfer-encoding: identity",
    b"transfer-encoding: xchunked",
    b"transfer-encoding:",
    b"connection: close",
    b"connection: keep-alive, close",
    b"connection: Keep-Alive",
    b"connection:",
    b"connection: upgrade",
    b"proxy-connection: close",
    b"proxy-connection: keep-alive",
    b"upgrade: h2c",
    b"expect: 100-continue",
    b"te: trailers",
    b"trailer: x",
    b" folded",
    b"\tfolded",
    b": empty",
    b"x",
    b"x y: z",
    b"x-extra: f",
    b"x-extra:  f \t",
    b"x-extra:",
    b"x-extra: " + b"e" * 2000,
    b"x-extra: \x80\xff",
    b"x-extra: a\x00b",
    b"x-extra: a\x0bb",
    b"x-extra: a\x7fb",
    b"x-request-id: a\x01b",
    b"x\x01: y",
    b"host: other",
    b"host:",
    b"content-type: text/plain",
    b"x_y!#$%&'*+-.^`|~: z",
]


def mutate(choose: random.Random) -> bytes:
    """The plain request with one to three changes of its head, or of what follows it."""
    head, _, body = BASE.partition(b"\r\n\r\n")
    data = head + b"\r\n\r\n"
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        place = choose.randrange(len(data) - 3)
        lines = data[:-4].split(b"\r\n")
        match choose.randrange(8):
            case 0:
                data = data[:place] + choose.choice(BYTES) + data[place:]
            case 1:
                data = data[:place] + choose.choice(BYTES) + data[place + 1 :]
            case 2:
                data = data[:place] + data[place + 1 :]
            case 3:
                lines.insert(choose.randrange(1, len(lines) + 1), choose.choice(LINES))
                data = b"\r\n".join(lines) + b"\r\n\r\n"
            case 4:
                lines[choose.randrange(1, len(lines))] = choose.choice(LINES)
                data = b"\r\n".join(lines) + b"\r\n\r\n"
            case 5:
                lines[choose.randrange(len(lines))] = lines[choose.randrange(len(lines))]
                data = b"\r\n".join(lines) + b"\r\n\r\n"
            case 6:
                lines[-1] += choose.choice((b" ", b"\t", b"\r", b"\n", b"\0", b"\x0b", b";"))
                data = b"\r\n".join(lines) + b"\r\n\r\n"
            case _:
                data = data.replace(b"\r\n", choose.choice((b"\n", b"\r", b"\r\r\n", b"\r\n ")), 1)
    return data + body + choose.choice((b"", b"", b"", b"", b"\r\n", b"x"))


async def ask(port: int, data: bytes, patience: float) -> list[Answer]:
    """The answers to `data`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got, is_closed = b"", False
    try:
        writer.write(data)
        async with asyncio.timeout(patience):
            while not is_closed:
                piece = await reader.read(65536)
                is_closed = not piece
                got += piece
    except TimeoutError:
        pass
    except ConnectionResetError:
        is_closed = True
    finally:
        writer.close()
    return [parse_answer(part, is_closed=is_closed) for part in got.split(b"HTTP/1.1 ")[1:] if part[:3] != b"100"]


def parse_answer(part: bytes, *, is_closed: bool) -> Answer:
    head, _, body = part.partition(b"\r\n\r\n")
    connection = re.search(rb"\r\nconnection: ([^\r]*)", head)
    status = int(part[:1])
    return status, body if status == 2 else b"", connection.group(1) if connection else b"", is_closed


class OwnProtocol(HttpToolsProtocol):
    """uvicorn's protocol; white space after a value is no part of it (RFC 9112, 5.1)."""

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(b" \t"))


@pytest.fixture(scope="module")
def ports(echo_app: Litestar, serve_protocol: ServeProtocol) -> Iterator[tuple[int, int, int]]:
    protocols = fast_path_protocol(echo_app, ["/echo"]), fast_path_protocol(echo_app, []), OwnProtocol
    with ExitStack() as stack:
        fast, limited, own = (stack.enter_context(serve_protocol(echo_app, protocol)) for protocol in protocols)
        yield fast, limited, own


async def compare(ports: tuple[int, int, int], requests: list[bytes]) -> list[str]:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes) -> str:
        async with slots:
            for patience in (0.3, 4.0):  # an answer may be late on a busy machine: ask again before it counts
                fast, limited, own = await asyncio.gather(*(ask(port, data, patience) for port in ports))
                if fast == limited and fast[-1:] == own[-1:]:
                    return ""
        return f"{data!r}\n  fast path: {fast}\n  without:   {limited}\n  uvicorn:   {own}"

    return [difference for difference in await asyncio.gather(*map(one, requests)) if difference]


def test_the_fast_path_answers_as_uvicorn_does(ports: tuple[int, int, int]) -> None:
    choose = random.Random(20261129)
    differences = asyncio.run(compare(ports, [BASE, *(mutate(choose) for _ in range(MUTATIONS))]))
    assert not differences, f"{len(differences)} differ\n" + "\n".join(differences[:10])
