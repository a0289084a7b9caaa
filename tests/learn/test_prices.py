"""The learner moves the price of a stock that must last, and decision servers have it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from engine import keyspace
from engine.claims.claims import Claim, Claims, PoolShare
from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.learn.learner import Learner
from engine.snapshots.follow import Follower
from engine.snapshots.publish import shadow_prices

HOUR = 3600.0
UNITS = 100


def paced(shop: Any, hours: float = 10) -> None:
    end = datetime.fromtimestamp(shop.t0 + hours * HOUR, UTC).isoformat()
    stock = f"stock: {{sku: BAG, pace: true, hold: 1h}}\nend: {end}\nvalue: 2.0\n"
    (shop.folder / "offers" / "a.yaml").write_text(f"key: a\n{stock}renderings: {{web: {{h: x}}, store: {{h: x}}}}\n")


def in_store(shop: Any, steps: Any) -> None:
    async def run() -> None:
        wire = RedisPipeline(connect_store(shop.settings.redis, 10))
        try:
            await steps(Claims(wire))
        finally:
            await wire.close()

    asyncio.run(run())


def take(shop: Any, at: float, first: int, count: int) -> None:
    """So many showings hold a unit each."""

    async def steps(claims: Claims) -> None:
        for i in range(first, first + count):
            claim = Claim(id=f"d{i}:a", shares=[PoolShare(pool="stock", name="BAG", amount=1.0, least=1.0, hold=HOUR)])
            assert await claims.claim("0" * 24, [claim], shop.t0 + at) == [None]

    in_store(shop, steps)
    shop.send(*shop.shown(f"t{first}", at, "u99"))


def delivered(shop: Any, units: int) -> None:
    async def steps(claims: Claims) -> None:
        await claims.set_stock("BAG", units, shop.t0)

    in_store(shop, steps)


@pytest.fixture
def learner(shop: Any) -> Any:
    paced(shop)
    delivered(shop, UNITS)
    for i in range(20):  # what a showing is worth: half of them are clicked
        shop.send(*shop.shown(f"s{i}", i, f"u{i}"))
        if i % 2:
            shop.send(shop.event("click", i + 1, f"u{i}", f"s{i}"))
    shop.pass_time(900)
    shop.learn()
    made = Learner(shop.settings)
    yield made
    made.close()


def price(shop: Any, learner: Any, at: float) -> float:
    learner.step(shop.plan, shop.t0 + at)
    return float(shadow_prices(shop.client).get("a", 0.0))


def test_a_stock_that_goes_too_fast_gets_a_price_and_one_that_goes_slowly_loses_it(shop: Any, learner: Any) -> None:
    assert price(shop, learner, 1000) == 0
    take(shop, 1000, 0, 30)  # of 100 for ten hours, within minutes
    high = price(shop, learner, 1300)
    assert high == pytest.approx(0.05 * 0.5 * (30 - 100 * 300 / (10 * HOUR - 1000)), rel=0.05)
    take(shop, 1300, 30, 2)
    assert 0 < price(shop, learner, 1300 + HOUR / 2) < high
    assert price(shop, learner, 1300 + 0.9 * HOUR) >= 0


def test_units_that_come_back_take_their_price_with_them(shop: Any, learner: Any) -> None:
    price(shop, learner, 1000)
    take(shop, 1000, 0, 30)
    assert price(shop, learner, 1002) > 0
    assert price(shop, learner, 1000 + HOUR + 2) == 0  # no hold was redeemed


def test_a_follower_has_the_prices_and_they_end_with_the_offer(shop: Any, learner: Any) -> None:
    async def followed() -> Any:
        follower = Follower(shop.settings, lambda: shop.plan)
        await follower.poll()
        await follower._client.aclose()
        return follower.prices

    price(shop, learner, 1000)
    take(shop, 1000, 0, 30)
    high = price(shop, learner, 1002)
    assert asyncio.run(followed()) == {"a": high}
    assert price(shop, learner, 11 * HOUR) == 0
    assert asyncio.run(followed()) == {}


def test_a_restarted_learner_continues_with_its_price(shop: Any, learner: Any) -> None:
    price(shop, learner, 1000)
    take(shop, 1000, 0, 30)
    high = price(shop, learner, 1002)
    assert high > 0
    again = Learner(shop.settings)
    try:
        assert price(shop, again, 1004) == pytest.approx(high, rel=0.01)
    finally:
        again.close()


def test_a_budget_is_counted_in_showings(shop: Any) -> None:
    end = datetime.fromtimestamp(shop.t0 + 10 * HOUR, UTC).isoformat()
    budget = f"budget: {{amount: 200, cost: 2, pace: true, hold: 1h}}\nend: {end}\n"
    (shop.folder / "offers" / "a.yaml").write_text(f"key: a\n{budget}renderings: {{web: {{h: x}}, store: {{h: x}}}}\n")

    async def spend(claims: Claims) -> None:
        for i in range(30):
            claim = Claim(
                id=f"d{i}:a", shares=[PoolShare(pool="budget", name="a", amount=2.0, least=2.0, limit=200.0, hold=HOUR)]
            )
            assert await claims.claim("0" * 24, [claim], shop.t0 + 1000) == [None]

    shop.send(*shop.shown("d1", 0), shop.event("click", 5, decision="d1"))
    shop.learn()
    learner = Learner(shop.settings)
    try:
        assert price(shop, learner, 1000) == 0
        in_store(shop, spend)
        shop.send(*shop.shown("d2", 1000))
        assert price(shop, learner, 1300) == pytest.approx(0.05 * (30 - 100 * 300 / (9.72 * HOUR)), rel=0.05)
    finally:
        learner.close()


def test_a_stock_that_was_never_set_has_no_price(shop: Any) -> None:
    paced(shop)
    learner = Learner(shop.settings)
    try:
        assert price(shop, learner, 1000) == 0
        with redis.Redis.from_url(shop.settings.redis) as client:
            assert not client.exists(keyspace.SHADOW_PRICES)
    finally:
        learner.close()
