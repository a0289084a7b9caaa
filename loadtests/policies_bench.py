"""Our policies compared with other libraries on simulated shops, and the cost of a choice and an update.

`python -m loadtests.policies_bench [--share 1.0] [--shop NAME]… [--no-peers]`: `--share` scales the number of runs, and
0 measures times only; `--shop` plays one shop instead of all. Peers play the same seeds as ours, in a process of their
own. Their environment is `.cache/peers`, made on first use; where they do not install, the bench goes on without them.
Exits with 1 if a figure misses its bound.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: a decision server has one thread

import numpy as np

import policies
from loadtests.policies_shops import SHOPS, seeds
from policies.simulate import play

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".cache" / "peers"
PACKAGES = ["sb-obp==0.5.10", "mabwiser", "vowpalwabbit", "contextualbandits", "msgspec", "scikit-learn"]

OURS: dict[str, dict[str, int]] = {
    "bernoulli 0.5, 0.4": {"kl_ucb": 100, "beta_thompson": 10},
    "bernoulli 0.1, low": {"kl_ucb": 40, "beta_thompson": 10},
    "linear": {"linucb": 20, "linear_thompson": 10, "squarecb": 5},
    "digits": {"linucb": 12, "linear_thompson": 2},
    "offers come and go": {"linucb": 4, "linear_thompson": 4},
    "batches of 1000, late": {"linucb": 10, "linear_thompson": 10},
    "linear, late": {"linucb": 20, "linear_thompson": 20},
    "channels alike": {"linucb": 10, "linear_thompson": 2},
}
Regrets = dict[tuple[str, str], dict[int, float]]
"""By shop and policy, then by seed."""


def regret(name: str, kind: str, seed: int) -> float:
    shop = SHOPS[name].build(seed)
    about: dict[str, policies.Parameter] = {"seed": seed}
    if shop.traits:
        about["traits"] = shop.traits
    if name == "channels alike":
        about |= {"pool": int(shop.x[:, -1].max()) + 1, "traits": dict.fromkeys(shop.arms, (1.0,))}
    if not policies.KINDS[kind].contextual:
        about = {"seed": seed}
    return float(play(policies.make_policy(kind, shop.arms, shop.x.shape[1], **about), shop, seed).regret.sum())


def print_run(name: str, kind: str, seed: int, value: float) -> None:
    print(f"{name}: {kind}, seed {seed}: {value:.1f}", file=sys.stderr, flush=True)


def ours(share: float, shops: Iterable[str]) -> Regrets:
    found: Regrets = defaultdict(dict)
    for name in shops:
        for kind, runs in OURS[name].items():
            for seed in seeds(runs, share):
                found[name, kind][seed] = regret(name, kind, seed)
                print_run(name, kind, seed, found[name, kind][seed])
    return found


def installed() -> bool:
    """Whether the peers are installed, after an attempt to install them."""
    if not (PEERS / "complete").exists():
        print("installing the peers into .cache/peers (a few minutes, once)", file=sys.stderr)
        pip = [PEERS / "bin" / "python", "-m", "pip", "install", "--quiet"]
        setup = [[sys.executable, "-m", "venv", PEERS], [*pip, *PACKAGES], [*pip, "--no-deps", "river", "narwhals"]]
        for step in setup:
            if subprocess.run(step, check=False).returncode:
                print("the peers do not install here; the bench goes on without them", file=sys.stderr)
                return False
        (PEERS / "complete").touch()
    return True


def asked_of_peers(share: float, shops: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    command = [PEERS / "bin" / "python", ROOT / "loadtests" / "policies_peers.py", str(share), *shops]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield from (json.loads(line) for line in process.stdout or () if line.startswith("{"))


def peers(share: float, shops: Iterable[str]) -> Regrets:
    found: Regrets = defaultdict(dict)
    for line in asked_of_peers(share, shops):
        found[line["environment"], line["policy"]][line["seed"]] = line["regret"]
        print_run(line["environment"], line["policy"], line["seed"], line["regret"])
    return found


def taught(kind: str, arms: int, dim: int = 32) -> policies.Bandit:
    random = np.random.default_rng(0)
    policy = policies.make_policy(kind, [str(k) for k in range(arms)], dim)
    arm = random.integers(0, arms, 4000)
    return policy.update(random.normal(size=(4000, dim)), arm, random.random(4000) < 0.1, np.full(4000, 1 / arms))


def choice_microseconds(policy: policies.Bandit, eligible: int, turn: int, rounds: int = 1000) -> float:
    """Median CPU time of one choice with its propensities; no turn repeats a context, as a policy caches them."""
    random = np.random.default_rng((1, turn))
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


def mean_error(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard error; NaN for the error of a single run."""
    runs = np.array(list(values))
    return float(runs.mean()), float(runs.std(ddof=1) / runs.size**0.5) if runs.size > 1 else float("nan")


