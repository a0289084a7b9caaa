"""Under concurrency, over HTTP and two workers: caps, the last unit, a budget, reading what was written, no traces."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

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
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:

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
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=flights), timeout=60) as client:

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


def digest(url: str, spool: Path) -> str:
    found = hashlib.sha256()
    with redis.Redis.from_url(url) as client:
        for key in sorted(client.scan_iter()):
            found.update(key + (client.dump(key) or b""))
    for path in sorted(spool.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("path", ["/v1/explain", "/v1/agent"])
def test_explaining_changes_nothing(open_shop: Any, path: str) -> None:
    shop = open_shop(SHOP)
    shop.stock("LAST", 1)
    shop.tell("view", user_id="ada", anonymous_id="a-1")
    shop.offer("web", "any", user_id="ada")
    shop.offer("web", "last", user_id="bo")
    asyncio.run(asyncio.sleep(1.0))  # what is in the spool goes to the stream meanwhile
    before = digest(shop.settings.redis, shop.settings.data / "spool")
    for customer in ({"user_id": "ada"}, {"anonymous_id": "a-1", "user_id": "ada"}, {"anonymous_id": "new"}):
        body = {"customer": customer, "channel": "web", "placements": list(SHOP["placements"]), "experiments": "*"}
        for base in shop.bases:
            assert httpx.post(f"{base}{path}", json=body, timeout=30).status_code == 200
    assert digest(shop.settings.redis, shop.settings.data / "spool") == before
