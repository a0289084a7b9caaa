"""Stock by place over HTTP: buy online and pick up in store, ship from the nearest, and the last unit of a shop."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
import time_machine

from engine import keyspace
from engine.erasure.listener import LogErasures
from engine.journal.log.collect import collect
from engine.settings import Settings
from tests.faults.soak.proxy import serving
from tests.store import open_store
from tests.stories.conftest import Shop, worker, write_shop
from tests.stories.test_due_lost_reply import LostReply

HAMBURG, LUEBECK, BERLIN = "hamburg", "luebeck", "berlin"
PLACES = [
    {"key": HAMBURG, "title": "Hamburg, Rathaus", "latitude": 53.5503, "longitude": 9.9920},
    {"key": LUEBECK, "latitude": 53.8655, "longitude": 10.6866, "ships": False},
    {"key": BERLIN, "latitude": 52.5200, "longitude": 13.4050},
    {"key": "depot", "latitude": 51.3127, "longitude": 9.4797, "collects": False},
]
KETTLE = {"stock": {"sku": "KETTLE", "by": "pick_up", "within": 80, "hold": "2d"}}
SHOP: dict[str, Any] = {
    "places": PLACES,
    "offers": {
        "kettle": KETTLE,
        "sofa": {"stock": {"sku": "SOFA", "by": "ship", "hold": "1h"}},
        "bag": {"stock": {"sku": "BAG"}},
    },
    "placements": {"hero": {"offers": ["kettle"]}, "home": {"offers": ["sofa"]}, "plain": {"offers": ["bag"]}},
}
ALTONA = {"latitude": 53.5520, "longitude": 9.9350}
DAY = 86_400.0


def set_levels(shop: Any, *levels: tuple[str, str, float]) -> list[str]:
    body = {"levels": [{"sku": sku, "place": place, "level": level} for sku, place, level in levels]}
    answer = shop.client().post("/v1/stock", json=body)
    assert answer.status_code == 200, answer.text
    return [one["status"] for one in answer.json()["statuses"]]


def left(shop: Any, sku: str, place: str) -> float:
    return float(shop.client().get(f"/v1/stock/{sku}/places/{place}").json()["left"])


def answer_at(shop: Any, placement: str = "hero", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = shop.decide("web", placement, **more)["offers"][placement]
    return found


def test_the_last_kettle_in_hamburg_is_reserved_once_and_confirmed_at_the_till(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    assert set_levels(shop, ("KETTLE", HAMBURG, 1), ("KETTLE", LUEBECK, 0)) == ["set", "set"]
    seen = shop.decide("web", "hero", user_id="ada", context=ALTONA, expose=False)
    place = seen["offers"]["hero"]["place"]
    assert (place["key"], place["title"], place["by"], place["hold"]) == (HAMBURG, "Hamburg, Rathaus", "pick_up", "2d")
    assert 3 < place["km"] < 4
    assert left(shop, "KETTLE", HAMBURG) == 1  # shown is not reserved yet
    also = shop.decide("web", "hero", user_id="bo", context={"place": HAMBURG}, expose=False)
    reserve = [
        shop.client().post("/v1/exposures", json={"decision_id": one["decision_id"]}).json() for one in (seen, also)
    ]
    assert [one["status"] for one in reserve] == ["accepted", "refused"]
    assert reserve[1]["refused"] == {"hero": "stock"}
    assert left(shop, "KETTLE", HAMBURG) == 0
    assert answer_at(shop, user_id="cy", context=ALTONA)["offer"] == "banner"
    sold = {"revenue": 40.0, "order_id": "o-1"}
    shop.tell("purchase", user_id="ada", decision_id=seen["decision_id"], channel="store", properties=sold)
    with time_machine.travel(time.time() + 3 * DAY, tick=True):
        assert left(shop, "KETTLE", HAMBURG) == 0  # sold, not held


def test_a_kettle_that_nobody_collects_returns_to_the_shelf_and_a_late_pick_up_counts(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    set_levels(shop, ("KETTLE", HAMBURG, 2))
    kept = shop.decide("web", "hero", user_id="ada", context=ALTONA)
    answer_at(shop, user_id="bo", context=ALTONA)
    assert left(shop, "KETTLE", HAMBURG) == 0
    pending = keyspace.pending_decision(kept["decision_id"])
    with open_store(shop.settings.redis) as client:  # a decision without a hold is remembered for a day
        assert client.ttl(pending) > 2 * DAY
    with time_machine.travel(time.time() + 1.5 * DAY, tick=True) as clock:
        sold = {"revenue": 40.0, "order_id": "o-1"}
        shop.tell("purchase", user_id="ada", decision_id=kept["decision_id"], channel="store", properties=sold)
        clock.shift(DAY)
        assert left(shop, "KETTLE", HAMBURG) == 1  # that of bo
        assert answer_at(shop, user_id="cy", context=ALTONA)["offer"] == "kettle"


def test_a_refusal_gives_the_item_back_to_its_place(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    set_levels(shop, ("KETTLE", HAMBURG, 1))
    made = shop.decide("web", "hero", user_id="ada", context=ALTONA)
    assert left(shop, "KETTLE", HAMBURG) == 0
    shop.tell("refused", user_id="ada", decision_id=made["decision_id"], properties={"offer": "kettle"})
    assert left(shop, "KETTLE", HAMBURG) == 1


def test_the_nearest_place_that_has_the_item_hands_it_over_and_explain_says_why_not_the_others(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    set_levels(shop, ("KETTLE", HAMBURG, 0), ("KETTLE", LUEBECK, 5), ("KETTLE", BERLIN, 5))
    shown = answer_at(shop, user_id="ada", context=ALTONA)
    assert (shown["offer"], shown["place"]["key"]) == ("kettle", LUEBECK)
    why = shop.explain("web", "hero", user_id="ada", context=ALTONA)["places"]["kettle"]
    assert [(one["place"], one["status"], one.get("why", "")) for one in why] == [
        (HAMBURG, "not", "what it has is sold or reserved"),
        (LUEBECK, "first", ""),
        ("depot", "not", "nothing is collected there"),
        (BERLIN, "not", "too far away"),
    ]
    assert why[1]["left"] == 4
    nowhere = shop.explain("web", "hero", user_id="ada")
    assert nowhere["closed"] == {"kettle": "place"}
    assert nowhere["places"]["kettle"][0]["why"] == "where the customer is, is not known"
    assert shop.explain("web", "hero", user_id="ada", context={"place": BERLIN})["places"]["kettle"][0]["km"] == 0
    places = shop.client().get("/v1/stock/KETTLE/places", params=ALTONA).json()["places"]
    assert [(one["place"], one["left"]) for one in places] == [(HAMBURG, 0), (LUEBECK, 4), ("depot", 0), (BERLIN, 5)]


def test_what_ships_comes_from_the_nearest_warehouse_and_without_a_position_from_the_first(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    set_levels(shop, ("SOFA", HAMBURG, 1), ("SOFA", LUEBECK, 9), ("SOFA", BERLIN, 3), ("SOFA", "depot", 3))
    near_kassel = {"latitude": 51.0, "longitude": 9.4}
    assert answer_at(shop, "home", user_id="ada", context=near_kassel)["place"]["key"] == "depot"
    assert answer_at(shop, "home", user_id="bo")["place"]["key"] == HAMBURG
    assert answer_at(shop, "home", user_id="cy")["place"]["key"] == BERLIN  # the first has none left
    shop.identify({"place": "depot"}, user_id="di")  # the customer's own place, by trait
    assert answer_at(shop, "home", user_id="di")["place"]["key"] == "depot"


@pytest.mark.parametrize("workers", [2])
def test_the_last_units_of_places_go_once_each_whatever_the_concurrency(open_shop: Any, workers: int) -> None:
    shop = open_shop(SHOP, workers=workers)
    set_levels(shop, ("KETTLE", HAMBURG, 3), ("KETTLE", LUEBECK, 2), ("KETTLE", BERLIN, 50))
    lock, got = threading.Lock(), []

    def ask(n: int) -> None:
        found = answer_at(shop, user_id=f"u{n}", context=ALTONA)
        with lock:
            got.append(found["place"]["key"] if "place" in found else found["offer"])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(60)))
    assert (got.count(HAMBURG), got.count(LUEBECK), got.count("banner")) == (3, 2, 55)
    assert [left(shop, "KETTLE", place) for place in (HAMBURG, LUEBECK, BERLIN)] == [0, 0, 50]
    counted = "".join(client.get("/metrics").text for client in shop.clients)
    assert 'counterpoint_shelf_claims_total{outcome="granted",place="hamburg"}' in counted


def test_a_stock_without_a_place_is_that_of_the_shop_as_before(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    set_levels(shop, ("BAG", HAMBURG, 5))
    assert answer_at(shop, "plain", user_id="ada")["offer"] == "banner"
    shop.stock("BAG", 1)
    first = answer_at(shop, "plain", user_id="ada")
    assert (first["offer"], "place" in first) == ("bag", False)
    assert answer_at(shop, "plain", user_id="bo")["offer"] == "banner"
    assert left(shop, "BAG", HAMBURG) == 5


def test_levels_that_break_a_rule_are_refused_by_themselves(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    levels = [
        {"sku": "KETTLE", "place": "bremen", "level": 1},
        {"sku": "KETTLE", "level": -1},
        {"sku": "KETTLE", "place": HAMBURG, "level": 2},
        {"sku": "KETTLE", "level": 7},
    ]
    statuses = shop.client().post("/v1/stock", json={"levels": levels}).json()["statuses"]
    assert [one["status"] for one in statuses] == ["rejected", "rejected", "set", "set"]
    assert "bremen" in statuses[0]["reason"]
    assert shop.client().get("/v1/stock/KETTLE").json() == {"sku": "KETTLE", "left": 7}
    unknown = shop.client().post("/v1/stock/KETTLE/places/bremen", json={"level": 1})
    assert unknown.status_code == 404
    assert "bremen" in unknown.json()["detail"]
    for query in ({"latitude": 53}, {"latitude": 100, "longitude": 3}, {"place": "bremen"}, {"near": "x"}):
        assert shop.client().get("/v1/stock/KETTLE/places", params=query).status_code == 400


def test_a_decision_with_a_place_replays_from_the_log_and_a_place_is_in_the_audit(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    set_levels(shop, ("KETTLE", HAMBURG, 1), ("KETTLE", LUEBECK, 1))
    decisions = [shop.decide("web", "hero", user_id=f"u{n}", context=ALTONA) for n in range(3)]
    got = [one["offers"]["hero"].get("place", {}).get("key") for one in decisions]
    assert got == [HAMBURG, LUEBECK, None]
    shop.collect()
    places = ["--data", str(shop.settings.data), "--redis", shop.settings.redis]
    command = [sys.executable, "-m", "engine", "explain", "--json", *places]
    for decision in decisions:
        replayed = json.loads(
            subprocess.run([*command, decision["decision_id"]], check=True, capture_output=True).stdout
        )
        assert replayed["same"], replayed["differences"]
        shelves = replayed["explanation"]["placements"]["hero"]["places"]["kettle"]
        first = [one["place"] for one in shelves if one["status"] == "first"]
        assert first == ([decision["offers"]["hero"]["place"]["key"]] if "place" in decision["offers"]["hero"] else [])


TWICE: dict[str, Any] = {
    "places": PLACES,
    "offers": {
        "kettle": KETTLE,
        "kettle_with_tea": {"stock": {**KETTLE["stock"]}},
        "kettle_club": {"stock": {**KETTLE["stock"], "at_least": 2}, "caps": [{"count": 1, "per": "7d"}]},
        "last_call": {"stock": {**KETTLE["stock"], "within": 20_000}, "budget": {"amount": 30}},
        "sofa": {"stock": {"sku": "SOFA", "by": "ship", "hold": "1h"}},
        "sofa_red": {"stock": {"sku": "SOFA", "by": "ship", "hold": "1h"}, "caps": [{"count": 2, "per": "7d"}]},
        "poster": {"budget": {"amount": 20}},
    },
    "placements": {
        "hero": {"offers": ["kettle"]},
        "row": {"offers": ["kettle_with_tea"]},
        "list": {"offers": ["kettle_club", "last_call", "sofa", "poster"], "count": 2},
        "home": {"offers": ["kettle_club", "sofa_red", "last_call", "sofa"]},
        "whole": {"offers": ["kettle", "kettle_with_tea", "sofa_red"], "count": 2, "claims": "all"},
    },
}
Promises = Counter[tuple[str, str]]
"""Items by SKU and place."""


def promised(decision: dict[str, Any], refused: dict[str, str]) -> Promises:
    """What the answer of a decision promises, less the placements and items whose exposure was refused."""
    found: Promises = Counter()
    for placement, answer in decision["offers"].items():
        items = {f"{placement}[{n}]": item for n, item in enumerate(answer.get("items", ()), 1)} or {placement: answer}
        for name, item in items.items():
            if name not in refused and item.get("offer") in TWICE["offers"] and "place" in item:
                found[TWICE["offers"][item["offer"]]["stock"]["sku"], item["place"]["key"]] += 1
    return found


def test_two_offers_of_one_item_in_an_answer_are_reserved_at_two_places(open_shop: Any) -> None:
    shop = open_shop(TWICE)
    set_levels(shop, ("KETTLE", HAMBURG, 1), ("KETTLE", LUEBECK, 1))
    seen = shop.decide("web", "hero", "row", user_id="ada", context=ALTONA)
    assert promised(seen, {}) == {("KETTLE", HAMBURG): 1, ("KETTLE", LUEBECK): 1}
    assert [left(shop, "KETTLE", place) for place in (HAMBURG, LUEBECK)] == [0, 0]
    collect(shop.settings, LogErasures(), drain=True)
    places = ["--data", str(shop.settings.data), "--redis", shop.settings.redis]
    command = [sys.executable, "-m", "engine", "explain", "--json", *places, seen["decision_id"]]
    replayed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert replayed["same"], replayed["differences"]
    for placement, offer in (("hero", "kettle"), ("row", "kettle_with_tea")):
        shelves = replayed["explanation"]["placements"][placement]["places"][offer]
        first = [one["place"] for one in shelves if one["status"] == "first"]
        assert first == [seen["offers"][placement]["place"]["key"]]
    for offer in ("kettle", "kettle_with_tea"):
        sold = {"revenue": 40.0, "order_id": f"o-{offer}", "offer": offer}
        shop.tell("purchase", user_id="ada", decision_id=seen["decision_id"], channel="store", properties=sold)
    with time_machine.travel(time.time() + 3 * DAY, tick=True):
        assert [left(shop, "KETTLE", place) for place in (HAMBURG, LUEBECK)] == [0, 0]  # both sold, each at its place


def test_what_answers_promise_is_what_is_reserved_place_by_place(open_shop: Any) -> None:
    """Of random shelves, placements and customers; at once, or when a prefetched decision is exposed."""
    shop, dice = open_shop(TWICE), random.Random(13)
    total: Promises = Counter()
    pairs = [(sku, place["key"]) for sku in ("KETTLE", "SOFA") for place in PLACES]
    for trial in range(80):
        levels = {pair: total[pair] + dice.choice([0, 1, 1, 2]) for pair in pairs}
        set_levels(shop, *((sku, place, level) for (sku, place), level in levels.items()))
        for _ in range(dice.randint(1, 2)):
            placements = dice.sample(sorted(TWICE["placements"]), dice.randint(2, 4))
            context = dice.choice([ALTONA, {"place": LUEBECK}, {"place": BERLIN}])
            at_once = dice.random() < 0.7
            customer = f"u-{dice.randrange(60)}"
            seen = shop.decide("web", *placements, user_id=customer, context=context, expose=at_once)
            refused = {}
            if not at_once:
                answer = shop.client().post("/v1/exposures", json={"decision_id": seen["decision_id"]})
                refused = answer.json().get("refused", {})
            total += promised(seen, refused)
        for sku, place in pairs:
            remains = left(shop, sku, place)
            assert levels[sku, place] - remains == total[sku, place], (trial, sku, place, seen)
            assert remains >= 0


RARE = [f"rare_{n}" for n in range(24)]
RARITIES: dict[str, Any] = {
    "places": PLACES[:1],
    "offers": {key: {"stock": {"sku": key, "by": "pick_up", "hold": "2d"}} for key in RARE} | {"plain": {}},
    "placements": {
        "hero": {"offers": RARE},
        "row": {"offers": RARE},
        "list": {"offers": RARE, "count": 3},
        "rest": {"offers": ["plain"]},
    },
}


def test_an_answer_after_any_number_of_refusals_promises_only_what_is_reserved(open_shop: Any) -> None:
    """A placement that gives up frees an offer for the next one, which must then be claimed there."""
    shop, dice = open_shop(RARITIES, workers=1), random.Random(2)
    total = Counter[str]()
    for trial in range(50):
        set_levels(shop, *((sku, HAMBURG, total[sku] + 1) for sku in RARE))
        shop.decide("web", "rest", user_id="ada")  # the worker reads that nothing is sold out
        levels = {sku: total[sku] + (dice.random() < 0.15) for sku in RARE}
        set_levels(shop, *((sku, HAMBURG, level) for sku, level in levels.items()))
        placements = dice.sample(["hero", "row", "list"], 3)
        seen = shop.decide("web", *placements, user_id=f"u-{trial}", context=ALTONA)
        for answer in seen["offers"].values():
            total.update(item["offer"] for item in answer.get("items") or [answer] if "place" in item)
        remains = {sku: left(shop, sku, HAMBURG) for sku in RARE}
        assert {sku: levels[sku] - remains[sku] for sku in RARE} == {sku: total[sku] for sku in RARE}, trial


def test_levels_set_before_the_store_went_away_are_named_and_recorded(single_url: str, tmp_path: Path) -> None:
    folder, proxy = write_shop(tmp_path / "experiments", SHOP), LostReply(single_url)
    with serving(proxy):
        settings = Settings(redis=proxy.url, data=tmp_path / "data", experiments=folder, store_timeout=5.0)
        with worker(settings) as base, httpx.Client(base_url=base, timeout=120) as client:
            shop = Shop(settings, [base], [client])
            levels = [{"sku": f"item-{n:03}", "place": HAMBURG, "level": n + 1} for n in range(130)]
            proxy.word = b"item-100"
            refused = client.post("/v1/stock", json={"levels": levels})
            assert (refused.status_code, proxy.word) == (503, b"")
            detail = refused.json()["detail"]
            first = int(detail.partition("send the level of 'item-")[2][:3])
            assert 64 <= first <= 100
            assert f"the {first} levels before 'item-{first:03}' at {HAMBURG} are set" in detail
            assert [left(shop, f"item-{n:03}", HAMBURG) for n in range(first)] == [n + 1 for n in range(first)]
            assert left(shop, "item-129", HAMBURG) == 0
            collect(settings, LogErasures(), drain=True)
            recorded = audited(settings)
            assert {f"item-{n:03}" for n in range(first)} <= set(recorded)
            assert set(recorded) <= {f"item-{n:03}" for n in range(128)}
            statuses = client.post("/v1/stock", json={"levels": levels[first:]}).json()["statuses"]
            assert {one["status"] for one in statuses} == {"set"}
            proxy.word = b"item-000"
            alone = client.post(f"/v1/stock/item-000/places/{HAMBURG}", json={"level": 5})
            assert alone.status_code == 503
            assert "whether the level is set is not known" in alone.json()["detail"]
        collect(settings, LogErasures(), drain=True)
        assert set(audited(settings)) == {one["sku"] for one in levels}


def audited(settings: Settings) -> list[str]:
    """The SKUs of the levels in the audit log."""
    files = str(settings.log / "events/**/*.parquet")
    query = "SELECT properties->>'$.sku' FROM read_parquet(?) WHERE event = 'stock_level'"
    return [sku for (sku,) in duckdb.execute(query, [files]).fetchall()]
