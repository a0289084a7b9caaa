"""Exclusive groups over HTTP: an answer combines no two offers of a group, in placements and in lists."""

from collections import Counter
from typing import Any

from scipy.stats import chisquare

OFFERS: dict[str, Any] = {
    "ten_off": {"exclusive": ["discounts"]},
    "free_delivery": {"exclusive": ["discounts", "delivery"]},
    "express": {"exclusive": ["delivery"]},
    "gift": {},
}
SHOP: dict[str, Any] = {
    "offers": OFFERS,
    "placements": {
        "hero": {"offers": ["ten_off", "free_delivery"]},
        "aside": {"offers": ["ten_off", "free_delivery", "gift"]},
        "row": {"offers": list(OFFERS), "count": 3},
    },
}


def groups_of(offers: list[str]) -> Counter[str]:
    return Counter(group for offer in offers for group in OFFERS.get(offer, {}).get("exclusive", []))


def test_no_answer_shows_two_offers_of_a_group_and_the_draws_stay_exact(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    lists: Counter[tuple[str, ...]] = Counter()
    chances: dict[tuple[str, ...], float] = {}
    for n in range(600):
        offers = shop.decide("web", "row", user_id=f"u{n}")["offers"]
        items = tuple(item["offer"] for item in offers["row"]["items"])
        assert max(groups_of(list(items)).values()) == 1
        lists[items] += 1
        chances[items] = offers["row"]["propensity"]
    assert {len(items) for items in lists} == {2, 3}  # with free_delivery only the gift is left
    assert sum(chances.values()) == 1.0 or abs(sum(chances.values()) - 1) < 1e-9
    assert chisquare(list(lists.values()), [600 * chances[items] for items in lists]).pvalue > 1e-4


def test_a_later_placement_leaves_out_what_an_earlier_one_excludes_and_explain_says_so(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for n in range(20):
        offers = shop.decide("web", "hero", "aside", user_id=f"u{n}")["offers"]
        assert offers["aside"]["offer"] == "gift"
        assert offers["aside"]["propensity"] == 1
    body = {"customer": {"user_id": "u1"}, "channel": "web", "placements": ["hero", "aside"]}
    explained = shop.client().post("/v1/explain", json=body).json()["placements"]["aside"]
    assert explained["closed"] == {"ten_off": "shown", "free_delivery": "shown"}
