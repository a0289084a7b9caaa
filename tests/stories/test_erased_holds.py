"""What was on hold for a customer who is erased returns at once and once; what they bought stays sold."""

import asyncio
import time
from typing import Any

import pytest
import time_machine
from msgspec.structs import replace

from engine import keyspace
from engine.claims.claims import Claim, Claims, stock_share
from engine.claims.pending_exposures import PendingDecision, fetch_pending, release_if_erased, store_pending
from engine.claims.requirements import claim_id
from engine.customer import CustomerIds
from engine.customers.store import ProfileStore
from engine.erasure.profiles import SECOND_SWEEP_SECONDS, erase_profile, finish_erasures
from tests.store import open_store

HAMBURG = {"key": "hamburg", "latitude": 53.55, "longitude": 9.99}
SHOP: dict[str, Any] = {
    "places": [HAMBURG],
    "offers": {
        "bag": {"stock": {"sku": "BAG", "hold": "1h"}},
        "kettle": {"stock": {"sku": "KETTLE", "by": "pick_up", "within": 80, "hold": "1h"}},
        "voucher": {"budget": {"amount": 10, "cost": 10, "hold": "1h"}},
    },
    "placements": {one: {"offers": [one]} for one in ("bag", "kettle", "voucher")},
}
NEAR = {"latitude": 53.55, "longitude": 9.93}


def fill(shop: Any, level: int) -> None:
    shop.stock("BAG", level)
    body = {"levels": [{"sku": "KETTLE", "place": "hamburg", "level": level}]}
    assert shop.client().post("/v1/stock", json=body).status_code == 200


def shown(shop: Any, *placements: str, **ids: str) -> dict[str, str]:
    offers = shop.decide("web", *(placements or SHOP["placements"]), context=NEAR, **ids)["offers"]
    return {placement: offer["offer"] for placement, offer in offers.items()}


def erase(shop: Any, who: str) -> None:
    assert shop.client().delete(f"/v1/profiles/{who}").status_code == 200


def on_hold(shop: Any, kind: str, name: str) -> tuple[float, float, int]:
    """The amounts on hold and spent, and the number of claims in the index of holds."""
    with open_store(shop.settings.redis) as client:
        held, spent = client.hmget(keyspace.pool(kind, name), "held", "spent")
        return int(held or 0) / 10_000, int(spent or 0) / 10_000, client.zcard(keyspace.pool_holds(kind, name))


POOLS = (("stock", "BAG"), ("shelf", "hamburg/KETTLE"), ("budget", "voucher"))


@pytest.mark.parametrize("is_prefetched", [False, True])
def test_the_next_customer_gets_at_once_what_an_erased_one_had_on_hold(open_shop: Any, *, is_prefetched: bool) -> None:
    shop = open_shop(SHOP)
    fill(shop, 1)
    everything = {one: one for one in SHOP["placements"]}
    if is_prefetched:
        made = shop.decide("web", *everything, context=NEAR, expose=False, user_id="ada")
        exposed = shop.client().post("/v1/exposures", json={"decision_id": made["decision_id"]}).json()
        assert exposed["status"] == "accepted"
    else:
        assert shown(shop, user_id="ada") == everything
    assert not everything.items() & shown(shop, user_id="bo").items()
    erase(shop, "ada")
    assert [on_hold(shop, *pool) for pool in POOLS] == [(0, 0, 0)] * 3
    assert shown(shop, user_id="bo") == everything
    erase(shop, "ada")
    assert not everything.items() & shown(shop, user_id="cy").items()


def test_a_visitor_who_logged_in_is_erased_with_what_was_on_hold_before(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    fill(shop, 1)
    assert shown(shop, "bag", anonymous_id="browser")["bag"] == "bag"
    shop.send({"type": "alias", "message_id": "login", "user_id": "ada", "anonymous_id": "browser"})
    assert shown(shop, "bag", user_id="bo")["bag"] == "banner"
    erase(shop, "ada")
    assert shown(shop, "bag", user_id="bo")["bag"] == "bag"


def test_nothing_returns_twice_and_a_purchase_and_the_holds_of_others_stay(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    fill(shop, 3)
    bought = shop.decide("web", "bag", user_id="ada")
    sold = {"revenue": 40.0, "order_id": "o-1"}
    shop.tell("purchase", user_id="ada", decision_id=bought["decision_id"], properties=sold)
    assert [shown(shop, "bag", user_id=who)["bag"] for who in ("ada", "bo")] == ["bag", "bag"]
    assert on_hold(shop, "stock", "BAG")[:2] == (2, 1)
    for _ in range(2):
        erase(shop, "ada")
        assert on_hold(shop, "stock", "BAG")[:2] == (1, 1)
    with time_machine.travel(time.time() + 7200, tick=True):
        shown(shop, "bag", user_id="cy")  # a claim drops the holds that ended
        assert on_hold(shop, "stock", "BAG")[:2] == (1, 1)
        assert shown(shop, "bag", user_id="di")["bag"] == "bag"
        assert shown(shop, "bag", user_id="ed")["bag"] == "banner"


def test_a_shared_tablets_other_customer_keeps_what_is_on_hold_for_them(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    fill(shop, 1)
    assert shown(shop, "bag", anonymous_id="tablet")["bag"] == "bag"
    shop.send({"type": "alias", "message_id": "in-1", "user_id": "ada", "anonymous_id": "tablet"})
    shop.send({"type": "alias", "message_id": "in-2", "user_id": "bo", "anonymous_id": "tablet"})
    erase(shop, "bo")
    assert on_hold(shop, "stock", "BAG")[0] == 1
    erase(shop, "ada")
    assert on_hold(shop, "stock", "BAG")[0] == 0


def test_what_a_decision_claims_behind_the_sweep_is_released(redis_url: str) -> None:
    """A claim of an exposure is released by itself, that of a decision by the second sweep."""

    async def story() -> None:
        store = ProfileStore.open(redis_url, timeout=10)
        claims, share = Claims(store.pipeline), stock_share("BAG")
        now = time.time()
        await claims.set_stock("BAG", 2, now)
        found = await store.fetch(CustomerIds(user_id="ada"), now)
        pending = PendingDecision(customer="", keys=[], key=found.key, pools={"bag": [("stock", "BAG")]})
        await erase_profile(store, "ada")
        for name in ("exposed", "decided"):
            claim = Claim(id=claim_id(name, "bag"), shares=[replace(share, hold=3600.0)])
            assert await claims.claim(found.key, [claim], now) == [None]
        await release_if_erased(store.pipeline, "exposed", pending, now)
        assert await claims.read_left(share) == 1
        await store_pending(store.pipeline, "decided", pending)
        assert await finish_erasures(store, now + 2 * SECOND_SWEEP_SECONDS) == 1
        assert await claims.read_left(share) == 2
        assert await fetch_pending(store.pipeline, "decided") is None
        await store.close()

    asyncio.run(story())
