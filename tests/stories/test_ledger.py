"""The ledger over HTTP: random orders, refunds, refusals and repetitions, beside a model and the live counters."""

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest
import time_machine

from engine import keyspace
from tests.store import open_store

COSTS = {"web": Decimal("0.1"), "email": Decimal("0.37")}
SHOP: dict[str, Any] = {
    "offers": {
        "gift": {"budget": {"amount": 1000, "cost": 0.1, "costs": {"email": 0.37}, "hold": "2h"}},
        "voucher": {"budget": {"amount": 500, "cost": 1.33, "hold": "2h"}},
        "free": {},
    },
    "placements": {"hero": {"offers": ["gift", "free"]}, "row": {"offers": ["voucher", "gift"]}},
    "channels": {"email": {"outbound": True}},
}
JOURNEYS: tuple[list[str], ...] = (
    [],
    ["purchase"],
    ["refused"],
    ["purchase", "refund"],
    ["refused", "purchase"],
    ["late"],
)
STATES = ("redeemed", "refunded", "released", "expired", "open")


def ledger(shop: Any) -> dict[str, Any]:
    shop.collect()
    settings = shop.settings
    places = ["--data", str(settings.data), "--experiments", str(settings.experiments), "--log", str(settings.log)]
    command = [sys.executable, "-m", "engine", "measure", "ledger", "--json", *places]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def live(shop: Any, offer: str, now: float) -> tuple[Decimal, Decimal]:
    """What the live counter of a budget has spent and holds at a time."""
    key = keyspace.pool("budget", offer)
    with open_store(shop.settings.redis) as client:
        spent = Decimal(int(client.hget(key, "spent") or 0)) / 10_000
        claims = client.zrangebyscore(keyspace.pool_holds("budget", offer), f"({now}", "+inf")
        held = [client.hget(key, b"h:" + claim) for claim in claims]
    return spent, sum((Decimal(int(amount)) for amount in held if amount is not None), Decimal(0)) / 10_000


def amount_of(offer: str, channel: str) -> Decimal:
    return Decimal("1.33") if offer == "voucher" else COSTS[channel]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_ledger_is_that_of_a_model_and_of_the_live_counters(open_shop: Any, seed: int) -> None:
    shop, chance = open_shop(SHOP, workers=2), random.Random(seed)
    states: dict[tuple[str, str], list[list[Any]]] = defaultdict(list)
    began = time.time()
    with time_machine.travel(began, tick=True) as clock:
        for n in range(120):
            channel = chance.choice(["web", "email"])
            who = f"u{n}"
            made = shop.decide(channel, "hero", "row", user_id=who)
            shown = {
                place: one["offer"] for place, one in made["offers"].items() if one["offer"] in ("gift", "voucher")
            }
            promises = [[offer, amount_of(offer, channel), "open", time.time()] for offer in shown.values()]
            for promise in promises:
                states[promise[0], channel].append(promise)
            order = {"order_id": f"o{n}", "revenue": 20.0}
            for step in chance.choice(JOURNEYS):
                named = chance.choice([*shown.values(), None]) if shown else None
                properties = dict(order) if step != "refused" else {}
                if named is not None:
                    properties["offer"] = named
                if step == "late":
                    clock.shift(3 * 3600)
                event = "purchase" if step == "late" else step
                by_order = step == "refund" and chance.random() < 0.5
                item = {
                    "type": "track",
                    "event": event,
                    "message_id": f"{n}-{step}",
                    "user_id": who,
                    "channel": channel,
                }
                item |= {"properties": properties} | ({} if by_order else {"decision_id": made["decision_id"]})
                for _ in range(chance.choice([1, 1, 2])):  # a repetition changes nothing
                    assert shop.send(item) in ("accepted", "duplicate")
                for promise in promises:
                    if named in (None, promise[0]):
                        promise[2] = next_state(promise[2], event)
            if n % 40 == 39:
                clock.shift(3 * 3600)
        now = time.time()
        for promise in (one for many in states.values() for one in many):
            if promise[2] == "open" and promise[3] + 2 * 3600 <= now:
                promise[2] = "expired"
        shop.decide("web", "hero", user_id="last", expose=False)
        # The report is of its last event: this one stands at `now`.
        shop.tell("click", user_id="last")
        found = ledger(shop)
        counters = {offer: live(shop, offer, time.time()) for offer in ("gift", "voucher")}
    rows = {(row["offer"], row["channel"]): row for row in found["rows"]}
    assert rows.keys() == states.keys()
    for key, promises in states.items():
        for state in STATES:
            expected = sum((one[1] for one in promises if one[2] == state), Decimal(0))
            assert Decimal(rows[key][state]) == expected, (key, state)
        assert Decimal(rows[key]["promised"]) == sum(one[1] for one in promises)
        assert rows[key]["promises"] == len(promises)
    assert Decimal(found["total"]["promised"]) == sum(one[1] for promises in states.values() for one in promises)
    for offer, (spent, held) in counters.items():
        mine = [row for row in found["rows"] if row["offer"] == offer]
        assert spent == sum(Decimal(row["redeemed"]) + Decimal(row["refunded"]) for row in mine)
        assert held == sum(Decimal(row["open"]) for row in mine)


def next_state(state: str, event: str) -> str:
    if event == "refund":
        return "refunded" if state == "redeemed" else state
    if event == "purchase":
        return "redeemed"
    return "released" if state == "open" else state


def test_a_promise_keeps_the_cost_of_the_plan_that_made_it(open_shop: Any) -> None:
    shop = open_shop(SHOP | {"placements": {"hero": {"offers": ["gift"]}}}, workers=1)
    shop.decide("web", "hero", user_id="u1")
    path = shop.settings.experiments / "offers" / "gift.yaml"
    before = shop.decide("web", "hero", user_id="u2")["plan"]
    path.write_text(path.read_text().replace("cost: 0.1\n", "cost: 0.25\n"))
    deadline = time.monotonic() + 60
    while shop.decide("web", "hero", user_id="u3", expose=False)["plan"] == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for n in range(4, 40):
        assert shop.offer("web", "hero", user_id=f"u{n}") == "gift"
    (row,) = ledger(shop)["rows"]
    assert row["promises"] == 2 + 36
    assert Decimal(row["promised"]) == 2 * Decimal("0.1") + 36 * Decimal("0.25")


def test_a_refund_of_one_offer_leaves_its_neighbours_redeemed(open_shop: Any) -> None:
    shop = open_shop(SHOP | {"placements": {"hero": {"offers": ["gift"]}, "row": {"offers": ["voucher"]}}}, workers=1)
    back: tuple[dict[str, Any], ...] = (
        {"offer": "gift"},
        {"placement": "hero"},
        {"offer": "gift", "order_id": "o2"},
        {"placement": "hero", "order_id": "o3"},
    )
    for n, properties in enumerate(back):
        by = {"decision_id": shop.decide("web", "hero", "row", user_id=f"u{n}")["decision_id"]}
        shop.tell("purchase", user_id=f"u{n}", properties={"order_id": f"o{n}", "revenue": 20.0}, **by)
        named = {} if "order_id" in properties else by
        assert shop.tell("refund", user_id=f"u{n}", properties={"revenue": 20.0} | properties, **named) == "accepted"
    rows = {row["offer"]: row for row in ledger(shop)["rows"]}
    assert Decimal(rows["gift"]["refunded"]) == 4 * Decimal("0.1")
    assert Decimal(rows["voucher"]["redeemed"]) == 4 * Decimal("1.33")
