"""One customer behind many identifiers: merges survive a crash at every step, and erasure leaves nothing behind."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import pytest
import redis
from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.claims.claims import Claim, Claims
from engine.customer import CustomerIds, Profile
from engine.customers.customer_view import customer_view
from engine.customers.model.events import Accepted, Event
from engine.customers.redis.pipeline import Argument, RedisPipeline, RedisReply, Script, connect_store
from engine.customers.store import ProfileStore
from engine.erasure.profiles import SECOND_SWEEP_SECONDS, erase_profile, export_profile, finish_erasures
from engine.errors import StoreUnavailable
from engine.hashing import identifier_digest
from engine.keyspace import ERASURES

NOW = 1_790_000_000.0
RULES = ProfileRules(merge={"coffees": "sum", "name": "known_wins", "rooms": "union"})
T = TypeVar("T")


async def silent(accepted: list[Accepted]) -> None: ...


def with_store(url: str, story: Callable[[ProfileStore], Awaitable[T]], rules: ProfileRules = RULES) -> T:
    async def run() -> T:
        store = ProfileStore.open(url, rules, timeout=10)
        try:
            return await story(store)
        finally:
            await store.close()

    return asyncio.run(run())


def bought(message: str, revenue: float, **ids: str) -> Event:
    said = {"revenue": revenue, "order_id": message}
    return Event("track", message, event="purchase", properties=said, timestamp=NOW, channel="web", **ids)


def told(message: str, at: float, traits: dict[str, object], **ids: str) -> Event:
    return Event("identify", message, traits=traits, timestamp=NOW + at, channel="web", **ids)


VISITOR = [
    bought("m1", 10.0, anonymous_id="a-9"),
    told(
        "m2", 2, {"coffees": 3, "name": "Guest", "rooms": ["sea"], "consent": {"marketing": False}}, anonymous_id="a-9"
    ),
]
KNOWN = [
    bought("m3", 5.0, user_id="u-42"),
    told("m4", 1, {"coffees": 2, "name": "Ada", "rooms": ["hill"], "consent": {"marketing": True}}, user_id="u-42"),
]
LOGIN = Event("alias", "m5", user_id="u-42", anonymous_id="a-9", timestamp=NOW + 3)
ALL = [*VISITOR, *KNOWN, LOGIN]


def test_a_merge_follows_the_rule_of_each_trait_and_a_denied_consent_stands(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        await store.ingest(ALL, NOW + 9, silent)
        profile = (await store.fetch(CustomerIds(anonymous_id="a-9"), NOW)).profile
        assert (profile.id, profile.unit, profile.revenue, profile.order_count) == ("u-42", "u-42", 15.0, 2)
        assert {name: trait.value for name, trait in profile.traits.items()} == {
            "coffees": 5,
            "name": "Ada",
            "rooms": ["hill", "sea"],
        }
        assert not profile.consents["marketing"].granted
        later = told("m6", 8, {"consent": {"marketing": True}}, user_id="u-42")
        await store.ingest([later], NOW + 9, silent)
        assert (await store.fetch(CustomerIds(user_id="u-42"), NOW)).profile.consents["marketing"].granted

    with_store(redis_url, story)


class Crashing(RedisPipeline):
    """A pipeline whose process dies after so many writes."""

    def __init__(self, url: str, writes: int) -> None:
        super().__init__(connect_store(url, 10))
        self.left = writes

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> "asyncio.Future[RedisReply]":
        if self.left <= 0:
            raise StoreUnavailable("the process died here")
        self.left -= 1
        return super().call(script, keys, arguments)


@pytest.mark.parametrize("again", ["the same batch", "redo", "a decision"])
def test_a_merge_that_a_crash_cut_short_is_finished_once(redis_url: str, again: str) -> None:
    def plain(profile: Profile) -> Profile:
        return replace(profile, version=0, updated=0.0, marks=b"", undecided=False, links=[])

    async def setup(store: ProfileStore) -> None:
        await store.ingest([*VISITOR, *KNOWN], NOW + 9, silent)
        found = await store.fetch(CustomerIds(anonymous_id="a-9"), NOW)
        await Claims(store.pipeline).count(found.key, Claim(id="c", counters=["exposure|*"]), NOW)

    async def after(store: ProfileStore) -> tuple[Profile, dict[str, list[float]]]:
        found = await store.fetch(CustomerIds(user_id="u-42"), NOW, counts=True)
        return plain(found.profile), found.counts

    async def whole(store: ProfileStore) -> tuple[Profile, dict[str, list[float]]]:
        await setup(store)
        await store.ingest([LOGIN], NOW + 9, silent)
        return await after(store)

    async def story(store: ProfileStore) -> None:
        for writes in range(6):
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            await setup(store)
            dying = ProfileStore(Crashing(redis_url, writes), RULES)
            with suppress(StoreUnavailable):
                await dying.ingest([LOGIN], NOW + 9, silent)
            await dying.close()
            if again == "redo":
                await store.finish_merges(NOW + 9, silent)
            elif again == "a decision":
                found = await store.fetch(CustomerIds(user_id="u-42", anonymous_id="a-9"), NOW)
                assert plain(found.profile) == expected[0], writes
                await store.bind_customer(found, NOW + 9, silent)
            if again != "a decision" or writes:
                await store.ingest([LOGIN], NOW + 9, silent)
            assert await after(store) == expected, writes
            assert (await store.fetch(CustomerIds(anonymous_id="a-9"), NOW)).is_settled
            assert await store.finish_merges(NOW + 9, silent) == 0

    expected = with_store(redis_url, whole)
    with_store(redis_url, story)


def test_a_batch_sent_three_times_in_any_order_is_once_in_order(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        profiles: list[dict[str, Any]] = []
        for orders in (((0, 1, 2, 3, 4),) * 3, ((4, 3, 2, 1, 0), (2, 0, 4, 1, 3), (1, 4, 3, 0, 2)), ((0, 1, 2, 3, 4),)):
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            statuses = [s for order in orders for s in await store.ingest([ALL[n] for n in order], NOW + 9, silent)]
            assert [s.status for s in statuses].count("accepted") == 5
            found = await store.fetch(CustomerIds(user_id="u-42"), NOW)
            profiles.append(customer_view(found.profile, NOW))
        assert profiles[0] == profiles[1] == profiles[2]
        assert profiles[0]["identifiers"] == {"anonymous_id": ["a-9"], "user_id": ["u-42"]}
        assert profiles[0]["traits"]["name"] == {"value": "Ada", "time": "2026-09-21T14:13:21.000Z", "source": "web"}
        msgspec.json.encode(profiles[0])

    with_store(redis_url, story)


def test_aliases_of_a_visitor_lead_to_the_customer(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        await store.ingest([told("m1", 0, {"email": " Ada@X.de "}, anonymous_id="a-1")], NOW, silent)
        await store.ingest([told("m2", 1, {"email": "ada@x.de"}, user_id="u-42", anonymous_id="a-2")], NOW, silent)
        for ids in (
            CustomerIds(anonymous_id="a-1"),
            CustomerIds(anonymous_id="a-2"),
            CustomerIds(email="ADA@x.de"),
            CustomerIds(user_id="u-42"),
        ):
            found = await store.fetch(ids, NOW)
            assert (found.profile.id, found.is_settled) == ("u-42", True), ids

    with_store(redis_url, story)


def test_two_user_ids_are_never_one_customer(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        for n in (1, 2):
            await store.ingest([told(f"m{n}", n, {"email": "shared@x.de"}, user_id=f"u-{n}")], NOW + 9, silent)
        await store.ingest([told("m3", 3, {"loyalty_card": "L1"}, email="other@x.de")], NOW + 9, silent)
        await store.ingest([told("m4", 4, {"loyalty_card": "L1"}, user_id="u-1")], NOW + 9, silent)
        ones = {"user_id": "u-1", "email": "other@x.de", "loyalty_card": "L1"}
        for kind, value in ones.items():
            found = await store.fetch(msgspec.convert({kind: value}, CustomerIds), NOW)
            assert found.profile.id == "u-1", kind
        assert (await store.fetch(CustomerIds(user_id="u-2"), NOW)).profile.id == "u-2"
        assert (await store.fetch(CustomerIds(email="shared@x.de"), NOW)).profile.shared

    with_store(redis_url, story)


def test_the_limits_of_a_kind_are_the_shops(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        for n in range(3):
            await store.ingest([told(f"m{n}", n, {}, user_id=f"u-{n}", anonymous_id="a")], NOW + 9, silent)
        found = await store.fetch(CustomerIds(anonymous_id="a"), NOW)
        assert (found.profile.id, found.profile.shared) == ("u-2", False)

    with_store(redis_url, story, replace(RULES, binds={"anonymous_id": 3}))


def test_erasure_covers_aliases_and_late_events_create_nothing(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        await store.ingest([*ALL, told("m7", 5, {"email": "ada@x.de"}, user_id="u-42")], NOW + 9, silent)
        key = (await store.fetch(CustomerIds(user_id="u-42"), NOW)).key
        await Claims(store.pipeline).count(key, Claim(id="c", counters=["exposure|*"]), NOW)
        told_ = await export_profile(store, "ada@x.de")
        assert told_ is not None
        assert (told_.profile.id, told_.counts) == ("u-42", {"exposure|*": [NOW]})
        assert await erase_profile(store, "a-9") == {
            "user_id": ["u-42"],
            "email": ["ada@x.de"],
            "anonymous_id": ["a-9"],
        }
        late = [
            bought("m8", 1.0, user_id="u-42"),
            bought("m9", 1.0, anonymous_id="a-9"),
            bought("m10", 1.0, email="ada@x.de"),
            LOGIN,
        ]
        assert [s.status for s in await store.ingest(late, NOW + 9, silent)] == ["rejected"] * 4
        found = await store.fetch(CustomerIds(user_id="u-42", anonymous_id="a-9"), NOW)
        assert (found.is_known, found.is_erased, found.profile.revenue) == (False, True, 0.0)
        await store.bind_customer(found, NOW, silent)
        (denial,) = await Claims(store.pipeline).claim(key, [Claim(id="d", counters=["exposure|*"])], NOW)
        assert denial is not None
        assert denial.reason == "erased"
        assert (await store.find("u-42"), await export_profile(store, "u-42"), await erase_profile(store, "u-42")) == (
            None,
            None,
            {},
        )
        assert await finish_erasures(store, time.time() + SECOND_SWEEP_SECONDS) == 2

    with_store(redis_url, story)
    with redis.Redis.from_url(redis_url) as client:
        news = b" ".join(said[b"who"] for _, said in client.xrange(ERASURES))
        left = {key: client.get(key) for key in client.scan_iter() if key != ERASURES.encode()}
    assert set(left.values()) == {b"T"}
    assert not any(b"u-42" in key or b"ada" in key for key in (*left, news))
    assert all(identifier_digest(name).encode() in news for name in ("u-42", "a-9", "ada@x.de"))


def test_a_customer_erased_before_anything_was_heard_of_them_stays_so(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        assert await erase_profile(store, "u-1") == {}
        (status,) = await store.ingest([bought("m1", 1.0, user_id="u-1")], NOW, silent)
        assert status.status == "rejected"

    with_store(redis_url, story)


def test_an_id_with_letters_is_nobodys_phone(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        await store.ingest([bought("m1", 1.0, phone="+49 170 1234567")], NOW, silent)
        assert (await store.find("+49 (170) 123-45-67")) is not None
        assert await store.find("order+491701234567") is None
        assert await erase_profile(store, "order+491701234567") == {}
        assert (await store.fetch(CustomerIds(phone="+491701234567"), NOW)).is_known

    with_store(redis_url, story)


def test_a_tablet_of_an_erased_customer_still_serves_the_others(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        for n in (1, 2):
            await store.ingest([told(f"m{n}", n, {}, user_id=f"u-{n}", anonymous_id="tablet")], NOW + 9, silent)
        await erase_profile(store, "u-1")
        assert (await store.fetch(CustomerIds(anonymous_id="tablet"), NOW)).profile.id == "u-2"

    with_store(redis_url, story)
