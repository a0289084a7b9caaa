"""Requests of one tick are decided together, and none of them notices: neither in its answer nor by a bad neighbour."""

import asyncio
import dataclasses
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from engine import keyspace
from engine.catalog import Plan, load_plan
from engine.claims.claims import PoolShare, pool_key
from engine.claims.grant_offers import is_unlimited, pending_of
from engine.claims.requirements import ShowingContext, required_claim
from engine.customer import CustomerIds, Profile
from engine.customers.redis.keys import key_hasher
from engine.customers.redis.stored_entry import encode_entry
from engine.decision.decision import Answer, DecideRequest, Decision
from engine.decision.offers import Choice
from engine.errors import BadInput
from engine.journal.records import DecisionRecord, decode
from engine.journal.spool import spool
from engine.journal.traces import decode_trace
from engine.service import decision_batches
from engine.service.access.admission import MOST
from engine.service.decision_batches import IN_FLIGHT, MOST_REQUESTS, Arrival, DecisionBatches
from engine.service.decision_flow import DecisionFlow
from engine.service.decision_task import DecisionTask, FailedTask, Prepared, PreparedTask, new_task
from engine.service.worker import Worker
from engine.settings import Settings

NOW = 1_790_000_000.0
HASH = key_hasher(b"counterpoint")
USUAL = {"channel": "web", "placements": ["home_hero"], "experiments": "*", "context": {"page": "home"}}


def request(ids: dict[str, str], **more: Any) -> DecideRequest:
    return msgspec.convert(USUAL | {"customer": ids} | more, DecideRequest)


def plain(name: str) -> DecideRequest:
    """A request that needs nothing written before its answer, if the customer is stored."""
    return request({"user_id": name}, placements=[], experiments=["dark_mode"])


MIXED = [
    *(request({"user_id": f"known-{n}"}) for n in range(12)),
    *(request({"user_id": f"new-{n}"}) for n in range(4)),
    *(request({"user_id": f"known-{20 + n}", "anonymous_id": f"unbound-{n}"}) for n in range(3)),
    *(request({"anonymous_id": f"pointing-{n}"}) for n in range(3)),
    *(request({"user_id": f"known-{30 + n}"}, expose=False) for n in range(3)),
    request({"user_id": "known-40"}, placements=[], experiments=[]),
    request({}, context={"store": "S1"}),
    request({"user_id": "known-41"}, channel="nowhere"),
    request({"user_id": "known-42"}, placements=["nowhere"]),
    request({"user_id": "garbage"}),
    request({"user_id": "undefined"}),
]


def fill(client: redis.Redis) -> None:
    """Customers that are settled, three that an identifier points to, and one that cannot be read."""
    client.flushdb()
    for n in range(200):
        name = f"known-{n}"
        one = Profile(name, name, 3, NOW, NOW, ids={"user_id": [name]})
        client.set(keyspace.profile(HASH("user_id", name)), encode_entry(one))
    for n in range(3):
        target = HASH("user_id", f"known-{50 + n}")
        client.set(keyspace.profile(HASH("anonymous_id", f"pointing-{n}")), b">" + target.encode())
    client.set(keyspace.profile(HASH("user_id", "garbage")), b"Pnot a profile")


