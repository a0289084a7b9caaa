"""Reads beside redis-py: the same values and errors, whatever happens to the connection between."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.customers.redis.read_connection import ReadOutcome, connect_reads
from engine.errors import StoreUnavailable

VALUES: dict[str, bytes] = {f"k{n}": bytes([n]) * (n * 997) for n in range(40)}


@asynccontextmanager
async def opened(url: str, seconds: float = 1.0) -> AsyncIterator[tuple[RedisPipeline, Any]]:
    """A pipeline whose own connection for reads is open, if it can be, and a function that reads."""
    pipeline = RedisPipeline(connect_store(url, seconds), connect_reads(url, seconds))

    def read(*keys: str) -> "asyncio.Future[ReadOutcome]":
        outcome: asyncio.Future[ReadOutcome] = asyncio.get_running_loop().create_future()
        pipeline.get_at_once(list(keys), outcome.set_result)  # raises if a read ends twice
        return outcome

    try:
        await read("k1")
        await wait_until(lambda: is_direct(pipeline) or not pipeline._direct or not pipeline._direct._opening)
        yield pipeline, read
    finally:
        await pipeline.close()


async def wait_until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 (a connection has no event to wait for)
            await asyncio.sleep(0.01)


def is_direct(pipeline: RedisPipeline) -> bool:
    return pipeline._direct is not None and pipeline._direct.is_open


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_reads_give_what_redis_py_gives_in_the_order_of_their_keys(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.mset(VALUES)
        client.hset("other", "type", "1")

    async def ask() -> None:
        async with opened(redis_url) as (pipeline, read):
            assert is_direct(pipeline)
            keys = [[f"k{(n * m) % 45}" for m in range(1, n + 2)] for n in range(60)]
            found = await asyncio.gather(*(read(*some) for some in keys))
            assert found == [[VALUES.get(key) for key in some] for some in keys]
            assert await read("other", "é😀", "k2") == [None, None, VALUES["k2"]]

    run(ask())


@pytest.mark.parametrize("database", [0, 3])
def test_a_password_and_a_database_are_those_of_the_address(redis_url: str, database: int) -> None:
    host = redis_url.partition("://")[2].partition("/")[0]
    with redis.Redis.from_url(f"redis://{host}/{database}") as client:
        client.set("k1", f"of {database}")
        client.config_set("requirepass", "hunter 2")
        try:

            async def ask(password: str) -> tuple[bool, ReadOutcome]:
                async with opened(f"redis://:{password}@{host}/{database}") as (pipeline, read):
                    return is_direct(pipeline), await read("k1")

            assert run(ask("hunter%202")) == (True, [f"of {database}".encode()])
            direct, refused = run(ask("wrong"))
        finally:
            client.config_set("requirepass", "")
    assert not direct
    assert isinstance(refused, StoreUnavailable)


def test_a_lost_connection_ends_its_reads_and_is_opened_again(redis_url: str) -> None:
    async def ask() -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.set("k1", "v")
            async with opened(redis_url) as (pipeline, read):
                client.execute_command("CLIENT", "PAUSE", 100, "ALL")
                assert await asyncio.gather(*(read("k1") for _ in range(3))) == [[b"v"]] * 3
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await wait_until(lambda: not is_direct(pipeline))
                await read("k1")  # redis-py may find its own connection closed
                await asyncio.sleep(0.3)
                await read("k1")
                await wait_until(lambda: is_direct(pipeline))
                assert await read("k1") == [b"v"]

    run(ask())


def test_a_silent_store_ends_all_reads_in_time_and_no_late_reply_is_taken_for_another(redis_url: str) -> None:
    async def ask() -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.mset({"k1": "one", "k2": "two"})
            async with opened(redis_url, seconds=0.1) as (pipeline, read):
                client.execute_command("CLIENT", "PAUSE", 500, "ALL")
                outcomes = await asyncio.wait_for(asyncio.gather(read("k1"), read("k1")), 5)
                assert all(isinstance(one, StoreUnavailable) for one in outcomes)
                assert not is_direct(pipeline)
                await asyncio.sleep(1.0)
                await read("k2")
                await wait_until(lambda: is_direct(pipeline))
                for _ in range(20):
                    assert await read("k2") == [b"two"]
                assert is_direct(pipeline)

    run(ask())


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-LOADING in memory\r\n", b"+OK\r\n+OK\r\n", b""]
)
def test_a_server_that_is_no_store_leaves_the_reads_to_redis_py(reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(reply)
        writer.close()

    async def ask() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with opened(f"redis://127.0.0.1:{port}/0", seconds=0.2) as (_, read):
                assert isinstance(await read("k1"), StoreUnavailable)

    run(ask())


def test_what_needs_more_than_an_address_stays_with_redis_py() -> None:
    plain = ("redis://h:1/0", "redis://u:p@h", "unix:///run/store.sock?db=1")
    others = ("rediss://h:1/0", "redis+cluster://h:1", "redis://h:1/0?client_name=x", "redis://h:1/0?protocol=2")
    assert all(connect_reads(url, 0.1) is not None for url in plain)
    assert all(connect_reads(url, 0.1) is None for url in others)


def test_without_a_server_reads_end_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]

    async def ask() -> None:
        async with opened(f"redis://127.0.0.1:{port}/0", seconds=0.2) as (pipeline, read):
            assert not is_direct(pipeline)
            assert isinstance(await read("k1"), StoreUnavailable)

    run(ask())
