"""Snapshots reach the decision servers whole, newest first to last, and a bad one changes nothing."""

import asyncio
import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest

from engine import keyspace
from engine.errors import StoreUnavailable
from engine.snapshots.follow import Follower
from engine.snapshots.header import Header, meaning_of
from engine.snapshots.publish import (
    STORED_VERSIONS,
    close_breaker,
    current_headers,
    current_snapshot,
    open_breaker,
    open_breakers,
    publish_snapshot,
    stored_headers,
    stored_snapshot,
)
from policies import BetaThompson, dump_policy, load_policy

MEANING = "m"


def header(version: int, blob: bytes, at: float = 0.0) -> Header:
    return Header.of(version, at, float(version), MEANING, blob)


def policy(clicks: int, arms: tuple[str, ...] = ("a", "b", "c")) -> Any:
    n = max(clicks, 1)
    return BetaThompson(arms, floor=0.01).update(None, np.zeros(n, int), np.ones(n), np.full(n, 0.5))


def publish(shop: Any, version: int, clicks: int, arms: tuple[str, ...] = ("a", "b", "c")) -> None:
    blob = dump_policy(policy(clicks, arms))
    meaning = meaning_of(shop.plan.policies["hero"])
    publish_snapshot(shop.client, "hero", Header.of(version, float(version), 1.0, meaning, blob), blob)


def follow(shop: Any, steps: Any) -> None:
    async def run() -> None:
        plans = [shop.plan]
        follower = Follower(shop.settings, lambda: plans[-1])
        try:
            await steps(follower, plans)
        finally:
            await follower._client.aclose()

    asyncio.run(run())


def test_only_a_newer_version_becomes_current(shop: Any) -> None:
    first, second = dump_policy(policy(1)), dump_policy(policy(2))
    assert publish_snapshot(shop.client, "hero", header(2, first), first) == 2
    assert publish_snapshot(shop.client, "hero", header(2, second), second) == 2
    assert publish_snapshot(shop.client, "hero", header(1, second), second) == 2
    assert current_snapshot(shop.client, "hero") == (header(2, first), first)
    assert publish_snapshot(shop.client, "hero", header(3, second), second) == 3
    assert current_headers(shop.client) == {"hero": header(3, second)}


def test_twenty_versions_stay_from_the_last_minutes_to_the_first_day(shop: Any) -> None:
    for version in range(1, 501):
        blob = dump_policy(policy(version))
        publish_snapshot(shop.client, "hero", header(version, blob, version * 60.0), blob)
    stored = stored_headers(shop.client, "hero")
    versions = [found.version for found in stored]
    assert len(stored) == STORED_VERSIONS
    assert versions[:3] == [500, 499, 498]
    assert versions[-1] == 1
    ages = [500 - version for version in versions[1:]]
    assert all(older <= 4 * younger for younger, older in itertools.pairwise(ages))
    oldest = stored_snapshot(shop.client, "hero", stored[-1])
    assert load_policy(oldest.blob).statistics["count"][0] == 1


def test_a_follower_fetches_what_changed_and_swaps_it_in(shop: Any) -> None:
    async def steps(follower: Follower, _: Any) -> None:
        assert follower.age is None
        await follower.poll()
        assert follower.age is not None
        publish(shop, 1, 5)
        assert await follower.poll()
        before = follower.snapshots
        assert before["hero"].version == 1
        assert before["hero"].policy.statistics["count"][0] == 5
        assert not await follower.poll()
        assert follower.snapshots is before
        publish(shop, 2, 6)
        assert await follower.poll()
        assert follower.snapshots["hero"].version == 2
        assert before["hero"].version == 1

    follow(shop, steps)


def test_a_follower_fits_a_snapshot_to_the_arms_and_floor_of_its_plan(shop: Any) -> None:
    async def steps(follower: Follower, plans: list[Any]) -> None:
        publish(shop, 1, 5, arms=("b", "a"))
        await follower.poll()
        first = follower.snapshots["hero"].policy
        assert first.arms == ("a", "b", "c")
        assert first.statistics["count"].tolist() == [0, 5, 0]
        shop.selection("hero", "{kind: beta_thompson, floor: 0.2}", "{metric: click, window: 1h}", arms="d, b")
        plans.append(shop.plan)
        assert await follower.poll()
        second = follower.snapshots["hero"].policy
        assert second.arms == ("d", "b")
        assert second.statistics["count"].tolist() == [0, 5]
        assert second.probabilities().min() >= 0.2

    follow(shop, steps)


