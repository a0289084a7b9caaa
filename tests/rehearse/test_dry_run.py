"""Dry runs: caps, stock and budgets bite as they would, and what is counted adds up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from engine.catalog import Plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideRequest
from engine.errors import BadInput
from engine.journal.log.logged_requests import logged_requests
from engine.rehearse.dry_run import DryRun, PoolUse, dry_run, visits_of_log, visits_of_sample
from engine.rehearse.generated_customers import make_customers
from tests.decision import test_prices as scarce
from tests.decision.test_offers import DAY, NOW, shop


def tried(plan: Plan, customers: int = 100, *, each: int = 1, days: float = 1.0, **more: Any) -> DryRun:
    return dry_run(
        plan, "hero", visits_of_sample(plan, "hero", make_customers(customers), NOW, each=each, days=days), **more
    )


def shown(result: DryRun) -> dict[str, int]:
    return {row.outcome: row.visits for row in result.outcomes}


def test_visits_are_counted_whole_and_follow_the_propensities(tmp_path: Path) -> None:
    result = tried(shop(tmp_path), 3000)
    assert (result.customers, result.visits, result.limits, result.kept) == (3000, 3000, [], [])
    expected = {"a": 1 / 4, "b": 2 / 4, "c": 1 / 4}  # b's lever is 2
    counts = shown(result)
    assert stats.chisquare([counts[key] for key in "abc"], [3000 * expected[key] for key in "abc"]).pvalue > 0.001
    assert [row.share for row in result.outcomes] == [row.visits / 3000 for row in result.outcomes]


def test_a_cap_closes_for_each_customer_and_opens_with_its_window(tmp_path: Path) -> None:
    plan = shop(tmp_path, changed={"a": {"caps": [{"count": 2, "per": "1d"}]}})
    assert shown(tried(plan, 10, each=5, days=0.5)) == {"a": 20, "z (fallback)": 30}
    twice = tried(plan, 10, each=4, days=4.0)
    assert shown(twice) == {"a": 40}
    assert twice.customers == 10
    (kept,) = tried(plan, 10, each=5, days=0.5).kept
    assert (kept.offer, kept.gate, kept.visits) == ("a", "cap", 30)


def test_a_budget_is_spent_once_and_says_when(tmp_path: Path) -> None:
    plan = shop(tmp_path, changed={"a": {"value": 2.0, "budget": {"amount": 50, "cost": 2, "hold": "1h"}}})
    result = tried(plan, 100)
    assert shown(result) == {"z (fallback)": 75, "a": 25}
    assert result.limits == [
        PoolUse(pool="budget", name="a", limit=50.0, spent=50.0, held=0.0, ran_out=NOW + 24 * DAY / 100)
    ]
    held = tried(plan, 100, redeemed=0.0)
    # 25 at a time are held for an hour, 100 come in a day: four or five in each hour, so it never runs out
    assert shown(held) == {"a": 100}
    assert (held.limits[0].spent, held.limits[0].ran_out) == (0.0, None)
    assert held.limits[0].held == 2.0 * 5
    some = tried(plan, 100, redeemed=0.2).limits[0]
    assert 0 < some.spent <= 50


def test_stock_is_that_which_was_told_and_else_lasts(tmp_path: Path) -> None:
    plan = shop(tmp_path, changed={"a": {"stock": {"sku": "BREAD", "at_least": 3, "hold": "15m"}}})
    told = tried(plan, 100, stock={"BREAD": 10})
    assert shown(told) == {"z (fallback)": 92, "a": 8}  # two must be left
    assert (told.limits[0].limit, told.limits[0].spent) == (10, 8)
    untold = tried(plan, 100)
    assert shown(untold) == {"a": 100}
    assert untold.limits == [PoolUse(pool="stock", name="BREAD", limit=None, spent=100.0, held=0.0, ran_out=None)]


def test_only_visits_that_could_ask_for_it_are_made_again(tmp_path: Path) -> None:
    plan = shop(tmp_path)
    one = Profile("u", "u")
    ((_, hero, _),) = visits_of_sample(plan, "hero", make_customers(1), NOW)
    ((_, side, _),) = visits_of_sample(plan, "side", make_customers(1), NOW)
    found = list(visits_of_log(plan, "hero", [(NOW, hero, one), (NOW + 1, side, one)]))
    assert found == [(NOW, hero, one)]
    with pytest.raises(BadInput, match="'her' is neither an experiment nor a placement; did you mean 'hero'"):
        list(visits_of_log(plan, "her", []))


def test_a_log_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no decisions"):
        list(logged_requests(tmp_path))


def test_what_nobody_took_is_not_told_as_used_up(tmp_path: Path) -> None:
    plan = shop(tmp_path, changed={"a": {"budget": {"amount": 5}, "audience": {"country": "DE"}}, "b": {}})
    assert tried(plan, 10).limits == []


def test_a_stock_that_must_last_has_a_price_and_lasts(tmp_path: Path) -> None:
    plan = scarce.shop(tmp_path)
    offer = plan.offers["scarce"]
    tastes = np.random.default_rng(5).random(scarce.CUSTOMERS).tolist()
    times = np.linspace(scarce.NOW, offer.end, scarce.CUSTOMERS, endpoint=False).tolist()
    traffic = []
    for i, (now, taste) in enumerate(zip(times, tastes, strict=True)):
        who, context = CustomerIds(user_id=f"u{i}"), {"taste": taste}
        asked = DecideRequest(customer=who, channel="web", placements=["hero"], context=context)
        traffic.append((now, asked, Profile(f"u{i}", f"u{i}")))

    def come(plan: Plan) -> DryRun:
        return dry_run(plan, "hero", traffic, stock={"BAG": scarce.STOCK}, snapshots=scarce.learnt(plan))

    paced = come(plan)
    (tmp_path / "greed").mkdir()
    greedy = come(scarce.shop(tmp_path / "greed", pace=False))
    (lasted,), (gone,) = paced.limits, greedy.limits
    assert gone.ran_out is not None
    assert gone.ran_out < times[len(times) // 2]
    assert lasted.ran_out is None or lasted.ran_out > times[9 * len(times) // 10]
    assert lasted.spent > 0.9 * scarce.STOCK
    assert ("scarce", "price") in {(one.offer, one.gate) for one in paced.kept}
    assert "price" not in {one.gate for one in greedy.kept}
