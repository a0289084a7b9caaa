"""Offers by date: a contract that ends soon, whichever way the shop writes dates."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine

SHOP = {
    "offers": {
        "renew": {"audience": {"contract.end": {"$after": "now", "$within": "30d"}}},
        "founder": {"audience": {"since": {"$before": "2020-01-01T00:00:00+01:00"}}},
    },
    "placements": {"desk": {"offers": ["renew"]}, "till": {"offers": ["founder"]}},
}
NOON = datetime.fromisoformat("2026-11-22T12:00:00+00:00")


@pytest.mark.parametrize("write", [datetime.isoformat, datetime.timestamp, lambda at: int(at.timestamp() * 1000)])
def test_an_offer_opens_and_closes_with_a_customer_s_own_date(open_shop: Any, write: Any) -> None:
    shop = open_shop(SHOP)
    with time_machine.travel(NOON, tick=True):
        shop.identify({"contract": {"end": write(NOON + timedelta(days=31))}}, user_id="ada")
        shop.identify({"contract": {"end": write(NOON - timedelta(days=1))}}, user_id="bob")
        assert [shop.offer("web", "desk", user_id=who) for who in ("ada", "bob", "stranger")] == ["banner"] * 3
    with time_machine.travel(NOON + timedelta(days=2), tick=True):
        assert [shop.offer("web", "desk", user_id=who) for who in ("ada", "bob")] == ["renew", "banner"]
        assert shop.explain("web", "desk", user_id="bob")["closed"]["renew"] == "audience"
        decision = shop.decide("web", "desk", user_id="ada")
        shop.collect()
    with time_machine.travel(NOON + timedelta(days=32), tick=True):
        assert shop.offer("web", "desk", user_id="ada") == "banner"
    assert decision["offers"]["desk"]["offer"] == "renew"


def test_a_fixed_date_is_compared_across_offsets(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for who, since, offer in (
        ("ada", "2019-12-31T22:59:59Z", "founder"),
        ("bob", "2020-01-01T00:30:00+02:00", "founder"),
        ("cyn", "2019-12-31T23:30:00Z", "banner"),
        ("dan", "2019", "banner"),
    ):
        shop.identify({"since": since}, user_id=who)
        assert shop.offer("web", "till", user_id=who) == offer
