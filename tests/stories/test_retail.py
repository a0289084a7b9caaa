"""Story 1: one customer from the web through the app to the till, the last unit, the purchase, and its return."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.journal import stream
from engine.learn import learn
from engine.snapshots.publish import current_snapshot
from policies import load_policy

DEAL = {"caps": [{"count": 2, "per": "7d"}], "tags": ["coffee"]}
SHOP = {
    "offers": {"deal": DEAL, "last_bag": {"stock": {"sku": "BAG", "hold": "15m"}}},
    "placements": {
        "hero": {"offers": ["deal"]},
        "pos": {"offers": ["deal"]},
        "counter": {
            "offers": ["last_bag"],
            "policy": {"kind": "gaussian_thompson"},
            "reward": {"metric": "revenue", "window": "24h", "settle": "1s"},
        },
    },
    "experiments": {
        "layout": {
            "variants": [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.5}],
            "metrics": {"primary": "revenue", "guardrails": ["csat"]},
            "analysis": {"method": "fixed"},
        }
    },
}


def variant(shop: Any, channel: str, **ids: str) -> Any:
    return shop.decide(channel, experiments=["layout"], **ids)["experiments"]["layout"]["variant"]


def until(shop: Any, prefix: str, kind: str, wanted: str) -> str:
    """An id of this kind that the experiment puts into `wanted`."""
    return next(f"{prefix}{n}" for n in range(50) if variant(shop, "web", **{kind: f"{prefix}{n}"}) == wanted)


def eventually(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def report(shop: Any) -> Any:
    plan = load_plan(shop.settings.experiments)
    shop.collect()
    question, metrics = build_question(plan, "layout")
    return analyze_experiment(question, metrics, shop.settings.log)


def test_a_variant_goes_with_the_visitor_into_the_app_and_the_till_counts_what_the_web_showed(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    visitor = until(shop, "v", "anonymous_id", "b")
    assert shop.offer("web", "hero", anonymous_id=visitor) == "deal"
    shop.send({"type": "identify", "message_id": "login", "user_id": "ada", "anonymous_id": visitor, "channel": "web"})
    assert variant(shop, "app", user_id="ada") == "b"
    assert shop.offer("store", "pos", user_id="ada") == "deal"
    assert shop.offer("store", "pos", user_id="ada") == "banner"
    assert shop.explain("store", "pos", user_id="ada")["closed"] == {"deal": "cap"}


def test_who_was_known_keeps_their_variant_and_the_crossover_is_counted(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    known = until(shop, "k", "user_id", "a")
    visitor = until(shop, "v", "anonymous_id", "b")
    login = {"type": "identify", "message_id": "login", "user_id": known, "anonymous_id": visitor, "channel": "app"}
    assert shop.send(login) == "accepted"
    assert variant(shop, "app", user_id=known) == "a"
    assert shop.explain("app", "hero", user_id=known)["offer"] == "deal"
    assert report(shop).quality.crossovers >= 1


def test_two_tills_one_bag_a_purchase_that_teaches_and_a_return_that_reverses_it_all(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    assert learnt(shop) == 0.0  # what the learner has not read yet is not trimmed once it has begun
    chance = random.Random(20261122)
    for n in range(60):
        got = variant(shop, "web", user_id=f"u{n}")
        revenue = round(chance.uniform(8, 12) + (2 if got == "b" else 0), 2)
        shop.tell("purchase", user_id=f"u{n}", properties={"revenue": revenue, "order_id": f"o{n}"})
        shop.tell("survey", user_id=f"u{n}", properties={"csat": chance.choice([3, 4, 5])})
    shop.stock("BAG", 1)
    tills = ("ada", "bo")
    for customer in tills:
        variant(shop, "store", user_id=customer)
    with ThreadPoolExecutor(2) as pool:
        decisions = list(pool.map(lambda customer: shop.decide("store", "counter", user_id=customer), tills))
    offers = [decision["offers"]["counter"]["offer"] for decision in decisions]
    assert sorted(offers) == ["banner", "last_bag"]
    winner, won = next(
        (c, d["decision_id"]) for c, d, offer in zip(tills, decisions, offers, strict=True) if offer == "last_bag"
    )
    earlier = report(shop)
    before, revenue_effect = means(earlier), earlier.metrics[0].absolute
    assert revenue_effect.low < revenue_effect.estimate < revenue_effect.high
    order = {"revenue": 600.0, "order_id": "big"}
    shop.tell("purchase", user_id=winner, decision_id=won, channel="store", properties=order)
    assert eventually(20, lambda: learnt(shop) == 600.0)
    bought = report(shop)
    assert means(bought) != before
    assert [metric.metric for metric in bought.metrics] == ["revenue", "csat"]
    assert "too few outcomes" in bought.metrics[0].absolute.not_estimable  # one large order says little of the others
    assert shop.client().get(f"/v1/profiles/{winner}").json()["attributes"]["loyalty"]["points"] == 600
    shop.tell("refund", user_id=winner, decision_id=won, channel="store", properties={"order_id": "big"})
    assert eventually(20, lambda: learnt(shop) == 0.0)
    assert shop.client().get(f"/v1/profiles/{winner}").json()["attributes"]["loyalty"]["points"] == 0
    returned = means(report(shop))
    assert {name: round(mean, 6) for name, mean in returned.items()} == {n: round(m, 6) for n, m in before.items()}


def means(found: Any) -> dict[str, float]:
    return dict(found.metrics[0].mean)


def learnt(shop: Any) -> float:
    """What the counter's policy has learnt to be the sum of rewards."""
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    with stream.connect_stream(shop.settings.redis) as client:
        found = current_snapshot(client, "counter")
    return float(load_policy(found.blob).statistics["total"].sum()) if found else 0.0
