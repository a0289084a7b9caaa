"""Coupon codes over HTTP where other limits refuse the offer, a refusal is taken back or an event is rejected."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine import keyspace
from tests.store import open_store
from tests.stories.test_coupons import SHOP, counts, fill, shown
from tests.verbs import run_verb

WELCOME: dict[str, Any] = SHOP["offers"]["welcome"]


def shop_with(**limits: Any) -> dict[str, Any]:
    return {**SHOP, "offers": {"welcome": WELCOME | limits}}


def spent(shop: Any) -> Decimal:
    """What the live counter of the offer's budget has spent."""
    with open_store(shop.settings.redis) as client:
        return Decimal(int(client.hget(keyspace.pool("budget", "welcome"), "spent") or 0)) / 10_000


def test_a_code_stands_for_the_decision_that_showed_it_and_not_for_a_refused_one(
    open_shop: Any, tmp_path: Path
) -> None:
    limits = {"stock": {"sku": "BAG", "hold": "2h"}, "budget": {"amount": 100, "cost": 3, "hold": "2h"}}
    shop = open_shop(shop_with(**limits))
    fill(shop, tmp_path, 3)
    shop.stock("BAG", 1)
    assert shown(shop, user_id="ada")["coupon"] == "CODE-0"
    assert shown(shop, user_id="ada")["offer"] == "banner"  # the only bag is on hold for the first decision
    assert shop.tell("purchase", user_id="ada", properties={"coupon": "CODE-0", "revenue": 9.0}) == "accepted"
    assert counts(shop) == (2, 0, 1, 0)
    assert spent(shop) == 3


@pytest.mark.parametrize("by", ["decision", "code"])
def test_a_refused_offer_that_is_bought_later_spends_its_code_and_budget(
    open_shop: Any, tmp_path: Path, by: str
) -> None:
    shop = open_shop(shop_with(budget={"amount": 100, "cost": 3, "hold": "2h"}))
    fill(shop, tmp_path, 3)
    made = shop.decide("web", "hero", user_id="ada")
    decision = {"decision_id": made["decision_id"]}
    assert shop.tell("refused", user_id="ada", **decision) == "accepted"
    bought = decision if by == "decision" else {}
    properties = {"revenue": 9.0} | ({} if bought else {"coupon": "CODE-0"})
    assert shop.tell("purchase", user_id="ada", properties=properties, **bought) == "accepted"
    assert counts(shop) == (2, 0, 1, 0)
    assert spent(shop) == 3
    assert shop.tell("redemption", user_id="bo", properties={"coupon": "CODE-0"}) == "rejected"


