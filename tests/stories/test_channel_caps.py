"""How often the shop writes to a customer: past a channel's caps nothing is sent, while a page shows its fallback."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import time_machine

TWICE = {"count": 2, "per": "1d", "window": "calendar", "scope": "channel"}
SHOP = {
    "offers": {"tea": {}, "milk": {}},
    "placements": {"line": {"offers": ["tea", "milk"]}},
    "channels": {"email": {"outbound": True, "caps": [dict(TWICE)]}, "web": {"caps": [dict(TWICE)]}},
}
NOTHING = {"offer": None, "rendering": {}, "propensity": 1.0, "policy": None, "reason": "dropped"}


def test_past_its_caps_an_outbound_channel_sends_nothing_until_they_open(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with time_machine.travel(datetime.fromisoformat("2026-11-22T12:00:00+00:00"), tick=True):
        sent = [shop.decide("email", "line", user_id="ada") for _ in range(4)]
        assert [decision["offers"]["line"]["reason"] for decision in sent] == ["policy", "policy", "dropped", "dropped"]
        assert sent[-1]["offers"]["line"] == NOTHING
        assert shop.decide("email", "line", user_id="ada", expose=False)["offers"]["line"] == NOTHING
        told = shop.explain("email", "line", user_id="ada")
        assert (told["reason"], told["closed"]) == ("dropped", {"tea": "cap", "milk": "cap"})
        assert shop.offer("email", "line", user_id="bo") in {"tea", "milk"}
    with time_machine.travel(datetime.fromisoformat("2026-11-23T00:01:00+00:00"), tick=True):
        assert shop.offer("email", "line", user_id="ada") in {"tea", "milk"}


def test_of_forty_letters_at_once_two_are_sent(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.decide("email", "line", user_id="ada")["offers"]["line"], range(40)))
    assert sum(answer["offer"] is not None for answer in answers) == 2
    assert [answer for answer in answers if answer["offer"] is None] == [NOTHING] * 38


def test_a_page_shows_its_fallback_past_the_caps_and_does_not_count_it(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shown = [shop.offer("web", "line", user_id="ada") for _ in range(5)]
    assert shown[2:] == ["banner"] * 3
    assert {*shown[:2]} <= {"tea", "milk"}
    (counted,) = shop.client().get("/v1/profiles/ada").json()["counted"].values()
    assert len(counted) == 2
