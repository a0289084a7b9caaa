"""What one worker wrote the next one reads; and whatever comes, nothing grows without bound."""

import asyncio
import time
from collections.abc import Iterator

import msgspec
import redis

from engine.catalog.spec.profile_rules import ProfileRules
from engine.claims.claims import Claim, Claims, PoolShare
from engine.customer import CustomerIds
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore
from engine.erasure.profiles import SECOND_SWEEP_SECONDS, erase_profile, finish_erasures
from engine.keyspace import ERASURES, ERASURES_LIFE

NOW = 1_790_000_000.0


async def silent(accepted: list[Accepted]) -> None: ...


def test_an_event_answered_at_one_worker_is_seen_by_the_other(redis_url: str) -> None:
    async def run() -> int:
        writer, reader = (ProfileStore.open(redis_url, timeout=30) for _ in range(2))
        seen = 0

        async def customer(n: int) -> None:
            nonlocal seen
            ids = {"user_id": f"u-{n}"}
            for k in range(100):
                told = Event("identify", f"m{n}-{k}", traits={"k": k}, timestamp=NOW + k, **ids)
                await writer.ingest([told], NOW + 1000, silent)
                found = await reader.fetch(CustomerIds(**ids), NOW + 1000)
                seen += found.profile.traits["k"].value == k

        await asyncio.gather(*(customer(n) for n in range(100)))
        await asyncio.gather(writer.close(), reader.close())
        return seen

    assert asyncio.run(run()) == 10_000


def everything(count: int) -> Iterator[Event]:
    """A customer of whom every event says something new."""
    for n in range(count):
        said: dict[str, object] = {
            "revenue": n,
            "order_id": f"order-{n}",
            "category": f"category-{n}",
            "cart": {"items": ["x" * 50] * (n % 60)},
            "step": f"step-{n}",
        }
        at = NOW + n * 7200
        yield Event("track", f"t{n}", user_id="u", event=f"event-{n}", properties=said, timestamp=at, channel="web")
        yield Event("track", f"p{n}", user_id="u", event="purchase", properties=said, timestamp=at, channel="web")
        traits: dict[str, object] = {f"trait-{n}": "x" * 100}
        yield Event("identify", f"i{n}", user_id="u", anonymous_id=f"a-{n}", traits=traits, timestamp=at)


def test_one_customers_profile_has_a_bound(redis_url: str) -> None:
    async def run() -> list[int]:
        store = ProfileStore.open(redis_url, ProfileRules(seen_limit=500), timeout=10)
        sizes = []
        events = list(everything(300))
        for start in range(0, len(events), 300):
            await store.ingest(events[start : start + 300], NOW + 1e7, silent)
            profile = (await store.fetch(CustomerIds(user_id="u"), NOW)).profile
            sizes.append(len(msgspec.msgpack.encode(profile)))
        assert profile.order_count == 300
        await store.close()
        return sizes

    sizes = asyncio.run(run())
    assert sizes[-1] < 1.05 * sizes[0]
    assert sizes[-1] < 25_000
    with redis.Redis.from_url(redis_url) as client:
        seen = [client.strlen(key) for key in client.scan_iter("*:seen")]
    assert seen == [500 * 8]


def test_a_message_counts_once_however_many_follow_it(redis_url: str) -> None:
    """Those of a till, and of a customer who was a visitor on it before, for as long as message ids are stored."""
    rules = ProfileRules(seen_limit=50, seen_life=1000.0)

    def messages(name: str, count: int, **ids: str) -> list[Event]:
        return [Event("track", f"{name}{n}", event="purchase", properties={"revenue": 1}, **ids) for n in range(count)]

    async def run() -> None:
        store = ProfileStore.open(redis_url, rules, timeout=10)
        visitor, known = messages("v", 300, anonymous_id="a"), messages("k", 300, user_id="u")
        for batch in (visitor, known):
            for start in range(0, 300, 60):
                await store.ingest(batch[start : start + 60], NOW, silent)
        await store.ingest([Event("identify", "login", user_id="u", anonymous_id="a")], NOW, silent)
        statuses = await store.ingest([*known, *visitor], NOW + 900, silent)
        assert {status.status for status in statuses} == {"duplicate"}
        assert (await store.fetch(CustomerIds(user_id="u"), NOW)).profile.revenue == 600
        await store.ingest(messages("m", 60, user_id="u"), NOW + 1100, silent)
        with redis.Redis.from_url(redis_url) as client:
            (older,) = client.keys("*:older")
            assert 0 < client.ttl(older) <= 1000
            assert client.zcard(older) == 60  # what was moved more than 1,000 seconds ago is dropped
        await store.close()

    asyncio.run(run())


def test_customers_who_stay_away_are_forgotten(redis_url: str) -> None:
    short = ProfileRules(life=2.0, anonymous_life=2.0, seen_life=2.0, tombstone_life=2.0)

    async def run() -> None:
        store = ProfileStore.open(redis_url, short, timeout=10)
        for n in range(100):
            visitor, both = {"anonymous_id": f"a-{n}"}, {"anonymous_id": f"a-{n}", "user_id": f"u-{n}"}
            await store.bind_customer(await store.fetch(CustomerIds(**visitor), NOW), NOW, silent)
            await store.ingest([Event("track", f"m{n}", event="view", **both)], NOW, silent)
            if n % 10 == 0:
                await erase_profile(store, f"u-{n}")
        assert await finish_erasures(store, time.time() + SECOND_SWEEP_SECONDS) == 10
        await store.close()

    asyncio.run(run())
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() > 100
        end = time.monotonic() + 20
        while client.dbsize() > 1 and time.monotonic() < end:
            time.sleep(0.1)
        assert client.keys() == [ERASURES.encode()]  # digests of the erased, which the others must hear of yet
        assert 0 < client.ttl(ERASURES) <= ERASURES_LIFE


def test_holds_that_lapse_leave_nothing_behind(redis_url: str) -> None:
    async def run() -> None:
        store = ProfileStore.open(redis_url, timeout=10)
        claims = Claims(store.pipeline)
        for n in range(500):
            take = PoolShare(pool="budget", name="offer", amount=1, limit=1e6, hold=60)
            await claims.claim("0" * 24, [Claim(id=f"c{n}", shares=[take])], NOW + n * 30)
        await store.close()

    asyncio.run(run())
    with redis.Redis.from_url(redis_url) as client:
        assert client.zcard("cp:{budget:offer}:holds") <= 3
        assert client.hlen("cp:{budget:offer}") <= 5
