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
