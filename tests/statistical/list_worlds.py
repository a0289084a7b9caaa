"""A carousel whose truth is known: clicks follow an item's attraction and the share who look at its position.

`python -m tests.statistical.list_worlds` (`make bench-lists`) compares lists, drawn by `decide` and learnt by `teach`,
with even lists and with draws of each position by itself, which may repeat an item, and with Vowpal Wabbit's
conditional contextual bandit on the same seeds (`--peers`). It then compares policies on the three positions of the
Open Bandit Dataset's sample, where that was downloaded.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine import decide
from engine.analysis.offpolicy.estimators import ips
from engine.catalog.plan.plan import Plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideRequest
from engine.decision.offers import Snapshot
from engine.learn.pending import OPEN, Pending
from engine.learn.reward_rules import Lesson, reward_rules
from engine.learn.teach import Learnt, fit_to_plan, teach
from engine.vocabulary import item_name
from loadtests.policies_bench import PEERS, ROOT, installed
from policies import BetaThompson
from policies.examination import learnt_shares
from tests.catalog.folder import plan

Floats = NDArray[np.float64]
How = Literal["lists", "lists, positions given", "lists, positions ignored", "independent draws", "even lists"]
EXAMINED = (1.0, 0.6, 0.4, 0.25)
DATASET = Path(".cache/obd/obp/dataset/obd/random/all/all.csv")


@dataclass(frozen=True, kw_only=True)
class Carousel:
    """`rounds` visitors see four of `items` each; the policy is published every `batch` of them."""

    items: int = 12
    rounds: int = 1500
    batch: int = 50
    examined: tuple[float, ...] = EXAMINED
    seed: int = 1

    def attraction(self) -> Floats:
        """The probability (items,) that who looks at an item clicks it."""
        return np.random.default_rng(self.seed).beta(1.5, 6, self.items)


@dataclass(frozen=True)
class Course:
    """The expected clicks (rounds,) that the lists of a run lack to the best list, and the examination it learnt."""

    regret: Floats
    shares: Sequence[float]


def shop(world: Carousel, how: How) -> Plan:
    """A shop with one carousel."""
    arms = [f"i{number}" for number in range(world.items)]
    examination = {"lists, positions given": list(world.examined), "lists, positions ignored": [1.0] * 4}
    reward = {"metric": "click"} | ({"examination": examination[how]} if how in examination else {})
    kind = "uniform" if how == "even lists" else "beta_thompson"
    files = {
        "channels": {"channels": [{"key": "web"}], "placements": [{"key": "row", "channels": ["web"], "count": 4}]},
        "row": {
            "key": "row",
            "placement": "row",
            "offers": arms,
            "policy": {"kind": kind, "floor": 0.002},
            "reward": reward,
            "fallback": "z",
        },
    }
    offers = {f"offers/{key}": {"key": key, "renderings": {"web": {}}} for key in (*arms, "z")}
    return plan(**files, **offers)


def run(world: Carousel, how: How) -> Course:
    """The course of one way to fill the carousel."""
    where, rng = shop(world, how), np.random.default_rng(world.seed + 1000)
    rules, attraction, examined = reward_rules(where), world.attraction(), np.array(world.examined)
    best = float(np.sort(attraction)[::-1][:4] @ examined)
    learnt = fit_to_plan({}, rules)
    regret = np.empty(world.rounds)
    for begin in range(0, world.rounds, world.batch):
        lessons: list[Lesson] = []
        for number in range(begin, min(begin + world.batch, world.rounds)):
            drawn = list(_draw(where, learnt, how, number, rng))
            arms = np.array([arm for arm, _ in drawn])
            fresh = np.array([arm not in arms[:at] for at, arm in enumerate(arms)])
            clicks = rng.random(4) < examined * attraction[arms] * fresh
            regret[number] = best - float((attraction[arms] * fresh) @ examined)
            lessons += _lessons(number, drawn, clicks)
        if how != "even lists":
            learnt = learnt | teach(lessons, rules, learnt)[0]
    return Course(regret, learnt_shares(learnt["row"].examined) if learnt else ())


def _draw(
    where: Plan, learnt: dict[str, Learnt], how: How, number: int, rng: np.random.Generator
) -> Iterator[tuple[int, float]]:
    """The items of one list with their propensities."""
    if how == "independent draws":
        chances = learnt["row"].policy.probabilities()
        for arm in rng.choice(chances.size, 4, p=chances).tolist():
            yield arm, float(chances[arm])
        return
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", placements=["row"])
    snapshots = {"row": Snapshot(learnt["row"].policy, 1)} if learnt else {}
    decision = decide(where, snapshots, Profile("u", "u"), request, 1e9, decision_id=f"d{number}")
    for item in decision.choices["row"].items:
        yield int(item.offer.key[1:]), item.propensity


def _lessons(number: int, drawn: Sequence[tuple[int, float]], clicks: NDArray[np.bool_]) -> Iterator[Lesson]:
    for place, ((arm, propensity), click) in enumerate(zip(drawn, clicks.tolist(), strict=True), 1):
        row = Pending(
            decision_id=f"d{number}",
            key=item_name("row", place),
            selection="row",
            customer="u",
            partition=0,
            arm=f"i{arm}",
            propensity=propensity,
            context=b"",
            time=0.0,
            status=OPEN,
            due=0.0,
        )
        yield Lesson(row, float(click), None)


def compare(worlds: Sequence[Carousel], ways: Sequence[How]) -> dict[str, tuple[float, float]]:
    """By way: the mean sum of regret over the worlds, and its standard error."""
    sums = {how: np.array([run(world, how).regret.sum() for world in worlds]) for how in ways}
    return {how: (float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5)) for how, each in sums.items()}


def compare_peers(worlds: Sequence[Carousel]) -> dict[str, tuple[float, float]]:
    """As `compare`, of the peers in their own environment; empty where they do not install."""
    if not installed():
        return {}
    described = [
        {"attraction": world.attraction().tolist(), "examined": world.examined, "seed": world.seed}
        | {"rounds": world.rounds, "batch": world.batch}
        for world in worlds
    ]
    command = [PEERS / "bin" / "python", ROOT / "loadtests" / "lists_peers.py"]
    done = subprocess.run(command, input=json.dumps(described), capture_output=True, text=True, check=True)
    sums = {how: np.array(each) for how, each in json.loads(done.stdout).items()}
    return {how: (float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5)) for how, each in sums.items()}


def compare_on_dataset(file: Path) -> Iterator[str]:
    """Lines with the clicks per visitor that policies trained on the first half earn in the second, by IPS.

    The sample logs the probability of an item at its position, so each position is estimated by itself: its weight is
    the policy's marginal probability of the item there over the logged one.
    """
    with file.open(encoding="utf-8", newline="") as opened:
        rows = sorted(csv.DictReader(opened), key=lambda row: row["timestamp"])
    items = sorted({row["item_id"] for row in rows}, key=int)
    at = {item: number for number, item in enumerate(items)}
    arm, place = np.array([at[row["item_id"]] for row in rows]), np.array([int(row["position"]) for row in rows])
    click = np.array([float(row["click"]) for row in rows])
    logged = np.array([float(row["propensity_score"]) for row in rows])
    half = len(rows) // 2
    policy = BetaThompson(tuple(items), floor=0.1 / len(items)).update(None, arm[:half], click[:half], logged[:half])
    alone = np.tile(policy.probabilities(), (3, 1))
    even = np.full((3, len(items)), 1 / len(items))
    test = np.arange(len(rows)) >= half
    for name, chances in (("even lists", even), ("independent draws", alone), ("lists", marginals(policy))):
        values = []
        for number in (1, 2, 3):
            own = test & (place == number)
            values.append(ips(click[own], logged[own], np.minimum(chances[number - 1, arm[own]], 1.0)))
        total = sum(value.value for value in values)
        reach = sum(((value.high - value.low) / 2) ** 2 for value in values) ** 0.5
        distinct = 3 if name == "lists" else expected_distinct(chances[0], 3) if name == "independent draws" else 3
        yield f"{name:20} {1000 * total:6.2f} ± {1000 * reach:5.2f} clicks per 1,000 visitors, {distinct:.2f} items"


def marginals(policy: BetaThompson) -> Floats:
    """The probability (3, arms) of each item at each position of a list, over all lists."""
    size = len(policy.arms)
    out = np.zeros((3, size))
    out[0] = policy.probabilities()
    for first in range(size):
        rest = np.delete(np.arange(size), first)
        second = out[0, first] * policy.probabilities(candidates=rest)
        out[1, rest] += second
        for chance, one in zip(second.tolist(), rest.tolist(), strict=True):
            if chance > 1e-5:  # what is left out sums to less than a tenth
                last = rest[rest != one]
                out[2, last] += chance * policy.probabilities(candidates=last)
    out[2] /= out[2].sum()
    return out


def expected_distinct(chances: Floats, draws: int) -> float:
    """The expected number of distinct items among independent draws."""
    return float((1 - (1 - chances) ** draws).sum())


def show(line: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--peers", action="store_true", help="compare with Vowpal Wabbit, which is installed apart")
    arguments = parser.parse_args()
    worlds = [Carousel(seed=seed, rounds=arguments.rounds) for seed in range(1, arguments.seeds + 1)]
    ways: tuple[How, ...] = (
        "lists",
        "lists, positions given",
        "lists, positions ignored",
        "independent draws",
        "even lists",
    )
    show(
        f"{arguments.rounds:,} lists of 4 of {worlds[0].items} items, {len(worlds)} seeds: clicks lost to the best list"
    )
    found = compare(worlds, ways)
    peers = compare_peers(worlds) if arguments.peers else {}
    for how, (mean, error) in {**found, **peers}.items():
        show(f"{how:26} {mean:8.1f} ± {error:.1f}")
    if peers:
        best = min(peers, key=lambda how: peers[how][0])
        show(f"lists lose {1 - found['lists'][0] / peers[best][0]:.0%} less than the best peer, {best}")
    shares = np.mean([run(world, "lists").shares for world in worlds[:3]], axis=0)
    show(f"examination {list(EXAMINED)}, learnt {[round(float(share), 2) for share in shares]}")
    if DATASET.is_file():
        show(f"{DATASET.name} of the Open Bandit Dataset, second half, three positions")
        for line in compare_on_dataset(DATASET):
            show(line)
    else:
        show("run `make obd` first to compare on the Open Bandit Dataset's sample")


if __name__ == "__main__":
    main()
