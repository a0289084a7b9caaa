"""Policies in shops that never were: what each loses there against always showing the best, beside uniform choice."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from engine.analysis.offpolicy.target_policies import PolicyFile, read_policies
from engine.catalog.spec.experiment import PolicySpec
from engine.cli.app import complain, count, grid, out, print_json, say
from engine.errors import BadInput
from policies import KINDS, Bandit, make_policy
from policies import simulate as shops
from policies.simulate import Environment
from policies.state import Parameter

UNIFORM = "uniform"
GROUPS = 12

Made = Callable[[int, int], Environment]
ENVIRONMENTS: Mapping[str, Made] = {
    "bernoulli": lambda rounds, seed: shops.bernoulli((0.5, *[0.4] * 9), rounds, seed),
    "linear": lambda rounds, seed: shops.linear(rounds, seed=seed),
    "logistic": lambda rounds, seed: shops.logistic(rounds, seed=seed),
    "drifting": lambda rounds, seed: shops.drifting(rounds, seed=seed),
    "delayed": lambda rounds, seed: shops.delayed(shops.linear(rounds, seed=seed), max(rounds // 10, 1)),
    "coming_and_going": lambda rounds, seed: shops.coming_and_going(rounds, seed=seed),
    "channels": lambda rounds, seed: shops.channels(rounds, groups=GROUPS, seed=seed),
    "digits": shops.digits,
}


class Regret(msgspec.Struct, frozen=True):
    """What a policy lost in a run, on average over runs, with its standard error; `of_uniform` is its share of that.

    `seconds` is what choosing and learning took in a run.
    """

    policy: str
    kind: str
    regret: float
    error: float | None
    of_uniform: float
    seconds: float


def compare(name: str, files: Sequence[PolicyFile], rounds: int, runs: int, seed: int) -> list[Regret]:
    """The regret of each policy in `runs` shops that are drawn from `seed` on, and of uniform choice, the least first.

    Raises:
        BadInput: if an environment or a policy cannot be made.
    """
    files = [file for file in files if file.spec.kind != UNIFORM]
    lost = {file.name: np.zeros(runs) for file in files}
    took = dict.fromkeys(lost, 0.0) | {UNIFORM: 0.0}
    lost[UNIFORM] = np.zeros(runs)
    for run in range(runs):
        shop = _shop(name, rounds, seed + run)
        for file in (*files, PolicyFile(UNIFORM, PolicySpec(kind="uniform"))):
            policy, seen = _entering(file, name, shop)
            begun = time.process_time()
            lost[file.name][run] = shops.play(policy, seen, seed=seed + run).regret.sum()
            took[file.name] += (time.process_time() - begun) / runs
    kinds = {file.name: file.spec.kind for file in files} | {UNIFORM: UNIFORM}
    baseline = float(lost[UNIFORM].mean())
    found = [
        Regret(
            policy,
            kinds[policy],
            float(regret.mean()),
            float(regret.std(ddof=1) / np.sqrt(runs)) if runs > 1 else None,
            float(regret.mean()) / baseline if baseline else 0.0,
            took[policy],
        )
        for policy, regret in lost.items()
    ]
    return sorted(found, key=lambda one: one.regret)


def simulate_environment(name: str, paths: Sequence[Path], *, rounds: int, runs: int, seed: int, json: bool) -> int:
    """Compare the policies of these files, or one of each kind, and print it."""
    if rounds < 1 or runs < 1:
        raise BadInput(f"--rounds {rounds} --runs {runs}: give at least one of each")
    if seed < 0:
        raise BadInput(f"--seed {seed}: is below 0; give a whole number from 0 on")
    files = read_policies(paths, UNIFORM)
    if not files:
        complain("No --policy FILE.yaml: one of each kind, as it is by default.")
        files = [PolicyFile(kind, _default(kind)) for kind in KINDS]
    found = compare(name, files, rounds, runs, seed)
    if json:
        print_json({"environment": name, "rounds": rounds, "runs": runs, "seed": seed, "policies": found})
        return 0
    say(f"{name}: {count(rounds, 'round')}, {count(runs, 'run')} from seed {seed}. Regret is what always showing")
    say("the best offer would have earned beyond the policy's choices, by their true chances.")
    figures = ("regret", "of uniform", "seconds")
    table = grid("policy", "kind", *figures, figures=figures)
    for one in found:
        margin = "" if one.error is None else f" ± {one.error:,.1f}"
        table.add_row(one.policy, one.kind, f"{one.regret:,.1f}{margin}", f"{one.of_uniform:.0%}", f"{one.seconds:.2f}")
    out.print(table)
    return 0


def _default(kind: str) -> PolicySpec:
    relating = {"pool": ["channel"], "attributes": ["all"]} if KINDS[kind].contextual else {}
    return msgspec.convert({"kind": kind, **relating}, PolicySpec)


def _shop(name: str, rounds: int, seed: int) -> Environment:
    try:
        return ENVIRONMENTS[name](rounds, seed)
    except ImportError as error:
        raise BadInput(f"--environment {name}: {error}; pip install scikit-learn") from error


def _entering(file: PolicyFile, name: str, shop: Environment) -> tuple[Bandit, Environment]:
    """A policy that has seen nothing, and the shop as it sees it: groups if it pools, a context if it reads one."""
    spec = file.spec
    given: dict[str, Parameter] = {"floor": spec.floor, "discount": spec.discount}
    if KINDS[spec.kind].contextual:
        if not shop.x.shape[1]:
            shop = replace(shop, x=np.ones((shop.rounds, 1)))
        elif name == "channels" and spec.pool:
            given["pool"] = GROUPS
        elif name == "channels":
            shop = replace(shop, x=shop.x[:, :-1])
        if spec.attributes and shop.traits:
            given["traits"] = shop.traits
    try:
        return make_policy(spec.kind, shop.arms, shop.x.shape[1], **given), shop
    except ValueError as error:
        raise BadInput(f"--policy {file.name}: {error}") from error
