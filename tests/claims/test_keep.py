import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from engine.catalog import Plan, load_plan
from engine.claims.sticky_writes import write_sticky
from engine.customer import CustomerIds, Profile
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore
from engine.decision.decision import DecideRequest, Decision, decide
from engine.erasure.profiles import erase_profile

NOW = 1_790_000_000.0
VISITOR = CustomerIds(anonymous_id="a-1")
KNOWN = CustomerIds(user_id="u-1")
BOTH = CustomerIds(user_id="u-1", anonymous_id="a-1")
LIVE = {"banner"}


async def ignore(_: list[Accepted]) -> None:
    pass


def with_store(url: str, story: Callable[[ProfileStore], Awaitable[None]]) -> None:
    async def run() -> None:
        store = ProfileStore.open(url, timeout=10)
        try:
            await story(store)
        finally:
            await store.close()

    asyncio.run(run())


def shop(tmp_path: Path, weights: tuple[float, float], more: str = "") -> Plan:
    (tmp_path / "channels.yaml").write_text("channels: [{key: web}]\n")
    (tmp_path / "metrics.yaml").write_text("metrics: [{key: click, event: click}]\n")
    (tmp_path / "banner.yaml").write_text(
        f"key: banner\nsticky: true\n{more}\n"
        f"variants: [{{key: a, weight: {weights[0]}}}, {{key: b, weight: {weights[1]}}}]\n"
    )
    return load_plan(tmp_path)


async def served(store: ProfileStore, plan: Plan, ids: CustomerIds, *, expose: bool = True) -> Decision:
    """What a worker does with a decision, but for the log."""
    resolved = await store.fetch(ids, NOW)
    request = DecideRequest(customer=ids, channel="web", experiments=["banner"], expose=expose)
    decision = decide(plan, {}, resolved.profile, request, NOW)
    if expose and not resolved.is_settled:
        await store.bind_customer(resolved, NOW, ignore)
    await write_sticky(store, resolved, decision.sticky_entries, plan.experiments)
    return decision


def answered(decision: Decision) -> tuple[str | None, str]:
    answer = decision.answer.experiments["banner"]
    return answer.variant, answer.reason


def test_a_variant_is_kept_when_the_weights_change(redis_url: str, tmp_path: Path) -> None:
    all_a, all_b = shop(tmp_path, (1, 0)), shop(tmp_path, (0, 1))

    async def story(store: ProfileStore) -> None:
        assert answered(await served(store, all_a, VISITOR)) == ("a", "assigned")
        assert answered(await served(store, all_b, VISITOR)) == ("a", "sticky")
        assert answered(await served(store, all_b, KNOWN)) == ("b", "assigned")

    with_store(redis_url, story)


def test_nothing_is_written_when_nothing_is_new(redis_url: str, tmp_path: Path) -> None:
    plan = shop(tmp_path, (1, 0))

    async def story(store: ProfileStore) -> None:
        await served(store, plan, VISITOR)
        before = (await store.fetch(VISITOR, NOW)).profile
        again = await served(store, plan, VISITOR)
        assert again.sticky_entries == {}
        assert (await store.fetch(VISITOR, NOW)).profile == before

    with_store(redis_url, story)


def test_a_login_keeps_the_known_customers_variant(redis_url: str, tmp_path: Path) -> None:
    all_a, all_b = shop(tmp_path, (1, 0)), shop(tmp_path, (0, 1))

    async def story(store: ProfileStore) -> None:
        await served(store, all_a, VISITOR)
        await served(store, all_b, KNOWN)
        identify = Event("identify", "m-1", user_id="u-1", anonymous_id="a-1", timestamp=NOW)
        await store.ingest([identify], NOW, ignore)
        decision = await served(store, all_a, BOTH)
        assert answered(decision) == ("b", "sticky")
        assert decision.assigned["banner"].crossover
        assert answered(await served(store, all_a, VISITOR)) == ("b", "sticky")

    with_store(redis_url, story)


def test_a_login_takes_the_visitors_variant_along(redis_url: str, tmp_path: Path) -> None:
    all_a, all_b = shop(tmp_path, (1, 0)), shop(tmp_path, (0, 1))

    async def story(store: ProfileStore) -> None:
        await served(store, all_a, VISITOR)
        await store.bind_customer(await store.fetch(KNOWN, NOW), NOW, ignore)
        assert answered(await served(store, all_b, BOTH)) == ("a", "sticky")
        assert answered(await served(store, all_b, KNOWN)) == ("a", "sticky")

    with_store(redis_url, story)


def test_a_device_hands_its_variant_to_the_fallback_and_back(redis_url: str, tmp_path: Path) -> None:
    more = "unit: device\nfallback_unit: customer"
    all_a, all_b = shop(tmp_path, (1, 0), more), shop(tmp_path, (0, 1), more)
    there = CustomerIds(user_id="u-1", device_id="d-1")

    async def story(store: ProfileStore) -> None:
        assert answered(await served(store, all_a, KNOWN)) == ("a", "assigned")
        decision = await served(store, all_b, there)
        assert answered(decision) == ("a", "sticky")
        assert decision.sticky_entries == {"banner__0@d-1": "a"}

    with_store(redis_url, story)


def test_what_others_kept_meanwhile_stays_and_what_they_changed_is_not_lost(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        await store.bind_customer(await store.fetch(VISITOR, NOW), NOW, ignore)
        early = await store.fetch(VISITOR, NOW)
        purchase = Event("track", "m-1", event="purchase", anonymous_id="a-1", timestamp=NOW, channel="web")
        await store.ingest([purchase], NOW, ignore)
        await write_sticky(store, await store.fetch(VISITOR, NOW), {"banner__0": "first"}, LIVE)
        await write_sticky(store, early, {"banner__0": "second", "banner__1": "x"}, LIVE)
        profile = (await store.fetch(VISITOR, NOW)).profile
        assert profile.sticky == {"banner__0": "first", "banner__1": "x"}
        assert profile.order_count == 1

    with_store(redis_url, story)


def test_what_is_held_for_experiments_that_are_gone_is_let_go(redis_url: str) -> None:
    async def story(store: ProfileStore) -> None:
        await store.bind_customer(await store.fetch(VISITOR, NOW), NOW, ignore)
        await write_sticky(store, await store.fetch(VISITOR, NOW), {"gone__0": "a", "gone__1@d__1": "a"}, {"gone"})
        await write_sticky(store, await store.fetch(VISITOR, NOW), {"banner__0": "a"}, LIVE)
        assert (await store.fetch(VISITOR, NOW)).profile.sticky == {"banner__0": "a"}

    with_store(redis_url, story)


@pytest.mark.parametrize("ids", [VISITOR, BOTH])
def test_a_prefetch_makes_nobody_known(redis_url: str, tmp_path: Path, ids: CustomerIds) -> None:
    plan = shop(tmp_path, (1, 0))

    async def story(store: ProfileStore) -> None:
        await served(store, plan, ids, expose=False)
        assert not (await store.fetch(ids, NOW)).is_known

    with_store(redis_url, story)


def test_the_erased_are_not_written(redis_url: str, tmp_path: Path) -> None:
    plan = shop(tmp_path, (1, 0))

    async def story(store: ProfileStore) -> None:
        await served(store, plan, KNOWN)
        await erase_profile(store, "u-1")
        await served(store, plan, KNOWN)
        assert await store.find("u-1") is None

    with_store(redis_url, story)


def test_a_profile_without_anything_sticky_is_as_small_as_before() -> None:
    assert "b" not in msgspec.msgpack.decode(msgspec.msgpack.encode(Profile("x", "x")))
