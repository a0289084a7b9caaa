"""A placement sells from a feed: its gates hold, a new file replaces it, and old decisions are still explained."""

import json
import time
from typing import Any

from tests.stories.conftest import Open, Shop
from tests.verbs import run_verb

HEADER = "sku,title,price,shelf\n"
SHOP: dict[str, Any] = {
    "offers": {},
    "placements": {
        "hero": {
            "offers": {
                "feed": "products.csv",
                "key": "sku",
                "title": "title",
                "price": "price",
                "audience": {"shelf": "{shelf}"},
                "stock": {"sku": "{sku}", "hold": "1h"},
                "caps": [{"count": 1, "per": "7d", "event": "redemption"}],
                "rendering": {"web": {"headline": "{title}", "price": "{price}"}},
            },
            "policy": {"kind": "linear_thompson", "features": ["hour"], "attributes": ["price"]},
        }
    },
    "feeds": {"products.csv": f"{HEADER}kettle,Kettle,19.9,kitchen\nlamp,Lamp,5,light\nbroken,,x,kitchen\n"},
}


def explain(shop: Shop, decision: str) -> dict[str, Any]:
    places = ("--data", str(shop.settings.data), "--redis", shop.settings.redis)
    done = run_verb("explain", decision, "--json", *places)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_feed_is_served_under_its_gates_and_replaced_while_old_decisions_stay_explained(open_shop: Open) -> None:
    shop = open_shop(SHOP, workers=1)
    shop.stock("kettle", 1)
    shop.stock("lamp", 9)
    first = shop.decide("web", "hero", user_id="u-1", context={"shelf": "kitchen"})
    assert first["offers"]["hero"]["offer"] == "kettle"
    assert first["offers"]["hero"]["rendering"] == {"headline": "Kettle", "price": 19.9}
    assert shop.offer("web", "hero", user_id="u-2", context={"shelf": "kitchen"}) == "banner"  # the last one is on hold
    assert shop.offer("web", "hero", user_id="u-2", context={"shelf": "light"}) == "lamp"
    rows = f"{HEADER}kettle,Kettle,17.9,kitchen\npan,Pan,12,kitchen\n"
    (shop.settings.experiments / "products.csv").write_text(rows, encoding="utf-8")
    shop.stock("pan", 5)
    deadline = time.monotonic() + 120
    while (offer := shop.offer("web", "hero", user_id="u-3", context={"shelf": "kitchen"})) == "banner":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert offer == "pan"
    assert shop.offer("web", "hero", user_id="u-2", context={"shelf": "light"}) == "banner"
    assert 'counterpoint_feed_rows_left_out{selection="hero"} 0.0' in shop.client().get("/metrics").text
    shop.collect()
    replayed = explain(shop, first["decision_id"])
    assert replayed["same"], replayed["differences"]
    assert replayed["logged"][0]["variant"] == "kettle"