class Asked:
    """A worker whose decisions are asked for as the endpoint does."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.flow = DecisionFlow(worker)
        self.batches = DecisionBatches(self.flow)
        self.order: list[int] = []

    def add(self, make: Callable[[], DecisionTask], number: int = 0) -> "asyncio.Future[Prepared]":
        outcome: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()

        def deliver(prepared: Prepared) -> None:
            self.order.append(number)
            outcome.set_result(prepared)  # raises if a request is answered twice

        self.batches.add(Arrival(make, deliver, self.flow.new_deadline()))
        return outcome

    async def together(self, requests: Sequence[DecideRequest]) -> list[Prepared]:
        made = [lambda n=n, one=one: new_task(one, NOW, f"{n:032x}") for n, one in enumerate(requests)]
        return list(await asyncio.gather(*(self.add(make, n) for n, make in enumerate(made))))

    async def one_by_one(self, requests: Sequence[DecideRequest]) -> list[Prepared]:
        found: list[Prepared] = []
        for n, one in enumerate(requests):
            try:
                found += await self.flow.answer([new_task(one, NOW, f"{n:032x}")])
            except BadInput as error:
                found.append(FailedTask(error))
        return found

    def records(self) -> list[bytes]:
        frames, _ = spool.read_frames(self.worker.spool.path, spool.START, 16 << 20)
        return sorted(frame.payload for frame in frames)


def run(use: Callable[[Asked], Awaitable[Any]], place: Path, shop: Path, url: str, timeout: float = 10.0) -> Any:
    async def with_worker() -> Any:
        worker = Worker(Settings(data=place, experiments=shop, redis=url, store_timeout=timeout))
        try:
            return await use(Asked(worker))
        finally:
            await asyncio.gather(worker.store.close(), worker.event_store.close())

    return asyncio.run(with_worker())


def shown(outcome: Prepared) -> Any:
    if isinstance(outcome, FailedTask):
        return type(outcome.error), str(outcome.error)
    return outcome.answer.answer


def degraded(outcome: Prepared) -> bool:
    assert isinstance(outcome, PreparedTask)
    return msgspec.json.decode(outcome.answer.answer)["degraded"] is True


def test_a_batch_answers_and_records_what_each_request_would_alone(tmp_path: Path, shop: Path, redis_url: str) -> None:
    async def together(asked: Asked) -> Any:
        return await asked.together(MIXED), asked.records()

    async def one_by_one(asked: Asked) -> Any:
        return await asked.one_by_one(MIXED), asked.records()

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
        alone, alone_records = run(one_by_one, tmp_path / "alone", shop, redis_url)
        stored = {key: client.get(key) for key in client.scan_iter("*profile*")}
        fill(client)
        batch, batch_records = run(together, tmp_path / "batch", shop, redis_url)
        assert {key: client.get(key) for key in client.scan_iter("*profile*")} == stored
    assert [shown(one) for one in batch] == [shown(one) for one in alone]
    assert batch_records == alone_records
    kinds = [type(one).__name__ for one in batch]
    assert kinds.count("FailedTask") == 3
    assert degraded(batch[len(MIXED) - 2])


def test_a_batch_of_settled_customers_is_one_round_trip(
    tmp_path: Path, shop: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_batches, "HOLD_SECONDS", 60.0)  # a slow machine cuts no batch in two
    requests = [plain(f"known-{n}") for n in range(64)]

    async def ask(asked: Asked) -> list[Prepared]:
        return await asked.together(requests)

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
        client.config_resetstat()
        outcomes = run(ask, tmp_path, shop, redis_url)
        commands = {name: of["calls"] for name, of in client.info("commandstats").items() if "client" not in name}
    assert not any(degraded(one) for one in outcomes)
    assert commands["cmdstat_mget"] == 1
    assert not [name for name in commands if name.removeprefix("cmdstat_") in ("get", "set", "evalsha")]


def test_more_than_a_batch_holds_are_all_answered_once(tmp_path: Path, shop: Path, redis_url: str) -> None:
    many = 3 * MOST_REQUESTS + 7
    requests = [plain(f"known-{n % 200}") for n in range(many)]
    turns = 0

    async def ask(asked: Asked) -> list[Prepared]:
        nonlocal turns
        waiting = asyncio.ensure_future(asked.together(requests))
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)
        return await waiting

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
    outcomes = run(ask, tmp_path, shop, redis_url)
    assert [msgspec.json.decode(shown(one))["decision_id"][:32] for one in outcomes] == [
        f"{n:032x}" for n in range(many)
    ]
    assert turns > 2 * many // MOST_REQUESTS


def test_a_neighbour_that_fails_fails_alone(tmp_path: Path, shop: Path, redis_url: str) -> None:
    def refuse() -> DecisionTask:
        raise BadInput("customer: this one is refused; send another")

    def explode(_: Prepared) -> None:
        raise ConnectionError("the client is gone")

    async def ask(asked: Asked) -> list[Prepared]:
        good = asked.together([request({"user_id": f"known-{n}"}) for n in range(8)])
        waiting = asyncio.ensure_future(good)
        await asyncio.sleep(0)
        refused = asked.add(refuse)
        asked.batches.add(Arrival(lambda: new_task(MIXED[0], NOW, "f" * 32), explode, asked.flow.new_deadline()))
        unreadable = asked.add(lambda: new_task(request({"user_id": "garbage"}), NOW, "e" * 32))
        return [*await waiting, await refused, await unreadable]

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
    *good, refused, unreadable = run(ask, tmp_path, shop, redis_url)
    assert not any(degraded(one) for one in good)
    assert shown(refused) == (BadInput, "customer: this one is refused; send another")
    assert degraded(unreadable)


def test_a_neighbour_whose_writes_wait_holds_no_other(tmp_path: Path, shop: Path, redis_url: str) -> None:
    requests = [plain(name) for name in ("brand-new", "known-1", "known-2")]

    async def ask(asked: Asked) -> tuple[list[Prepared], list[int]]:
        outcomes = await asked.together(requests)
        return outcomes, asked.order

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
        client.execute_command("CLIENT", "PAUSE", 30_000, "WRITE")
        try:
            (new, *known), order = run(ask, tmp_path, shop, redis_url, timeout=1.0)
        finally:
            client.execute_command("CLIENT", "UNPAUSE")
    assert degraded(new)
    assert not any(degraded(one) for one in known)
    assert order == [1, 2, 0]


@pytest.mark.parametrize("store", ["refuses", "hangs"])
def test_without_a_store_each_is_degraded_and_recorded(tmp_path: Path, shop: Path, store: str) -> None:
    many = 8 * (IN_FLIGHT + 2)
    requests = [request({"user_id": f"known-{n}"}) for n in range(many)]

    async def ask(asked: Asked) -> tuple[list[Prepared], list[bytes]]:
        waves = []
        for start in range(0, many, 8):  # later ones wait for a batch, and their budgets end there
            waves.append(asyncio.ensure_future(asked.together(requests[start : start + 8])))
            await asyncio.sleep(0.01)
        outcomes = [one for wave in waves for one in await wave]
        await asked.batches.drain()
        return outcomes, asked.records()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if store == "refuses":
            silent.close()
        outcomes, records = run(ask, tmp_path, shop, f"redis://127.0.0.1:{port}/0", timeout=0.2)
    assert all(degraded(one) for one in outcomes)
    decoded = [decode(one) for one in records]
    assert len([one for one in decoded if isinstance(one, DecisionRecord)]) == many


def test_waiting_for_a_store_that_hangs_is_no_overload(
    tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_batches, "HOLD_SECONDS", 60.0)  # a slow machine cuts no batch in two
    with socket.create_server(("127.0.0.1", 0)) as silent:

        async def ask(asked: Asked) -> list[Prepared]:
            waves = []
            while len(waves) < 5:
                while asked.batches.is_full:  # noqa: ASYNC110 (until the store is found to be slow)
                    await asyncio.sleep(0.01)
                waves.append(asyncio.ensure_future(asked.together([plain("known-1")] * (MOST // 4))))
                for _ in range(10):
                    await asyncio.sleep(0)
            assert asked.order == []
            silent.close()
            outcomes = [one for wave in waves for one in await wave]
            busy = asyncio.ensure_future(asked.together([plain("known-1")] * MOST))
            await asyncio.sleep(0)
            assert asked.batches.is_full  # the CPU has not come to any of them yet
            return [*outcomes, *await busy]

        port = silent.getsockname()[1]
        outcomes = run(ask, tmp_path, shop, f"redis://127.0.0.1:{port}/0", timeout=30.0)
    assert len(outcomes) == MOST // 4 * 5 + MOST
    assert all(degraded(one) for one in outcomes)


def test_a_choice_called_unlimited_needs_no_claim_and_no_later_event(shop: Path) -> None:
    plan = load_plan(shop)
    unlimited = limited = 0
    for key, offer in plan.offers.items():
        for channel in plan.channels:
            for moment in (None, *{moment.key for moments in plan.moments.values() for moment in moments}):
                choice = Choice(offer=offer, reason="policy", propensity=1.0, moment=moment)
                if not is_unlimited(choice, channel):
                    limited += 1
                    continue
                unlimited += 1
                showing = ShowingContext(channel, "UTC", time.time(), {})
                answer = Answer(
                    decision_id="d", customer="c", plan="p", degraded=False, ttl=1, experiments={}, offers={}, resume={}
                )
                decision = Decision(answer=answer, device=None, channel=channel, assigned={}, choices={"place": choice})
                assert all(required_claim(plan, "d", place, choice, showing) is None for _, place in plan.selections), (
                    key
                )
                assert pending_of(decision, "key", ()) is None, key
    assert unlimited
    assert limited


def test_a_customer_without_identifiers_is_refused_alone(tmp_path: Path, shop: Path, redis_url: str) -> None:
    async def ask(asked: Asked) -> list[Prepared]:
        return await asked.together([request({}), request({"user_id": "known-1"})])

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
    nobody, somebody = run(ask, tmp_path, shop, redis_url)
    assert CustomerIds() == request({}).customer
    assert isinstance(nobody, FailedTask)
    assert "customer: no identifier" in str(nobody.error)
    assert not degraded(somebody)


def test_a_decision_repeats_from_its_trace_if_the_plan_changes_while_it_waits(
    tmp_path: Path, shop: Path, redis_url: str
) -> None:
    customer = Profile("known-0", "known-0", 3, NOW, NOW, ids={"user_id": ["known-0"]})

    asks = request({"user_id": "known-0", "anonymous_id": "unbound"})

    async def ask(asked: Asked) -> tuple[Prepared, Plan]:
        plan = asked.worker.plan
        rules = msgspec.structs.replace(plan.rules, watched_events=frozenset())
        outcome: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        make = lambda: new_task(asks, NOW, "a" * 32)  # noqa: E731 (as the endpoint's)
        arrival = Arrival(make, outcome.set_result, asked.flow.new_deadline())
        with redis.Redis.from_url(redis_url) as client:
            recent = dict.fromkeys(plan.rules.watched_events, NOW - 5)
            watched = msgspec.structs.replace(customer, recent=recent)
            client.set(keyspace.profile(HASH("user_id", "known-0")), encode_entry(watched))
            client.execute_command("CLIENT", "PAUSE", 30_000, "WRITE")
            asked.batches.add(arrival)
            while arrival.is_open:  # noqa: ASYNC110 (then it is decided, and its writes wait)
                await asyncio.sleep(0.01)
            assert not outcome.done()
            asked.worker._swap_plan(dataclasses.replace(plan, version="other", rules=rules))
            client.execute_command("CLIENT", "UNPAUSE")
        return await outcome, plan

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
    outcome, plan = run(ask, tmp_path, shop, redis_url)
    assert isinstance(outcome, PreparedTask)
    assert outcome.decision.answer.plan == plan.version
    traced = decode_trace(outcome.decision.trace)
    assert set(traced.profile.recent) == set(plan.rules.watched_events)


def test_a_pool_whose_number_is_damaged_fails_none_without_offers(tmp_path: Path, shop: Path, redis_url: str) -> None:
    share = PoolShare(pool="stock", name="damaged")

    async def ask(asked: Asked) -> list[Prepared]:
        asked.worker.offer_grants._follow(asked.worker.plan)
        asked.worker.offer_grants.low["stock:damaged"] = share
        return await asked.together([plain("known-1"), request({"user_id": "known-2"}), plain("known-3")])

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
        client.hset(pool_key(share), mapping={"level": "many"})
        first, offered, last = run(ask, tmp_path, shop, redis_url)
    assert not degraded(first)
    assert not degraded(last)
    assert isinstance(offered, FailedTask)
    assert isinstance(offered.error, ValueError)


def test_a_request_that_breaks_its_batch_leaves_room_for_the_next(tmp_path: Path, shop: Path, redis_url: str) -> None:
    async def ask(asked: Asked) -> list[Prepared]:
        broken: Any = lambda: None  # noqa: E731 (no task at all)
        outcomes = [await asyncio.wait_for(asked.add(broken), 5.0) for _ in range(IN_FLIGHT + 1)]
        return [*outcomes, *await asyncio.wait_for(asked.together([plain("known-1")]), 5.0)]

    with redis.Redis.from_url(redis_url) as client:
        fill(client)
    *broken, good = run(ask, tmp_path, shop, redis_url)
    assert all(isinstance(one, FailedTask) for one in broken)
    assert not degraded(good)
