"""What a promise rests on is not dropped, however much else a customer does."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine

from tests.store import open_store

START = datetime(2026, 11, 2, 12, tzinfo=UTC)

SHOP = {
    "offers": {
        "reminder": {},
        "yearly": {"caps": [{"count": 1, "per": "365d"}]},
        **{f"deal_{n}": {"caps": [{"count": 5, "per": "30d"}]} for n in range(300)},
    },
    "placements": {
        "hero": {"offers": ["reminder"]},
        "once": {"offers": ["yearly"]},
        **{f"place_{n}": {"offers": [f"deal_{n}"]} for n in range(300)},
    },
    "moments": [
        {
            "key": "cart_waits",
            "trigger": {"event": "cart_updated", "after": "1s", "unless": ["purchase", "lottery_lost"]},
            "window": "48h",
            "placements": ["hero"],
            "offers": ["reminder"],
        }
    ],
}


def test_a_moment_outlasts_any_number_of_other_events(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    ids = {"user_id": "u-1"}
    shop.tell("cart_updated", properties={"items": 2}, timestamp=time.time() - 120, **ids)
    for n in range(60):
        shop.tell(f"event_{n}", timestamp=time.time() - 60, **ids)
    decision = shop.decide("app", "hero", **ids)
    assert (decision["offers"]["hero"].get("moment"), decision["resume"]) == ("cart_waits", {"cart": {"items": 2}})
    shop.tell("lottery_lost", **ids)
    for n in range(60):
        shop.tell(f"later_{n}", **ids)
    assert "moment" not in shop.decide("app", "hero", **ids)["offers"]["hero"]


def test_a_visitors_moment_outlasts_a_login_of_somebody_busy(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.tell("cart_updated", properties={"items": 2}, timestamp=time.time() - 120, anonymous_id="a-1")
    for n in range(30):
        shop.tell(f"event_{n}", timestamp=time.time() - 60, user_id="u-1")
    shop.send({"type": "alias", "message_id": "login", "user_id": "u-1", "anonymous_id": "a-1"})
    assert shop.decide("app", "hero", user_id="u-1")["offers"]["hero"]["moment"] == "cart_waits"


def test_once_a_year_holds_after_three_hundred_other_offers(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    ids = {"user_id": "u-1"}
    assert shop.offer("web", "once", **ids) == "yearly"
    for start in range(0, 300, 50):
        shop.decide("web", *(f"place_{n}" for n in range(start, start + 50)), **ids)
    counted = shop.client().get("/v1/profiles/u-1").json()["counted"]
    assert len(counted) == 301
    assert shop.offer("app", "once", **ids) == "banner"


def send(shop: Any, items: list[dict[str, Any]]) -> None:
    for start in range(0, len(items), 100):
        answer = shop.client().post("/v1/events", json={"batch": items[start : start + 100]})
        assert {status["status"] for status in answer.json()["statuses"]} == {"accepted"}


def purchase(message: str, order: str, **more: Any) -> dict[str, Any]:
    properties = {"order_id": order, "revenue": 10}
    return {"type": "track", "event": "purchase", "message_id": message, "properties": properties, **more}


def test_export_and_erasure_reach_every_browser_that_ever_was_the_customers(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    browsers = [f"a-{n}" for n in range(120)]
    send(shop, [purchase(f"bought-{a}", f"o-{a}", anonymous_id=a) for a in browsers])
    shop.decide("web", "once", anonymous_id="a-0")
    send(
        shop,
        [{"type": "alias", "message_id": f"login-{a}", "user_id": "u-1", "anonymous_id": a} for a in browsers],
    )
    shop.collect()
    exported = shop.client().get("/v1/profiles/u-1/export").json()
    bought = {row["message_id"] for row in exported["log"]["events"] if row["event"] == "purchase"}
    assert bought == {f"bought-{a}" for a in browsers}
    assert len(exported["profile"]["identifiers"]["anonymous_id"]) == 120
    assert exported["profile"]["attributes"]["orders"]["count"] == 120
    erased = shop.client().delete("/v1/profiles/a-119").json()
    assert set(erased["ids"]) == {"u-1", *browsers}
    shop.collect()
    for name in ("u-1", "a-0", "a-60"):
        assert shop.client().get(f"/v1/profiles/{name}/export").status_code == 404
        assert shop.tell("view", **{"user_id" if name == "u-1" else "anonymous_id": name}) == "rejected"
    with open_store(shop.settings.redis) as client:
        assert not [key for key in client.scan_iter() if key.endswith((b":ids", b":orders", b":seen", b":caps"))]


def test_a_refund_finds_its_order_however_many_followed(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    now = time.time()
    send(shop, [purchase(f"bought-{n}", f"o-{n}", user_id="u-1", timestamp=now - 90 * 86_400 + n) for n in range(150)])

    def orders() -> dict[str, Any]:
        found: dict[str, Any] = shop.client().get("/v1/profiles/u-1").json()["attributes"]["orders"]
        return {"count": found["count"], "revenue": found["revenue"]}

    assert orders() == {"count": 150, "revenue": 1500}
    send(shop, [purchase("again", "o-3", user_id="u-1", timestamp=now - 90 * 86_400 + 3)])
    assert orders() == {"count": 150, "revenue": 1500}
    shop.tell("refund", properties={"order_id": "o-0", "amount": 4}, user_id="u-1")
    shop.tell("refund", properties={"order_id": "o-1"}, user_id="u-1")
    assert orders() == {"count": 149, "revenue": 1486}
    shop.tell("refund", properties={"order_id": "o-0", "amount": 6}, user_id="u-1")
    assert orders() == {"count": 148, "revenue": 1480}


def test_an_order_that_two_profiles_hold_counts_once_however_many_each_has(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    now = time.time()
    for who in ({"anonymous_id": "a-1"}, {"user_id": "u-1"}):
        [name] = who.values()
        shared = [purchase(f"{name}-shared-{n}", f"shared-{n}", timestamp=now - 9000 + n, **who) for n in range(10)]
        own = [purchase(f"{name}-{n}", f"{name}-{n}", timestamp=now - 1000 + n, **who) for n in range(70)]
        send(shop, shared + own)
    shop.send({"type": "alias", "message_id": "login", "user_id": "u-1", "anonymous_id": "a-1"})
    found = shop.client().get("/v1/profiles/u-1").json()["attributes"]["orders"]
    assert (found["count"], found["revenue"]) == (150, 1500)
    shop.tell("refund", properties={"order_id": "shared-0"}, user_id="u-1")
    shop.tell("refund", properties={"order_id": "a-1-0"}, anonymous_id="a-1")
    found = shop.client().get("/v1/profiles/a-1").json()["attributes"]["orders"]
    assert (found["count"], found["revenue"]) == (148, 1480)


COUPONS = {
    "offers": {"coupon": {"caps": [{"count": 1, "per": "30d", "event": "redemption"}]}, "plain": {}},
    "placements": {"hero": {"offers": ["coupon"]}},
}


def test_a_redemption_of_a_decision_that_is_not_stored_any_more_must_name_its_offer(open_shop: Any) -> None:
    shop = open_shop(COUPONS)
    ids = {"user_id": "u-1"}
    with time_machine.travel(START, tick=True):
        first, second = (shop.decide("web", "hero", **ids)["decision_id"] for _ in range(2))
        assert shop.tell("redemption", decision_id=first, **ids) == "accepted"
        assert shop.tell("redemption", decision_id=second, **ids) == "rejected"
    with open_store(shop.settings.redis) as client:  # the store's clock does not travel
        client.delete(*client.scan_iter("cp:{d:*"))
    with time_machine.travel(START + timedelta(days=2), tick=True):
        item = {"type": "track", "event": "redemption", "message_id": "late", "decision_id": second, **ids}
        [status] = shop.client().post("/v1/events", json={"batch": [item]}).json()["statuses"]
        assert status["status"] == "rejected"
        assert "properties.offer" in status["reason"]
        assert shop.tell("redemption", decision_id=second, properties={"offer": "coupon"}, **ids) == "rejected"
        assert shop.tell("redemption", decision_id=second, properties={"offer": "plain"}, **ids) == "accepted"


def test_a_cart_too_large_to_store_replaces_the_one_before_it(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    small, fits, large = ([{"sku": f"sku-{n:04}", "n": 1}] * count for count, n in ((1, 1), (300, 2), (900, 3)))
    for cart in (small, fits):
        shop.tell("cart_updated", properties={"cart": cart}, user_id="u-1")
        assert shop.decide("app", "hero", user_id="u-1")["resume"] == {"cart": cart}
    item = {"type": "track", "event": "cart_updated", "message_id": "large", "properties": {"cart": large}}
    [status] = shop.client().post("/v1/events", json={"batch": [item | {"user_id": "u-1"}]}).json()["statuses"]
    assert (status["status"], len(status["warnings"])) == ("accepted", 1)
    resumed = shop.decide("app", "hero", user_id="u-1")["resume"]["cart"]
    assert resumed["too_large"] > 8192


def test_the_status_says_what_a_limit_kept_apart_and_which_refund_found_no_order(open_shop: Any) -> None:
    shop = open_shop(SHOP | {"identities": {"holds": {"loyalty_card": 2}, "return_period": "30d"}})

    def warnings(item: dict[str, Any]) -> list[str]:
        [status] = shop.client().post("/v1/events", json={"batch": [item]}).json()["statuses"]
        assert status["status"] == "accepted"
        found: list[str] = status.get("warnings", [])
        return found

    for n in range(2):
        assert not warnings(purchase(f"card-{n}", f"o-{n}", user_id="u-1", loyalty_card=f"c-{n}"))
    [warning] = warnings(purchase("card-2", "o-2", user_id="u-1", loyalty_card="c-2"))
    assert warning.startswith("loyalty_card: 'c-2' stays a customer of its own")
    refund = {"type": "track", "event": "refund", "message_id": "r-1", "properties": {"order_id": "o-9", "amount": 4}}
    [warning] = warnings(refund | {"user_id": "u-1"})
    assert "no such order of the last 30 days" in warning
    assert not warnings(refund | {"user_id": "u-1", "message_id": "r-2", "properties": {"order_id": "o-0"}})
