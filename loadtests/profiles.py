"""The cost of the profile store: CPU per fetch with 64 concurrent callers, CPU per event, bytes per customer.

`python -m loadtests.profiles [--customers N] [--redis URL]`, against an empty store.
"""

import argparse
import asyncio
import gc
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import redis
import uvloop

from engine import embedded, keyspace
from engine.catalog.spec.profile_rules import ProfileRules
from engine.claims.claims import CapCheck, Claim, Claims, PoolShare
from engine.customer import CustomerIds, Profile
from engine.customers.model.events import Accepted, Event
from engine.customers.model.reducers import apply_event
from engine.customers.redis import keys
from engine.customers.redis.stored_entry import Pointer, encode_entry
from engine.customers.store import ProfileStore
from engine.traits.attributes import derive_attributes

NOW = 1_790_000_000.0
CONCURRENT = 64
FETCHES = 60_000
TRAITS = {"country": "DE", "city": "Berlin", "first_name": "Ada", "loyalty.tier": 2, "newsletter": True, "age": 34}


async def discard(accepted: list[Accepted]) -> None:
    """A journal that stores nothing: `journal.py` measures the log."""


def typical(user: str, anonymous: str) -> Profile:
    """A customer of some months: six traits, five affinities, three orders, four visits, two channels."""
    profile = Profile(user, anonymous, 7, NOW, NOW, ids={"user_id": [user], "anonymous_id": [anonymous]})
    events = [
        Event(
            "identify",
            "i",
            user_id=user,
            anonymous_id=anonymous,
            traits=TRAITS | {"consent.marketing": True},
            channel="web",
        )
    ]
    for n, category in enumerate(("coffee", "tea", "cake", "beans", "cups")):
        events.append(Event("track", f"v{n}", event="view", properties={"category": category}, channel="app"))
    for n in range(3):
        bought = {"revenue": 12.5 + n, "order_id": f"o-{n}"}
        events.append(Event("track", f"p{n}", event="purchase", properties=bought, channel="web"))
    for n, event in enumerate(events):
        profile = apply_event(profile, event, NOW - 3 * 86_400 + n * 3600 * 5, ProfileRules())
    return profile


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def fetches(store: ProfileStore, ids: list[CustomerIds]) -> float:
    """CPU seconds of this process per fetch, with 64 callers that each await their answer."""

    async def caller(first: int) -> None:
        for n in range(FETCHES // CONCURRENT):
            await store.fetch(ids[(first + n * CONCURRENT) % len(ids)], NOW)

    start = cpu()
    await asyncio.gather(*(caller(n) for n in range(CONCURRENT)))
    return (cpu() - start) / FETCHES


async def naive(url: str, names: list[str]) -> float:
    """CPU seconds per request with one `await redis.get` each."""
    client = redis.asyncio.Redis.from_url(url)

    async def caller(first: int) -> None:
        for n in range(FETCHES // 4 // CONCURRENT):
            msgspec.msgpack.decode((await client.get(names[(first + n * CONCURRENT) % len(names)]))[5:], type=Profile)

    start = cpu()
    await asyncio.gather(*(caller(n) for n in range(CONCURRENT)))
    used = (cpu() - start) / (FETCHES // 4)
    await client.aclose()
    return used


async def speed(url: str) -> None:
    store = ProfileStore.open(url, timeout=5)
    hash_ = keys.key_hasher(b"counterpoint")
    known = [CustomerIds(user_id=f"u-{n}") for n in range(1000)]
    both = [CustomerIds(user_id=f"u-{n}", anonymous_id=f"a-{n}") for n in range(1000)]
    names = [keyspace.profile(hash_("user_id", f"u-{n}")) for n in range(1000)]
    gc.collect()
    gc.freeze()  # as a server does
    for _ in range(3):
        one, two, plain = await fetches(store, known), await fetches(store, both), await naive(url, names)
        print(f"fetch: {one * 1e6:.1f} µs CPU by one id, {two * 1e6:.1f} by two; one await get each: {plain * 1e6:.1f}")
    count = 5000
    start = cpu()
    await asyncio.gather(
        *(
            store.ingest(
                [Event("track", f"m{n}", user_id=f"u-{n % 1000}", event="view", properties={"category": "tea"})],
                NOW,
                discard,
            )
            for n in range(count)
        )
    )
    print(f"ingest: {(cpu() - start) / count * 1e6:.0f} µs CPU per event, {count} events of 1000 customers at once")
    claims = Claims(store.pipeline)
    start = cpu()

    async def claimer(first: int) -> None:
        for n in range(count // CONCURRENT):
            name = f"c{first}-{n}"
            cap, unit = CapCheck("exposure|*", 3, NOW - 86_400), PoolShare(pool="stock", name="SKU", least=1, hold=900)
            await claims.claim(
                hash_("user_id", f"u-{n}"), [Claim(id=name, caps=[cap], counters=["exposure|*"], shares=[unit])], NOW
            )

    await claims.set_stock("SKU", 1e6, NOW)
    await asyncio.gather(*(claimer(n) for n in range(CONCURRENT)))
    print(f"claim: {(cpu() - start) / count * 1e6:.0f} µs CPU, one cap and one stock hold")
    await store.close()


def pure() -> None:
    profile, rounds = typical("u-1", "a-1"), 20_000
    blob = msgspec.msgpack.encode(profile)
    for name, work in (
        ("attributes", lambda: derive_attributes(profile, NOW)),
        ("decode", lambda: msgspec.msgpack.decode(blob, type=Profile)),
    ):
        start = time.perf_counter()
        for _ in range(rounds):
            work()
        print(f"{name}: {(time.perf_counter() - start) / rounds * 1e6:.1f} µs, profile of {len(blob)} bytes")


def fill(url: str, customers: int) -> None:
    """Write customers with an alias each, as ingest stores them, and print their memory above their payload."""
    hash_ = keys.key_hasher(b"counterpoint")
    seen = b"12345678" * 9
    with redis.Redis.from_url(url) as client:
        before, payload = client.info("memory")["used_memory"], 0
        for start in range(0, customers, 2000):
            pipe = client.pipeline(transaction=False)
            for n in range(start, min(start + 2000, customers)):
                user, anonymous = hash_("user_id", f"u-{n}"), hash_("anonymous_id", f"a-{n}")
                value = encode_entry(
                    msgspec.structs.replace(PROFILE, id=f"u-{n}", unit=f"a-{n}", marks=seen if n % 10 else b"")
                )
                payload += len(value) - 5
                pipe.set(keyspace.profile(user), value, px=86_400_000)
                pipe.set(keyspace.profile(anonymous), encode_entry(Pointer(user)), px=86_400_000)
                if n % 10 == 0:  # a customer with more messages than a profile lists
                    pipe.set(keyspace.counted_messages(user), seen, px=86_400_000)
                    payload += len(seen)
            pipe.execute()
            if sys.stderr.isatty():
                print(f"\r{start + 2000:,} of {customers:,}", end="", file=sys.stderr)
        used = client.info("memory")["used_memory"] - before
    each = (used - payload) / customers
    print(f"memory: {customers:,} customers, {used / customers:.0f} bytes each, {each:.0f} above their packed payload")


PROFILE = typical("u-1", "a-1")

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--customers", type=int, default=100_000)
    arguments.add_argument("--redis", default=None)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = None if given.redis else embedded.start(Path(directory))
        address = given.redis or server.url
        try:
            pure()
            fill(address, given.customers)
            uvloop.run(speed(address))
        finally:
            if server is not None:
                server.stop()
