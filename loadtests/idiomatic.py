"""The peer of `bench.py`: a Litestar handler for the same request, written as in Litestar's documentation.

A msgspec body, one `await redis.get`, a dict as the answer; the same server with the same options. It decides nothing
and records nothing.
"""

import argparse
import asyncio
import multiprocessing
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import uvicorn
import uvloop
from litestar import Litestar, get, post
from litestar.datastructures import State
from redis.asyncio import Redis


class Customer(msgspec.Struct):
    """The customer of a request."""

    user_id: str


class Body(msgspec.Struct):
    """A request."""

    customer: Customer
    channel: str
    placements: list[str] = []
    experiments: list[str] = []
    context: dict[str, str] = {}
    expose: bool = True


@post("/v1/decide", status_code=200)
async def decide(data: Body, state: State) -> dict[str, object]:
    profile = await state.redis.get(f"profile:{data.customer.user_id}")
    return {
        "customer": data.customer.user_id,
        "known": profile is not None,
        "experiments": {key: {"variant": "control"} for key in data.experiments},
        "offers": {placement: {"offer": "second_coffee"} for placement in data.placements},
    }


@get("/readyz")
async def ready(state: State) -> bool:
    return bool(await state.redis.ping())


def app(redis: str) -> Litestar:
    @asynccontextmanager
    async def lifespan(served: Litestar) -> AsyncIterator[None]:
        async with Redis.from_url(redis) as client:
            served.state.redis = client
            yield

    return Litestar([decide, ready], lifespan=[lifespan], openapi_config=None, logging_config=None)


def serve(listener: socket.socket, redis: str) -> None:
    """Serve on a listening socket, which several processes may share."""
    config = uvicorn.Config(
        app(redis),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        backlog=2048,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--redis", required=True)
    arguments.add_argument("--workers", type=int, default=1)
    given = arguments.parse_args()
    with socket.create_server(("127.0.0.1", given.port), backlog=2048) as listener:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn passes it on; the other processes end then too
        for _ in range(given.workers - 1):
            multiprocessing.Process(target=serve, args=(listener, given.redis), daemon=True).start()
        serve(listener, given.redis)


if __name__ == "__main__":
    main()
