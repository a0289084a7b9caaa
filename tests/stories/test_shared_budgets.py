"""Budgets that several offers share, from YAML over HTTP to the store: no more than the amount, and refunds."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import time_machine
import yaml

from engine import keyspace
from engine.catalog import load_plan
from engine.errors import CatalogError
from tests.store import open_store
from tests.stories.conftest import write_shop
from tests.stories.test_ledger import ledger
from tests.verbs import run_verb

MORNING = datetime(2027, 3, 15, 6, 0, tzinfo=UTC)  # a Monday
COSTS = {"gift": 1.0, "voucher": 3.0}


def shop_with(**shared: Any) -> dict[str, Any]:
    offers = {name: {"budget": {"of": "spring", "cost": cost, "hold": "8d"}} for name, cost in COSTS.items()}
    return {
        "offers": offers,
        "placements": {"hero": {"offers": list(COSTS)}, "aside": {"offers": list(COSTS)}},
        "budgets": [{"key": "spring", "amount": 20} | shared],
    }


def cost_of_answer(shop: Any, name: str) -> float:
    """What the two placements of one answer cost."""
    answer = shop.decide("web", "hero", "aside", user_id=name)
    return sum(COSTS.get(shown["offer"], 0.0) for shown in answer["offers"].values() if shown)


def spend(shop: Any, names: list[str]) -> float:
    """What answers to so many customers at once cost."""
    with ThreadPoolExecutor(8) as threads:
        return sum(threads.map(lambda name: cost_of_answer(shop, name), names))


def gone(shop: Any, period: str = "") -> Decimal:
    """What the store has as spent and reserved."""
    with open_store(shop.settings.redis) as client:
        key = keyspace.pool("budget", f"spring@{period}" if period else "spring")
        return sum((Decimal(int(client.hget(key, name) or 0)) / 10_000 for name in ("spent", "held")), Decimal(0))


def test_offers_spend_one_amount_together_and_no_more(open_shop: Any) -> None:
    shop = open_shop(shop_with(per="day"))
    with time_machine.travel(MORNING) as clock:
        for day in ("2027-03-15/day", "2027-03-16/day"):
            cost = spend(shop, [f"{day}{n}" for n in range(30)])
            assert cost == 20  # the gift costs 1, so that nothing is left over
            assert gone(shop, day) == 20
            assert shop.offer("web", "hero", user_id="late") == "banner"
            clock.shift(86_400)


def test_an_even_pace_holds_for_all_offers_at_once(open_shop: Any) -> None:
    shop = open_shop(shop_with(per="week", pace="even", amount=140))
    cost = 0.0
    with time_machine.travel(MORNING) as clock:
        for n, hours in enumerate((0, 24, 12)):
            clock.shift(hours * 3600)
            cost += spend(shop, [f"p{n}-{m}" for m in range(30)])
            elapsed = (datetime.now(UTC) - datetime(2027, 3, 15, tzinfo=UTC)).total_seconds()
            assert cost == int(140 * elapsed / (7 * 86_400))


@pytest.mark.parametrize("by", ["decision", "order", "offer of the order"])
def test_a_refund_gives_back_what_its_offers_took_and_the_ledger_agrees(open_shop: Any, by: str) -> None:
    shop = open_shop(shop_with(refunds="14d"), workers=1)
    made = shop.decide("web", "hero", "aside", user_id="u")
    assert {shown["offer"] for shown in made["offers"].values()} == {"gift", "voucher"}
    order = {"revenue": 9.0, "order_id": "o"}
    shop.tell("purchase", user_id="u", decision_id=made["decision_id"], properties=order)
    assert gone(shop) == 4
    back: dict[str, Any] = {"decision_id": made["decision_id"]} if by == "decision" else {}
    back |= {"properties": {} if by == "decision" else {"order_id": "o"}}
    if by.startswith("offer"):
        back["properties"]["offer"] = "voucher"
    for _ in range(2):
        assert shop.tell("refund", user_id="u", **back) == "accepted"
    assert gone(shop) == (1 if by.startswith("offer") else 0)
    total = ledger(shop)["total"]
    assert Decimal(total["promised"]) == 4
    assert Decimal(total["refunded"]) == 4 - gone(shop)


def test_what_a_shared_budget_has_left_is_explained_and_rehearsed(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(shop_with(amount=3), workers=1)
    assert spend(shop, [f"u{n}" for n in range(4)]) == 3
    closed = shop.explain("web", "hero", user_id="late")["closed"]
    assert closed == dict.fromkeys(COSTS, "budget")
    folder = str(write_shop(tmp_path / "rehearsed", shop_with(per="day")))
    done = run_verb(
        *("simulate", "hero", "--experiments", folder, "--data", str(tmp_path / "data")),
        *("--customers", "200", "--days", "2", "--redeem", "1", "--json"),
    )
    assert done.returncode == 0, done.stderr
    outcomes = {one["outcome"]: one["visits"] for one in yaml.safe_load(done.stdout)["outcomes"]}
    assert 20 <= sum(COSTS[name] * outcomes.get(name, 0) for name in COSTS) <= 60


@pytest.mark.parametrize(
    ("offer", "shared", "problem"),
    [
        ({"of": "sprng"}, {}, "budget.of: 'sprng' is not in the budgets of campaigns.yaml; did you mean 'spring'?"),
        ({"of": "spring", "amount": 5}, {}, "budget.amount: is that of the budget 'spring' in campaigns.yaml"),
        ({"cost": 1}, {}, "budget.amount: is missing; give an amount, or name a budget of campaigns.yaml with 'of'"),
        ({"of": "spring", "cost": 21}, {}, "budget.cost: 21 is more than the whole amount"),
        ({"of": "spring"}, {"pace": "even"}, r"budgets\[0\].pace: needs a time over which to spread it"),
        ({"of": "spring"}, {"refunds": "120d"}, r"budgets\[0\].refunds: '120d' is not a span"),
        ({"of": "gift"}, {"key": "gift"}, r"budgets\[0\].key: 'gift' is the key of an offer too"),
    ],
)
def test_check_names_what_is_wrong(tmp_path: Path, offer: Any, shared: Any, problem: str) -> None:
    shop = shop_with(**shared)
    shop["offers"] = {"gift": {"budget": offer}}
    shop["placements"] = {"hero": {"offers": ["gift"]}}
    with pytest.raises(CatalogError, match=problem):
        load_plan(write_shop(tmp_path / "experiments", shop))
