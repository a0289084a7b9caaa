"""Who somebody is, over HTTP: what was seen is kept across a login, and of the erased nothing comes back."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.customers.model.events import Accepted, Event
from engine.customers.redis.pipeline import Argument, RedisPipeline, RedisReply, Script, connect_store
from engine.customers.store import ProfileStore
from engine.errors import StoreUnavailable
from tests.store import open_store

SHOP = {
    "offers": {"deal": {}},
    "placements": {"hero": {"offers": ["deal"]}},
    "experiments": {
        "layout": {
            "variants": [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.5}],
            "metrics": {"primary": "revenue"},
            "analysis": {"method": "fixed"},
        }
    },
}


async def silent(accepted: list[Accepted]) -> None: ...


def variant(decision: dict[str, Any]) -> str:
    return str(decision["experiments"]["layout"]["variant"])


def ids_in(shop: Any, kind: str, prefix: str) -> Callable[[str], str]:
    """Ids of this kind that the experiment puts into a variant, each once, without anyone taking notice."""
    numbers = iter(range(1000))

    def next_in(wanted: str) -> str:
        for n in numbers:
            body = {"customer": {kind: f"{prefix}{n}"}, "channel": "web", "experiments": ["layout"]}
            answer = shop.client().post("/v1/explain", json=body).json()
            if answer["experiments"]["layout"]["variant"] == wanted:
                return f"{prefix}{n}"
        raise AssertionError(wanted)

    return next_in


def expose(shop: Any, decision: dict[str, Any]) -> httpx.Response:
    told: httpx.Response = shop.client().post("/v1/exposures", json={"decision_id": decision["decision_id"]})
    return told


def crossovers(shop: Any) -> int:
    shop.collect()
    question, metrics = build_question(load_plan(shop.settings.experiments), "layout")
    return analyze_experiment(question, metrics, shop.settings.log).quality.crossovers


def test_what_was_prefetched_and_seen_is_kept_at_the_login(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    visitor, user = ids_in(shop, "anonymous_id", "v")("b"), ids_in(shop, "user_id", "u")("a")
    ahead = shop.decide("web", experiments=["layout"], expose=False, anonymous_id=visitor)
    assert variant(ahead) == "b"
    assert expose(shop, ahead).status_code == 202
    shop.send({"type": "identify", "message_id": "login", "user_id": user, "anonymous_id": visitor})
    assert variant(shop.decide("app", experiments=["layout"], user_id=user)) == "b"
    assert crossovers(shop) == 0


def test_what_was_prefetched_and_not_seen_binds_nobody(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    visitor, user = ids_in(shop, "anonymous_id", "v")("b"), ids_in(shop, "user_id", "u")("a")
    shop.decide("web", experiments=["layout"], expose=False, anonymous_id=visitor)
    shop.tell("view", anonymous_id=visitor)
    shop.send({"type": "identify", "message_id": "login", "user_id": user, "anonymous_id": visitor})
    assert variant(shop.decide("app", experiments=["layout"], user_id=user)) == "a"


def test_who_was_known_keeps_their_variant_and_the_crossover_is_told(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    visitor, user = ids_in(shop, "anonymous_id", "v")("b"), ids_in(shop, "user_id", "u")("a")
    assert variant(shop.decide("app", experiments=["layout"], user_id=user)) == "a"
    ahead = shop.decide("web", experiments=["layout"], expose=False, anonymous_id=visitor)
    shop.send({"type": "identify", "message_id": "login", "user_id": user, "anonymous_id": visitor})
    assert expose(shop, ahead).status_code == 202  # the page was still open when they logged in
    again = shop.decide("web", experiments=["layout"], user_id=user, anonymous_id=visitor)
    assert variant(again) == "a"
    assert crossovers(shop) == 1


class Dying(RedisPipeline):
    """A wire whose process dies once it has frozen the visitor."""

    def call(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> "asyncio.Future[RedisReply]":
        if self.frozen:
            raise StoreUnavailable("the process died here")
        self.frozen = True
        return super().call(script, keys, arguments)

    frozen = False


def test_a_server_that_starts_finishes_what_another_died_in(open_shop: Any, redis_url: str) -> None:
    async def die() -> None:
        store, dying = ProfileStore.open(redis_url, timeout=10), ProfileStore(Dying(connect_store(redis_url, 10)))
        who = {"user_id": "u-1"}, {"anonymous_id": "a-1"}
        for number, ids in enumerate(who):
            bought = {"revenue": 10.0, "order_id": number}
            await store.ingest([Event("track", f"m{number}", event="purchase", properties=bought, **ids)], 1e9, silent)
        with pytest.raises(StoreUnavailable):
            await dying.ingest([Event("alias", "login", user_id="u-1", anonymous_id="a-1")], 1e9, silent)
        await asyncio.gather(store.close(), dying.close())

    asyncio.run(die())
    with open_store(redis_url) as client:
        assert client.hlen("cp:merges") == 1
        shop = open_shop(SHOP)
        deadline = time.monotonic() + 20
        while client.hlen("cp:merges") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.hlen("cp:merges") == 0
    assert shop.client().get("/v1/profiles/a-1").json()["attributes"]["monetary"] == 20.0


def events_of(shop: Any) -> list[dict[str, Any]]:
    files = sorted((shop.settings.log / "events").rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


def test_a_merge_is_in_the_log_with_who_when_and_by_which_identifiers(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.tell("view", anonymous_id="a-1")
    login = {"user_id": "u-1", "anonymous_id": "a-1", "timestamp": "2026-09-21T14:13:20Z"}
    for number in range(3):
        shop.send({"type": "identify", "message_id": f"login-{number}", **login})
    shop.collect()
    (merge,) = [row for row in events_of(shop) if row["event"] == "$merge"]
    assert (merge["customer"], merge["time"].isoformat()) == ("u-1", "2026-09-21T14:13:20+00:00")
    by = {"user_id": "u-1", "anonymous_id": "a-1"}
    assert json.loads(merge["properties"]) == {"from": "a-1", "into": "u-1", "by": by}


def test_segments_and_stage_follow_the_event_and_its_return(open_shop: Any, tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    segments = "segments: [{key: big, condition: {monetary: {$gte: 100}}}]"
    (tmp_path / "experiments" / "segments.yaml").write_text(segments)
    shop = open_shop(SHOP)

    def seen() -> tuple[list[str], str, object]:
        found = shop.client().get("/v1/profiles/u-1").json()
        return found["segments"], found["attributes"]["stage"], found["attributes"].get("recency_days")

    shop.tell("purchase", user_id="u-1", properties={"revenue": 120, "order_id": "o"})
    assert seen()[:2] == (["big"], "customer")
    shop.tell("refund", user_id="u-1", properties={"order_id": "o"})
    assert seen() == ([], "new", None)


def test_an_export_holds_what_is_in_the_log_and_what_is_on_its_way(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.tell("view", user_id="u-1")
    shop.collect()
    shop.decide("web", "hero", user_id="u-1")
    shop.tell("click", user_id="u-1")
    shop.tell("click", user_id="u-2")
    deadline = time.monotonic() + 20
    while True:  # the spool is shipped many times a second
        told = shop.client().get("/v1/profiles/u-1/export").json()["log"]
        if len(told["events"]) == 2 or time.monotonic() > deadline:
            break
    assert [row["event"] for row in told["events"]] == ["view", "click"]
    assert ([row["variant"] for row in told["decisions"]], len(told["exposures"])) == (["deal"], 1)
    shop.collect()
    after = shop.client().get("/v1/profiles/u-1/export").json()["log"]
    assert after == told


def test_an_erased_customer_leaves_no_name_whatever_comes_late(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    who = {"user_id": "gone-user", "anonymous_id": "gone-browser", "email": "gone@x.de"}
    shop.send({"type": "identify", "message_id": "m1", **who})
    seen = shop.decide("web", "hero", experiments=["layout"], user_id="gone-user")
    ahead = shop.decide("web", "hero", expose=False, user_id="gone-user")
    assert shop.client().delete("/v1/profiles/gone@x.de").status_code == 200
    late = {"event": "purchase", "properties": {"revenue": 1}}
    for kind, value in who.items():
        assert shop.send({"type": "track", "message_id": f"late-{kind}", **late, kind: value}) == "rejected"
    old = {"decision_id": seen["decision_id"], "user_id": "gone-user", "anonymous_id": "new-browser"}
    assert shop.send({"type": "track", "message_id": "late-decision", **late, **old}) == "rejected"
    login = {"type": "alias", "message_id": "late-alias", "user_id": "gone-user", "anonymous_id": "new-browser"}
    assert shop.send(login) == "rejected"
    assert expose(shop, ahead).status_code == 404
    back = shop.decide("web", "hero", experiments=["layout"], user_id="gone-user")
    assert variant(back) == variant(seen)
    shop.collect()
    assert shop.client().get("/v1/profiles/gone-user").status_code == 404
    told = shop.client().get("/v1/profiles/gone-user/export")
    assert told.status_code == 404, told.text
    places = [path.read_bytes() for path in shop.settings.log.rglob("*.parquet")]
    assert not any(value.encode() in place for place in places for value in who.values())
    with open_store(shop.settings.redis) as client:
        kept = [client.dump(key) or b"" for key in client.scan_iter()]
    assert not any(value.encode() in blob for blob in kept for value in who.values())
