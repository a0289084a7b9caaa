"""Coupon codes against a model: decisions of few customers, who log in, reserve, show and undo in any order."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from engine import keyspace
from engine.claims.claims import Claim, Claims, Denial, PoolShare
from engine.claims.coupons import CouponCounts, count_codes, import_codes, redeem_code, return_code
from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.customers.redis.stored_entry import Pointer, encode_entry

OFFER = "welcome"
NOW = 1000.0
KEYS = [str(n) * 24 for n in range(3)]
CODES = [f"CODE-{n}" for n in range(2)]
SHARE = PoolShare(pool="coupon", name=OFFER, hold=600.0)


class CouponModel(RuleBasedStateMachine):
    """`waiting` are claims reserved and not answered yet; `shown` are those of each code, the last one last."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        with Redis.from_url(self.url) as client:
            client.flushall()
        self.loop = asyncio.new_event_loop()
        self.pipeline = RedisPipeline(connect_store(self.url, 10))
        self.claims = Claims(self.pipeline)
        self.made = 0
        self.waiting: dict[str, str] = {}
        self.shown: dict[str, list[str]] = {}
        self.seen: dict[str, str] = {}
        self.redeemed: set[str] = set()
        self.merged: dict[str, str] = {}
        self.loop.run_until_complete(import_codes(self.pipeline, OFFER, CODES, NOW))

    def person(self, key: str) -> str:
        return self.merged.get(key, key)

    @rule(visitor=st.sampled_from(KEYS), user=st.sampled_from(KEYS))
    def log_in(self, visitor: str, user: str) -> None:
        if visitor != user and visitor not in (*self.merged, *self.merged.values()) and user not in self.merged:
            self.merged[visitor] = user
            with Redis.from_url(self.url) as client:
                client.set(keyspace.profile(visitor), encode_entry(Pointer(user)))

    @rule(key=st.sampled_from(KEYS))
    def reserve(self, key: str) -> None:
        key = self.person(key)
        name, self.made = f"d{self.made}:{OFFER}", self.made + 1
        ((denial),) = self.loop.run_until_complete(
            self.claims.claim(key, [Claim(id=name, shares=[SHARE])], NOW, [*self.merged]),
        )
        has_one = key in {self.person(who) for code, who in self.seen.items() if code not in self.redeemed}
        if denial is None:
            self.waiting[name] = key
        else:
            assert not has_one
            assert self.counts().free == 0

    @precondition(lambda self: self.waiting)
    @rule(chosen=st.integers(0, 99))
    def show(self, chosen: int) -> None:
        name = sorted(self.waiting)[chosen % len(self.waiting)]
        key = self.waiting.pop(name)
        (code,) = self.loop.run_until_complete(self.claims.show_codes({OFFER: name}, NOW)).values()
        first = self.seen.setdefault(code, key)
        assert self.person(first) == self.person(key), "one code was shown to two customers"
        if code not in self.redeemed:
            self.shown.setdefault(code, []).append(name)

    @precondition(lambda self: self.waiting)
    @rule(chosen=st.integers(0, 99))
    def undo(self, chosen: int) -> None:
        name = sorted(self.waiting)[chosen % len(self.waiting)]
        key = self.waiting.pop(name)
        claim = Claim(id=name, shares=[SHARE])
        self.loop.run_until_complete(self.claims.release(key, claim, NOW, is_unseen=True))

    @rule(code=st.sampled_from(CODES), is_rejected=st.booleans())
    def redeem(self, code: str, is_rejected: bool) -> None:  # noqa: FBT001 (Hypothesis draws it)
        claim = self.loop.run_until_complete(redeem_code(self.pipeline, OFFER, code, f"m-{self.made}", NOW))
        assert claim == ("" if code in self.redeemed else self.shown.get(code, [""])[-1])
        if claim and is_rejected:
            self.loop.run_until_complete(return_code(self.pipeline, OFFER, code, f"m-{self.made}", NOW))
        elif claim:
            self.redeemed.add(code)
        self.made += 1

    @invariant()
    def what_nobody_saw_or_waits_for_is_free(self) -> None:
        found = self.counts()
        assert found.redeemed == len(self.redeemed)
        seen = len(self.seen)
        if not self.merged:  # else one that waited over a login may stay with the customer, unseen
            assert len(CODES) - found.free <= seen + len(set(self.waiting.values()))
            assert self.waiting or len(CODES) - found.free == seen

    def counts(self) -> CouponCounts:
        return self.loop.run_until_complete(count_codes(self.pipeline, OFFER, NOW))

    def teardown(self) -> None:
        self.loop.run_until_complete(self.pipeline.close())
        self.loop.close()


@pytest.mark.parametrize("seed", [1])
def test_coupons_do_as_their_model(redis_url: str, seed: int) -> None:
    CouponModel.url = redis_url
    run_state_machine_as_test(
        CouponModel, settings=settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=bool(seed))
    )


def test_a_code_that_moved_with_a_login_is_not_freed_by_a_decision_of_the_visitor(redis_url: str) -> None:
    visitor, user, other = KEYS

    def claim(name: str) -> Claim:
        return Claim(id=f"{name}:{OFFER}", shares=[SHARE])

    async def story() -> None:
        pipeline = RedisPipeline(connect_store(redis_url, 10))
        claims = Claims(pipeline)
        await import_codes(pipeline, OFFER, CODES[:1], NOW)
        assert await claims.claim(visitor, [claim("before")], NOW) == [None]
        await pipeline.send("SET", keyspace.profile(visitor), encode_entry(Pointer(user)))
        assert await claims.claim(user, [claim("after")], NOW, [visitor]) == [None]
        await claims.release(user, claim("after"), NOW, is_unseen=True)
        await claims.release(visitor, claim("before"), NOW, is_unseen=True)
        assert await claims.claim(other, [claim("theirs")], NOW) == [Denial("coupon", OFFER)]
        assert await claims.claim(user, [claim("again")], NOW) == [None]
        await pipeline.close()

    asyncio.run(story())
