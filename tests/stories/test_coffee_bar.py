"""Story 2: a drink on the customer's birthday, on their local day, once a year across app and till."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine

SHOP = {
    "zone": "Europe/Berlin",
    "offers": {
        "birthday_drink": {"purpose": "marketing"},
        "menu": {},
    },
    "placements": {"board": {"offers": ["menu"]}},
    "moments": [
        {
            "key": "birthday",
            "trigger": {"date": "birthday"},
            "window": "1d",
            "placements": ["board"],
            "offers": ["birthday_drink"],
            "once": {"per": "year", "event": "redemption"},
        }
    ],
}


def at(day: str, hour: str, zone: str = "Europe/Berlin") -> time_machine.travel:
    return time_machine.travel(datetime.fromisoformat(f"{day}T{hour}").replace(tzinfo=ZoneInfo(zone)), tick=True)


def test_a_birthday_drink_once_a_year_on_app_or_till(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with at("2026-11-21", "22:00"):
        shop.identify({"birthday": "1990-11-22"}, user_id="ada")
        shop.consent("marketing", user_id="ada")
        assert shop.offer("app", "board", user_id="ada") == "menu"
    with at("2026-11-22", "00:05"):
        decision = shop.decide("app", "board", user_id="ada")
        answer = decision["offers"]["board"]
        assert (answer["offer"], answer["reason"], answer["moment"]) == ("birthday_drink", "moment", "birthday")
        assert answer["propensity"] == 1.0
        till = shop.decide("store", "board", user_id="ada")
        assert till["offers"]["board"]["offer"] == "birthday_drink"
        told = {"user_id": "ada", "decision_id": till["decision_id"], "channel": "store"}
        assert shop.tell("redemption", **told) == "accepted"
        assert shop.offer("app", "board", user_id="ada") == "menu"
        assert shop.offer("store", "board", user_id="ada") == "menu"
    with at("2026-11-23", "00:01"):
        assert shop.offer("app", "board", user_id="ada") == "menu"
    with at("2027-11-22", "23:59"):
        assert shop.offer("app", "board", user_id="ada") == "birthday_drink"


@pytest.mark.parametrize("by_code", [False, True])
def test_two_drinks_shown_at_once_are_redeemed_once(open_shop: Any, *, by_code: bool) -> None:
    shop = open_shop(SHOP)
    with at("2026-11-22", "12:00"):
        shop.identify({"birthday": "1990-11-22"}, user_id="ada")
        shop.consent("marketing", user_id="ada")
        shown = [shop.decide(channel, "board", user_id="ada") for channel in ("app", "store")]
        assert {decision["offers"]["board"]["offer"] for decision in shown} == {"birthday_drink"}
        told = {"properties": {"offer": "birthday_drink"}} if by_code else {}
        ids = [{} if by_code else {"decision_id": decision["decision_id"]} for decision in shown]
        app, store = (
            shop.tell("redemption", user_id="ada", channel=channel, **told, **one)
            for channel, one in zip(("app", "store"), ids, strict=True)
        )
        assert (app, store) == ("accepted", "rejected")
    with at("2027-11-22", "12:00"):
        again = shop.decide("store", "board", user_id="ada")
        assert shop.tell("redemption", user_id="ada", channel="store", decision_id=again["decision_id"]) == "accepted"


def test_who_did_not_consent_gets_the_menu_and_the_reason_is_kept(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    with at("2026-11-22", "12:00"):
        shop.identify({"birthday": "1990-11-22"}, user_id="bo")
        assert shop.offer("app", "board", user_id="bo") == "menu"
        assert shop.explain("app", "board", user_id="bo")["closed"] == {"birthday_drink": "consent"}


@pytest.mark.parametrize(
    ("day", "offer"),
    [
        ("2027-02-27", "menu"),
        ("2027-02-28", "birthday_drink"),
        ("2027-03-01", "menu"),
        ("2028-02-28", "menu"),
        ("2028-02-29", "birthday_drink"),
    ],
)
def test_who_was_born_on_29_february_has_a_birthday_every_year(open_shop: Any, day: str, offer: str) -> None:
    shop = open_shop(SHOP, workers=1)
    with at(day, "09:00"):
        shop.identify({"birthday": "2000-02-29"}, user_id="cy")
        shop.consent("marketing", user_id="cy")
        assert shop.offer("app", "board", user_id="cy") == offer


def test_the_day_is_that_of_the_customer(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    with at("2026-11-21", "20:00"):  # 08:00 on the 22nd in Auckland
        shop.identify({"birthday": "1990-11-22", "timezone": "Pacific/Auckland"}, user_id="di")
        shop.consent("marketing", user_id="di")
        assert shop.offer("app", "board", user_id="di") == "birthday_drink"
    with at("2026-11-22", "13:00"):  # 01:00 on the 23rd there
        assert shop.offer("app", "board", user_id="di") == "menu"
