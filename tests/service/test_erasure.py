"""A customer who is deleted is in the store and in the learner's files no more, and nothing of them comes in late."""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis

from engine import embedded
from engine.claims.pending_exposures import PendingDecision, fetch_pending, store_pending
from engine.customer import CustomerIds
from engine.customers.erased_cache import SECONDS
from engine.customers.store import ProfileStore
from engine.erasure.profiles import erase_profile
from engine.hashing import identifier_digest
from engine.journal.records import DecisionRecord, ExposureRecord
from engine.keyspace import ERASURES
from engine.learn.merge_streams import drop_erased
from engine.learn.pending import UNSEEN, Pending, PendingStore
from engine.learn.state import State, state_path
from tests.verbs import run_verb

NOW = 1_790_000_000.0


def test_a_delete_reaches_the_files_of_every_learner(server: Any) -> None:
    event = {"type": "track", "message_id": "gone-1", "user_id": "gone", "event": "click"}
    assert server.post("/v1/events", {"batch": [event]}).json()["statuses"][0]["status"] == "accepted"
    states = [State(state_path(server.data, owned)) for owned in (None, [0, 1])]
    for state in states:
        with state.transaction():
            pending = PendingStore(state.db)
            for who in ("gone", "stays"):
                pending.add(Pending(f"d-{who}", "hero", "hero", who, 0, "a", 0.5, b"", 1.0, UNSEEN, 9e9))
            pending.write()
        state.db.execute("PRAGMA secure_delete = off")
        with state.transaction():  # what ended before leaves its bytes
            state.db.execute("INSERT INTO early VALUES (1, 'd-gone', 0, 0.0, 'd-gone-' || hex(zeroblob(20000)))")
        state.db.execute("DELETE FROM early")
    answer = httpx.delete(f"{server.base}/v1/profiles/gone", timeout=120)
    assert answer.status_code == 200, answer.text
    for state in states:
        with closing(state):
            assert state.db.execute("SELECT customer FROM pending").fetchall() == [("stays",)]
            assert state.db.execute(
                "SELECT count(*) FROM erased WHERE digest = ?", [identifier_digest("gone")]
            ).fetchone() == (1,)
            late = [(1.0, 0, ExposureRecord("d-late", 1.0, who, ["hero"])) for who in ("gone", "stays")]
            assert drop_erased(late, state.erased()) == late[1:]
    assert not [path for path in (server.data / "learn").iterdir() if b"d-gone" in path.read_bytes()]


def kept(url: str, who: str) -> list[bytes]:
    """The keys whose text has `who` in it."""
    with redis.Redis.from_url(url) as client:
        texts = [key for key in client.scan_iter(count=1000) if client.type(key) == b"string"]
        return [key for key, value in zip(texts, client.mget(texts), strict=True) if who.encode() in (value or b"")]


