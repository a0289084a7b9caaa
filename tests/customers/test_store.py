import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from engine import embedded
from engine.customer import CustomerIds
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore
from engine.errors import StoreUnavailable
from engine.traits.attributes import derive_attributes
from tests.catalog.folder import plan

NOW = 1_790_000_000.0
T = TypeVar("T")


class Log:
    def __init__(self) -> None:
        self.events: list[Accepted] = []

    async def __call__(self, accepted: list[Accepted]) -> None:
        self.events += accepted


def with_store(url: str, story: Callable[[ProfileStore, Log], Awaitable[T]]) -> T:
    async def run() -> T:
        store = ProfileStore.open(url, timeout=10)
        try:
            return await story(store, Log())
        finally:
            await store.close()

    return asyncio.run(run())


def track(message: str, name: str, at: float = NOW, **fields: object) -> Event:
    return Event("track", message, event=name, timestamp=at, **fields)  # type: ignore[arg-type]


def test_a_customer_never_seen_is_fresh_and_known_after_touch(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        ids = CustomerIds(anonymous_id="a-9")
        first = await store.fetch(ids, NOW)
        assert (first.is_known, first.profile.id, first.profile.unit) == (False, "a-9", "a-9")
        await store.bind_customer(first, NOW, log)
        again = await store.fetch(ids, NOW + 5)
        assert (again.is_known, again.is_settled, again.profile.created) == (True, True, NOW)

    with_store(redis_url, story)


def test_a_decision_seen_binds_the_unit_also_where_an_event_was_quicker(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        await store.bind_customer(await store.fetch(CustomerIds(user_id="u-42"), NOW), NOW, log)
        first = await store.fetch(CustomerIds(anonymous_id="a-9"), NOW)
        await store.ingest([track("m1", "view", anonymous_id="a-9")], NOW, log)  # the page's view, sent beside
        await store.bind_customer(first, NOW, log)
        assert not (await store.fetch(CustomerIds(anonymous_id="a-9"), NOW)).profile.undecided
        await store.ingest([Event("alias", "m2", user_id="u-42", anonymous_id="a-9")], NOW, log)
        assert "a-9" in (await store.fetch(CustomerIds(user_id="u-42"), NOW)).profile.units

    with_store(redis_url, story)


def test_kinds_of_identifiers_do_not_collide(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        await store.bind_customer(await store.fetch(CustomerIds(user_id="7"), NOW), NOW, log)
        assert not (await store.fetch(CustomerIds(anonymous_id="7"), NOW)).is_known

    with_store(redis_url, story)


def test_an_event_counts_once_and_says_so(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        event = track("m1", "purchase", user_id="u-42", properties={"revenue": 12.5}, channel="web")
        one = await store.ingest([event, event], NOW, log)
        two = await store.ingest([event], NOW, log)
        assert [s.status for s in (*one, *two)] == ["accepted", "duplicate", "duplicate"]
        seen = derive_attributes((await store.fetch(CustomerIds(user_id="u-42"), NOW)).profile, NOW)
        assert seen["orders"] == {"count": 1, "revenue": 12.5, "last_days": 0.0}
        assert [(e.message_id, e.customer, e.revenue) for e in log.events] == [("m1", "u-42", 12.5)]

    with_store(redis_url, story)


def test_a_value_that_cannot_be_stored_costs_its_own_event_alone(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        store.use_rules(plan(traits={"seen": {"last": "view", "of": "score"}}).rules)
        large = track("m1", "view", user_id="u-1", properties={"score": 1e30})
        poison = Event("identify", "m2", user_id="u-1", traits={"a": 1, "n": 10**30}, timestamp=NOW)
        good = [track(f"m{number}", "view", user_id=user) for number, user in ((3, "u-1"), (4, "u-2"))]
        other = store.ingest([track("m5", "view", user_id="u-3")], NOW, log)  # of another request, in the same write
        mine, others = await asyncio.gather(store.ingest([large, poison, *good], NOW, log), other)
        assert [one.status for one in (*mine, *others)] == ["accepted", "rejected", *["accepted"] * 3]
        assert "Nothing was changed" in (mine[1].reason or "")
        assert sorted(one.message_id for one in log.events) == ["m1", "m3", "m4", "m5"]
        profile = (await store.fetch(CustomerIds(user_id="u-1"), NOW)).profile
        assert (derive_attributes(profile, NOW, store.rules.computed)["seen"], profile.traits) == (1e30, {})
        assert [one.status for one in await store.ingest([large, poison], NOW, log)] == ["duplicate", "rejected"]

    with_store(redis_url, story)


def test_messages_count_once_however_many_there_were(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        visitor = [track(f"a{n}", "view", anonymous_id="a-9") for n in range(40)]
        known = [track(f"b{n}", "view", user_id="u-42") for n in range(40)]
        for n in range(0, 40, 5):
            await store.ingest([*visitor[n : n + 5], *known[n : n + 5]], NOW, log)
        await store.bind_customer(await store.fetch(CustomerIds(user_id="u-42", anonymous_id="a-9"), NOW), NOW, log)
        again = await store.ingest([*visitor, *known], NOW, log)
        assert {status.status for status in again} == {"duplicate"}

    with_store(redis_url, story)


def test_a_login_hands_the_unit_to_a_new_customer_on_every_channel(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        web = CustomerIds(anonymous_id="a-9")
        await store.bind_customer(await store.fetch(web, NOW), NOW, log)
        both = await store.fetch(CustomerIds(user_id="u-42", anonymous_id="a-9"), NOW)
        assert (both.profile.id, both.profile.unit, both.is_settled) == ("u-42", "a-9", False)
        await store.bind_customer(both, NOW, log)
        app = await store.fetch(CustomerIds(user_id="u-42"), NOW)
        assert (app.profile.unit, app.is_known, app.is_settled) == ("a-9", True, True)
        back = await store.fetch(web, NOW)
        assert (back.profile.id, back.is_settled) == ("u-42", True)
        assert [e.event for e in log.events] == ["$merge"]

    with_store(redis_url, story)


def test_a_known_customer_keeps_their_unit_and_remembers_the_visitors(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        for ids in (CustomerIds(user_id="u-42"), CustomerIds(anonymous_id="a-9")):
            await store.bind_customer(await store.fetch(ids, NOW), NOW, log)
        await store.ingest([Event("alias", "m1", user_id="u-42", anonymous_id="a-9")], NOW, log)
        found = await store.fetch(CustomerIds(user_id="u-42", anonymous_id="a-9"), NOW)
        assert (found.profile.unit, found.profile.units, found.is_settled) == ("u-42", {"a-9": NOW}, True)

    with_store(redis_url, story)


def test_a_shared_tablet_never_joins_two_customers(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        for n, user in enumerate(("u-1", "u-2", "u-3", "u-4")):
            events = [
                track(f"b{n}", "purchase", user_id=user, properties={"revenue": 10.0}),
                Event("alias", f"a{n}", user_id=user, anonymous_id="tablet", timestamp=NOW + n),
                Event("identify", f"i{n}", user_id=user, anonymous_id="tablet", traits={"name": user}),
            ]
            await store.ingest(events, NOW + 10, log)
        for user in ("u-1", "u-2", "u-3", "u-4"):
            profile = (await store.fetch(CustomerIds(user_id=user), NOW)).profile
            assert (profile.id, profile.revenue, profile.traits["name"].value) == (user, 10.0, user)
        alone = (await store.fetch(CustomerIds(anonymous_id="tablet"), NOW)).profile
        assert (alone.id, alone.shared) == ("tablet", True)

    with_store(redis_url, story)


def test_concurrent_events_of_two_workers_all_count(redis_url: str) -> None:
    async def run() -> float:
        workers = [ProfileStore.open(redis_url, timeout=10) for _ in range(2)]
        log = Log()
        await asyncio.gather(
            *(
                workers[n % 2].ingest(
                    [track(f"m{n}", "purchase", user_id="u", properties={"revenue": 1.0, "order_id": n})], NOW, log
                )
                for n in range(400)
            )
        )
        profile = (await workers[0].fetch(CustomerIds(user_id="u"), NOW)).profile
        for worker in workers:
            await worker.close()
        assert len({e.message_id for e in log.events}) == len(log.events) == 400
        return profile.revenue

    assert asyncio.run(run()) == 400.0


def test_every_key_has_a_life(redis_url: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        for n in range(20):
            ids = {"anonymous_id": f"a-{n}"} | ({"user_id": f"u-{n}"} if n % 2 else {})
            await store.ingest([track(f"m{n}", "view", **ids)], NOW, log)
            await store.bind_customer(await store.fetch(CustomerIds(device_id=f"d-{n}", **ids), NOW), NOW, log)

    with_store(redis_url, story)
    with redis.Redis.from_url(redis_url) as client:
        lives = {key: client.pttl(key) for key in client.scan_iter()}
    assert len(lives) > 40
    assert min(lives.values()) > 0, lives


def test_a_store_that_is_gone_says_so_in_time() -> None:
    async def run() -> None:
        store = ProfileStore.open("redis://127.0.0.1:1/0", timeout=0.05)
        with pytest.raises(StoreUnavailable, match="is it up"):
            await store.fetch(CustomerIds(user_id="u"), NOW)
        await store.close()

    asyncio.run(run())


def test_a_store_that_hangs_or_turned_replica_says_so_and_comes_back(tmp_path: Path) -> None:
    async def run(server: embedded.Embedded) -> None:
        store = ProfileStore.open(server.url, timeout=0.5)
        found = await store.fetch(CustomerIds(user_id="u"), NOW)
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="Timeout"):
            await asyncio.gather(*(store.fetch(CustomerIds(user_id="u"), NOW) for _ in range(5)))
        server.process.send_signal(signal.SIGCONT)
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreUnavailable, match="ReadOnlyError"):
                await store.bind_customer(found, NOW, Log())
            with pytest.raises(StoreUnavailable, match="ReadOnlyError"):
                await store.ingest([track("m", "view", user_id="u")], NOW, Log())
            client.execute_command("REPLICAOF", "NO", "ONE")
        await store.bind_customer(found, NOW, Log())
        assert (await store.fetch(CustomerIds(user_id="u"), NOW)).is_known
        await store.close()

    with embedded.running(tmp_path) as server:
        asyncio.run(run(server))


@pytest.fixture
def full(redis_url: str) -> Iterator[str]:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "1")
        yield redis_url
        client.config_set("maxmemory", "0")


def test_a_full_store_still_reads_and_refuses_writes(full: str) -> None:
    async def story(store: ProfileStore, log: Log) -> None:
        found = await store.fetch(CustomerIds(user_id="u"), NOW)
        with pytest.raises(StoreUnavailable):
            await store.bind_customer(found, NOW, log)
        with pytest.raises(StoreUnavailable):
            await store.ingest([track("m", "view", user_id="u")], NOW, log)

    with_store(full, story)
