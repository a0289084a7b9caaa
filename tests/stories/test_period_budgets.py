"""Budgets by period over HTTP: what is spent in a day, at an even pace, and what refunds give back."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import time_machine

from engine import keyspace
from tests.store import open_store
from tests.stories.conftest import write_shop
from tests.stories.test_ledger import ledger
from tests.verbs import run_verb

MORNING = datetime(2027, 3, 15, 6, 0, tzinfo=UTC)  # a Monday


def shop_with(**budget: Any) -> dict[str, Any]:
    gift = {"budget": {"amount": 10, "cost": 1, "hold": "8d"} | budget}
    return {"offers": {"gift": gift}, "placements": {"hero": {"offers": ["gift"]}}}


def gifts(shop: Any, names: list[str]) -> int:
    """How many of so many customers at once get the gift."""
    with ThreadPoolExecutor(8) as threads:
        return sum(threads.map(lambda name: shop.offer("web", "hero", user_id=name) == "gift", names))


def spent(shop: Any, period: str) -> Decimal:
    with open_store(shop.settings.redis) as client:
        key = keyspace.pool("budget", f"gift@{period}" if period else "gift")
        return Decimal(int(client.hget(key, "spent") or 0)) / 10_000


def test_each_day_of_the_shop_has_the_whole_amount_and_no_more(open_shop: Any) -> None:
    shop = open_shop(shop_with(per="day") | {"zone": "America/New_York"})
    with time_machine.travel(MORNING) as clock:
        assert gifts(shop, [f"a{n}" for n in range(24)]) == 10
        explained = shop.explain("web", "hero", user_id="late")
        assert "budget" in json.dumps(explained)
        clock.shift(17 * 3600)  # 23:00 UTC: still Monday in New York
        assert gifts(shop, [f"b{n}" for n in range(6)]) == 0
        clock.shift(6 * 3600)
        assert gifts(shop, [f"c{n}" for n in range(24)]) == 10


def test_a_decision_counts_in_its_own_day_however_late_it_is_exposed_and_bought(open_shop: Any) -> None:
    shop = open_shop(shop_with(per="day"))
    with time_machine.travel(MORNING) as clock:
        made = shop.decide("web", "hero", user_id="ada", expose=False)
        clock.shift(20 * 3600)
        answer = shop.client().post("/v1/exposures", json={"decision_id": made["decision_id"], "placements": ["hero"]})
        assert answer.status_code == 202, answer.text
        properties = {"revenue": 9.0, "order_id": "o1"}
        assert (
            shop.tell("purchase", user_id="ada", decision_id=made["decision_id"], properties=properties) == "accepted"
        )
        assert spent(shop, "2027-03-15/day") == 1
        assert spent(shop, "2027-03-16/day") == 0


def test_an_even_pace_is_met_and_never_exceeded_by_many_at_once(open_shop: Any) -> None:
    shop = open_shop(shop_with(per="week", pace="even", amount=28))
    shown = 0
    with time_machine.travel(MORNING) as clock:
        for n, hours in enumerate((0, 5, 1, 7, 18, 30, 0.5, 40)):
            clock.shift(hours * 3600)
            shown += gifts(shop, [f"p{n}-{m}" for m in range(20)])
            elapsed = (datetime.now(UTC) - datetime(2027, 3, 15, tzinfo=UTC)).total_seconds()
            assert shown == int(28 * elapsed / (7 * 86_400)), n
    assert shown == 17


@pytest.mark.parametrize("by", ["decision", "order", "offer of the order"])
def test_a_refund_gives_the_amount_back_once_and_the_ledger_agrees(open_shop: Any, by: str) -> None:
    shop = open_shop(shop_with(per="month", refunds="14d", amount=2), workers=1)
    with time_machine.travel(MORNING) as clock:
        decisions = [shop.decide("web", "hero", user_id=f"u{n}") for n in range(3)]
        assert [one["offers"]["hero"]["offer"] for one in decisions] == ["gift", "gift", "banner"]
        for n in range(2):
            properties = {"revenue": 9.0, "order_id": f"o{n}"}
            shop.tell("purchase", user_id=f"u{n}", decision_id=decisions[n]["decision_id"], properties=properties)
        assert spent(shop, "2027-03-01/month") == 2
        clock.shift(3 * 86_400)
        back: dict[str, Any] = {"user_id": "u0"}
        if by == "decision":
            back |= {"decision_id": decisions[0]["decision_id"]}
        else:
            back |= {"properties": {"order_id": "o0"} | ({"offer": "gift"} if by != "order" else {})}
        for _ in range(2):
            assert shop.tell("refund", **back) == "accepted"
        assert spent(shop, "2027-03-01/month") == 1
        again = {"user_id": "u0", "decision_id": decisions[0]["decision_id"], "properties": {"order_id": "o0"}}
        shop.tell("purchase", **again)
        assert spent(shop, "2027-03-01/month") == 1  # a message about a refunded order spends nothing again
        assert shop.offer("web", "hero", user_id="next") == "gift"
        clock.shift(13 * 86_400)
        assert shop.tell("refund", user_id="u1", properties={"order_id": "o1"}) == "accepted"
        assert spent(shop, "2027-03-01/month") == 1  # later than 14 days after the redemption
        total = ledger(shop)["total"]
    assert Decimal(total["promised"]) == 3
    assert Decimal(total["refunded"]) == 2
    assert sum(Decimal(total[state]) for state in ("redeemed", "refunded", "released", "expired", "open")) == 3


def test_an_order_that_comes_after_the_redemption_is_found_by_its_refund(open_shop: Any) -> None:
    shop = open_shop(shop_with(refunds="14d"), workers=1)
    made = [shop.decide("web", "hero", user_id=f"u{n}") for n in range(2)]
    for n in range(2):
        shop.tell("redemption", user_id=f"u{n}", decision_id=made[n]["decision_id"], properties={"offer": "gift"})
    for n in range(2):
        order = {"revenue": 9.0, "order_id": "both"}
        shop.tell("purchase", user_id=f"u{n}", decision_id=made[n]["decision_id"], properties=order)
    assert spent(shop, "") == 2
    assert shop.tell("refund", user_id="u0", properties={"order_id": "both"}) == "accepted"
    assert spent(shop, "") == 0


def test_without_refunds_nothing_is_given_back(open_shop: Any) -> None:
    shop = open_shop(shop_with(), workers=1)
    made = shop.decide("web", "hero", user_id="u")
    properties = {"revenue": 9.0, "order_id": "o"}
    for event in ("purchase", "refund"):
        shop.tell(event, user_id="u", decision_id=made["decision_id"], properties=properties)
    assert spent(shop, "") == 1


# At an even pace the tenth gift of a day is due only at its end, when no visitor comes any more: 9 in each whole day.
@pytest.mark.parametrize(("pace", "least"), [(False, 30), ("even", 27)])
def test_a_dry_run_spends_a_budget_by_day_and_pace(tmp_path: Path, pace: Any, least: int) -> None:
    folder = str(write_shop(tmp_path / "experiments", shop_with(per="day", pace=pace)))
    sample = ("--customers", "300", "--days", "3", "--redeem", "1", "--json")
    done = run_verb("simulate", "hero", "--experiments", folder, "--data", str(tmp_path / "data"), *sample)
    assert done.returncode == 0, done.stderr
    outcomes = {one["outcome"]: one["visits"] for one in json.loads(done.stdout)["outcomes"]}
    assert least <= outcomes["gift"] <= 40


@pytest.mark.parametrize(
    ("budget", "problem"),
    [
        ({"pace": "even"}, "budget.pace: needs a time over which to spread it; give the offer an end and a start"),
        ({"pace": True, "per": "day"}, "budget.pace: true lasts until the offer's end"),
        ({"per": "year"}, "budget.per"),
        ({"refunds": "120d"}, "budget.refunds: '120d' is not a span for which redemptions are stored; give 1d to 90d"),
        ({"refunds": "1h"}, "budget.refunds: '1h' is not a span"),
    ],
)
def test_a_budget_without_a_time_to_spread_it_over_is_refused(
    tmp_path: Path, budget: dict[str, Any], problem: str
) -> None:
    folder = str(write_shop(tmp_path / "experiments", shop_with(**budget)))
    done = run_verb("check", folder, "--json")
    assert done.returncode == 1
    assert problem in next(f"{one['path']}: {one['message']}" for one in json.loads(done.stdout)["problems"])


@pytest.mark.parametrize(
    "foreign", ["e8f47ac1d2b34c5d8e9f000000000001", "3f47ac1ed2b34c5d8e9f000000000002", "-1_0x00000000-a"]
)
def test_an_id_of_another_system_counts_in_the_period_of_today(open_shop: Any, foreign: str) -> None:
    shop = open_shop(shop_with(per="day", refunds="30d"))
    with time_machine.travel(MORNING):
        properties = {"revenue": 9.0, "order_id": "o1", "offer": "gift"}
        for event in ("redemption", "purchase", "refund"):
            assert shop.tell(event, user_id="ada", decision_id=foreign, properties=properties) == "accepted"
        with open_store(shop.settings.redis) as client:
            pools = {key.decode() for key in client.scan_iter("cp:{budget:gift@*")}
        assert {key for key in pools if "2027-03-15" not in key} == set()
