"""Claims against a model that counts by hand: whatever is reserved, confirmed, given back or left to expire."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from engine.claims.claims import CapCheck, Claim, Claims, Denial, PoolShare
from engine.customers.redis.pipeline import RedisPipeline, connect_store

KEY = "0" * 24
LIMIT, WINDOW, HOLD = 3, 100.0, 40.0
BUDGET, COST = 7.0, 1.4
NAMES = [f"c{n}" for n in range(12)]


class ClaimModel(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        with Redis.from_url(self.url) as client:
            client.flushall()
        self.loop = asyncio.new_event_loop()
        self.pipeline = RedisPipeline(connect_store(self.url, 10))
        self.claims = Claims(self.pipeline)
        self.now = 1000.0
        self.level = 0
        self.counted: dict[str, float] = {}
        self.held: dict[str, float] = {}
        self.gone: set[str] = set()

    @initialize(level=st.integers(0, 4))
    def fill(self, level: int) -> None:
        self.level = level
        self.loop.run_until_complete(self.claims.set_stock("sku", level, self.now))

    def claim_of(self, name: str) -> Claim:
        takes = [
            PoolShare(pool="stock", name="sku", least=1, hold=HOLD),
            PoolShare(pool="budget", name="offer", amount=COST, limit=BUDGET, hold=HOLD),
        ]
        return Claim(id=name, caps=[CapCheck("shown", LIMIT, self.now - WINDOW)], counters=["shown"], shares=takes)

    def live(self) -> set[str]:
        return {name for name, until in self.held.items() if until > self.now}

    def left(self) -> bool:
        used = len(self.gone | self.live())
        return used < self.level and COST * (used + 1) <= BUDGET + 1e-9

    @rule(name=st.sampled_from(NAMES))
    def reserve(self, name: str) -> None:
        ((denial),) = self.loop.run_until_complete(self.claims.claim(KEY, [self.claim_of(name)], self.now))
        shown = [n for n, at in self.counted.items() if at > self.now - WINDOW]
        mine = name in self.gone or name in self.live()
        if len(shown) >= LIMIT and name not in self.counted:
            assert denial == Denial("cap", "shown")
        elif not (mine or self.left()):
            assert denial is not None
            assert denial.reason in ("stock", "budget")
        else:
            assert denial is None
            self.counted.setdefault(name, self.now)
            if not mine:
                self.held[name] = self.now + HOLD
            return
        self.counted.pop(name, None)
        self.held.pop(name, None)

    @rule(name=st.sampled_from(NAMES))
    def confirm(self, name: str) -> None:
        confirmed = self.loop.run_until_complete(self.claims.confirm(self.claim_of(name), self.now))
        assert confirmed == (name in self.gone or name in self.live() or self.left())
        if confirmed:
            self.held.pop(name, None)
            self.gone.add(name)

    @rule(name=st.sampled_from(NAMES))
    def release(self, name: str) -> None:
        self.loop.run_until_complete(self.claims.release(KEY, self.claim_of(name), self.now))
        self.counted.pop(name, None)
        self.held.pop(name, None)

    @rule(seconds=st.floats(1, 60))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        assert len(self.gone | self.live()) <= self.level
        assert COST * len(self.gone | self.live()) <= BUDGET + 1e-9

    def teardown(self) -> None:
        self.loop.run_until_complete(self.pipeline.close())
        self.loop.close()


@pytest.mark.parametrize("seed", [1])
def test_claims_do_as_their_model(redis_url: str, seed: int) -> None:
    ClaimModel.url = redis_url
    run_state_machine_as_test(
        ClaimModel, settings=settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=bool(seed))
    )
