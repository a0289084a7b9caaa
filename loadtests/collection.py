"""The cost of a decision over 5,000 offers of which 30 may be shown, compared with one over these 30 alone.

`python -m loadtests.collection [ROUNDS]`. CPU seconds per decision, in alternating pairs. Exits with 1 if the median
ratio of the pairs is above the budget.
"""

import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from engine.catalog import Plan, load_plan
from engine.customer import Consent, CustomerIds, Profile, Trait
from engine.decision.decision import Availability, DecideOptions, DecideRequest, decide

NOW = 1_790_000_000.0
ALL, ELIGIBLE = 5000, 30
DECISIONS = 300
BUDGET = 1.5
COUNTRIES = [f"C{number}" for number in range(60)]


def write(folder: Path, numbers: range) -> Path:
    (folder / "offers").mkdir(parents=True)
    for number in numbers:
        offer = {
            "key": f"offer_{number}",
            "renderings": {"web": {"headline": str(number)}, "app": {"headline": str(number)}},
            "tags": [f"tag_{number % 7}"],
            "caps": [{"count": 3, "per": "7d"}],
            "audience": {"country": {"$in": ["C0", COUNTRIES[number % 60]]}},
        }
        if number >= ELIGIBLE:
            closing = number % 4
            if closing == 0:
                offer["audience"] = {"country": COUNTRIES[1 + number % 59], "loyalty.tier": {"$gte": number % 5}}
            elif closing == 1:
                offer["audience"] = {"orders.revenue": {"$gte": 1000 + number}}
            elif closing == 2:
                offer["end"] = "2026-01-01T00:00:00Z"
            else:
                offer["renderings"] = {"app": {"headline": str(number)}}
        (folder / "offers" / f"{offer['key']}.yaml").write_text(json.dumps(offer))
    banner = {"key": "banner", "renderings": {"web": {}, "app": {}}}
    hero = {
        "key": "hero",
        "placement": "hero",
        "offers": [f"offer_{number}" for number in numbers],
        "policy": {"kind": "linear_thompson", "features": ["hour", {"trait": "loyalty.tier", "range": [0, 3]}]},
        "reward": {"metric": "click"},
        "fallback": "banner",
    }
    placements = [{"key": "hero", "channels": ["web", "app"]}]
    channels = {"channels": [{"key": "web"}, {"key": "app"}], "placements": placements}
    (folder / "offers" / "banner.yaml").write_text(json.dumps(banner))
    (folder / "hero.yaml").write_text(json.dumps(hero))
    (folder / "channels.yaml").write_text(json.dumps(channels))
    (folder / "metrics.yaml").write_text(json.dumps({"metrics": [{"key": "click", "event": "click"}]}))
    return folder


def buyer() -> Profile:
    """A customer who may be shown 30 of the offers."""
    return Profile(
        "u-1",
        "u-1",
        traits={"country": Trait("C0", NOW), "loyalty.tier": Trait(2, NOW)},
        consents={"marketing": Consent(True, NOW)},
    )


def seconds(plan: Plan) -> float:
    profile = buyer()
    request = DecideRequest(customer=CustomerIds(user_id="u-1"), channel="web", placements=["hero"])
    options = DecideOptions(availability=Availability({"exposure|offer:offer_3": [NOW - 60.0]}))
    start = time.process_time()
    for number in range(DECISIONS):
        decision = decide(plan, {}, profile, request, NOW + number, options=options)
    took = (time.process_time() - start) / DECISIONS
    assert len(decision.choices["hero"].candidates) == ELIGIBLE  # noqa: S101 (otherwise the bench measures something else)
    return took


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as folder:
        large = load_plan(write(Path(folder) / "large", range(ALL)))
        small = load_plan(write(Path(folder) / "small", range(ELIGIBLE)))
    gc.collect()
    gc.freeze()  # as a server does
    seconds(small), seconds(large)
    pairs = [(seconds(small), seconds(large)) for _ in range(rounds)]
    few, many = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{ELIGIBLE} offers: {few * 1e6:.1f} µs a decision; {ELIGIBLE} of {ALL:,}: {many * 1e6:.1f} µs")
    print(f"{ratio:.2f} times as much (budget {BUDGET})")
    return 0 if ratio <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
