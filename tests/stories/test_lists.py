"""A carousel of four over HTTP: it learns, claims each item, is logged and replayed item by item."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import keyspace
from engine.analysis import policy_report
from engine.analysis.offpolicy.evaluate import evaluate
from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.journal import stream
from engine.learn import learn
from engine.rehearse.explain import explain_decision

ITEMS = ("tea", "cake", "beans", "cups", "filter", "milk")
CAROUSEL = {
    "offers": list(ITEMS),
    "count": 4,
    "policy": {"kind": "beta_thompson", "floor": 0.02},
    "reward": {"metric": "click", "window": "1h", "settle": "1s"},
}
SHOP = {"offers": {key: {} for key in ITEMS}, "placements": {"row": CAROUSEL}}


def run_learner(shop: Any) -> None:
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    shop.collect()


def polls(condition: Any, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def visit(shop: Any, number: int) -> tuple[str, list[dict[str, Any]]]:
    """A visitor who looks at the first three items and clicks `cake` wherever it is among them."""
    user = f"u-{number}"
    decision = shop.decide("web", "row", user_id=user, expose=False)
    items = decision["offers"]["row"]["items"]
    seen = [f"row[{place}]" for place in (1, 2, 3)]
    exposed = {"decision_id": decision["decision_id"], "placements": seen}
    assert shop.client().post("/v1/exposures", json=exposed).json() == {"status": "accepted"}
    if "cake" in [item["offer"] for item in items[:3]]:
        named = {"placement": "row", "offer": "cake"}
        assert shop.tell("click", user_id=user, decision_id=decision["decision_id"], properties=named) == "accepted"
    return decision["decision_id"], items


def test_a_carousel_of_four_learns_item_by_item(open_shop: Any, redis_url: str) -> None:
    shop = open_shop(SHOP, workers=1)
    run_learner(shop)
    first = [visit(shop, number) for number in range(60)]
    vague = shop.decide("web", "row", user_id="vague")
    assert shop.tell("click", user_id="vague", decision_id=vague["decision_id"]) == "accepted"
    run_learner(shop)
    assert polls(lambda: "row@0" not in str(shop.decide("web", "row", user_id="probe", expose=False)["offers"]))
    later = [visit(shop, number) for number in range(60, 120)]
    tops = [Counter(items[0]["offer"] for _, items in some)["cake"] for some in (first, later)]
    assert tops[1] > 2 * tops[0]
    run_learner(shop)

    log = shop.settings.log
    rows = pa.concat_tables([pq.read_table(file) for file in (log / "decisions").glob("**/*.parquet")]).to_pylist()
    rows = [row for row in rows if row["decision_id"] == first[0][0]]
    assert [(row["key"], row["position"], row["variant"]) for row in rows] == [
        ("row", place, item["offer"]) for place, item in enumerate(first[0][1], 1)
    ]
    assert [row["propensity"] for row in rows] == [item["propensity"] for item in first[0][1]]
    assert len({row["joint"] for row in rows}) == 1
    seen = [pq.read_table(file).to_pylist() for file in (log / "exposures").glob("**/*.parquet")]
    exposed = {(row["decision_id"], row["position"]) for table in seen for row in table}
    assert [place for place in (1, 2, 3, 4) if (first[0][0], place) in exposed] == [1, 2, 3]
    rewards = [row for file in (log / "rewards").glob("**/*.parquet") for row in pq.read_table(file).to_pylist()]
    clicked = {(row["decision_id"], row["position"]) for row in rewards if row["reward"]}
    for decision_id, items in first + later:
        place = next((place for place, item in enumerate(items[:3], 1) if item["offer"] == "cake"), None)
        assert ((decision_id, place) in clicked) == (place is not None)

    report = policy_report(log, "row", ripe=False)
    values = {row.offer: row.naive_mean for row in report.arms}
    assert values["cake"] > 0.9  # the vague visitor may have seen it, and clicked nothing that has a name
    assert sum(value for offer, value in values.items() if offer != "cake") == 0.0
    assert report.quarantined == {"no item": 1}
    assert sum(row.exposures for row in report.arms) == 120 * 3 + 4  # and the four of the vague visitor

    (shop.settings.data / "even.yaml").write_text("policy: {kind: uniform}\n")
    judged = evaluate(log, [shop.settings.data / "even.yaml"])
    assert judged.decisions == 121
    assert judged.on_policy.value == pytest.approx(sum(bool(row["reward"]) for row in rewards) / 121)
    assert [row.position for row in judged.policies[0].positions] == [1, 2, 3, 4]

    archive = Archive(shop.settings.data / "plans")
    with stream.connect_stream(redis_url) as client:
        for kept in (True, False):
            if not kept:
                client.delete(f"{keyspace.SNAPSHOT_HEADERS}:row:kept")
            for decision_id, items in (first[0], later[0], later[-1]):
                again = explain_decision(log, archive, client, decision_id)
                assert (again.same, again.differences) == (True, [])
                top = again.explanation.placements["row"]
                assert [one.offer for one in (top, *top.below)] == [item["offer"] for item in items]


def test_each_item_is_claimed_and_another_takes_the_place_of_one_that_is_gone(open_shop: Any) -> None:
    stocked = {key: {"stock": {"sku": key, "hold": "1h"}} for key in ("tea", "cake")}
    whole = CAROUSEL | {"placement": "set", "offers": ["tea", "cake", "beans"], "count": 3, "claims": "all"}
    shop = open_shop(SHOP | {"offers": SHOP["offers"] | stocked, "placements": {"row": CAROUSEL, "set": whole}})
    for sku in ("tea", "cake"):
        shop.stock(sku, 5)

    def shown(number: int) -> list[str]:
        items = shop.decide("web", "row", user_id=f"u-{number}")["offers"]["row"]["items"]
        return [item["offer"] for item in items]

    with ThreadPoolExecutor(8) as pool:
        lists = list(pool.map(shown, range(40)))
    counts = Counter(offer for items in lists for offer in items)
    assert counts["tea"] == counts["cake"] == 5
    assert all(len(items) == len(set(items)) == 4 for items in lists)

    for sku in ("tea", "cake"):
        shop.stock(sku, 7)  # five are on hold
    ahead = shop.decide("web", "set", user_id="later", expose=False)
    assert {item["offer"] for item in ahead["offers"]["set"]["items"]} == {"tea", "cake", "beans"}
    shop.stock("cake", 5)
    answer = shop.client().post("/v1/exposures", json={"decision_id": ahead["decision_id"], "placements": ["set"]})
    assert answer.json() == {"status": "refused", "refused": {f"set[{place}]": "stock" for place in (1, 2, 3)}}
    items = shop.decide("web", "set", user_id="now")["offers"]["set"]["items"]
    assert [item["offer"] for item in items] == ["banner"]
    shop.stock("cake", 7)
    ready = shop.decide("web", "set", user_id="last", expose=False)["decision_id"]  # the tea was given back
    answer = shop.client().post("/v1/exposures", json={"decision_id": ready})
    assert answer.json() == {"status": "accepted"}


def test_an_outcome_counts_for_the_item_that_it_names_and_without_a_name_for_none(open_shop: Any) -> None:
    stocked = {key: {"stock": {"sku": key, "hold": "1h"}} for key in ITEMS[:4]}
    pair = CAROUSEL | {"count": 2, "offers": ["tea", "cake"]}
    one = {"offers": ["beans"]}
    offers = {"offers": {key: {} for key in ITEMS} | stocked}
    shop = open_shop(offers | {"placements": {"row": pair, "hero": one, "side": {"offers": ["cups"]}}}, workers=1)
    for sku in stocked:
        shop.stock(sku, 5)

    def held_after(*named: dict[str, str]) -> set[str]:
        """The SKUs of a decision that are still on hold after refusals with these properties."""
        held = {sku: left(sku) for sku in stocked}
        decision = shop.decide("web", "row", "hero", "side", user_id="u-1")
        assert {sku for sku in stocked if left(sku) == held[sku] - 1} == {*stocked}
        items = [item["offer"] for item in decision["offers"]["row"]["items"]]
        for properties in named:
            shop.tell("refused", user_id="u-1", decision_id=decision["decision_id"], properties=properties)
        found = {sku for sku in stocked if left(sku) == held[sku] - 1}
        return {f"row[{items.index(sku) + 1}]" if sku in items else sku for sku in found}

    def left(sku: str) -> float:
        return float(shop.client().get(f"/v1/stock/{sku}").json()["left"])

    assert held_after({"placement": "row[2]"}) == {"row[1]", "beans", "cups"}
    assert held_after({"placement": "row"}, {"placement": "row[3]"}) == {"row[1]", "row[2]", "beans", "cups"}
    assert held_after({"placement": "hero"}) == {"row[1]", "row[2]", "cups"}
    assert held_after({}) == {"row[1]", "row[2]"}
