"""A cap, the last unit and a budget hold under 400 concurrent claims of two workers, and give back what they must."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import pytest
import redis

from engine.claims.claims import CapCheck, Claim, Claims, Denial, PoolShare
from engine.customer import CustomerIds
from engine.customers.model.events import Accepted, Event
from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.customers.store import ProfileStore
from engine.decision.windows import suppressed_until, window_start

NOW = 1_790_000_000.0
DAY = 86_400.0
KEY = "0" * 24
T = TypeVar("T")
SHOWN = "exposure|offer:coffee"


def with_claims(url: str, story: Callable[[Claims], Awaitable[T]]) -> T:
    async def run() -> T:
        pipeline = RedisPipeline(connect_store(url, 10))
        try:
            return await story(Claims(pipeline))
        finally:
            await pipeline.close()

    return asyncio.run(run())


def shown(name: str, limit: int = 2, window: float = 7 * DAY, now: float = NOW) -> Claim:
    return Claim(id=name, caps=[CapCheck(SHOWN, limit, now - window)], counters=[SHOWN])


def crowd(url: str, claim: Callable[[int], Claim]) -> list[Denial | None]:
    async def run() -> list[Denial | None]:
        pipelines = [RedisPipeline(connect_store(url, 10)) for _ in range(2)]
        workers = [Claims(pipeline) for pipeline in pipelines]
        answers = await asyncio.gather(*(workers[n % 2].claim(KEY, [claim(n)], NOW) for n in range(400)))
        for pipeline in pipelines:
            await pipeline.close()
        return [denial for (denial,) in answers]

    return asyncio.run(run())


def test_cap_three_grants_three(redis_url: str) -> None:
    answers = crowd(redis_url, lambda n: shown(f"c{n}", limit=3))
    assert answers.count(None) == 3
    assert answers.count(Denial("cap", SHOWN)) == 397


def test_the_last_unit_goes_once_and_the_losers_count_nothing(redis_url: str) -> None:
    take = PoolShare(pool="stock", name="COFFEE-12", least=1, hold=900)
    with_claims(redis_url, lambda claims: claims.set_stock("COFFEE-12", 1, NOW))
    counter = "exposure|*"
    answers = crowd(
        redis_url, lambda n: Claim(id=f"c{n}", caps=[CapCheck(counter, 1000, 0)], counters=[counter], shares=[take])
    )
    assert answers.count(None) == 1
    assert answers.count(Denial("stock", "COFFEE-12")) == 399
    assert len(with_claims(redis_url, lambda claims: claims.read_counts(KEY))[counter]) == 1


def test_a_budget_never_overdraws(redis_url: str) -> None:
    take = PoolShare(pool="budget", name="coffee", amount=1.4, limit=100.0)
    answers = crowd(redis_url, lambda n: Claim(id=f"c{n}", shares=[take]))
    assert answers.count(None) == 71
    assert with_claims(redis_url, lambda claims: claims.read_left(take)) == pytest.approx(0.6)


def test_all_caps_must_hold_and_a_window_rolls_on(redis_url: str) -> None:
    async def story(claims: Claims) -> None:
        week, day = CapCheck(SHOWN, 2, NOW - 7 * DAY), CapCheck("exposure|tag:loyalty", 1, NOW - DAY)
        both = Claim(id="c1", caps=[week, day], counters=[SHOWN, "exposure|tag:loyalty"])
        assert await claims.claim(KEY, [both], NOW) == [None]
        again = Claim(id="c2", caps=[week, day], counters=[SHOWN, "exposure|tag:loyalty"])
        assert await claims.claim(KEY, [again], NOW + 1) == [Denial("cap", "exposure|tag:loyalty")]
        later = Claim(id="c3", caps=[CapCheck(SHOWN, 1, NOW + 1)], counters=[SHOWN])
        assert await claims.claim(KEY, [later], NOW + 7 * DAY) == [None]

    with_claims(redis_url, story)


def test_claims_of_one_request_see_each_other_and_count_once_per_id(redis_url: str) -> None:
    async def story(claims: Claims) -> None:
        first, second = shown("d:hero:coffee", 1), shown("d:menu:coffee", 1)
        assert await claims.claim(KEY, [first, second], NOW) == [None, Denial("cap", SHOWN)]
        assert await claims.claim(KEY, [first], NOW) == [None]
        assert await claims.read_counts(KEY) == {SHOWN: [NOW]}
        await claims.release(KEY, first, NOW)
        assert await claims.read_counts(KEY) == {}

    with_claims(redis_url, story)


def test_a_hold_expires_when_it_is_not_collected(redis_url: str) -> None:
    async def story(claims: Claims) -> None:
        bread = PoolShare(pool="stock", name="BREAD", least=1, hold=900)
        mine, theirs = Claim(id="mine", shares=[bread]), Claim(id="theirs", shares=[bread])
        await claims.set_stock("BREAD", 1, NOW)
        assert await claims.claim(KEY, [mine], NOW) == [None]
        assert await claims.claim(KEY, [theirs], NOW + 899) == [Denial("stock", "BREAD")]
        assert await claims.claim(KEY, [theirs], NOW + 901) == [None]
        assert not await claims.confirm(mine, NOW + 902)
        assert await claims.confirm(theirs, NOW + 902)
        assert await claims.confirm(theirs, NOW + 903)
        assert await claims.read_left(bread) == 0
        await claims.set_stock("BREAD", 5, NOW + DAY)
        assert await claims.read_left(bread) == 5

    with_claims(redis_url, story)


def test_a_claim_refused_by_a_cap_spends_nothing(redis_url: str) -> None:
    async def story(claims: Claims) -> None:
        for hold in (0, 60):
            take = PoolShare(pool="budget", name=f"b{hold}", amount=2, limit=10, hold=hold)
            for n, denial in enumerate([None, Denial("cap", f"cap{hold}")]):
                claim = Claim(id=f"c{n}", caps=[CapCheck(f"cap{hold}", 1, 0)], counters=[f"cap{hold}"], shares=[take])
                assert await claims.claim(KEY, [claim], NOW) == [denial]
            assert await claims.read_left(take) == 8

    with_claims(redis_url, story)


def test_a_refused_claim_does_not_undo_what_it_confirmed_before(redis_url: str) -> None:
    """A prefetched offer may be bought before its exposure arrives, which a cap then refuses: the sale stands."""

    async def story(claims: Claims) -> None:
        bread = PoolShare(pool="stock", name="BREAD", least=1, hold=60)
        await claims.set_stock("BREAD", 2, NOW)
        await claims.count(KEY, Claim(id="earlier", counters=["shown"]), NOW)
        assert await claims.confirm(Claim(id="sold", shares=[bread]), NOW)
        sold = Claim(id="sold", caps=[CapCheck("shown", 1, 0)], counters=["shown"], shares=[bread])
        assert await claims.claim(KEY, [sold], NOW + 1) == [Denial("cap", "shown")]
        assert await claims.read_left(bread) == 1

    with_claims(redis_url, story)


def test_an_unreported_stock_is_empty(redis_url: str) -> None:
    claim = Claim(id="c", shares=[PoolShare(pool="stock", name="?", least=1)])
    assert with_claims(redis_url, lambda claims: claims.claim(KEY, [claim], NOW)) == [Denial("stock", "?")]


def test_what_a_visitor_was_shown_counts_after_login(redis_url: str) -> None:
    async def silent(accepted: list[Accepted]) -> None: ...

    async def run() -> None:
        store = ProfileStore.open(redis_url, timeout=10)
        claims = Claims(store.pipeline)
        for ids in (CustomerIds(anonymous_id="a-9"), CustomerIds(user_id="u-42")):
            found = await store.fetch(ids, NOW)
            await store.bind_customer(found, NOW, silent)
            assert await claims.claim(found.key, [shown(found.key)], NOW) == [None]
        visitor = await store.fetch(CustomerIds(anonymous_id="a-9"), NOW)
        login = await store.fetch(CustomerIds(anonymous_id="a-9", user_id="u-42"), NOW, counts=True)
        assert login.counts == {SHOWN: [NOW, NOW]}
        await store.ingest([Event("alias", "m", user_id="u-42", anonymous_id="a-9")], NOW, silent)
        both = await store.fetch(CustomerIds(user_id="u-42"), NOW, counts=True)
        assert both.counts == {SHOWN: [NOW, NOW]}
        assert await claims.claim(visitor.key, [shown("late")], NOW) == [Denial("cap", SHOWN)]
        await store.close()

    asyncio.run(run())


def test_every_count_and_pool_has_a_life_and_a_bound(redis_url: str) -> None:
    async def story(claims: Claims) -> None:
        for n in range(600):
            await claims.count(KEY, Claim(id=f"c{n}", counters=["exposure|*", f"exposure|offer:{n}"]), NOW + n)
        counts = await claims.read_counts(KEY)
        assert (len(counts), len(counts["exposure|*"])) == (601, 64)
        cap = CapCheck("exposure|offer:0", 1, NOW - 365 * DAY)
        again = Claim(id="again", caps=[cap], counters=["exposure|offer:0"])
        assert await claims.claim(KEY, [again], NOW + 600) == [Denial("cap", "exposure|offer:0")]
        await claims.count(KEY, Claim(id="late", counters=["exposure|offer:600"]), NOW + 500 + 400 * DAY)
        counts = await claims.read_counts(KEY)
        assert sorted(counts) == ["exposure|*", *(f"exposure|offer:{n}" for n in range(501, 601))]
        await claims.claim(KEY, [Claim(id="c", shares=[PoolShare(pool="budget", name="b", limit=5.0, hold=60)])], NOW)

    with_claims(redis_url, story)
    with redis.Redis.from_url(redis_url) as client:
        assert all(client.pttl(key) > 0 for key in client.scan_iter())


def test_calendar_windows_begin_where_the_customer_is() -> None:
    now = datetime(2026, 3, 29, 12, tzinfo=UTC).timestamp()  # Berlin changes to summer time on this Sunday
    begins = {
        1: datetime(2026, 3, 28, 23, tzinfo=UTC),
        7: datetime(2026, 3, 22, 23, tzinfo=UTC),
        30: datetime(2026, 2, 28, 23, tzinfo=UTC),
        365: datetime(2025, 12, 31, 23, tzinfo=UTC),
    }
    for days, begin in begins.items():
        assert window_start(now, days * DAY, "calendar", "Europe/Berlin") == pytest.approx(begin.timestamp(), abs=1e-3)
        assert window_start(now, days * DAY, "calendar", "Europe/Berlin") < begin.timestamp()
    assert window_start(now, 2 * DAY, "rolling") == now - 2 * DAY
    with pytest.raises(ValueError, match="not a calendar window"):
        window_start(now, 2 * DAY, "calendar")


def test_two_refusals_in_thirty_days_suppress_for_sixty() -> None:
    assert suppressed_until([NOW, NOW + 20 * DAY], 2, 30 * DAY, 60 * DAY) == NOW + 80 * DAY
    assert suppressed_until([NOW, NOW + 31 * DAY], 2, 30 * DAY, 60 * DAY) == 0
    assert suppressed_until([NOW], 2, 30 * DAY, 60 * DAY) == 0


def test_several_are_confirmed_together_or_not_at_all(redis_url: str) -> None:
    stock = PoolShare(pool="stock", name="BREAD", least=1, hold=900)
    budget = PoolShare(pool="budget", name="bread", amount=2, limit=2, hold=60)

    async def story(claims: Claims) -> None:
        mine, other = Claim(id="mine", shares=[stock, budget]), Claim(id="other", shares=[budget])
        await claims.set_stock("BREAD", 2, NOW)
        assert await claims.claim(KEY, [mine], NOW) == [None]
        assert await claims.claim(KEY, [other], NOW + 61) == [None]  # the budget's hold was over
        assert not await claims.confirm(mine, NOW + 62)
        assert await claims.read_remaining(stock, NOW + 62) == 1  # still held, and not sold
        assert await claims.read_remaining(stock, NOW + 901) == 2
        await claims.release(KEY, other, NOW + 901)
        for late in (902, 903):  # both are free again, and told twice is told once
            assert await claims.confirm(mine, NOW + late)
            assert (await claims.read_left(stock), await claims.read_left(budget)) == (1, 0)
        assert await claims.claim(KEY, [other], NOW + 904) == [Denial("budget", "bread")]
        assert not await claims.confirm(Claim(id="third", shares=[stock, budget]), NOW + 904)
        assert await claims.read_left(stock) == 1

    with_claims(redis_url, story)
