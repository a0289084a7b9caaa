"""Random decisions and all that is logged of them, as digests: `python random_decisions.py COUNT [SEED]`.

The first line is JSON: how many of the hot modules are compiled. Each following line is the digest of `PER_LINE`
decisions, their records, traces, answers and errors.
"""

import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from engine.catalog import Plan, load_plan
from engine.customer import CustomerIds, Profile, Trait
from engine.decision.decision import Availability, DecideOptions, DecideRequest, decide
from engine.decision.offers import Snapshot
from engine.errors import BadInput
from engine.journal import traces
from engine.journal.from_decision import logged_probabilities, records_of
from engine.journal.records import encode
from engine.snapshots.header import prior_of
from loadtests import shop
from policies import KINDS

PER_LINE = 500
ROOT = Path(__file__).resolve().parents[2]
FEATURES = [*shop.FEATURES, {"trait": "spent", "range": [0, 100]}]
VALUES = (0, 1, 2.5, -0.0, True, False, None, "", "DE", "de", "AT", "web", "2026-11-29", "3", [1, "DE"], {"tier": 2})


def plans(folder: Path) -> Iterator[tuple[Plan, Mapping[str, Snapshot]]]:
    """The shop that is shipped, and one with a placement for every kind of policy; each with learnt policies."""
    everything = shop.folder(folder / "kinds", [shop.experiment(f"experiment_{n}", coverage=0.7) for n in range(5)])
    offers = [f"offer_{number}" for number in range(shop.OFFERS)]
    channels = json.loads((everything / "channels.yaml").read_text(encoding="utf-8"))
    for kind in sorted(KINDS):
        policy: dict[str, object] = {"kind": kind, "floor": 0.003}
        if KINDS[kind].contextual:
            policy["features"] = FEATURES
        chosen = {"key": kind, "placement": kind, "offers": offers, "policy": policy, "reward": {"metric": "click"}}
        (everything / f"{kind}.yaml").write_text(json.dumps(chosen | {"fallback": "banner"}), encoding="utf-8")
        channels["placements"].append({"key": kind, "channels": ["web", "app"]})
    (everything / "channels.yaml").write_text(json.dumps(channels), encoding="utf-8")
    for path in (ROOT / "experiments", everything):
        plan = load_plan(path)
        yield plan, {key: learnt(plan, key, n) for n, key in enumerate(sorted(plan.policies))}


def learnt(plan: Plan, key: str, seed: int) -> Snapshot:
    """A policy of the plan after 300 random observations."""
    selection, chance, n = plan.policies[key], np.random.default_rng(seed), 300
    x = np.column_stack([np.ones(n), chance.uniform(-1, 1, (n, max(selection.features.dim, 1) - 1))])
    arms = len(selection.arms)
    reward = (chance.random(n) < 0.3).astype(float)
    policy = prior_of(selection).update(x, chance.integers(arms, size=n), reward, np.full(n, 1 / arms))
    return Snapshot(policy, 7, selection.arms)


def profile(name: str, names: list[str], chance: random.Random) -> Profile:
    """A customer with orders, views and consents, and random values under the names that the plan reads."""
    made = shop.customer(name, chance)
    random_traits = {chance.choice(names): Trait(chance.choice(VALUES), shop.NOW) for _ in range(chance.randrange(4))}
    return msgspec.structs.replace(made, traits=made.traits | random_traits | {"spent": Trait(chance.random() * 99, 1)})


def request(plan: Plan, names: list[str], name: str, chance: random.Random) -> DecideRequest:
    """A random request; one in fifty asks for a placement that its channel does not have."""
    channel = chance.choice(sorted(plan.channels))
    there = sorted(placement for one, placement in plan.selections if one == channel)
    placements = chance.sample(there, chance.randrange(min(4, len(there)) + 1))
    if chance.random() < 0.02:
        placements.append("nowhere")
    experiments = chance.sample(sorted(plan.experiments), chance.randrange(min(3, len(plan.experiments)) + 1))
    context = {chance.choice(names): chance.choice(VALUES) for _ in range(chance.randrange(3))}
    return DecideRequest(
        customer=CustomerIds(user_id=name, anonymous_id=chance.choice((None, f"{name}é😀"))),
        channel=channel,
        placements=placements,
        experiments="*" if chance.random() < 0.3 else experiments,
        context=context,
        expose=chance.random() < 0.8,
    )


def decided(plan: Plan, snapshots: Mapping[str, Snapshot], names: list[str], number: int) -> bytes:
    """Everything that leaves one random decision."""
    chance = random.Random(number)
    name, now = f"u-{number % 997}", shop.NOW + chance.random() * 1e7
    one, asked = profile(name, names, chance), request(plan, names, name, chance)
    counts = {chance.choice(sorted(plan.watched)): [now - 60.0]} if plan.watched and chance.random() < 0.5 else {}
    prices = {chance.choice(sorted(plan.offers)): chance.random()} if chance.random() < 0.2 else {}
    options = DecideOptions(
        degraded=chance.random() < 0.05,
        availability=Availability(counts, prices=prices),
        trace=chance.random() < 0.2,
    )
    try:
        made = decide(plan, snapshots, one, asked, now, decision_id=f"{number:032x}", options=options)
    except BadInput as error:
        return str(error).encode()
    trace = traces.Trace(
        now=now,
        request=asked,
        profile=traces.traced_profile(one, plan, now),
        availability=options.availability,
        probabilities=logged_probabilities(made),
    )
    made = msgspec.structs.replace(made, trace=traces.encode_trace(trace))
    closed = {key: [dict(choice.closed), repr(choice.factors)] for key, choice in made.choices.items()}
    records = b"".join(encode(record) for record in records_of(made, now, expose=asked.expose))
    return b"\0".join((msgspec.json.encode(made.answer), msgspec.json.encode(closed), records))


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    hot = ("engine.decision.decision", "engine.decision.offers", "engine.hashing", "policies.base")
    compiled = sum(str(sys.modules[one].__file__).endswith(".so") for one in hot)
    sys.stdout.write(json.dumps({"compiled": compiled, "of": len(hot)}) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        for plan, snapshots in plans(Path(folder)):
            names = sorted(plan.audience_names | {"country", "loyalty.tier", "hour", "store", "intent"})
            for start in range(0, count // 2, PER_LINE):
                digest = hashlib.sha256()
                for number in range(start, min(start + PER_LINE, count // 2)):
                    digest.update(decided(plan, snapshots, names, seed + number))
                sys.stdout.write(f"{plan.version} {start} {digest.hexdigest()}\n")


if __name__ == "__main__":
    main()
