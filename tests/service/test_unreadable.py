"""Stored values that cannot be read cost their own customer and nobody else, and stay as they are."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from engine import embedded, keyspace
from engine.customer import CustomerIds
from engine.customers.redis.keys import keyed_ids
from engine.customers.store import ProfileStore

VALUES = {
    "garbage": b"\xff\xfe garbage",
    "an empty value": b"",
    "a cut profile": b"P\0\0\0\1\x82\xa1",
    "a newer profile": b"P\0\0\0\1" + msgspec.msgpack.encode({"i": "broken", "u": {"unit": "broken"}, "v": 1}),
    "a newer entry": b"Z2" + b"x" * 40,
    "a cut merge": b"M" + b"a" * 24 + b"\x94\xa1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, serve: Any, shop: Path) -> Iterator[tuple[Any, str]]:
    folder = tmp_path_factory.mktemp("unreadable")
    with (
        embedded.running(folder / "store") as store,
        serve(folder, store.url, shop, {"COUNTERPOINT_STORE_TIMEOUT": "5"}) as server,
    ):
        yield server, store.url


def key_of(url: str, user: str) -> str:
    store = ProfileStore.open(url)
    return keyed_ids(CustomerIds(user_id=user), store.hash_key)[0].key


def write(url: str, name: str, value: bytes) -> None:
    with redis.Redis.from_url(url) as client:
        client.set(name, value)


def read(url: str, name: str) -> Any:
    with redis.Redis.from_url(url) as client:
        return client.get(name)


def event(message: str, user: str, **more: Any) -> dict[str, Any]:
    return {"type": "track", "message_id": message, "user_id": user, "event": "view"} | more


@pytest.mark.parametrize("kind", VALUES)
def test_a_profile_that_cannot_be_read_degrades_its_customer_alone(place: tuple[Any, str], kind: str) -> None:
    (server, url), value, user = place, VALUES[kind], f"broken {kind}"
    name = keyspace.profile(key_of(url, user))
    write(url, name, value)
    body = {"customer": {"user_id": user}, "channel": "web", "placements": ["home_hero"], "experiments": ["dark_mode"]}
    for more in ({}, {"idempotency_key": kind}):
        answer = server.post("/v1/decide", body, **more)
        assert answer.status_code == 200, answer.text
        assert answer.json()["degraded"] is True
        assert answer.json()["offers"]["home_hero"]["reason"] == "fallback"
    flag = server.post("/ofrep/v1/evaluate/flags/dark_mode", {"context": {"targetingKey": user}})
    assert flag.status_code == 200
    batch = [event(f"{kind}-1", user), event(f"{kind}-2", f"fine {kind}"), event(f"{kind}-3", user, event="redemption")]
    answer = server.post("/v1/events", {"batch": batch})
    assert answer.status_code == 200, answer.text
    statuses = answer.json()["statuses"]
    assert [status["status"] for status in statuses] == ["rejected", "accepted", "rejected"]
    assert "cannot be read" in statuses[0]["reason"]
    assert read(url, name) == value
    assert server.post("/v1/decide", body | {"customer": {"user_id": f"fine {kind}"}}).json()["degraded"] is False
    assert server.get(f"/v1/profiles/{user}").status_code == 503
    assert server.post("/v1/explain", body).status_code == 503


def test_an_identifier_that_points_to_an_unreadable_customer_is_rejected_too(place: tuple[Any, str]) -> None:
    server, url = place
    both = event("pointer-1", "pointed", anonymous_id="pointing")
    assert server.post("/v1/events", {"batch": [both]}).json()["statuses"][0]["status"] == "accepted"
    write(url, keyspace.profile(key_of(url, "pointed")), b"\xff")
    visitor = {"type": "track", "message_id": "pointer-2", "anonymous_id": "pointing", "event": "view"}
    assert server.post("/v1/events", {"batch": [visitor]}).json()["statuses"][0]["status"] == "rejected"
    body = {"customer": {"anonymous_id": "pointing"}, "channel": "web", "placements": ["home_hero"]}
    assert server.post("/v1/decide", body).json()["degraded"] is True


def test_counters_and_answers_that_cannot_be_read_fail_no_request(place: tuple[Any, str]) -> None:
    server, url = place
    write(url, keyspace.counters(key_of(url, "counted")), b"\xff")
    body = {"customer": {"user_id": "counted"}, "channel": "web", "placements": ["home_hero"]}
    assert server.post("/v1/decide", body).json()["degraded"] is True
    body = body | {"customer": {"user_id": "answered"}}
    assert server.post("/v1/decide", body, idempotency_key="damaged").status_code == 200
    with redis.Redis.from_url(url) as client:
        for name in client.scan_iter(keyspace.idempotent_answer("*")):
            value = client.get(name)
            client.set(name, value[:17] + b"\xff" + value[18:])
    assert server.post("/v1/decide", body, idempotency_key="damaged").status_code == 200


def test_a_pending_decision_that_cannot_be_read_is_no_failure(place: tuple[Any, str]) -> None:
    server, url = place
    body = {"customer": {"user_id": "ahead"}, "channel": "web", "placements": ["home_hero"], "expose": False}
    decision_id = server.post("/v1/decide", body).json()["decision_id"]
    write(url, keyspace.pending_decision(decision_id), b"\xff")
    assert server.post("/v1/exposures", {"decision_id": decision_id}).status_code == 503


def test_what_a_server_follows_in_the_store_may_hold_garbage(place: tuple[Any, str]) -> None:
    server, url = place
    with redis.Redis.from_url(url) as client:
        for name in (keyspace.SHADOW_PRICES, keyspace.LEARNER_FIGURES, keyspace.SNAPSHOT_HEADERS):
            client.hset(name, b"home_hero", b"\xff garbage")
            client.hset(name, b"\xff", b"nan")
        client.hset(keyspace.TRIPPED_BREAKERS, b"\xff", b"\xff")
        client.hset(keyspace.PAUSED_EXPERIMENTS, b"\xff", b"")
        client.xadd(keyspace.ERASURES, {"x": "y"})
        time.sleep(1.0)  # all of it is read
        client.hset(keyspace.PAUSED_EXPERIMENTS, b"checkout_layout", b"{}")  # as another worker does
    body = {"customer": {"user_id": "paused-1"}, "channel": "web", "experiments": ["checkout_layout"]}
    deadline = time.monotonic() + 20
    while server.post("/v1/decide", body).json()["experiments"]["checkout_layout"]["reason"] != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.get("/readyz").json()["snapshot_age"] < 5
    assert server.get("/metrics").status_code == 200
