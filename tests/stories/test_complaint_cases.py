"""While one of a customer's complaints is open, offers whose audience excludes complaints stay away."""

from typing import Any

import pytest

SHOP = {
    "offers": {"upsell": {"audience": {"complaint_open": {"$ne": True}}}},
    "placements": {"desk": {"offers": ["upsell"]}},
}


@pytest.mark.parametrize("names", [("c-1", "c-2"), (None, None)])
def test_resolving_one_of_two_complaints_leaves_the_other_open(open_shop: Any, names: tuple[str | None, ...]) -> None:
    shop = open_shop(SHOP)

    def tell(event: str, name: str | None, **ids: str) -> None:
        properties = {} if name is None else {"complaint_id": name}
        assert shop.tell(event, channel="call_centre", properties=properties, **ids) == "accepted"

    def shown() -> str:
        return str(shop.offer("desk", "desk", user_id="ada"))

    assert shown() == "upsell"
    tell("complaint", names[0], anonymous_id="browser")
    tell("complaint_opened", names[1], user_id="ada")
    shop.identify({}, user_id="ada", anonymous_id="browser")
    tell("complaint_resolved", names[0], user_id="ada")
    assert shown() == "banner"
    assert shop.client().get("/v1/profiles/ada").json()["attributes"]["complaint_open"] is True
    tell("complaint_closed", names[1], user_id="ada")
    assert shown() == "upsell"


SILENT = {
    "offers": {
        "upsell": {},
        "sorry": {"tags": ["recovery"]},
        "birthday": {},
    },
    "placements": {
        "hero": {"offers": ["upsell", "sorry"]},
        "row": {"offers": ["upsell", "sorry"], "count": 2},
        "mail": {"offers": ["upsell"]},
    },
    "channels": {"email": {"outbound": True}},
    "moments": [
        {"key": "now", "trigger": {"when": {"birthday": True}}, "placements": ["hero"], "offers": ["birthday"]}
    ],
    "folder": {"suppress": {"when": "complaint_open", "except": ["recovery"]}},
}


def test_a_complaint_silences_sales_everywhere_but_recovery(open_shop: Any) -> None:
    shop = open_shop(SILENT)
    shop.identify({"birthday": True}, user_id="ada")
    assert shop.offer("web", "hero", user_id="ada") == "birthday"
    assert shop.offer("email", "mail", user_id="ada") == "upsell"
    assert shop.tell("complaint", user_id="ada", channel="call_centre") == "accepted"
    for channel in ("web", "store", "call_centre", "email"):
        assert shop.offer(channel, "hero", user_id="ada") == "sorry"
    items = shop.decide("web", "row", user_id="ada")["offers"]["row"]["items"]
    assert [item["offer"] for item in items] == ["sorry"]
    assert shop.offer("web", "mail", user_id="ada") == "banner"
    silent = shop.decide("email", "mail", user_id="ada")["offers"]["mail"]
    assert (silent["offer"], silent["reason"]) == (None, "dropped")
    closed = shop.explain("web", "hero", user_id="ada")["closed"]
    assert closed == {"upsell": "silenced", "birthday": "silenced"}
    body = {"customer": {"user_id": "ada"}, "channel": "call_centre", "placements": ["hero"]}
    view = shop.client().post("/v1/agent", json=body).json()
    assert view["suggestions"]["hero"]["not_now"]["upsell"] == "nothing is sold to the customer now"
    assert shop.offer("web", "hero", user_id="bob") in ("upsell", "sorry")
    assert shop.tell("complaint_resolved", user_id="ada") == "accepted"
    assert shop.offer("web", "hero", user_id="ada") == "birthday"
