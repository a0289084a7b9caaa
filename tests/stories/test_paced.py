"""A stock that must last: the learner prices it while it goes, decisions keep it for others, and explain says so."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.journal import snapshots, stream
from engine.journal.replay import explain_decision
from engine.learn import learn
from policies import dump

UNITS = 60
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
    policy = snapshots.bandit(selection).update(x, arm, clicked.astype(float), np.full(2000, 0.5))
    blob = dump(policy)
    header = snapshots.Header.of(1, time.time(), 0.0, snapshots.meaning_of(selection), blob)
    snapshots.publish(client, "hero", header, blob)


def test_the_last_ones_are_kept_for_whom_they_are_worth_most(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.stock("BAG", UNITS)
    plan = load_plan(shop.settings.experiments)
    stop = threading.Event()
    with stream.connect(shop.settings.redis) as client:
        publish(client, shop)
        learner = threading.Thread(target=learn, args=(shop.settings, lambda: plan, stop))
        learner.start()
        try:
            deadline, n, closed = time.monotonic() + 60, 0, {}
            while "bag" not in closed:
                assert time.monotonic() < deadline
                for _ in range(3):
                    n += 1
                    shop.decide("web", "hero", user_id=f"u{n}", context={"taste": 0.6})
                closed = shop.explain("web", "hero", user_id="plain", context={"taste": 0.02})["closed"]
                time.sleep(0.1)
            assert closed == {"bag": "price"}
            seen = shop.explain("web", "hero", user_id="fond", context={"taste": 1.0})
            assert {one["offer"]: one["price"] > 0 for one in seen["candidates"]} == {"bag": True, "usual": False}
            kept = shop.decide("web", "hero", user_id="plain", context={"taste": 0.02})
            assert (kept["offers"]["hero"]["offer"], kept["offers"]["hero"]["propensity"]) == ("usual", 1.0)
        finally:
            stop.set()
            learner.join()
        assert n < UNITS + 10, "it went before it had a price"
        shop.collect()
        archive = Archive(shop.settings.data / "plans")
        again = explain_decision(shop.settings.log, archive, client, kept["decision_id"])
    assert (again.same, again.differences) == (True, [])
    assert again.explanation.placements["hero"].closed == {"bag": "price"}
