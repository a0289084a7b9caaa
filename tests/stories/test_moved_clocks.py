"""A customer who changes their time zone, once or to and fro, gets no second day out of a calendar cap."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

SHOP = {
    "zone": "Europe/Berlin",
    "offers": {
        "coffee": {"caps": [{"count": 1, "per": "1d", "window": "calendar", "event": "redemption"}]},
        "letter": {"caps": [{"count": 1, "per": "1d", "window": "calendar"}]},
        "cake": {},
    },
    "placements": {"till": {"offers": ["coffee"]}, "board": {"offers": ["letter"]}},
    "moments": [
        {
            "key": "party",
            "trigger": {"when": {"wants": "cake"}},
            "placements": ["till"],
            "offers": ["cake"],
            "once": {"per": "day", "event": "redemption"},
        }
    ],
}
NOON = datetime(2026, 11, 22, 10, tzinfo=UTC)  # 11:00 in Berlin, 23:00 in Auckland


def at(hours: float) -> time_machine.travel:
    return time_machine.travel(NOON + timedelta(hours=hours), tick=True)


def redeem(shop: Any, offer: str = "coffee", **more: Any) -> str:
    return str(shop.tell("redemption", channel="store", properties={"offer": offer}, user_id="ada", **more))


def test_a_redemption_counts_until_its_day_is_over_in_both_zones(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with at(0):
        shop.identify({"timezone": "Europe/Berlin"}, user_id="ada")
        assert redeem(shop) == "accepted"
    with at(2):  # 01:00 on the 23rd in Auckland
        shop.identify({"timezone": "Pacific/Auckland"}, user_id="ada")
        assert redeem(shop) == "rejected"
        assert shop.offer("store", "till", user_id="ada") == "banner"
    with at(13.5):  # 00:30 on the 23rd in Berlin
        assert shop.offer("store", "till", user_id="ada") == "coffee"
        assert redeem(shop) == "accepted"
        shop.identify({"timezone": "Europe/Berlin"}, user_id="ada")
        assert redeem(shop) == "rejected"
    with at(25.5):  # 00:30 on the 24th in Auckland, 12:30 on the 23rd in Berlin
        shop.identify({"timezone": "Pacific/Auckland"}, user_id="ada")
        assert redeem(shop) == "accepted"  # the last one was made on the 23rd of Auckland alone
    with at(26):
        for zone in ("Europe/Berlin", "America/Los_Angeles", "Pacific/Kiritimati", "Pacific/Auckland"):
            shop.identify({"timezone": zone}, user_id="ada")
            assert redeem(shop) == "rejected"


def test_who_stays_gets_the_next_day_at_midnight(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with at(0):
        shop.identify({"timezone": "Pacific/Auckland"}, user_id="ada")
        assert [redeem(shop), redeem(shop)] == ["accepted", "rejected"]
    with at(1.01):
        shop.identify({"timezone": "Pacific/Auckland"}, user_id="ada")
        assert redeem(shop) == "accepted"


@pytest.mark.parametrize("expose", [True, False])
def test_the_zone_of_a_request_s_context_gives_no_second_showing(open_shop: Any, *, expose: bool) -> None:
    shop = open_shop(SHOP)

    def show(zone: str) -> str:
        answer = shop.decide("web", "board", user_id="ada", context={"timezone": zone}, expose=expose)
        if not expose:
            body = {"decision_id": answer["decision_id"], "placements": ["board"]}
            assert shop.client().post("/v1/exposures", json=body).status_code in {200, 202, 409}
        return str(answer["offers"]["board"]["offer"])

    with at(0):
        assert show("Europe/Berlin") == "letter"
    with at(2):
        assert show("Pacific/Auckland") == "banner"
    with at(13.5):
        assert show("Pacific/Auckland") == "letter"


def test_a_moment_that_occurs_once_a_day_occurs_once(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for hours, zone, expected in ((0, "Europe/Berlin", "accepted"), (2, "Pacific/Auckland", "rejected")):
        with at(hours):
            shop.identify({"timezone": zone, "wants": "cake"}, user_id="ada")
            assert redeem(shop, "cake") == expected
