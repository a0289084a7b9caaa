"""The cost of a decision in a plan of 1,000 experiments against a plan of ten, where two of them can match.

`python -m loadtests.plans [--runs N] [--json]`. In-process `decide`; runs alternate, medians are printed. The other
experiments do not match in one of five ways: not asked for, another channel, another placement, another audience,
another part of the layer. Exits with 1 if the larger plan costs more than 1.15 times the smaller one in any of them.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.catalog import Plan, load_plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideRequest, decide
from loadtests import shop

SMALL, LARGE = 10, 1000
UNITS = 2000
BUDGET = 1.15
Experiment = dict[str, object]
EVERY = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", experiments="*")
NAMED = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", experiments=["match_0", "match_1"])
PLACED = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", placements=["hero"])

WAYS: dict[str, tuple[DecideRequest, Experiment, Callable[[int], Experiment]]] = {
    "not asked for": (NAMED, {}, lambda _: {}),
    "another channel": (EVERY, {}, lambda _: {"channels": ["app"]}),
    "another placement": (PLACED, {"placement": "hero"}, lambda _: {"placement": "footer"}),
    "another audience": (EVERY, {}, lambda n: {"audience": {"country": f"X{n}", "loyalty.tier": {"$gte": 1}}}),
    "another part of the layer": (EVERY, {}, lambda _: {"layer": "busy"}),
}


def plan(folder: Path, count: int, match: Experiment, other: Callable[[int], Experiment]) -> Plan:
    experiments = [shop.experiment(f"match_{number}", **match) for number in range(2)]
    experiments += [shop.experiment(f"other_{number}", **other(number)) for number in range(count - 2)]
    layered = [str(one["key"]) for one in experiments if "layer" in one]
    width = 0.01 / LARGE  # together they let in one customer of a hundred, so two match in either plan
    reserve = {key: [0.5 + n * width, 0.5 + (n + 1) * width] for n, key in enumerate(layered)}
    return load_plan(shop.folder(folder, experiments, {"key": "busy", "reserve": reserve}))


def cost(made: Plan, request: DecideRequest, customers: list[Profile]) -> float:
    """CPU microseconds of one decision."""
    start = time.process_time()
    for customer in customers:
        decide(made, {}, customer, request, shop.NOW, decision_id="d")
    return (time.process_time() - start) / len(customers) * 1e6


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=7)
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    customers = [shop.customer(f"u-{number}", random.Random(number)) for number in range(UNITS)]
    found = {}
    for way, (request, match, other) in WAYS.items():
        with tempfile.TemporaryDirectory() as name:
            small = plan(Path(name) / "small", SMALL, match, other)
            large = plan(Path(name) / "large", LARGE, match, other)
        runs = [(cost(small, request, customers), cost(large, request, customers)) for _ in range(given.runs)]
        found[way] = {
            f"us_of_{SMALL}": statistics.median(ten for ten, _ in runs),
            f"us_of_{LARGE}": statistics.median(thousand for _, thousand in runs),
            "ratio": statistics.median(thousand / ten for ten, thousand in runs),
        }
    worst = max(one["ratio"] for one in found.values())
    if given.json:
        print(json.dumps({"ways": found, "worst": worst, "budget": BUDGET}))
    else:
        print(f"{'the others do not match by':28}{f'{SMALL} in plan':>14}{f'{LARGE} in plan':>14}{'ratio':>8}")
        for way, one in found.items():
            small_us, large_us, ratio = one.values()
            print(f"{way:28}{small_us:11.1f} µs{large_us:11.1f} µs{ratio:8.2f}")
        print(f"budget {BUDGET}")
    return 0 if worst <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