@pytest.mark.parametrize("way", ["http", "command"])
def test_what_was_asked_ahead_or_with_a_key_goes_with_the_customer(
    server: Any, valkey: embedded.Embedded, way: str
) -> None:
    who = f"erased-by-{way}"

    def ask(*, expose: bool, **headers: str) -> Any:
        body = {"customer": {"user_id": who, "anonymous_id": f"browser-of-{who}"}, "channel": "web", "expose": expose}
        answer = server.post("/v1/decide", body | {"placements": ["home_hero"], "experiments": "*"}, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    ask(expose=True)
    ahead = ask(expose=False)
    ask(expose=True, idempotency_key=f"before-{way}")
    assert len(kept(valkey.url, who)) == 3
    if way == "http":
        assert httpx.delete(f"{server.base}/v1/profiles/{who}", timeout=120).status_code == 200
    else:
        run_verb("erase", who, "--redis", valkey.url, "--data", str(server.data), check=True)
    assert kept(valkey.url, who) == []
    ask(expose=False)
    first, again = (ask(expose=True, idempotency_key=f"late-{way}") for _ in range(2))
    assert first["offers"].keys() == again["offers"].keys()
    assert kept(valkey.url, who) == []
    assert server.post("/v1/exposures", {"decision_id": ahead["decision_id"]}).status_code == 404


def test_a_decision_made_while_its_customer_was_erased_is_not_kept(valkey: embedded.Embedded) -> None:
    async def run() -> None:
        store = ProfileStore.open(valkey.url, timeout=5)
        ids = CustomerIds(user_id="in-a-hurry")
        resolved = await store.fetch(ids, NOW)
        await erase_profile(store, "in-a-hurry")
        pending = PendingDecision(
            customer="in-a-hurry", keys=["home_hero"], key=resolved.key, unit="in-a-hurry", who=ids
        )
        await store_pending(store.pipeline, "d-in-a-hurry", pending)
        assert await fetch_pending(store.pipeline, "d-in-a-hurry") is None
        await store.close()

    asyncio.run(run())
    assert kept(valkey.url, "in-a-hurry") == []


@pytest.mark.parametrize("file", ["log/.checkpoint.json", "learn/all.sqlite"])
def test_a_file_that_blocks_an_erasure_is_reported(server: Any, file: str) -> None:
    address = f"/v1/profiles/half-gone-{file[:3]}"
    path = server.data / file
    path.parent.mkdir(exist_ok=True)
    sound = path.read_bytes() if path.exists() else None
    for damaged in sorted(path.parent.glob(f"{path.name}*")):
        damaged.rename(damaged.with_name(f"aside-{damaged.name}"))
    try:
        path.write_text("{ this is not what it should be")
        refused = server.request("DELETE", address)
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert "the learner complete the erasure" in refused.json()["detail"]
        assert server.get(f"{address}/export").status_code == (503 if file.startswith("log") else 404)
    finally:
        path.unlink()
        for aside in path.parent.glob(f"aside-{path.name}*"):
            aside.rename(aside.with_name(aside.name.removeprefix("aside-")))
    assert (path.read_bytes() if path.exists() else None) == sound
    assert server.request("DELETE", address).status_code == 200


@pytest.mark.parametrize(("sent", "stored_as"), [(" Gone@X.de", "gone@x.de"), ("+49 (30) 12-34", "+4930 1234")])
def test_an_address_that_no_profile_holds_any_more_is_erased_however_it_is_written(
    server: Any, valkey: embedded.Embedded, sent: str, stored_as: str
) -> None:
    name = "".join(stored_as.split())
    assert set(server.request("DELETE", f"/v1/profiles/{quote(sent, safe='')}").json()["ids"]) == {sent, name}
    with redis.Redis.from_url(valkey.url) as client:
        assert identifier_digest(name).encode() in b" ".join(fields[b"who"] for _, fields in client.xrange(ERASURES))


def test_while_the_store_is_away_no_record_names_the_erased(tmp_path: Path, serve: Any, shop: Path) -> None:
    def ask(who: str) -> Any:
        return server.post("/v1/decide", {"customer": {"email": who}, "channel": "web", "placements": ["home_hero"]})

    with (
        embedded.running(tmp_path / "store") as store,
        serve(tmp_path, store.url, shop, {"COUNTERPOINT_STORE_TIMEOUT": "5"}) as server,
        redis.Redis.from_url(store.url) as client,
    ):
        assert httpx.delete(f"{server.base}/v1/profiles/gone@x.de", timeout=120).status_code == 200
        time.sleep(8 * SECONDS)  # until every worker has read it
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        client.config_set("replica-serve-stale-data", "no")  # it refuses all but a few commands
        for who in ("gone", "stays"):
            answer = ask(f"{who.title()}@X.de").json()
            assert answer["degraded"]
            assert named(server, f"{who}@x.de", answer) == (who == "stays")


def named(server: Any, who: str, answer: Any) -> bool:
    """Whether the record of an answer says that it was for `who`."""
    (record,) = (
        r for r in server.records() if isinstance(r, DecisionRecord) and r.decision_id == answer["decision_id"]
    )
    return who in record.customer.lower() or who.encode() in record.trace.lower()


def test_an_erasure_of_a_killed_server_is_finished_by_another(tmp_path: Path, serve: Any, shop: Path) -> None:
    who = {"user_id": "half-gone", "anonymous_id": "browser-of-half-gone"}
    body = {"customer": who, "channel": "web", "placements": ["home_hero"], "experiments": "*"}
    with embedded.running(tmp_path / "store") as store, redis.Redis.from_url(store.url) as client:
        patient = {"COUNTERPOINT_STORE_TIMEOUT": "5"}
        with serve(tmp_path / "killed", store.url, shop, patient) as server:
            for expose in (True, False):
                assert server.post("/v1/decide", body | {"expose": expose}, idempotency_key=str(expose)).is_success
            assert len(kept(store.url, "half-gone")) == 4
            client.execute_command("ACL", "SETUSER", "default", "-scan")  # so it gets no further than the tombstones
            assert server.request("DELETE", "/v1/profiles/half-gone").status_code == 503
            server.process.kill()
            server.process.wait(20)
        client.execute_command("ACL", "SETUSER", "default", "+scan")
        assert len(kept(store.url, "half-gone")) == 3, "the profile alone is gone"
        with serve(tmp_path / "other", store.url, shop, patient):
            until(lambda: not kept(store.url, "half-gone"))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