def test_an_exposure_answers_the_codes_of_what_it_counts(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(shop_with(caps=[{"count": 1, "per": "30d"}]), workers=1)
    fill(shop, tmp_path, 3)
    first, second = (shop.decide("web", "hero", user_id="ada", expose=False)["decision_id"] for _ in range(2))
    client = shop.client()
    for _ in range(2):
        answer = client.post("/v1/exposures", json={"decision_id": first}).json()
        assert answer == {"status": "accepted", "coupons": {"hero": "CODE-0"}}
    refused = client.post("/v1/exposures", json={"decision_id": second}).json()
    assert refused == {"status": "refused", "refused": {"hero": "cap"}}
    assert counts(shop) == (2, 1, 0, 0)


def test_a_code_of_an_event_that_is_rejected_in_the_end_stays_valid(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 3)
    assert shown(shop, user_id="ada")["coupon"] == "CODE-0"
    assert shop.client().delete("/v1/profiles/ada").status_code == 200
    by_code = {"properties": {"coupon": "CODE-0", "revenue": 5.0}}
    assert shop.tell("redemption", user_id="ada", **by_code) == "rejected"
    assert shop.tell("purchase", user_id="ada", **by_code) == "rejected"
    assert counts(shop) == (2, 1, 0, 0)
    assert shop.tell("redemption", user_id="ben", **by_code) == "accepted"
    assert counts(shop) == (2, 0, 1, 0)


def test_a_repetition_that_is_rejected_does_not_make_a_redeemed_code_valid(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 3)
    assert shown(shop, user_id="ada")["coupon"] == "CODE-0"
    at_till = {"type": "track", "event": "redemption", "user_id": "ada", "channel": "store", "message_id": "r-1"}
    at_till |= {"properties": {"coupon": "CODE-0"}}
    assert shop.send(at_till) == "accepted"
    assert shop.client().delete("/v1/profiles/ada").status_code == 200
    assert shop.send(at_till) == "rejected"
    assert counts(shop) == (2, 0, 1, 0)
    assert shop.tell("redemption", user_id="ben", properties={"coupon": "CODE-0"}) == "rejected"


@pytest.mark.parametrize("is_prefetched", [False, True])
def test_a_login_carries_the_code_of_the_visitor(open_shop: Any, tmp_path: Path, is_prefetched: bool) -> None:  # noqa: FBT001 (pytest)
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 3)

    def get_code(**ids: str) -> Any:
        if not is_prefetched:
            return shown(shop, **ids)["coupon"]
        made = shop.decide("web", "hero", expose=False, **ids)
        return shop.client().post("/v1/exposures", json={"decision_id": made["decision_id"]}).json()["coupons"]["hero"]

    before = shop.decide("web", "hero", expose=False, anonymous_id="browser")
    assert get_code(anonymous_id="browser") == "CODE-0"
    assert shop.tell("click", user_id="ada", anonymous_id="browser") == "accepted"
    assert get_code(user_id="ada") == "CODE-0"
    assert get_code(anonymous_id="browser") == "CODE-0"
    late = shop.client().post("/v1/exposures", json={"decision_id": before["decision_id"]}).json()
    assert late["coupons"] == {"hero": "CODE-0"}
    assert counts(shop) == (2, 1, 0, 0)
    assert shop.tell("login", user_id="bo", anonymous_id="browser") == "accepted"  # another person on the browser
    assert get_code(user_id="bo") == "CODE-1"
    assert get_code(user_id="ada") == "CODE-0"
    assert counts(shop) == (1, 2, 0, 0)


def test_a_customer_with_a_code_keeps_it_after_a_login(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(shop_with(caps=[]))
    fill(shop, tmp_path, 3)
    assert shown(shop, user_id="ada")["coupon"] == "CODE-0"
    assert shown(shop, anonymous_id="browser")["coupon"] == "CODE-1"
    assert shop.tell("click", user_id="ada", anonymous_id="browser") == "accepted"
    assert shown(shop, user_id="ada", anonymous_id="browser")["coupon"] == "CODE-0"
    assert shop.tell("redemption", user_id="ada", properties={"coupon": "CODE-0"}) == "accepted"
    assert shop.explain("web", "hero", user_id="ada")["offer"] == "welcome"
    assert shown(shop, user_id="ada")["coupon"] == "CODE-1"  # the other one that they have seen
    assert counts(shop) == (1, 1, 1, 0)


def test_an_export_has_the_codes_of_the_customer(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(SHOP)
    fill(shop, tmp_path, 3)
    assert shown(shop, anonymous_id="browser")["coupon"] == "CODE-0"
    assert shown(shop, user_id="bo")["coupon"] == "CODE-1"
    assert shop.tell("redemption", user_id="ada", anonymous_id="browser", properties={"coupon": "CODE-0"}) == "accepted"
    expected = [{"offer": "welcome", "code": "CODE-0", "state": "redeemed"}]
    assert shop.client().get("/v1/profiles/ada/export").json()["coupons"] == expected
    places = ("--data", str(shop.settings.data), "--redis", shop.settings.redis)
    done = run_verb("export", "ada", *places)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["coupons"] == expected
    assert json.loads(run_verb("export", "bo", *places).stdout)["coupons"][0]["state"] == "drawn"