def judged(name: str, found: Regrets, theirs: Regrets) -> Iterator[tuple[str, bool]]:
    """Our best class against the earlier figure, and against every peer on their common seeds."""
    mean, kind = min((mean_error(runs.values())[0], kind) for (shop, kind), runs in found.items() if shop == name)
    best, before = found[name, kind], SHOPS[name].before
    if before is not None:
        yield f"{name}: {kind} {mean:.0f} ± {mean_error(best.values())[1]:.0f}, before {before:.0f}", mean <= before
    for (shop, peer), runs in theirs.items():
        if shop == name:
            both = sorted(best.keys() & runs.keys())
            more, error = mean_error(best[seed] - SHOPS[name].share * runs[seed] for seed in both)
            ratio = sum(best[seed] for seed in both) / sum(runs[seed] for seed in both)
            about = f"{more:+.0f} ± {error:.0f} over {SHOPS[name].share:g} of it on {len(both)} seeds"
            yield f"{name}: {kind} to {peer} {ratio:.2f}, {about}", more <= 0


def times(*, beside: bool) -> Iterator[tuple[str, bool]]:
    """Medians of five alternating turns, since the machine's speed varies."""
    policy, own, slower = taught("linear_thompson", 50), [], []
    for turn in range(5):
        own.append(choice_microseconds(policy, 50, turn))
        if beside:
            slower.append(next(asked_of_peers(0))["mabwiser_lints_microseconds"] / own[-1])
    yield f"choice, 50 arms, 32 dimensions, at most 150 us: {np.median(own):.0f}", bool(np.median(own) <= 150)
    if beside:
        yield f"MABWiser's LinTS to ours, at least 10: {np.median(slower):.1f}", bool(np.median(slower) >= 10)
    small, large = taught("linear_thompson", 20), taught("linear_thompson", 5000)
    pairs = [choice_microseconds(large, 20, turn) / choice_microseconds(small, 20, turn) for turn in range(5)]
    ratio = float(np.median(pairs))
    yield f"20 of 5,000 to 20 of 20, at most 1.3: {ratio:.2f}", ratio <= 1.3
    for kind in ("linear_thompson", "logistic_thompson", "beta_thompson"):
        speed = updates_per_second(kind)
        yield f"{kind}, updates a second, at least 20,000: {speed:,.0f}", speed >= 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--shop", action="append", choices=list(SHOPS))
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    asked = parser.parse_args()
    beside = asked.peers and installed()
    checks: list[tuple[str, bool]] = []
    if asked.share:
        with ThreadPoolExecutor(1) as pool:
            shops = asked.shop or list(SHOPS)
            waited = pool.submit(peers, asked.share, shops) if beside else None
            found = ours(asked.share, shops)
            theirs = waited.result() if waited else {}
        print("| shop | policy | regret | ± | runs |\n|---|---|---|---|---|")
        for (name, kind), runs in [*found.items(), *theirs.items()]:
            mean, error = mean_error(runs.values())
            print(f"| {name} | {kind} | {mean:.0f} | {error:.0f} | {len(runs)} |")
        checks += [check for name in shops for check in judged(name, found, theirs)]
    checks += times(beside=beside)
    for what, holds in checks:
        print(f"{what}: {'met' if holds else 'MISSED'}")
    return 0 if all(holds for _, holds in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
