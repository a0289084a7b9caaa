"""Learner and follower where the keys of streams and snapshots are on different nodes."""

import asyncio
from typing import Any

import pytest
import redis

from engine.learn.rollback import rollback
from engine.snapshots.follow import Follower


@pytest.fixture
def redis_url(cluster_url: str) -> str:
    """Three nodes that share the slots, in the place of the one store."""
    with redis.RedisCluster.from_url(cluster_url.replace("redis+cluster", "redis")) as client:
        client.flushall(target_nodes="primaries")
    return cluster_url


def test_learning_following_and_rolling_back_work_across_nodes(shop: Any) -> None:
    async def followed() -> Any:
        follower = Follower(shop.settings, lambda: plan)
        await follower.poll()
        await follower._client.aclose()
        return follower.snapshots

    plan = shop.plan
    for i in range(10):
        shop.send(*shop.shown(f"d{i}", i, f"u{i}"), shop.event("click", i + 1, f"u{i}", f"d{i}"))
        shop.send(*shop.shown(f"t{i}", i, f"u{i}", key="till"))
        shop.send(shop.event("purchase", i + 1, f"u{i}", f"t{i}", revenue=2.0))
    shop.learn(plan)
    first = asyncio.run(followed())
    assert first["hero"].policy.statistics["total"].tolist() == [10, 0, 0]
    assert first["till"].policy.statistics["total"].tolist() == [20, 0, 0]
    assert len(shop.rewards()) == 20
    shop.send(*shop.shown("d10", 20), shop.event("click", 21, decision="d10"))
    shop.learn(plan)
    assert rollback(shop.settings, "hero", first["hero"].version) == shop.version()
    assert asyncio.run(followed())["hero"].policy.statistics["total"].tolist() == [10, 0, 0]
