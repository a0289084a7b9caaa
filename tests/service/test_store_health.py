import asyncio
import gc
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import redis

from engine import embedded
from engine.claims.claims import PoolShare
from engine.customer import CustomerIds
from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.customers.store import ProfileStore
from engine.decision.decision import DecideRequest
from engine.service.decision_flow import DecisionFlow
from engine.service.decision_task import new_task, result_of, unknown_profile
from engine.service.store_health import FAILED_WAITS, StoreHealth
from engine.service.worker import Worker
from engine.settings import Settings

DECIDE = {"customer": {"user_id": "u-1"}, "channel": "web", "placements": ["home_hero"]}


REFUSALS = [
    (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),  # OOM
    (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),  # NOREPLICAS
    (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),  # READONLY
]


def slow(server: Any) -> tuple[int, int]:
    """How many decisions there were, and how many of them took longer than a second."""
    lines = server.get("/metrics").text.splitlines()
    found = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
    count, quick = (found[f"counterpoint_decide_seconds_{name}"] for name in ("count", 'bucket{le="1.0"}'))
    return int(count), int(count - quick)


def test_a_store_that_begins_to_evict_is_reported(tmp_path: Path, serve: Any, shop: Path) -> None:
    with embedded.running(tmp_path / "store") as store, serve(tmp_path, store.url, shop) as server:
        deadline = time.monotonic() + 30
        while server.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with redis.Redis.from_url(store.url) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            ready = server.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            assert "allkeys-lru" in ready.json()["why"][0]
            client.config_set("maxmemory-policy", "noeviction")
        assert server.get("/readyz").status_code == 200


def test_a_store_that_hangs_is_waited_for_by_a_few_and_found_again(tmp_path: Path, serve: Any, shop: Path) -> None:
    more = {"COUNTERPOINT_STORE_TIMEOUT": "1.05"}
    with embedded.running(tmp_path / "store") as store, serve(tmp_path, store.url, shop, more) as server:
        assert server.post("/v1/decide", DECIDE).json()["degraded"] is False
        store.process.send_signal(signal.SIGSTOP)
        try:
            answers = [server.post("/v1/decide", DECIDE).json() for _ in range(40)]
            answers += [server.post("/v1/decide", DECIDE, idempotency_key="away").json() for _ in range(2)]
            assert all(answer["degraded"] for answer in answers)
            assert {answer["offers"]["home_hero"]["reason"] for answer in answers} == {"fallback"}
            assert slow(server) == (43, FAILED_WAITS)
            ready, enough = server.get("/readyz"), server.get("/readyz/degraded")
            assert (ready.status_code, enough.status_code) == (503, 200)
            assert [answer.json()["degraded"] for answer in (ready, enough)] == [True, True]
            assert [answer.json()["ready"] for answer in (ready, enough)] == [False, True]
        finally:
            store.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 60
        while server.post("/v1/decide", DECIDE).json()["degraded"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ready = server.get("/readyz")
        assert (ready.status_code, ready.json()["degraded"]) == (200, False)


def test_only_vain_waits_with_no_answer_between_them_make_the_store_away(valkey: embedded.Embedded) -> None:
    async def run() -> None:
        wire = RedisPipeline(connect_store(valkey.url, 5))
        health = StoreHealth(wire, 0.1)
        for moment in range(50):
            health.record_failure(moment, moment + 0.001)  # refused at once
        for _ in range(50):
            health.record_failure(100.0, 100.1)  # one batch that was lost
        health.record_answer()
        health.record_failure(200.0, 200.1)
        health.record_failure(200.0, 200.1)
        assert not health.is_away
        health.record_failure(200.1, 200.3)
        assert health.is_away
        assert await health.is_reachable()
        asking = asyncio.create_task(health.run())
        while health.is_away:  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.01)
        asking.cancel()
        await wire.close()

    asyncio.run(run())


def test_a_store_that_refuses_writes_is_reported_and_what_cannot_be_claimed_is_not_offered(
    tmp_path: Path, serve: Any, shop: Path
) -> None:
    capped = shutil.copytree(shop, tmp_path / "capped")
    for offer in (capped / "offers").glob("*.yaml"):
        limits = "caps: [{count: 50, per: 7d, window: rolling, event: exposure}]\n"
        fine = "caps:" in offer.read_text() or offer.stem == "generic_banner"
        offer.write_text(offer.read_text() + ("" if fine else limits))
    more = {"COUNTERPOINT_STORE_TIMEOUT": "5"}
    with embedded.running(tmp_path / "store") as store, serve(tmp_path, store.url, capped, more) as server:
        ahead = DECIDE | {"expose": False}
        stranger = {"customer": {"user_id": "u-2"}}
        server.post("/v1/decide", DECIDE)
        with redis.Redis.from_url(store.url) as client:
            for refuse, back in REFUSALS:
                client.execute_command(*refuse)
                answers = [server.post("/v1/decide", body).json() for body in (ahead, DECIDE | stranger)]
                reasons = [(answer["degraded"], answer["offers"]["home_hero"]["reason"]) for answer in answers]
                assert reasons == [(True, "fallback")] * 2
                variant = {"placements": [], "experiments": ["checkout_layout"]}  # needs no claim, but to be seen
                assert server.post("/v1/decide", ahead | variant).json()["degraded"]
                event = {"type": "track", "message_id": "m", "user_id": "u-1", "event": "click"}
                assert server.post("/v1/events", {"batch": [event]}).status_code == 503
                ready, enough = server.get("/readyz"), server.get("/readyz/degraded")
                assert (ready.status_code, enough.status_code) == (503, 200)
                assert [ready.json()[what] for what in ("ready", "store", "degraded")] == [False, True, True]
                assert enough.json()["degraded"]
                assert "takes no writes" in ready.json()["why"][0]
                client.execute_command(*back)
                assert server.post("/v1/decide", ahead).json()["degraded"] is False
                assert server.get("/readyz").json()["degraded"] is False
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_a_customer_known_by_an_address_is_the_same_unit_while_the_store_is_away(redis_url: str) -> None:
    async def unit(ids: CustomerIds) -> str:
        store = ProfileStore.open(redis_url, timeout=5)
        found = await store.fetch(ids, time.time())
        await store.close()
        return found.profile.unit

    for ids in ({"email": " Ada@X.de"}, {"phone": "+49 (30) 12-34"}, {"phone": "unknown", "device_id": "d"}):
        sent = msgspec.convert(ids, CustomerIds)
        assert unknown_profile(sent).unit == unknown_profile(sent).id == asyncio.run(unit(sent))


def test_a_stock_that_cannot_be_asked_for_leaves_no_error_behind(tmp_path: Path, shop: Path) -> None:
    async def run() -> list[dict[str, Any]]:
        left_over: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: left_over.append(context))
        worker = Worker(Settings(experiments=shop, data=tmp_path, redis="redis://127.0.0.1:1/0"))
        worker.offer_grants.low["stock:ROAST-1"] = PoolShare(pool="stock", name="ROAST-1")
        task = new_task(msgspec.convert(DECIDE, DecideRequest), time.time(), "d-1")
        [decided] = await DecisionFlow(worker).decide_with_store([task])
        assert result_of(decided).decision.answer.degraded
        await asyncio.sleep(0.3)  # until the other of both has given up too
        gc.collect()
        await asyncio.sleep(0)
        return left_over

    assert asyncio.run(run()) == []
