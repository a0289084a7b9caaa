"""Under concurrency, over HTTP and two workers: caps, the last unit, a budget, reading what was written, no traces."""

import asyncio
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.store import open_store
from tests.verbs import run_verb

SHOP = {
    "offers": {
        "thrice": {"caps": [{"count": 3, "per": "7d"}]},
        "last": {"stock": {"sku": "LAST"}},
        "dear": {"budget": {"amount": 7.0, "cost": 1.4}},
        "rare": {"tags": ["loud"], "caps": [{"count": 1, "per": "1d", "window": "calendar", "scope": "tag"}]},
        "loud": {"tags": ["loud"]},
        "tier": {"audience": {"seen": {"$gte": 1}}},
    },
    "placements": {key: {"offers": [key]} for key in ("thrice", "last", "dear", "rare", "loud", "tier")}
    | {"any": {"offers": ["thrice", "last", "dear", "loud"]}},
}


def crowd(shop: Any, placement: str, customers: int, size: int = 400) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=240) as client:

            async def one(number: int) -> dict[str, Any]:
                body = {
                    "customer": {"user_id": f"u-{number % customers}"},
                    "channel": "web",
                    "placements": [placement],
                }
                answer = await client.post(f"{shop.bases[number % 2]}/v1/decide", json=body)
                decision: dict[str, Any] = answer.json()
                assert not decision["degraded"]
                return dict(decision["offers"][placement])

            return list(await asyncio.gather(*(one(number) for number in range(size))))

    return asyncio.run(run())


@pytest.mark.parametrize(("placement", "customers", "granted"), [("thrice", 1, 3), ("last", 400, 1), ("dear", 400, 5)])
def test_400_at_once_get_what_there_is_and_the_others_the_fallback(
    open_shop: Any, placement: str, customers: int, granted: int
) -> None:
    shop = open_shop(SHOP)
    shop.stock("LAST", 1)
    shown = [answer["offer"] for answer in crowd(shop, placement, customers)]
    assert shown.count(placement) == granted
    assert shown.count("banner") == 400 - granted


def test_what_was_lost_is_drawn_again_from_the_others_renormalized(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.stock("LAST", 1)
    answers = crowd(shop, "any", 400)
    shown = [answer["offer"] for answer in answers]
    assert shown.count("last") == 1
    assert shown.count("dear") == 5
    assert {round(answer["propensity"], 6) for answer in answers} <= {0.25, round(1 / 3, 6), 0.5}


def test_a_request_sent_many_times_at_once_with_one_key_counts_once(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    body = {"customer": {"user_id": "ada"}, "channel": "web", "placements": ["thrice"]}

    async def run(key: str) -> set[bytes]:
        async with httpx.AsyncClient(timeout=240, headers={"idempotency-key": key}) as client:
            asked = (client.post(f"{shop.bases[number % 2]}/v1/decide", json=body) for number in range(24))
            return {answer.content for answer in await asyncio.gather(*asked)}

    shown = []
    for key in ("first", "second", "third", "fourth"):
        (answer,) = asyncio.run(run(key))
        shown.append(json.loads(answer)["offers"]["thrice"]["offer"])
    assert shown == ["thrice", "thrice", "thrice", "banner"]


def test_a_cap_on_a_tag_counts_what_other_offers_showed(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    assert shop.offer("web", "loud", user_id="ada") == "loud"
    assert shop.offer("app", "rare", user_id="ada") == "banner"
    assert shop.offer("app", "rare", user_id="bo") == "rare"
    assert shop.offer("web", "rare", user_id="bo") == "banner"


def test_an_event_answered_at_one_worker_is_seen_by_the_next_decision_at_the_other(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    total, flights = int(os.environ.get("READS", "600")), 50

    async def run() -> list[bool]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=flights), timeout=240) as client:

            async def one(number: int) -> bool:
                item = {
                    "type": "identify",
                    "message_id": f"m-{number}",
                    "user_id": f"u-{number}",
                    "traits": {"seen": 1},
                }
                here, there = shop.bases[number % 2], shop.bases[(number + 1) % 2]
                told = await client.post(f"{here}/v1/events", json={"batch": [item]})
                assert told.json()["statuses"][0]["status"] == "accepted"
                body = {"customer": {"user_id": f"u-{number}"}, "channel": "web", "placements": ["tier"]}
                answer = await client.post(f"{there}/v1/decide", json=body)
                return bool(answer.json()["offers"]["tier"]["offer"] == "tier")

            seen: list[bool] = []
            for start in range(0, total, flights):
                seen += await asyncio.gather(*(one(number) for number in range(start, start + flights)))
            return seen

    assert asyncio.run(run()).count(True) == total


def digest(shop: Any) -> str:
    """Of every key of the store (what a key holds, not how long it lives on) and every file of the data folder.

    Not of the spools, whose segments come and go: what is written there comes into the store's streams.
    """
    found = hashlib.sha256()
    with open_store(shop.settings.redis) as client:
        for key in sorted(client.scan_iter()):
            found.update(key + (client.dump(key) or b""))
    for path in sorted(shop.settings.data.rglob("*")):
        if path.is_file() and path.suffix != ".lock" and shop.settings.spool not in path.parents:
            found.update(path.relative_to(shop.settings.data).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def settled(shop: Any) -> str:
    """The digest once what was answered is where it goes: the spool's records are in the stream."""
    before, now = "", digest(shop)
    while before != now or any(httpx.get(f"{base}/readyz").json()["spool_lag_records"] for base in shop.bases):
        time.sleep(1.0)
        before, now = now, digest(shop)
    return now


def busy(shop: Any) -> str:
    """A shop in which something happened; the id of a decision."""
    shop.stock("LAST", 1)
    shop.tell("view", user_id="ada", anonymous_id="a-1")
    shop.offer("web", "any", user_id="ada")
    decision = shop.decide("web", "last", "dear", user_id="bo")
    shop.decide("web", "thrice", user_id="cy", expose=False)
    return str(decision["decision_id"])


def test_explaining_changes_nothing(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    busy(shop)
    before = settled(shop)
    for customer in ({"user_id": "ada"}, {"anonymous_id": "a-1", "user_id": "ada"}, {"anonymous_id": "new"}):
        body = {"customer": customer, "channel": "web", "placements": list(SHOP["placements"]), "experiments": "*"}
        for base in shop.bases:
            assert httpx.post(f"{base}/v1/explain", json=body, timeout=120).status_code == 200
    assert settled(shop) == before


def test_previewing_simulating_and_explaining_by_the_verbs_change_nothing(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP)
    decision = busy(shop)
    settled(shop)
    shop.collect()
    customers = tmp_path / "customers.csv"
    customers.write_text("user_id,seen\nada,1\nbo,0\nnew,2\n")
    before = settled(shop)
    places = ["--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data)]
    at_store = ["--redis", shop.settings.redis]
    for words in (
        ["preview", "any", "--customers", str(customers), *places, *at_store],
        ["simulate", "any", "--customers", "300", "--visits", "3", "--stock", "LAST=2", *places, *at_store],
        ["simulate", "any", "--log", str(shop.settings.log), *places],
        ["coverage", "--profiles", str(customers), *places[:2]],
        ["explain", decision, *places[2:], *at_store],
    ):
        done = run_verb(*words, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) is not None
    assert settled(shop) == before
