"""Vowpal Wabbit's conditional contextual bandit on the carousel of `tests/statistical/list_worlds.py`.

Runs in the peers' own environment: worlds come as JSON on standard input, their sums of regret go to standard output.
Each slot has its position as a feature, crossed with the items. VW draws the list, and learns each `batch` of lists at
its end, as the policies beside it do.
"""

import json
import sys
from typing import Any

import numpy as np
from vowpalwabbit import Workspace

EXPLORERS = {
    "vw ccb, squarecb": "--squarecb",
    "vw ccb, epsilon 0.05": "--epsilon 0.05",
    "vw ccb, epsilon 0.2": "--epsilon 0.2",
    "vw ccb, softmax 20": "--softmax --lambda 20",
    "vw ccb, bag 10": "--bag 10",
    "vw ccb, bag 10, rate 2": "--bag 10 -l 2",
}


def run(world: dict[str, Any], explorer: str) -> float:
    """The expected clicks by which a run's lists fall short of the best list."""
    attraction, examined = np.array(world["attraction"]), np.array(world["examined"])
    options = "--ccb_explore_adf --quiet -q ap --ignore_linear p"
    policy = Workspace(f"{options} {explorer} --random_seed {world['seed']}")
    shared = ["ccb shared |s c", *(f"ccb action |a i{number}" for number in range(attraction.size))]
    rng = np.random.default_rng(world["seed"] + 1000)
    best = float(np.sort(attraction)[::-1][: examined.size] @ examined)
    regret, waiting = 0.0, []
    for number in range(world["rounds"]):
        slots = policy.predict([*shared, *(f"ccb slot |p p{place}" for place in range(examined.size))])
        chosen = [slot[0] for slot in slots]
        arms = np.array([arm for arm, _ in chosen])
        clicks = rng.random(examined.size) < examined * attraction[arms]
        regret += best - float(attraction[arms] @ examined)
        waiting.append(
            [
                f"ccb slot {arm}:{-float(click)}:{chance} |p p{place}"
                for place, ((arm, chance), click) in enumerate(zip(chosen, clicks.tolist(), strict=True))
            ]
        )
        if (number + 1) % world["batch"] == 0:
            for labelled in waiting:
                policy.learn([*shared, *labelled])
            waiting = []
    return regret


def main() -> None:
    """Write the total regret of each world, by explorer."""
    worlds = json.load(sys.stdin)
    json.dump({name: [run(world, explorer) for world in worlds] for name, explorer in EXPLORERS.items()}, sys.stdout)


if __name__ == "__main__":
    main()
