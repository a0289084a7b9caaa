"""Story 3: booked on the web, met at the desk: an amenity with its reason, the newest wish, and a sorry guest heard."""

from datetime import UTC, datetime
from typing import Any

import time_machine

SHOP = {
    "offers": {
        "late_checkout": {"title": "Late check-out", "audience": {"trips": {"$gte": 3}}},
        "suite_upgrade": {
            "tags": ["upsell"],
            "audience": {"$or": [{"satisfaction.ces": {"$gte": 4}}, {"satisfaction.ces": None}]},
        },
        "recovery_drink": {"audience": {"satisfaction.ces": {"$exists": True, "$lte": 2}}},
        "high_floor": {"audience": {"room": "high"}},
        "quiet_side": {"audience": {"room": "quiet"}},
    },
    "placements": {
        "desk": {"offers": ["suite_upgrade", "recovery_drink"]},
        "room": {"offers": ["high_floor", "quiet_side"]},
    },
    "moments": [
        {
            "key": "check_in",
            "title": "They check in today, and came often",
            "trigger": {"date": "stay.checkin", "yearly": False},
            "window": "1d",
            "placements": ["desk"],
            "channels": ["desk"],
            "offers": ["late_checkout"],
            "once": {"per": "occurrence"},
        }
    ],
}


SPOKEN = {
    "web": {
        "de": {"headline": "Später auschecken", "price": 20},
        "en": {"headline": "Late check-out", "price": 20},
    },
    "desk": {"headline": "Late check-out", "price": 20},
}


def booked(shop: Any, guest: str, **traits: Any) -> None:
    shop.identify({"trips": 4, **traits}, user_id=guest)
    shop.tell("booking", properties={"step": "booked"}, user_id=guest)


def test_the_desk_offers_an_amenity_on_the_day_and_says_why(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with time_machine.travel(datetime(2026, 11, 20, 9, tzinfo=UTC), tick=True):
        booked(shop, "ada", **{"stay.checkin": "2026-11-22"})
        assert shop.decide("desk", "desk", user_id="ada", expose=False)["offers"]["desk"]["reason"] != "moment"
    with time_machine.travel(datetime(2026, 11, 22, 15, tzinfo=UTC), tick=True):
        body = {"customer": {"user_id": "ada"}, "channel": "desk", "placements": ["desk"]}
        view = shop.client().post("/v1/agent", json=body).json()
        suggestion = view["suggestions"]["desk"]
        assert suggestion["title"] == "Late check-out"
        assert suggestion["why"] == "They check in today, and came often"
        assert suggestion["not_now"]["suite_upgrade"] == "another offer is for this very moment"
        assert view["history"]["resume"] == {"step": "booked"} or "step" not in view["history"]["resume"]
        assert "booking" in view["history"]["recent"]
        assert shop.offer("desk", "desk", user_id="ada") == "late_checkout"
        assert shop.offer("desk", "desk", user_id="ada") != "late_checkout"  # once


def test_the_newer_room_wish_beats_the_older_whatever_order_they_come_in(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for number, times in enumerate((("10:00", "12:00"), ("12:00", "10:00"))):
        guest = f"guest-{number}"
        for at in times:
            room = {"10:00": "high", "12:00": "quiet"}[at]
            item = {"type": "identify", "message_id": f"{guest}-{at}", "user_id": guest, "traits": {"room": room}}
            assert shop.send(item | {"timestamp": f"2026-11-01T{at}:00Z"}) == "accepted"
        assert shop.offer("desk", "room", user_id=guest) == "quiet_side"


def test_much_effort_suppresses_the_upsell_and_offers_recovery(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    booked(shop, "bo")
    assert shop.offer("desk", "desk", user_id="bo") == "suite_upgrade"
    assert shop.tell("survey", properties={"ces": 1}, user_id="bo") == "accepted"
    why = shop.explain("desk", "desk", user_id="bo")
    assert (why["offer"], why["closed"]["suite_upgrade"]) == ("recovery_drink", "audience")


def test_a_guest_reads_in_their_language(open_shop: Any) -> None:
    spoken = {"late_checkout": {"renderings": SPOKEN}}
    shop = open_shop({"offers": spoken, "placements": {"room": {"offers": ["late_checkout"]}}})

    def read(guest: str, channel: str = "web", **context: Any) -> tuple[str, Any]:
        offer = shop.decide(channel, "room", user_id=guest, context=context)["offers"]["room"]
        return offer["rendering"]["headline"], offer.get("language")

    for guest, language in (("ada", "de-AT"), ("bob", "en_GB"), ("eve", "fr")):
        shop.identify({"language": language}, user_id=guest)
    assert read("ada") == ("Später auschecken", "de")
    assert read("bob") == ("Late check-out", "en")
    assert read("eve") == ("Später auschecken", "de")  # the first, as the shop names no default
    assert read("stranger", language="fr-CH, en;q=0.8") == ("Late check-out", "en")  # as a browser says it
    assert read("ada", language="en") == ("Late check-out", "en")  # the request knows the present better
    assert read("ada", "desk") == ("Late check-out", None)
    body = {"customer": {"user_id": "bob"}, "channel": "web", "placements": ["room"]}
    assert shop.client().post("/v1/agent", json=body).json()["suggestions"]["room"]["rendering"]["price"] == 20
