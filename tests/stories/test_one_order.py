"""An order is one order to moments, caps and the ledger: under each of its names, and however often it is reported."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from engine.vocabulary import PURCHASES
from tests.verbs import run_verb

NAMES = sorted(PURCHASES)
SHOP: dict[str, Any] = {
    "offers": {
        "reminder": {},
        "thanks": {},
        "starter": {"caps": [{"count": 2, "per": "30d", "event": "order_placed"}]},
        "gift": {"budget": {"amount": 100, "cost": 1}},
    },
    "placements": {
        "hero": {"offers": ["reminder"]},
        "thank_you": {"offers": ["thanks"]},
        "row": {"offers": ["starter"]},
        "corner": {"offers": ["gift"]},
    },
    "moments": [
        {
            "key": "cart_waits",
            "trigger": {"event": "cart_updated", "after": "1s", "unless": ["order_completed"]},
            "window": "48h",
            "placements": ["hero"],
            "offers": ["reminder"],
        },
        {
            "key": "bought",
            "trigger": {"event": "purchase"},
            "window": "48h",
            "placements": ["thank_you"],
            "offers": ["thanks"],
            "once": {"event": "purchase"},
        },
        {
            "key": "bought_much",
            "trigger": {"event": "order_placed", "filter": {"revenue": {"$gte": 100}}},
            "window": "48h",
            "placements": ["corner"],
            "offers": ["gift"],
        },
    ],
}


def moment(shop: Any, placement: str, **ids: str) -> str | None:
    found: str | None = shop.decide("web", placement, **ids)["offers"][placement].get("moment")
    return found


def test_every_name_of_an_order_begins_and_cancels_moments(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for name in NAMES:
        ids = {"user_id": f"u-{name}"}
        shop.tell("cart_updated", properties={"items": 2}, timestamp=time.time() - 120, **ids)
        assert moment(shop, "hero", **ids) == "cart_waits"
        shop.tell(name, properties={"revenue": 120.0, "order_id": f"o-{name}"}, timestamp=time.time() - 60, **ids)
        found = [moment(shop, placement, **ids) for placement in ("hero", "thank_you", "corner")]
        assert found == [None, "bought", "bought_much"], name
        shown = shop.decide("web", "thank_you", **ids)
        shop.tell(name, decision_id=shown["decision_id"], properties={"order_id": f"o2-{name}"}, **ids)
        assert moment(shop, "thank_you", **ids) is None, name


@pytest.mark.parametrize("repeats", [(), NAMES], ids=["once", "repeated"])
def test_a_cap_on_orders_counts_every_name_and_each_order_once(open_shop: Any, repeats: Sequence[str]) -> None:
    shop = open_shop(SHOP)
    for name in NAMES:
        ids = {"user_id": f"u-{name}"}
        for number in range(2):
            assert shop.offer("web", "row", **ids) == "starter"
            for other in (name, *repeats):
                properties = {"offer": "starter", "order_id": f" o{number}-{name}"}
                assert shop.tell(other, properties=properties, **ids) == "accepted"
        assert shop.offer("web", "row", **ids) == "banner"


def test_the_ledger_finds_the_refund_of_an_order_as_the_profile_does(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    spellings: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"order": "o1"}, {"order": "o1"}),
        ({"order_id": 1002}, {"order": "1002"}),
        ({"order_id": " o3\u00a0"}, {"order_id": "\u3000o3"}),
        ({"order_id": None, "order": "o4"}, {"order_id": "o4", "amount": None, "revenue": 5.0}),
    ]
    for number, (bought, refunded) in enumerate(spellings):
        ids = {"user_id": f"u{number}"}
        shown = shop.decide("web", "corner", **ids)
        assert shown["offers"]["corner"]["offer"] == "gift"
        shop.tell("purchase", decision_id=shown["decision_id"], properties={"revenue": 5.0, **bought}, **ids)
        shop.tell("return", properties=refunded, **ids)
        [order] = shop.client().get(f"/v1/profiles/u{number}").json()["orders"]
        assert order["refunded"] == 5.0, order
    shop.collect()
    places = ["--data", str(shop.settings.data), "--experiments", str(shop.settings.experiments)]
    done = run_verb("measure", "ledger", "--json", *places)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["rows"]
    assert (row["promised"], row["refunded"]) == ("4", "4")
