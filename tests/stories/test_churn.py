"""Customers come and go over HTTP: all that is kept of them has a life, and the rest does not grow with them."""

import threading
from typing import Any

from engine.catalog import load_plan
from engine.learn import learn
from engine.snapshots.publish import STORED_VERSIONS
from tests.store import open_store

SHOP = {
    "offers": {
        "deal": {
            "caps": [{"count": 2, "per": "7d"}],
            "stock": {"sku": "BAG", "hold": "15m"},
            "budget": {"amount": 1e6, "cost": 1.4},
        }
    },
    "placements": {"hero": {"offers": ["deal"], "policy": {"kind": "beta_thompson"}}},
    "experiments": {"layout": {"sticky": True, "variants": [{"key": "a"}, {"key": "b"}]}},
}


def come_and_go(shop: Any, first: int, last: int) -> None:
    for n in range(first, last):
        visitor, user = {"anonymous_id": f"a-{n}"}, {"user_id": f"u-{n}"}
        seen = shop.decide("web", "hero", experiments=["layout"], **visitor)
        ahead = shop.decide("web", "hero", expose=False, **visitor)
        shop.client().post("/v1/exposures", json={"decision_id": ahead["decision_id"]})
        body = {"customer": user, "channel": "app", "placements": ["hero"]}
        shop.client().post("/v1/decide", json=body, headers={"Idempotency-Key": f"k-{n}"})
        shop.tell("click", decision_id=seen["decision_id"], **visitor)
        login = {"type": "identify", "message_id": f"login-{n}", **user, **visitor}
        shop.send(login)
        bought = {"type": "track", "event": "purchase", "channel": "web", "device_id": "till", **user}
        orders = [  # more than a profile remembers itself
            bought | {"message_id": f"bought-{n}-{k}", "properties": {"revenue": 5.0, "order_id": n}} for k in range(20)
        ]
        assert shop.client().post("/v1/events", json={"batch": orders}).status_code == 200
        shop.tell("redemption", properties={"offer": "deal"}, decision_id=seen["decision_id"], **user)
        if n % 3 == 0:
            assert shop.client().delete(f"/v1/profiles/u-{n}").status_code == 200


def lasting(shop: Any) -> dict[str, int]:
    """What has no life of its own in the store, with its length, once all was collected and learnt."""
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    shop.collect()
    sizes = {b"hash": "HLEN", b"stream": "XLEN", b"set": "SCARD", b"zset": "ZCARD", b"string": "STRLEN"}
    with open_store(shop.settings.redis) as client:
        kept = [key for key in client.scan_iter() if client.pttl(key) < 0]
        return {key.decode(): client.execute_command(sizes[client.type(key)], key) for key in kept}


def test_nothing_without_a_life_grows_with_the_customers(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.stock("BAG", 1e6)
    come_and_go(shop, 0, 10)
    before = lasting(shop)
    come_and_go(shop, 10, 40)
    after = lasting(shop)
    assert after.keys() == before.keys()
    few = {key: STORED_VERSIONS if key.endswith(":kept") else 8 for key in after}
    assert {key: size for key, size in after.items() if size > max(few[key], 1.1 * before[key])} == {}