def test_a_new_plan_is_swapped_together_with_its_fitted_policies(shop: Any) -> None:
    async def steps(follower: Follower, plans: list[Any]) -> None:
        publish(shop, 1, 5)
        await follower.poll()
        shop.selection("hero", "{kind: beta_thompson}", "{metric: click, window: 1h}", arms="d, b")
        await asyncio.gather(follower.adopt(shop.plan, plans.append), watched(follower, plans))
        assert len(plans) == 2
        assert not await follower.poll()

    async def watched(follower: Follower, plans: list[Any]) -> None:
        deadline = time.monotonic() + 30
        while len(plans) < 2 and time.monotonic() < deadline:
            assert follower.snapshots["hero"].fits is plans[-1].policies["hero"].arms
            await asyncio.sleep(0)
        assert follower.snapshots["hero"].fits is plans[-1].policies["hero"].arms

    follow(shop, steps)


@pytest.mark.parametrize("changed", ["{kind: gaussian_thompson}", "{kind: linear_thompson, features: [hour]}"])
def test_a_snapshot_of_another_meaning_is_not_used(shop: Any, changed: str) -> None:
    async def steps(follower: Follower, plans: list[Any]) -> None:
        publish(shop, 1, 5)
        await follower.poll()
        shop.selection("hero", changed, "{metric: click, window: 1h}")
        plans.append(shop.plan)
        await follower.poll()
        assert follower.snapshots == {}

    follow(shop, steps)


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"cut"])
def test_a_damaged_snapshot_is_counted_and_the_one_before_stays(shop: Any, damage: bytes) -> None:
    async def steps(follower: Follower, _: Any) -> None:
        publish(shop, 1, 5)
        await follower.poll()
        publish(shop, 2, 6)
        key = f"{keyspace.SNAPSHOT_HEADERS}:hero"
        value = shop.client.get(key)
        shop.client.set(key, value[:-3] if damage == b"cut" else damage)
        await follower.poll()
        await follower.poll()
        assert follower.snapshots["hero"].version == 1
        assert follower.rejected == 1
        publish(shop, 3, 7)
        await follower.poll()
        assert follower.snapshots["hero"].version == 3

    follow(shop, steps)


def test_a_follower_reads_open_breakers_until_they_close(shop: Any) -> None:
    async def steps(follower: Follower, _: Any) -> None:
        open_breaker(shop.client, "hero", "csat fell")
        await follower.poll()
        assert follower.tripped == {"hero": "csat fell"} == open_breakers(shop.client)
        assert close_breaker(shop.client, "hero")
        assert not close_breaker(shop.client, "hero")
        await follower.poll()
        assert follower.tripped == {}

    follow(shop, steps)


def test_a_follower_without_a_store_serves_its_last_snapshots(shop: Any) -> None:
    async def steps(follower: Follower, _: Any) -> None:
        publish(shop, 1, 5)
        await follower.poll()
        lost = Follower(type(shop.settings)(redis="redis://127.0.0.1:1/0"), lambda: shop.plan)
        lost.snapshots = follower.snapshots
        with pytest.raises(StoreUnavailable):
            await lost.poll()
        assert lost.snapshots["hero"].version == 1
        assert lost.age is None

    follow(shop, steps)


def test_a_reward_reaches_the_follower_of_a_running_learner(shop: Any) -> None:
    from engine.learn import learn  # noqa: PLC0415 # only this test runs one

    stop, plan = threading.Event(), shop.plan
    thread = threading.Thread(target=learn, args=(shop.settings, lambda: plan, stop), kwargs={"clock": lambda: 0.0})
    thread.start()

    async def steps(follower: Follower, _: Any) -> None:
        running = asyncio.create_task(follower.run())
        await asyncio.to_thread(shop.send, *shop.shown("d1", 0), shop.event("click", 5, decision="d1"))
        deadline = time.monotonic() + 20
        while "hero" not in follower.snapshots:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert follower.snapshots["hero"].policy.statistics["total"].tolist() == [1, 0, 0]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    try:
        follow(shop, steps)
    finally:
        stop.set()
        thread.join()
