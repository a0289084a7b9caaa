"""Shops whose truth is known: does the interval of `plan --value` cover what a changed line of YAML would have earned?

A world serves customers by `decide`, evenly or by a policy that learns from batch to batch, and writes the log that a
server would. Then some lines change: a lever, an audience, an end, the floor, the offers, the arbitration. The truth of
each is computed from the click rates that the world knows, by `decide` with the policies as they were.
`python -m tests.statistical.plan_value_worlds [WORLDS]` (`make calibrate-plan-value`).
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from engine import decide
from engine.analysis.planvalue.line_values import LineValue, value_plan
from engine.analysis.planvalue.replay import chances_of
from engine.analysis.stats.estimate import Effect
from engine.catalog import load_plan
from engine.catalog.check.load import read_folder
from engine.catalog.diff.yaml_lines import changed_lines, valid_groups
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.customer import CustomerIds, Profile, Trait
from engine.decision.decision import Availability, DecideRequest, Decision
from engine.decision.offers import Snapshot
from engine.journal.from_decision import logged_probabilities, records_of
from engine.journal.log.parquet import LogTable, as_columns, rows_of_record, write_table
from engine.journal.records import AnyRecord, RewardRecord
from engine.journal.traces import Trace, encode_trace, traced_profile
from engine.snapshots.header import align_policy
from policies import Bandit

Json = dict[str, Any]
OFFERS = ("a", "b", "c", "d")
COUNTRIES = ("de", "at", "ch")
TIERS = (0, 2)
CELLS = [(country, tier) for country in COUNTRIES for tier in TIERS]
SHARES = np.array([0.25, 0.2, 0.2, 0.15, 0.1, 0.1])
START, STEP = 1_780_000_000.0, 120.0
BATCHES = 8
FEATURES = [{"trait": "country", "one_of": list(COUNTRIES)}, {"trait": "tier", "range": [0, 2]}]


@dataclass(frozen=True)
class World:
    """A shop before and after a change, and what it does not know: click rates by cell and offer."""

    old: Mapping[str, Json]
    new: Mapping[str, Json]
    rates: np.ndarray
    learns: bool
    decisions: int
    seed: int


def draw_world(seed: int, decisions: int) -> World:
    rng = np.random.default_rng([17, seed])
    learns = bool(rng.integers(2))
    rates = rng.uniform(0.05, 0.45, (len(CELLS), len(OFFERS)))
    policy: Json = {"kind": "linear_thompson", "features": FEATURES} if learns else {"kind": "uniform"}
    shop: dict[str, Json] = {
        "channels": {"channels": [{"key": "web"}], "placements": [{"key": "hero", "channels": ["web"]}]},
        "metrics": {"metrics": [{"key": "click", "event": "click"}]},
        "hero": {
            "key": "hero",
            "placement": "hero",
            "offers": list(OFFERS),
            "policy": policy | {"floor": 0.06},
            "reward": {"metric": "click"},
            "fallback": "z",
        },
        "offers/z": {"key": "z", "renderings": {"web": {}}},
    }
    for key in OFFERS:
        shop[f"offers/{key}"] = {"key": key, "value": round(float(rng.uniform(1, 6)), 2), "renderings": {"web": {}}}
    shop["offers/a"]["lever"] = 1.5
    shop["offers/b"]["audience"] = {"tier": {"$gte": 0}}
    new: dict[str, Json] = json.loads(json.dumps(shop))
    for change in rng.choice(["lever", "audience", "end", "floor", "offers", "value"], 3, replace=False).tolist():
        _change(new, change, decisions, rng)
    return World(shop, new, rates, learns, decisions, seed)


def _change(shop: dict[str, Json], change: str, decisions: int, rng: np.random.Generator) -> None:
    if change == "lever":
        shop["offers/a"]["lever"] = float(rng.choice([0.4, 0.8, 3.0]))
    elif change == "audience":
        shop["offers/b"]["audience"] = {"tier": {"$gte": 1}}
    elif change == "end":
        half = START + STEP * (decisions // BATCHES) * (BATCHES // 2) - STEP / 2
        shop["offers/c"]["end"] = str(np.datetime64(int(half), "s")) + "Z"
    elif change == "floor":
        shop["hero"]["policy"]["floor"] = 0.2
    elif change == "offers":
        shop["hero"]["offers"] = ["a", "b", "c"]
    else:
        shop["hero"]["arbitration"] = {"value": True}


def write_folder(folder: Path, files: Mapping[str, Json]) -> Path:
    for name, value in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value, indent=1))
    return folder


def profile_of(customer: str, cell: int) -> Profile:
    country, tier = CELLS[cell]
    traits = {"country": Trait(country, START), "tier": Trait(tier, START)}
    return Profile(customer, customer, traits=traits)


def request_of(customer: str) -> DecideRequest:
    return DecideRequest(customer=CustomerIds(user_id=customer), channel="web", placements=["hero"])


def serve(world: World, plan: Plan, log: Path) -> list[dict[str, Snapshot]]:
    """Write the log of a world; returns the policy's state in each batch."""
    rng = np.random.default_rng([23, world.seed])
    cells = rng.choice(len(CELLS), world.decisions // 2, p=SHARES)
    selection = plan.policies["hero"]
    policy = selection.prior
    assert isinstance(policy, Bandit)
    states: list[dict[str, Snapshot]] = []
    records: list[AnyRecord] = []
    for batch in np.array_split(np.arange(world.decisions), BATCHES):
        states.append({"hero": Snapshot(policy, len(states))} if states and world.learns else {})
        x, arms, rewards, chances = [], [], [], []
        for number in batch.tolist():
            who = int(rng.integers(len(cells)))
            now = START + STEP * number
            customer = f"u{who}"
            profile = profile_of(customer, int(cells[who]))
            decision = decide(
                plan, states[-1], profile, request_of(customer), now, decision_id=f"{int(now * 1000):012x}{number:08}"
            )
            choice = decision.choices["hero"]
            arm = OFFERS.index(choice.offer.key)
            click = bool(rng.random() < world.rates[cells[who], arm])
            records += _records(plan, decision, profile, now, click=click)
            x.append(selection.features.vector(choice.context))
            arms.append(arm)
            rewards.append(float(click))
            chances.append(choice.propensity)
        if world.learns:
            policy = policy.update(np.array(x), np.array(arms), np.array(rewards), np.array(chances))
    _write(log, records)
    return states


def _records(plan: Plan, decision: Decision, profile: Profile, now: float, *, click: bool) -> Iterator[AnyRecord]:
    trace = Trace(
        now=now,
        request=request_of(profile.id),
        profile=traced_profile(profile, plan, now),
        availability=Availability(),
        probabilities=logged_probabilities(decision),
    )
    yield from records_of(msgspec.structs.replace(decision, trace=encode_trace(trace)), now, expose=True)
    yield RewardRecord(decision.answer.decision_id, "hero", float(click), now + 1)


def _write(log: Path, records: list[AnyRecord]) -> None:
    rows: dict[tuple[LogTable, str], list[Any]] = {}
    for record in records:
        table, day, own = rows_of_record(record)
        rows.setdefault((table, day), []).extend(own)
    for (table, day), own in rows.items():
        folder = log / table / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "1.parquet", table, [as_columns(table, own)])


