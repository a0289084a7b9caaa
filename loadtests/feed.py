"""The cost of a decision over a feed of 100,000 items of which 30 may be shown, and over one of 100 with the same 30.

`python -m loadtests.feed [ROUNDS]`. CPU seconds per decision, in alternating pairs. Exits with 1 if the median ratio of
the pairs is above the budget.
"""

import csv
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from engine.catalog import Plan, load_plan
from engine.customer import Consent, CustomerIds, Profile, Trait
from engine.decision.decision import Availability, DecideOptions, DecideRequest, decide

NOW = 1_790_000_000.0
FEW, MANY, ELIGIBLE = 100, 100_000, 30
DECISIONS = 300
BUDGET = 1.5


def write(folder: Path, items: int) -> Path:
    """Write a shop with one placement on a feed of this size; 30 distant items are on the customer's shelf."""
    (folder / "offers").mkdir(parents=True)
    banner = {"key": "banner", "renderings": {"web": {"headline": "Good to see you"}}}
    (folder / "offers" / "banner.yaml").write_text(json.dumps(banner))
    channels = {"channels": [{"key": "web"}], "placements": [{"key": "hero", "channels": ["web"]}]}
    (folder / "channels.yaml").write_text(json.dumps(channels))
    (folder / "metrics.yaml").write_text(json.dumps({"metrics": [{"key": "click", "event": "click"}]}))
    feed = {
        "feed": "products.csv", "key": "sku", "price": "price", "tags": "category", "purpose": "marketing",
        "audience": {"shelf": "{category}"}, "caps": [{"count": 3, "per": "7d"}], "stock": {"sku": "{sku}"},
        "rendering": {"web": {"headline": "{title}", "price": "{price}"}},
    }  # fmt: skip
    hero = {
        "key": "hero", "placement": "hero", "offers": feed, "policy": {"kind": "beta_thompson"},
        "reward": {"metric": "click"}, "fallback": "banner",
    }  # fmt: skip
    (folder / "hero.yaml").write_text(json.dumps(hero))
    with (folder / "products.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sku", "title", "price", "category"])
        for number in range(items):
            every = items // ELIGIBLE
            shelf = "coffee" if number % every == 0 and number < every * ELIGIBLE else f"shelf-{number % 997}"
            rows.writerow([f"sku-{number}", f"Item {number}", number % 90 + 0.5, shelf])
    return folder


def seconds(plan: Plan) -> float:
    """The CPU seconds of one decision."""
    consents = {"marketing": Consent(True, NOW)}
    profile = Profile("u-1", "u-1", traits={"shelf": Trait("coffee", NOW)}, consents=consents)
    request = DecideRequest(customer=CustomerIds(user_id="u-1"), channel="web", placements=["hero"])
    options = DecideOptions(availability=Availability({"exposure|offer:sku-3": [NOW - 60.0]}))
    start = time.process_time()
    for number in range(DECISIONS):
        decision = decide(plan, {}, profile, request, NOW + number, options=options)
    took = (time.process_time() - start) / DECISIONS
    assert len(decision.choices["hero"].candidates) == ELIGIBLE  # noqa: S101 (otherwise the bench measures something else)
    return took


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as folder:
        small = load_plan(write(Path(folder) / "small", FEW))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        large = load_plan(write(Path(folder) / "large", MANY))
        loaded = time.process_time() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    gc.collect()
    gc.freeze()  # as a server does
    seconds(small), seconds(large)
    pairs = [(seconds(small), seconds(large)) for _ in range(rounds)]
    few, many = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{MANY:,} items are read and compiled in {loaded:.1f} s of CPU, {grown:,.0f} MB")
    print(f"{ELIGIBLE} of {FEW} items: {few * 1e6:.1f} µs a decision; {ELIGIBLE} of {MANY:,}: {many * 1e6:.1f} µs")
    print(f"{ratio:.2f} times as much (budget {BUDGET})")
    return 0 if ratio <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
