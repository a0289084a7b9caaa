"""Which rewards are learnt, how often, and what is quarantined instead."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies import make_policy

HOUR = 3600.0
MINUTE = 60.0


def totals(shop: Any, key: str = "hero") -> dict[str, tuple[float, float]]:
    policy = shop.learnt(key)
    return dict(zip(policy.arms, zip(policy.statistics["count"], policy.statistics["total"], strict=True), strict=True))


def test_a_click_in_the_window_is_a_reward_and_no_click_by_settle_a_zero(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0), *shop.shown("d2", 1, "v", arm="b"), shop.event("click", 5, decision="d1"))
    shop.learn()
    assert totals(shop) == {"a": (1, 1), "b": (0, 0), "c": (0, 0)}
    shop.pass_time(11 * MINUTE)
    shop.learn()
    assert totals(shop) == {"a": (1, 1), "b": (1, 0), "c": (0, 0)}
    assert shop.rewards() == [("d1", "hero", 1.0)]


def test_a_zero_that_is_closed_in_the_batch_that_learns_it_is_learnt_with_its_context(shop: Any) -> None:
    shop.selection("hero", "{kind: linear_thompson, features: [hour]}", "{metric: click, window: 1h, settle: 10m}")
    shop.send(*shop.shown("d1", 0, context={"hour": 7.0}))
    shop.pass_time(3 * HOUR)
    shop.learn()
    x = np.append(shop.plan.policies["hero"].features.vector({"hour": 7.0}), 1.0)
    np.testing.assert_allclose(shop.learnt().statistics["gram"][0], np.outer(x, x), rtol=0, atol=1e-12)


def test_a_reward_after_settle_corrects_the_zero(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0))
    shop.pass_time(11 * MINUTE)
    shop.learn()
    assert totals(shop)["a"] == (1, 0)
    shop.send(shop.event("click", 20 * MINUTE, decision="d1"))
    shop.learn()
    assert totals(shop)["a"] == (1, 1)
    assert shop.rewards() == [("d1", "hero", 1.0)]


def test_the_correction_of_a_zero_weighs_what_the_zero_weighs_by_now(shop: Any) -> None:
    shop.selection("hero", "{kind: beta_thompson, discount: 0.9}", "{metric: click, window: 1h, settle: 10m}")
    shop.send(*shop.shown("d0", 0))
    shop.pass_time(11 * MINUTE)
    shop.send(*(r for i in range(3) for r in shop.shown(f"d{i + 1}", 12 * MINUTE, arm="b")))
    shop.pass_time(30 * MINUTE)
    shop.send(shop.event("click", 31 * MINUTE, decision="d0"))
    shop.learn()
    assert totals(shop)["a"] == pytest.approx((0.9**3, 0.9**3))
    assert totals(shop)["b"] == pytest.approx((1 + 0.9 + 0.81, 0))


def test_at_the_windows_end_the_zero_is_logged_once_and_later_rewards_are_late(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0))
    shop.pass_time(2 * HOUR)
    shop.send(shop.event("click", 50 * MINUTE, decision="d1", received=shop.t0 + 2 * HOUR))
    shop.pass_time(3 * HOUR)
    shop.learn()
    assert totals(shop)["a"] == (1, 0)
    assert shop.rewards() == [("d1", "hero", 0.0)]
    assert shop.reasons() == ["late: the window of d1 is over"]
    shop.pass_time(90 * 24 * HOUR)
    shop.learn()
    assert totals(shop)["a"] == (1, 0)
    assert shop.pending() == 0


def test_a_decision_that_was_never_seen_teaches_nothing(shop: Any) -> None:
    shop.send(shop.decided("d1", 0), shop.event("click", 5, decision="d1"))
    shop.pass_time(3 * HOUR)
    shop.learn()
    assert "hero" not in shop.published()
    assert shop.reasons() == ["not exposed: d1 was never seen"]


def test_any_order_of_decision_exposure_and_reward_is_the_same(shop: Any) -> None:
    for i, order in enumerate(itertools.permutations(range(3))):
        id_, who = f"d{i}", f"u{i}"
        records = [*shop.shown(id_, 0, who), shop.event("click", 5, who, id_)]
        shop.send(*(records[j] for j in order))
    shop.learn()
    assert totals(shop)["a"] == (6, 6)
    assert shop.aside() == {}


def test_without_a_decision_id_the_newest_seen_offer_is_rewarded_on_any_channel(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, arm="a"), *shop.shown("d2", 60, arm="b"), *shop.shown("d3", 60, "other", arm="c"))
    shop.send(shop.event("click", 90, channel="store"))
    shop.learn()
    assert totals(shop) == {"a": (0, 0), "b": (1, 1), "c": (0, 0)}
    assert shop.rewards() == [("d2", "hero", 1.0)]


def test_a_reward_without_a_decision_id_may_come_before_its_exposure(shop: Any) -> None:
    shop.send(shop.event("click", 5))
    shop.learn()
    shop.send(*shop.shown("d1", 1))
    shop.learn()
    assert totals(shop)["a"] == (1, 1)


@pytest.mark.parametrize(("at", "earns"), [(7.0, True), (6.0, False), (7.3, False), (7.5, True)])
def test_a_time_in_whole_seconds_is_any_moment_of_that_second(shop: Any, at: float, *, earns: bool) -> None:
    shop.send(*shop.shown("d1", 7.4), shop.event("click", at, received=shop.t0 + 7.6))
    shop.learn()
    assert shop.rewards() == ([("d1", "hero", 1.0)] if earns else [])


def test_a_purchase_of_a_customer_who_saw_nothing_is_only_counted(shop: Any) -> None:
    shop.send(shop.event("purchase", 5, revenue=3.0))
    shop.pass_time(10 * MINUTE)
    shop.learn()
    assert shop.aside() == {"event of a customer who saw nothing": 1}
    assert shop.logged() == []


def test_two_customers_who_turn_out_to_be_one_keep_their_decisions(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, "anonymous"))
    shop.send(shop.event("$merge", 3, "known", properties=b'{"from": "anonymous", "into": "known"}'))
    shop.learn()
    shop.send(shop.event("click", 5, "known"))
    shop.learn()
    assert totals(shop)["a"] == (1, 1)


def test_late_records_under_an_old_id_are_those_of_the_merged_customer(shop: Any) -> None:
    def merged(before: str, after: str, at: float) -> Any:
        return shop.event("$merge", at, after, properties=f'{{"from": "{before}", "into": "{after}"}}'.encode())

    shop.send(shop.decided("d1", 0, "visitor"), shop.event("click", 4, "known"))
    shop.learn()
    shop.send(merged("visitor", "guest", 1), merged("guest", "known", 2))
    shop.learn()
    shop.send(shop.seen("d1", 3, "visitor"))  # what waited for its exposure may be rewarded now
    shop.learn()
    assert totals(shop)["a"] == (1, 1)
    shop.send(*shop.shown("d2", 5, "guest", arm="b"))
    shop.learn()
    shop.send(shop.event("click", 6, "visitor"))
    shop.learn()
    assert totals(shop)["b"] == (1, 1)
    assert shop.aside() == {}


def test_revenue_is_the_reward_of_a_revenue_metric(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, key="till"), shop.event("purchase", 5, decision="d1", revenue=12.5))
    shop.learn()
    assert totals(shop, "till")["a"] == (1, 12.5)


@pytest.mark.parametrize(
    ("revenue", "reason"),
    [
        (math.nan, "not finite: revenue of 'purchase' is nan"),
        (math.inf, "not finite: revenue of 'purchase' is inf"),
        (1e200, "out of range: revenue of 'purchase' is 1e+200, beyond 1e+12"),
        (None, "wrong type: revenue of 'purchase' is None, not a number"),
    ],
)
def test_what_is_no_number_is_quarantined_and_a_good_reward_still_counts(
    shop: Any, revenue: float | None, reason: str
) -> None:
    shop.send(*shop.shown("d1", 0, key="till"), shop.event("purchase", 5, decision="d1", revenue=revenue))
    shop.send(shop.event("purchase", 6, decision="d1", revenue=2.0))
    shop.learn()
    assert totals(shop, "till")["a"] == (1, 2)
    assert shop.reasons() == [reason]


def test_a_reward_that_the_policy_cannot_learn_is_quarantined(shop: Any) -> None:
    """`check` refuses such a file; a plan of an earlier release may have it."""
    plan = shop.plan
    till = plan.policies["till"]
    plan = replace(plan, policies={"till": replace(till, prior=make_policy("beta_thompson", till.arms))})
    shop.send(*shop.shown("d1", 0, key="till"), shop.event("purchase", 5, decision="d1", revenue=12.5))
    shop.learn(plan)
    assert "till" not in shop.published()
    assert shop.reasons()[0].startswith("out of range: reward reaches from 12.5")


def test_a_duplicate_a_second_reward_and_an_unknown_decision_are_quarantined(shop: Any) -> None:
    click = shop.event("click", 5, decision="d1")
    shop.send(*shop.shown("d1", 0), click, click, shop.event("click", 6, decision="d1"))
    shop.send(shop.event("click", 7, decision="nobody"))
    shop.pass_time(10 * MINUTE)
    shop.learn()
    assert totals(shop)["a"] == (1, 1)
    assert shop.aside() == {"duplicate": 1, "second reward": 1, "unknown decision": 1}
    assert sorted(shop.reasons()) == [
        "duplicate: this message already earned a reward",
        "second reward: d1 has one",
        "unknown decision: nobody",
    ]


def test_a_duplicate_without_a_decision_id_does_not_reward_a_newer_offer(shop: Any) -> None:
    click = shop.event("click", 5)
    shop.send(*shop.shown("d1", 0), click, *shop.shown("d2", 4, arm="b"), click)
    shop.learn()
    assert totals(shop) == {"a": (1, 1), "b": (0, 0), "c": (0, 0)}


def test_properties_that_are_no_json_object_are_quarantined(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0), shop.event("click", 5, decision="d1", properties=b"[1]"))
    shop.learn()
    assert shop.reasons() == ["wrong type: properties are a JSON list, not an object"]


def test_a_click_on_a_fallback_is_no_reward_and_no_mistake(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, policy=None), shop.event("click", 5, decision="d1"))
    shop.pass_time(HOUR)
    shop.learn()
    assert shop.aside() == {}
    assert shop.logged() == []


@pytest.mark.parametrize("named", [{"decision": "d1"}, {"properties": b'{"order_id": "o1"}'}])
def test_a_refund_takes_a_reward_back_once(shop: Any, named: dict[str, Any]) -> None:
    bought = shop.event("purchase", 5, decision="d1", revenue=12.5, properties=b'{"order_id": "o1"}')
    shop.send(*shop.shown("d1", 0, key="till"), bought)
    shop.learn()
    shop.send(shop.event("refund", 24 * HOUR, **named), shop.event("refund", 25 * HOUR, **named))
    shop.learn()
    assert totals(shop, "till")["a"] == (1, 0)
    assert shop.rewards() == [("d1", "till", 12.5), ("d1", "till", 0.0)]
    assert shop.aside() == {"second refund": 1}


def test_a_partial_refund_takes_its_part_back(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, key="till"), shop.event("purchase", 5, decision="d1", revenue=12.5))
    shop.send(shop.event("refund", 6, decision="d1", revenue=2.5))
    shop.learn()
    assert totals(shop, "till")["a"] == (1, 10)


@pytest.mark.parametrize("cut", ["in one batch", "a batch each"])
def test_a_second_order_of_another_customer_waits_for_the_decision_that_it_names(shop: Any, cut: str) -> None:
    def order(number: int, at: float, decision: str) -> Any:
        properties = f'{{"order_id": "o{number}"}}'.encode()
        return shop.event("purchase", at, "u", decision, revenue=float(number), properties=properties)

    for number in (1, 2, 3):
        shop.send(*shop.shown(f"d{number}", 0, "a", key="till", arm="abc"[number - 1]))
    for record in (
        order(1, 5, "d1"),
        order(2, 6, "d1"),
        order(3, 7, "d2"),
        shop.event("$merge", 8, "u", properties=b'{"from": "a", "into": "u"}'),
        order(1, 9, "d3"),  # so d1 earns the second
    ):
        shop.send(record, partition=0)
        if cut == "a batch each":
            shop.learn()
    shop.learn()
    assert totals(shop, "till") == {"a": (1, 2), "b": (1, 3), "c": (1, 1)}
    assert shop.reasons() == []


def test_an_order_stays_with_its_decision_if_the_window_of_the_one_it_names_is_over(shop: Any) -> None:
    def order(at: float, decision: str | None = None) -> Any:
        return shop.event("purchase", at, decision=decision, revenue=12.5, properties=b'{"order_id": "o1"}')

    shop.send(*shop.shown("d1", 0, key="till"), *shop.shown("d2", 2 * HOUR, key="till", arm="b"))
    shop.send(order(2 * HOUR + 5), order(2 * HOUR + 6, "d1"))
    shop.learn()
    assert totals(shop, "till")["b"] == (1, 12.5)
    assert shop.aside() == {"order stated again": 1}


def test_a_refund_may_come_before_the_reward(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, key="till"), shop.event("refund", 6, decision="d1"))
    shop.learn()
    shop.send(shop.event("purchase", 5, decision="d1", revenue=12.5))
    shop.learn()
    assert totals(shop, "till")["a"] == (1, 0)
    assert shop.aside() == {}


def test_a_uniform_policy_learns_nothing_but_its_rewards_are_logged(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, key="side"), shop.event("click", 5, decision="d1"))
    shop.learn()
    assert "side" not in shop.published()
    assert shop.rewards() == [("d1", "side", 1.0)]


def test_an_impossible_propensity_is_never_learnt(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, propensity=0.0), *shop.shown("d2", 0, propensity=math.nan))
    shop.send(shop.event("click", 5, decision="d1"), shop.event("click", 5, decision="d2"))
    shop.learn()
    assert "hero" not in shop.published()
    assert shop.aside() == {"propensity outside (0, 1]": 2}


def test_a_broken_record_stops_nothing(shop: Any) -> None:
    shop.send_bytes(b"\x93nonsense")
    shop.send(*shop.shown("d1", 0), shop.event("click", 5, decision="d1"))
    shop.learn()
    assert totals(shop)["a"] == (1, 1)
    assert shop.aside() == {"unreadable record": 1}


def test_an_event_that_names_another_customers_decision_rewards_it_and_is_counted(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, "a-customer"), shop.event("click", 5, "somebody-else", decision="d1"))
    shop.learn()
    assert shop.rewards() == [("d1", "hero", 1.0)]
    assert shop.aside() == {"another customer's decision, rewarded": 1}
