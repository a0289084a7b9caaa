"""Which offers one order may redeem, over HTTP: rules by key, by tag and for all offers, also of many tills at once."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from tests.stories.conftest import write_shop
from tests.verbs import run_verb

SHOP: dict[str, Any] = {
    "offers": {
        "welcome": {"caps": [{"count": 2, "per": "30d", "event": "redemption"}]},
        "summer": {"tags": ["price"]},
        "birthday": {"tags": ["price"]},
        "wrap": {},
    },
    "placements": {"hero": {"offers": ["welcome", "summer", "birthday", "wrap"]}},
    "folder": {
        "stacking": [
            {"offers": {"tagged": "price"}},
            {"offers": ["welcome", "summer"], "most": 1},
            {"offers": "all", "most": 2},
        ]
    },
}


def redeem(shop: Any, offer: str, order: str, **more: Any) -> dict[str, Any]:
    item = {"type": "track", "event": "redemption", "user_id": "ada", "message_id": f"{order}-{offer}"} | more
    item["properties"] = {"offer": offer, "order_id": order} | more.get("properties", {})
    answer = shop.client().post("/v1/events", json={"batch": [item]})
    assert answer.status_code == 200, answer.text
    status: dict[str, Any] = answer.json()["statuses"][0]
    return status


def test_a_redemption_that_a_rule_does_not_allow_is_rejected_with_the_reason(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    assert redeem(shop, "summer", "o1")["status"] == "accepted"
    refused = redeem(shop, "birthday", "o1")
    assert refused["status"] == "rejected"
    assert "birthday may not be redeemed with summer" in refused["reason"]
    assert "stacking[0] allows 1" in refused["reason"]
    assert "stacking[1]" in redeem(shop, "welcome", "o1")["reason"]
    assert redeem(shop, "wrap", "o1")["status"] == "accepted"
    assert redeem(shop, "summer", "o1", message_id="again")["status"] == "accepted"  # the same offer counts once
    assert redeem(shop, "birthday", "o2")["status"] == "accepted"
    assert redeem(shop, "welcome", "o2")["status"] == "accepted"
    assert "stacking[2] allows 2" in redeem(shop, "wrap", "o2")["reason"]
    assert redeem(shop, "summer", "o1")["status"] == "duplicate"


def test_one_of_many_tills_at_once_redeems_an_offer_of_a_rule(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for order in range(6):
        pairs = [("summer", f"s{n}") for n in range(3)] + [("birthday", f"b{n}") for n in range(3)]
        with ThreadPoolExecutor(6) as threads:
            found = [*threads.map(lambda one: redeem(shop, one[0], f"o{order}", message_id=f"{order}{one[1]}"), pairs)]  # noqa: B023
        by_offer = {
            offer: [each["status"] for (name, _), each in zip(pairs, found, strict=True) if name == offer]
            for offer in ("summer", "birthday")
        }
        assert sorted(map(set, by_offer.values()), key=str) == [{"accepted"}, {"rejected"}], by_offer


def test_what_a_cap_refuses_leaves_its_place_in_the_order_to_another(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    for order in ("a", "b"):
        assert redeem(shop, "welcome", order)["status"] == "accepted"
    assert "as often as it may" in redeem(shop, "welcome", "c")["reason"]
    assert redeem(shop, "summer", "c")["status"] == "accepted"


def test_an_open_order_keeps_its_count_where_rules_move_in_the_list(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    assert redeem(shop, "wrap", "o1")["status"] == "accepted"
    before = shop.decide("web", "hero", user_id="ada")["plan"]
    channels = shop.settings.experiments / "channels.yaml"
    rules = SHOP["folder"]["stacking"]
    channels.write_text(yaml.safe_dump(yaml.safe_load(channels.read_text()) | {"stacking": rules[::-1]}))
    deadline = time.monotonic() + 30
    while shop.decide("web", "hero", user_id="ada")["plan"] == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert redeem(shop, "birthday", "o1")["status"] == "accepted"
    assert "stacking[0] allows 2" in redeem(shop, "welcome", "o1")["reason"]


def test_an_order_is_stored_all_the_same_with_a_warning(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    assert redeem(shop, "summer", "o1")["status"] == "accepted"
    bought = redeem(shop, "birthday", "o1", event="purchase", properties={"revenue": 20.0})
    assert bought["status"] == "accepted"
    assert any("birthday may not be redeemed with summer" in warning for warning in bought["warnings"])


def test_rules_that_name_nothing_are_problems(tmp_path: Path) -> None:
    rules = [{"offers": ["sumer"]}, {"offers": {"tagged": "prise"}}]
    folder = write_shop(tmp_path / "experiments", SHOP | {"folder": {"stacking": rules}})
    done = run_verb("check", str(folder), "--json")
    assert done.returncode == 1
    problems = {one["path"]: one["message"] for one in json.loads(done.stdout)["problems"]}
    assert "did you mean 'summer'" in problems["stacking[0].offers[0]"]
    assert "did you mean 'price'" in problems["stacking[1].offers.tagged"]
