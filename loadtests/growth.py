"""The growth of a decision's cost with the shop, the customer and the request.

`python -m loadtests.growth [--runs N] [--curve NAME]… [--json]`. CPU of one decision in process, without socket and
store: decode the stored customer, decide, encode the trace, the records and the answer. Each large shop alternates
with the small one of its curve; ratios are medians over the pairs. Policies are learnt, and no two decisions have one
context. Exits with 1 if a ratio is over its budget.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from engine.catalog import Plan, load_plan
from engine.customer import CustomerIds, JourneyItem, Order, Profile, Trait
from engine.customers.redis.stored_entry import decode_entry, encode_entry
from engine.decision.decision import UNRESTRICTED, Availability, DecideOptions, DecideRequest, decide
from engine.decision.offers import Snapshot
from engine.journal import traces
from engine.journal.from_decision import logged_probabilities, records_of
from engine.journal.records import encode
from engine.snapshots.header import prior_of
from loadtests import collection, shop

CUSTOMERS = 400
OBSERVATIONS = 4000
COUNTS = Availability({"exposure|offer:offer_3": [shop.NOW - 60.0]})
_encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Shop:
    """A plan with its learnt policies, the stored customers, and their request."""

    plan: Plan
    snapshots: Mapping[str, Snapshot]
    customers: Sequence[bytes]
    request: DecideRequest
    availability: Availability = UNRESTRICTED


@dataclass(frozen=True)
class Curve:
    """The shops of one curve, by size; `budget` is for the ratio of the size `at` to the smallest."""

    shops: Callable[[Path], Iterator[tuple[str, Shop]]]
    at: str
    budget: float


def learn(plan: Plan) -> dict[str, Snapshot]:
    """A policy for each selection of the plan, learnt from observations whose rewards depend on the arm."""
    snapshots = {}
    for number, (key, selection) in enumerate(sorted(plan.policies.items())):
        chance, arms, n = np.random.default_rng(number), len(selection.arms), OBSERVATIONS
        x = np.column_stack([np.ones(n), chance.uniform(-1, 1, (n, selection.features.dim - 1))])
        arm = chance.integers(arms, size=n)
        reward = (chance.random(n) < 0.05 + 0.05 * (arm % 3)).astype(float)
        policy = prior_of(selection).update(x, arm, reward, np.full(n, 1 / arms))
        policy.probabilities(np.zeros(policy.dim))  # computes what a server computes when it takes a snapshot
        snapshots[key] = Snapshot(policy, 1, selection.arms)
    return snapshots


def customers(more: Callable[[Profile], Profile] = lambda profile: profile) -> list[bytes]:
    """Stored customers with a context each: the trait `spent`, a feature of the policies, differs."""
    chance = random.Random(20261129)
    made = []
    for number in range(CUSTOMERS):
        profile = shop.customer(f"u-{number}", chance)
        trait = Trait(number * 10.0 + chance.random(), shop.NOW)
        traits = profile.traits | {"spent": trait, "country": Trait("DE", shop.NOW)}
        made.append(encode_entry(more(msgspec.structs.replace(profile, traits=traits))))
    return made


FEATURES = [*shop.FEATURES, {"trait": "spent", "range": [0, 10 * CUSTOMERS]}]
REQUEST = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", context={"page": "home"})


def write_shop(folder: Path, offers: int, placements: int = 1, experiments: int = 1) -> Plan:
    """A plan in which every placement chooses among the same offers, and customers match every experiment."""
    shop.folder(folder, [shop.experiment(f"experiment_{number}") for number in range(experiments)])
    for key in ("hero", "footer"):
        (folder / f"{key}.yaml").unlink()
    names = [f"offer_{number}" for number in range(offers)]
    for key in names:
        offer = {"key": key, "renderings": {"web": {"headline": f"Headline of {key}"}}}
        (folder / "offers" / f"{key}.yaml").write_text(json.dumps(offer))
    keys = [f"place_{number}" for number in range(placements)]
    channels = {
        "channels": [{"key": "web"}, {"key": "app"}],
        "placements": [{"key": k, "channels": ["web"]} for k in keys],
    }
    (folder / "channels.yaml").write_text(json.dumps(channels))
    policy = {"kind": "linear_thompson", "features": FEATURES, "floor": 0.0001}
    for key in keys:
        chosen = {"key": key, "placement": key, "offers": names, "policy": policy, "reward": {"metric": "click"}}
        (folder / f"{key}.yaml").write_text(json.dumps(chosen | {"fallback": "banner"}))
    return load_plan(folder)


def ask(**more: object) -> DecideRequest:
    return msgspec.structs.replace(REQUEST, **more)


def experiment_shops(folder: Path) -> Iterator[tuple[str, Shop]]:
    """Shops in which the one requested experiment is among more and more."""
    for count in (10, 100, 1000):
        plan = write_shop(folder / str(count), 20, experiments=count)
        yield (
            str(count),
            Shop(plan, learn(plan), customers(), ask(placements=["place_0"], experiments=["experiment_7"])),
        )


def every_experiment(folder: Path) -> Iterator[tuple[str, Shop]]:
    """Shops in which `"*"` is requested and every experiment matches."""
    for count in (10, 100, 1000):
        plan = write_shop(folder / str(count), 1, experiments=count)
        yield str(count), Shop(plan, {}, customers(), ask(experiments="*"))


def offer_shops(folder: Path) -> Iterator[tuple[str, Shop]]:
    """Shops in which 30 offers are eligible, of more and more."""
    for count in (30, 500, 5000):
        plan = load_plan(collection.write(folder / str(count), range(count)))
        marketing = collection.buyer()
        yield str(count), Shop(plan, learn(plan), [encode_entry(marketing)], ask(placements=["hero"]), COUNTS)


def eligible_shops(folder: Path) -> Iterator[tuple[str, Shop]]:
    """Shops in which all of more and more offers are eligible."""
    for count in (20, 200, 2000, 5000):
        plan = write_shop(folder / str(count), count)
        yield str(count), Shop(plan, learn(plan), customers(), ask(placements=["place_0"]))


def placement_shops(folder: Path) -> Iterator[tuple[str, Shop]]:
    """Shops with more and more placements per request, which share 40 offers."""
    plan = write_shop(folder, 40, placements=20)
    snapshots, stored = learn(plan), customers()
    for count in (1, 2, 5, 20):
        yield str(count), Shop(plan, snapshots, stored, ask(placements=[f"place_{n}" for n in range(count)]))


def profile_shops(folder: Path) -> Iterator[tuple[str, Shop]]:
    """Shops whose customers have longer and longer histories."""
    plan = write_shop(folder, 20)
    snapshots = learn(plan)

    def with_history(size: int) -> Callable[[Profile], Profile]:
        def add(profile: Profile) -> Profile:
            number = 0
            while len(encode_entry(profile)) < size:
                batch = range(number, number + max(1, size // 400))
                traits = {f"interest_{n}": Trait(f"value {n}", shop.NOW - n, "web") for n in batch}
                orders = {f"order-{n:06}": Order(12.5 + n, shop.NOW - 3600.0 * n, 1.0) for n in batch}
                recent = {f"event_{n}": shop.NOW - n for n in batch}
                journey = {f"step_{n}": JourneyItem({"items": n}, shop.NOW, shop.NOW - 1.0) for n in batch}
                profile = msgspec.structs.replace(
                    profile,
                    traits=profile.traits | traits,
                    orders=profile.orders | orders,
                    recent=profile.recent | recent,
                    journey=profile.journey | journey,
                )
                number = batch.stop
            return profile

        return add

    for size in (0, 5_000, 50_000):
        stored = customers(with_history(size))
        name = f"{statistics.mean(map(len, stored)) / 1000:.1f} kB"
        yield name, Shop(plan, snapshots, stored, ask(placements=["place_0"], experiments=["experiment_0"]))


CURVES: Mapping[str, Curve] = {
    "experiments, one asked": Curve(experiment_shops, "1000", 1.15),
    "experiments, all asked and matching": Curve(every_experiment, "1000", 100),
    "offers, 30 eligible": Curve(offer_shops, "5000", 1.3),
    "offers, all eligible": Curve(eligible_shops, "2000", 8.0),
    "placements that share 40 offers": Curve(placement_shops, "5", 3.0),
    "size of the profile": Curve(profile_shops, "", 2.0),
}


def decide_once(made: Shop, stored: bytes, now: float, number: int) -> int:
    """Make one decision and encode everything for it; returns the bytes of its records."""
    profile = decode_entry(stored)
    assert isinstance(profile, Profile)  # noqa: S101 (customers are written as profiles)
    options = DecideOptions(availability=made.availability)
    decision = decide(
        made.plan, made.snapshots, profile, made.request, now, decision_id=f"{number:032x}", options=options
    )
    kept = traces.traced_profile(profile, made.plan, now)
    trace = traces.Trace(now, made.request, kept, made.availability, probabilities=logged_probabilities(decision))
    decision = msgspec.structs.replace(decision, trace=traces.encode_trace(trace))
    _encode_json(decision.answer)
    return sum(len(encode(record)) for record in records_of(decision, now, expose=True))


def cost(made: Shop, decisions: int, run: int) -> tuple[float, float]:
    """CPU microseconds of one decision, and the bytes of its records."""
    for snapshot in made.snapshots.values():
        snapshot.policy.__dict__.pop("_cache", None)  # else the next run of the same customers would find them cached
    size, start = 0, time.process_time()
    for number in range(decisions):
        stored = made.customers[number % len(made.customers)]
        size += decide_once(made, stored, shop.NOW + number + run * 900.0, number)
    return (time.process_time() - start) / decisions * 1e6, size / decisions


def measure(curve: Curve, runs: int) -> dict[str, dict[str, float]]:
    """Microseconds, their ratio to the smallest size, and bytes of the records, by size."""
    with tempfile.TemporaryDirectory() as name:
        shops = dict(curve.shops(Path(name)))
    small, *others = shops
    gc.collect()
    gc.freeze()  # as a server does
    found: dict[str, dict[str, float]] = {}
    counts = {size: CUSTOMERS if cost(made, 20, 0)[0] < 2000 else CUSTOMERS // 4 for size, made in shops.items()}
    costs: dict[str, list[tuple[float, float]]] = {size: [] for size in shops}
    ratios: dict[str, list[float]] = {size: [1.0] for size in shops}
    for run in range(runs):
        for size in others:
            base, got = cost(shops[small], counts[small], run), cost(shops[size], counts[size], run)
            costs[small].append(base)
            costs[size].append(got)
            ratios[size].append(got[0] / base[0])
    for size in shops:
        us, sizes = zip(*costs[size], strict=True)
        ratio = statistics.median(ratios[size][1:] or [1.0])
        found[size] = {"us": statistics.median(us), "ratio": ratio, "record_bytes": statistics.median(sizes)}
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=10)
    arguments.add_argument("--curve", action="append", choices=list(CURVES), help="only this one; may be repeated")
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    report: dict[str, object] = {}
    missed = 0
    for name in given.curve or CURVES:
        curve = CURVES[name]
        found = measure(curve, given.runs)
        at = curve.at or list(found)[-1]
        missed += found[at]["ratio"] > curve.budget
        report[name] = {"sizes": found, "at": at, "ratio": found[at]["ratio"], "budget": curve.budget}
        if not given.json:
            print(name)
            for size, one in found.items():
                budget = f"  (budget {curve.budget:g})" if size == at else ""
                print(
                    f"{size:>12}{one['us']:10.1f} µs{one['ratio']:8.2f}{one['record_bytes']:10,.0f} B{budget}",
                    flush=True,
                )
    if given.json:
        print(json.dumps(report))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