def _aligned(state: Snapshot, plan: Plan) -> Bandit:
    """A state over the arms of another plan, as its servers would use it."""
    assert isinstance(state.policy, Bandit)
    return align_policy(state.policy, plan.policies["hero"])


def true_worth(world: World, plan: Plan, states: list[dict[str, Snapshot]]) -> float:
    """The expected money per decision, over the cells, with the policy as it was in each batch."""
    values = {key: world.old[f"offers/{key}"].get("value", 0.0) for key in (*OFFERS, "z")}
    total = 0.0
    for number, batch in enumerate(np.array_split(np.arange(world.decisions), BATCHES)):
        state = {key: Snapshot(_aligned(one, plan), one.version) for key, one in states[number].items()}
        for cell, share in enumerate(SHARES.tolist()):
            now = START + STEP * float(batch[0])
            decision = decide(plan, state, profile_of("u", cell), request_of("u"), now, decision_id="truth")
            for arm, chance in chances_of(decision.choices["hero"]).items():
                rate = world.rates[cell, OFFERS.index(arm)] if arm in OFFERS else 0.0
                total += batch.size * share * chance * values.get(arm, 0.0) * rate
    return total / world.decisions


@dataclass(frozen=True)
class Judged:
    """The value of one change beside its truth per 1,000 decisions."""

    value: LineValue
    truth: float
    learns: bool
    together: bool

    @property
    def covers(self) -> bool | None:
        """Whether the interval covers; None where there is none, or nothing changes."""
        effect = self.value.per_thousand
        if not isinstance(effect, Effect) or self.value.verdict == "no effect":
            return None
        return effect.low <= self.truth <= effect.high


def run_world(seed: int, decisions: int = 1600) -> list[Judged]:
    """The values of a world's changed lines, and of all together."""
    world = draw_world(seed, decisions)
    with TemporaryDirectory() as place:
        old, new = (write_folder(Path(place) / name, files) for name, files in (("old", world.old), ("new", world.new)))
        plan, after = load_plan(old), load_plan(new)
        states = serve(world, plan, Path(place) / "log")
        found = value_plan(old, new, Path(place) / "log")
        files = [read_folder(folder)[0] for folder in (old, new)]
        groups = valid_groups("old", files[0], files[1], changed_lines(files[0], files[1]))
        plans = [compile_plan(specs) for _, specs in groups]
        base = true_worth(world, plan, states)
        truths = [1000 * (true_worth(world, one, states) - base) for one in (*plans, after)]
    values = [*found.lines, *([found.together] if found.together else [])]
    return [
        Judged(value, truth, world.learns, together=at == len(found.lines))
        for at, (value, truth) in enumerate(zip(values, truths[: len(values)], strict=True))
    ]


def main() -> None:
    worlds = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    counts: Counter[tuple[str, bool | None]] = Counter()
    signs: Counter[str] = Counter()
    for seed in range(worlds):
        for one in run_world(seed):
            kind = "all lines together" if one.together else one.value.lines[0].path
            for name in ("every change", "learnt policy" if one.learns else "even policy", kind):
                counts[name, one.covers] += 1
            if one.value.verdict in ("earns", "loses"):
                signs["right" if (one.value.verdict == "earns") == (one.truth > 0) else "wrong"] += 1
    sys.stdout.write(f"plan --value: {worlds} worlds of 1,600 decisions, 95 % intervals\n")
    for name in dict.fromkeys(key for key, _ in counts):
        judged = counts[name, True] + counts[name, False]
        share = f"{counts[name, True] / judged:.1%}" if judged else "-"
        sys.stdout.write(f"  {name}: covers {share} of {judged:,}; {counts[name, None]:,} without an interval\n")
    sys.stdout.write(f"  signs that it tells: {signs['right']:,} right, {signs['wrong']:,} wrong\n")


if __name__ == "__main__":
    main()
