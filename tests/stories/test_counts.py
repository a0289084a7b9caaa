"""What a cap counts: as many as it allows, whoever else counts them, and nothing that was refused."""

from typing import Any

SHOP = {
    "offers": {
        "loud": {"tags": ["noise"], "caps": [{"count": 70, "per": "30d", "scope": "tag"}]},
        "quiet": {"tags": ["noise"]},
        "liked": {"caps": [{"count": 70, "per": "30d", "event": "click"}]},
        "coffee": {"caps": [{"count": 1, "per": "7d", "event": "redemption"}]},
        "cake": {"caps": [{"count": 1, "per": "7d", "event": "redemption"}]},
    },
    "placements": {key: {"offers": [key]} for key in ("loud", "quiet", "liked", "coffee", "cake")},
}


def test_a_large_cap_counts_all_that_others_add_to_it(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for _ in range(69):
        shop.offer("web", "quiet", user_id="ada")
    assert [shop.offer("web", "loud", user_id="ada") for _ in range(2)] == ["loud", "banner"]
    clicks = [
        {"type": "track", "event": "click", "message_id": f"c{n}", "user_id": "ada", "properties": {"offer": "liked"}}
        for n in range(70)
    ]
    assert shop.client().post("/v1/events", json={"batch": clicks[:69]}).status_code == 200
    assert shop.offer("web", "liked", user_id="ada") == "liked"
    assert shop.send(clicks[69]) == "accepted"
    assert shop.offer("web", "liked", user_id="ada") == "banner"


def test_a_redemption_that_is_rejected_uses_up_nothing(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    both = shop.decide("store", "coffee", "cake", user_id="ada")
    assert {answer["offer"] for answer in both["offers"].values()} == {"coffee", "cake"}
    assert shop.tell("redemption", user_id="ada", properties={"offer": "cake"}) == "accepted"
    assert shop.tell("redemption", user_id="ada", decision_id=both["decision_id"]) == "rejected"
    assert shop.tell("redemption", user_id="ada", properties={"offer": "coffee"}) == "accepted"
    assert shop.tell("redemption", user_id="ada", properties={"offer": "coffee"}) == "rejected"
