"""The largest request that each field accepts computes little more than a small one, and lets others run meanwhile.

The addresses and fields come from the API's own description, which has every route of the server. For each, values of
several shapes grow until they are refused; the largest that is accepted is sent again and its CPU time is compared with
that of a fixed loop on the same machine at the same time. Time on the wall is never compared.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.service.app import create_app
from engine.service.endpoints.flag_stream import STREAM_PATH
from engine.service.endpoints.openapi import openapi
from engine.service.endpoints.operations import OPERATIONS
from engine.settings import Settings
from tests.stories.conftest import write_shop

UNIT = 0.01
"""CPU seconds of `reference_work` on a usual machine."""
HOLD = 2.5
"""How long a request may hold the event loop at once, in units: five times the aim of 5 ms."""
TOTAL = 30.0
"""A whole request of one item, likewise."""
TOTAL_OF_BATCH = 500.0
"""A full batch, which is a thousand requests in one, likewise."""
ATTEMPTS = 8
"""The best of so many is compared; those after the third only where the limit was passed."""


def reference_work() -> float:
    """Return the CPU seconds of a fixed piece of work in Python: small objects, calls, text and numbers."""
    before = time.thread_time()
    made = {}
    for number in range(6_000):
        made[str(number)] = len(json.dumps([number, "text"]))
    assert len(made) == 6_000
    return time.thread_time() - before


SIZES = [4**n for n in range(8, 0, -1)]  # from 65,536, which nothing accepts, down to 4
SHAPES: dict[str, Callable[[int], object]] = {
    "text": lambda n: "x" * n,
    "number": lambda n: n,
    "digits": lambda n: "9" * n,
    "texts": lambda n: ["xy"] * n,
    "names": lambda n: [f"n{i}" for i in range(n)],
    "numbers": lambda n: [1] * n,
    "object": lambda n: {f"n{i}": i for i in range(n)},
    "flags": lambda n: {f"n{i}": True for i in range(n)},
    "dotted": lambda n: {f"a.b.n{i}": i for i in range(n)},
    "levels": lambda n: [{"sku": f"S-{i}", "level": i} for i in range(n)],
    "deep": lambda n: json.loads("[" * min(n, 500) + "]" * min(n, 500)),
}
READ = ["cart", "step", "categories", "affinity", "order_id", "offer", "survey"]


class Service:
    """The application, called as a server calls it, in this process."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        return await self.request("POST", path, body)

    async def request(self, method: str, path: str, body: bytes = b"", query: bytes = b"") -> tuple[int, bytes]:
        parts: list[bytes] = []
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            parts.append(message.get("body", b""))

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": headers}
        scope |= {
            "query_string": query,
            "http_version": "1.1",
            "scheme": "http",
            "client": ("t", 1),
            "server": ("t", 80),
        }
        await self.app({**scope, "root_path": "", "extensions": {}, "state": {}}, receive, send)
        return status, b"".join(parts)

    async def cost(
        self, path: str, body: bytes, total: float = TOTAL, *, method: str = "POST", query: bytes = b""
    ) -> tuple[float, float]:
        """CPU of a request, and the most of it between two turns of the event loop, in units of `reference_work`.

        Each is the least of three attempts, or of `ATTEMPTS` while it is above its limit; those measure the unit. A
        message that was counted costs nothing again, so each attempt has ids of its own.
        """
        costs: list[tuple[float, float]] = []
        for number in range(ATTEMPTS):
            if number >= 3 and min(one for one, _ in costs) <= total and min(hold for _, hold in costs) <= HOLD:
                break
            unit = UNIT if number < 3 else min(reference_work() for _ in range(3))
            holds = [0.0]
            done = asyncio.Event()

            async def watch(holds: list[float] = holds, done: asyncio.Event = done) -> None:
                while not done.is_set():
                    before = time.thread_time()
                    await asyncio.sleep(0)
                    holds.append(time.thread_time() - before)

            watcher = asyncio.create_task(watch())
            before = time.process_time()
            sent = body.replace(b'"message_id": "m', b'"message_id": "%d' % number)
            await self.request(method, path, sent, query)
            costs.append(((time.process_time() - before) / unit, max(holds) / unit))
            done.set()
            await watcher
        return min(one for one, _ in costs), min(hold for _, hold in costs)


@asynccontextmanager
async def running(place: Path, redis_url: str, shop: Path) -> AsyncIterator[Service]:
    settings = Settings(data=place, experiments=shop, redis=redis_url, store_timeout=10, event_timeout=30)
    app = create_app(settings)
    async with app.lifespan():
        yield Service(app)


def is_accepted(path: str, status: int, answer: bytes) -> bool:
    """Whether a request was taken as it is; an event has a status of its own."""
    if status >= 300:
        return status == 404  # read and understood, as an exposure of a decision that nobody knows
    return path != "/v1/events" or json.loads(answer)["statuses"][0]["status"] in ("accepted", "duplicate")


