"""Lists of offers, decided without any store: exact propensities, caps within a list, whole lists, moments."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from scipy.stats import chi2

from engine import decide
from engine.catalog.plan.plan import Plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideOptions, DecideRequest, Decision
from engine.decision.gating.gates import Gate
from engine.decision.offers import Snapshot
from policies import BetaThompson
from tests.catalog.folder import plan

ARMS = ("a", "b", "c", "d")
NOW = 1_790_000_000.0


def shop(*, count: int = 3, offers: Mapping[str, Any] | None = None, moments: Any = (), **chosen: Any) -> Plan:
    files: dict[str, Any] = {
        "channels": {"channels": [{"key": "web"}], "placements": [{"key": "row", "channels": ["web"], "count": count}]},
        "moments": {"moments": list(moments)},
        "row": {
            "key": "row",
            "placement": "row",
            "offers": list(ARMS),
            "policy": {"kind": "beta_thompson", "floor": 0.02},
            "reward": {"metric": "click"},
            "fallback": "z",
        }
        | chosen,
    }
    for key in (*ARMS, "z"):
        files[f"offers/{key}"] = {"key": key, "renderings": {"web": {"headline": key}}} | (offers or {}).get(key, {})
    return plan(**files)


def ask(where: Plan, number: int = 0, snapshots: Mapping[str, Snapshot] | None = None, **more: Any) -> Decision:
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", placements=["row"])
    options = DecideOptions(trace=True, availability=Availability(**more))
    profile = Profile("u", "u")
    return decide(where, snapshots or {}, profile, request, NOW, decision_id=f"d{number}", options=options)


def shown(decision: Decision) -> tuple[str, ...]:
    return tuple(item.offer.key for item in decision.choices["row"].items)


@pytest.mark.parametrize("lost", [{}, {"b": "stock"}])
def test_served_lists_follow_their_logged_probability(lost: Mapping[str, Gate]) -> None:
    where = shop()
    policy = BetaThompson(ARMS, floor=0.02).update(None, [0] * 9 + [1] * 9, [1.0] * 6 + [0.0] * 12, [0.25] * 18)
    learnt = {"row": Snapshot(policy, 18)}
    served: Counter[tuple[str, ...]] = Counter()
    logged: dict[tuple[str, ...], float] = {}
    runs = 6000
    for number in range(runs):
        decision = ask(where, number, learnt, lost={"row": lost})
        answer = decision.answer.offers["row"]
        assert answer.propensity == pytest.approx(math.prod(item.propensity for item in answer.items))
        served[shown(decision)] += 1
        logged[shown(decision)] = answer.propensity
    assert all(len(set(served_list)) == 3 for served_list in served)
    large = {items: p for items, p in logged.items() if runs * p >= 5}
    statistic = sum((served[items] - runs * p) ** 2 / (runs * p) for items, p in large.items())
    rest = 1 - sum(large.values())
    others = runs - sum(served[items] for items in large)
    if rest > 1e-9:
        statistic += (others - runs * rest) ** 2 / (runs * rest)
    assert chi2.sf(statistic, len(large) - (rest <= 1e-9)) > 1e-3


def test_each_position_has_the_probabilities_of_the_offers_that_are_left() -> None:
    where = shop(policy={"kind": "uniform"})
    first, second, third = ask(where).choices["row"].items
    assert [item.propensity for item in (first, second, third)] == pytest.approx([1 / 4, 1 / 3, 1 / 2])
    assert set(third.candidates) == set(ARMS) - {first.offer.key, second.offer.key}
    assert [item.position for item in (first, second, third)] == [1, 2, 3]


def test_a_list_has_no_more_offers_of_a_tag_than_its_cap_allows() -> None:
    capped = {"tags": ["loud"], "caps": [{"count": 1, "per": "1d", "scope": "tag"}]}
    where = shop(count=4, offers={"a": capped, "b": capped})
    for number in range(20):
        decision = ask(where, number)
        assert len(shown(decision)) == 3
        assert len({"a", "b"} & set(shown(decision))) == 1


def test_a_whole_list_that_lacks_an_item_gives_way_to_the_fallback() -> None:
    lost: dict[str, Gate] = {"a": "stock", "b": "stock"}
    skipping, whole = shop(count=3), shop(count=3, claims="all")
    assert set(shown(ask(skipping, lost={"row": lost}))) == {"c", "d"}
    answer = ask(whole, lost={"row": lost}).answer.offers["row"]
    assert [(item.offer, item.reason) for item in answer.items] == [("z", "fallback")]
    assert answer.propensity == 1.0
    assert len(shown(ask(whole))) == 3


def test_a_moment_s_offer_has_the_first_position() -> None:
    moment = {"key": "now", "trigger": {"when": {"channel": "web"}}, "placements": ["row"], "offers": ["d"]}
    items = ask(shop(moments=[moment]), 1).choices["row"].items
    assert [item.reason for item in items] == ["moment", "policy", "policy"]
    assert items[0].offer.key == "d"
    assert all(item.offer.key != "d" for item in items[1:])
