"""A stock that must last: the learner prices it while it goes, decisions keep it for others, and explain says so."""

import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.journal import stream
from engine.journal.spool.drain import Drain
from engine.learn.learner import Learner
from engine.learn.prices import INTERVAL
from engine.rehearse.explain import explain_decision
from engine.snapshots.header import Header, meaning_of, prior_of
from engine.snapshots.publish import publish_snapshot, shadow_prices
from policies import dump_policy

UNITS = 60
PLAIN = {"user_id": "plain", "context": {"taste": 0.02}}
FOND = {"user_id": "fond", "context": {"taste": 1.0}}
END = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
SHOP = {
    "offers": {
        "bag": {"value": 3.0, "end": END, "stock": {"sku": "BAG", "pace": True, "hold": "1h"}},
        "usual": {"value": 1.0},
    },
    "placements": {
        "hero": {
            "offers": ["bag", "usual"],
            "policy": {"kind": "linear_thompson", "features": [{"trait": "taste", "range": [0, 1]}]},
            "arbitration": {"value": True},
        }
    },
}


def publish(client: Any, shop: Any) -> None:
    """What was learnt of earlier customers: the bag is clicked by those who have the taste."""
    selection = load_plan(shop.settings.experiments).policies["hero"]
    random = np.random.default_rng(1)
    taste, arm = random.random(2000), random.integers(0, 2, 2000)
    x = np.array([selection.features.vector({"taste": one}) for one in taste.tolist()])
    clicked = random.random(2000) < np.where(arm == 0, 0.2 + 0.7 * taste, 0.3)
    policy = prior_of(selection).update(x, arm, clicked.astype(float), np.full(2000, 0.5))
    blob = dump_policy(policy)
    header = Header.of(1, time.time(), 0.0, meaning_of(selection), blob)
    publish_snapshot(client, "hero", header, blob)


def shipped(drain: Drain) -> None:
    """The learner can read what was answered until now."""
    while not drain.done():
        time.sleep(0.02)
    drain.close()


def heard(shop: Any, prices: dict[str, float]) -> None:
    """Every worker has the learner's price."""
    wanted = {"bag": prices.get("bag", 0.0), "usual": 0.0}
    deadline = time.monotonic() + 30
    while any(prices_of(shop) != wanted for _ in shop.bases):  # each answers in its turn
        assert time.monotonic() < deadline
        time.sleep(0.05)


def prices_of(shop: Any) -> dict[str, float]:
    return {one["offer"]: one["price"] for one in shop.explain("web", "hero", **FOND)["candidates"]}


def test_the_last_ones_are_kept_for_whom_they_are_worth_most(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.stock("BAG", UNITS)
    plan = load_plan(shop.settings.experiments)
    with stream.connect_stream(shop.settings.redis) as client, closing(Learner(shop.settings)) as learner:
        publish(client, shop)
        n, now = 0, time.time()
        while shop.explain("web", "hero", **PLAIN)["closed"] != {"bag": "price"}:
            for _ in range(3):
                n += 1
                shop.decide("web", "hero", user_id=f"u{n}", context={"taste": 0.6})
            shipped(Drain(shop.settings, client, "shipped"))
            now += INTERVAL
            learner.step(plan, now)
            heard(shop, shadow_prices(client))
        seen = shop.explain("web", "hero", **FOND)
        assert {one["offer"]: one["price"] > 0 for one in seen["candidates"]} == {"bag": True, "usual": False}
        kept = shop.decide("web", "hero", **PLAIN)
        assert (kept["offers"]["hero"]["offer"], kept["offers"]["hero"]["propensity"]) == ("usual", 1.0)
        assert n < UNITS + 10, "it went before it had a price"
        shop.collect()
        archive = Archive(shop.settings.data / "plans")
        again = explain_decision(shop.settings.log, archive, client, kept["decision_id"])
    assert (again.same, again.differences) == (True, [])
    assert again.explanation.placements["hero"].closed == {"bag": "price"}