def places(schema: Any, components: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the fields of a request, at any depth, each with its schema."""
    for part in schema.get("allOf", ()):
        yield from places(part, components)
    schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for name, field in schema.get("properties", {}).items():
        options = field.get("anyOf", [field])
        yield (name,), field
        for option in options:
            if "$ref" in option:
                yield from (((name, *rest), inner) for rest, inner in places(option, components))


def with_value(body: Any, path: tuple[str, ...], value: object) -> Any:
    """The body with another value at a path; the items of a batch are all changed."""
    if isinstance(body, list):
        return [with_value(item, path, value) for item in body]
    first, *rest = path
    return {**body, first: with_value(body.get(first, {}), tuple(rest), value) if rest else value}


def example_of(path: str) -> dict[str, Any]:
    examples = {one.path: one.example for one in OPERATIONS if one.method == "post"}
    return dict(examples[path] or {"decision_id": "0" * 32})


FREE = {"properties": READ, "traits": ["consent", "loyalty", "timezone", "email"], "context": ["loyalty"]}
"""Free-form objects, and names in them that reducers, gates and moments read."""
PATHS = [one.path for one in OPERATIONS if one.method == "post" and one.request]
OTHERS = [(one.method, one.path) for one in OPERATIONS if one.method != "post"]
FILES = re.compile("/(?:docs|shop|client|exposure-hook)(?:[/.].*)?")
"""The addresses of files and of the guide, which read nothing of a request but its path."""
PARAMETERS = {"{sku}": "S-1", "{key}": "checkout_layout", "{place}": "berlin", "{id}": "anna"}


def address_of(path: str, parameters: dict[str, str] = PARAMETERS) -> str:
    """The address with its parameters; one without a value here fails."""
    return re.sub(r"{\w+}", lambda found: parameters[found[0]], path)


def test_every_address_of_the_server_is_measured(tmp_path: Path, redis_url: str, shop: Path) -> None:
    app = create_app(Settings(data=tmp_path, experiments=shop, redis=redis_url))
    served = {re.sub(r":\w+}", "}", route.path) for route in app.routes}
    assert {path for path in served if not FILES.fullmatch(path)} == {*PATHS, *(path for _, path in OTHERS)}


def variations(path: str) -> Iterator[tuple[str, Callable[[int], dict[str, Any]]]]:
    """Yield a name and a body by size, for each field of a request and each shape of value."""
    document: Any = openapi()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    components = document["components"]["schemas"]
    base, lead = example_of(path), ()
    if path == "/v1/events":
        schema, lead = components["Event"], ("batch",)
    for place, _ in places(schema, components):
        spots = [place] + [(*place, name) for name in FREE.get(place[-1], ())]
        for spot in spots:
            for shape, make in SHAPES.items():
                yield f"{'.'.join(spot)}: {shape}", lambda n, s=spot, m=make: with_value(base, (*lead, *s), m(n))


@pytest.mark.parametrize("path", PATHS)
def test_the_largest_accepted_value_of_each_field_costs_little_more_than_a_small_one(
    path: str, tmp_path: Path, redis_url: str, shop: Path
) -> None:
    at = address_of(path)

    async def run() -> tuple[list[str], int]:
        found, accepted = [], 0
        async with running(tmp_path, redis_url, shop) as service:
            for name, body_of in variations(path):
                for size in SIZES:
                    body = json.dumps(body_of(size)).encode()
                    if is_accepted(path, *await service.post(at, body)):
                        accepted += 1
                        total, hold = await service.cost(at, body)
                        if hold > HOLD or total > TOTAL:
                            found.append(f"{name} of {size}: {total:.1f} units, {hold:.1f} at once")
                        break
        return found, accepted

    found, accepted = asyncio.run(run())
    assert found == []
    assert accepted >= max(1, len(list(variations(path))) // 10)


LONG = 15_000
"""Characters of the longest address that a connection takes, less its other headers."""
QUERIES = {
    "one value": b"a=" + b"x" * LONG,
    "many names": b"&".join(b"a%d=1" % number for number in range(LONG // 7)),
    "separators": b"&" * LONG,
    "escapes": b"a=" + b"%20" * (LONG // 3),
    "known names": b"channel=web&limit=1000&" + b"lease=60&" * (LONG // 9),
}


def test_the_longest_addresses_cost_little_more_than_short_ones(tmp_path: Path, redis_url: str, shop: Path) -> None:
    longest = dict.fromkeys(PARAMETERS, "x" * LONG)
    tried = [
        (method.upper(), at, query)
        for method, path in OTHERS
        if path != STREAM_PATH  # it does not end
        for at, query in [(address_of(path, longest), b""), *((address_of(path), one) for one in QUERIES.values())]
    ]

    async def run() -> list[str]:
        found = []
        async with running(tmp_path, redis_url, shop) as service:
            for method, at, query in tried:
                total, hold = await service.cost(at, b"", method=method, query=query)
                if hold > HOLD or total > TOTAL:
                    found.append(f"{method} {at:.40}?{query[:20]!r}: {total:.1f} units, {hold:.1f} at once")
        return found

    assert asyncio.run(run()) == []


def batch_of(count: int, **fields: object) -> bytes:
    items = [{"type": "track", "message_id": f"m{n}", "user_id": "u-1", "event": "view"} | fields for n in range(count)]
    return json.dumps({"batch": items}).encode()


BATCHES = {
    "purchases of one customer": batch_of(1000, event="purchase", properties={"revenue": 1, "categories": ["a", "b"]}),
    "events of decisions": batch_of(1000, event="redemption", decision_id="0" * 32, properties={}),
    "identifies": batch_of(800, type="identify", traits={f"t{n}": "x" for n in range(60)}),
    "consents": batch_of(800, type="identify", traits={f"consent.p{n}": True for n in range(45)}),
    "interests": batch_of(800, properties={"categories": [f"category-{n}" for n in range(60)]}),
    "big events": batch_of(15, type="identify", traits={f"t{n}": "x" * 300 for n in range(200)}),
    "a broken item": batch_of(999, properties={"a": [{}, {}]})[:-2] + rb', "\ud83d"]}',
}

BROKEN = {
    "half a million items": b'{"batch": [' + b"1," * 495_000 + b"1]}",
    "lists": rb'{"batch": [{"a": "\ud83d", "b": [' + b"[]," * 99_000 + b"1]}]}",
    "lists in lists": rb'{"batch": [{"a": "\ud83d", "b": [' + b"[[[]]]," * 33_000 + b"1]}]}",
    "texts": rb'{"batch": [{"a": "\ud83d", "b": [' + b'"",' * 320_000 + b"1]}]}",
    "depth": b'{"batch": [' + b"[" * 490_000 + b"]" * 490_000 + b"]}",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_batch_that_is_broken_on_purpose_lets_other_requests_run(
    case: str, tmp_path: Path, redis_url: str, shop: Path
) -> None:
    async def run() -> tuple[float, float]:
        async with running(tmp_path, redis_url, shop) as service:
            status, answer = await service.post("/v1/events", BROKEN[case])
            assert status == 400 or b'"rejected"' in answer
            return await service.cost("/v1/events", BROKEN[case])

    total, hold = asyncio.run(run())
    assert hold < HOLD
    assert total < TOTAL


@pytest.mark.parametrize("case", BATCHES)
def test_a_full_batch_lets_other_requests_run(case: str, tmp_path: Path, redis_url: str, shop: Path) -> None:
    async def run() -> tuple[float, float]:
        async with running(tmp_path, redis_url, shop) as service:
            status, answer = await service.post("/v1/events", BATCHES[case])
            assert status == 200, answer
            assert answer.count(b'"accepted"') >= 15
            return await service.cost("/v1/events", BATCHES[case], TOTAL_OF_BATCH)

    total, hold = asyncio.run(run())
    assert hold < HOLD
    assert total < TOTAL_OF_BATCH


DAILY = {"caps": [{"count": 1, "per": "30d", "window": "calendar", "zone": "customer"}]}
MET = 2_000
"""Offers that one customer met: as many counters."""
BUSY_SHOP = {
    "offers": {f"deal_{n}": DAILY for n in range(MET)},
    "placements": {
        **{f"place_{n}": {"offers": [f"deal_{m}" for m in range(20 * n, 20 * n + 20)]} for n in range(100)},
        "all": {"offers": [f"deal_{n}" for n in range(MET)]},
    },
}


@pytest.mark.parametrize("path", ["/v1/decide", "/v1/explain", "/v1/agent"])
def test_counters_of_a_customer_are_not_walked_through_for_every_placement_and_offer(
    path: str, tmp_path: Path, redis_url: str
) -> None:
    async def run() -> list[tuple[float, float]]:
        async with running(tmp_path / "data", redis_url, write_shop(tmp_path / "shop", BUSY_SHOP)) as service:

            async def ask(*placements: str, at: str = "/v1/decide", cost: bool = False) -> Any:
                body = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": placements}
                if cost:
                    return await service.cost(at, json.dumps(body).encode())
                return await service.post(at, json.dumps(body).encode())

            for zone in ("Europe/Berlin", "Asia/Tokyo"):
                traits = {"type": "identify", "message_id": zone, "user_id": "u-1", "traits": {"timezone": zone}}
                await service.post("/v1/events", json.dumps({"batch": [traits]}).encode())
                for _ in range(30):
                    status, answer = await ask(*(f"place_{n}" for n in range(100)))
                    assert status == 200
            assert b'"deal_' not in answer  # all are used up
            every = [f"place_{n}" for n in range(100)]
            return [await ask(*every, at=path, cost=True), await ask("all", at=path, cost=True)]

    costs = asyncio.run(run())
    assert all(hold < HOLD and total < TOTAL for total, hold in costs), costs
