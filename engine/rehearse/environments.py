"""Compares policies by their regret in simulated shops with known reward probabilities.

The regret of a run is the sum, over its decisions, of the best offer's expected reward less that of the offer shown.
Every policy of a comparison sees the same customers and the same random draws: run `r` is drawn from `seed + r`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np

from engine.catalog.spec.experiment import PolicySpec
from engine.errors import BadInput
from policies import KINDS, Bandit, make_policy
from policies import simulate as simulated
from policies.simulate import Environment
from policies.state import Parameter

UNIFORM: Final = "uniform"
"""Kind and name of the baseline, which chooses every offer with the same probability."""
GROUPS = 12
"""Groups of the `channels` environment, which a pooling policy learns together."""

MakeEnvironment = Callable[[int, int], Environment]
"""(rounds, seed) -> environment."""

ENVIRONMENTS: Mapping[str, MakeEnvironment] = {
    "bernoulli": lambda rounds, seed: simulated.bernoulli((0.5, *[0.4] * 9), rounds, seed),
    "linear": lambda rounds, seed: simulated.linear(rounds, seed=seed),
    "logistic": lambda rounds, seed: simulated.logistic(rounds, seed=seed),
    "drifting": lambda rounds, seed: simulated.drifting(rounds, seed=seed),
    "delayed": lambda rounds, seed: simulated.delayed(simulated.linear(rounds, seed=seed), max(rounds // 10, 1)),
    "coming_and_going": lambda rounds, seed: simulated.coming_and_going(rounds, seed=seed),
    "channels": lambda rounds, seed: simulated.channels(rounds, groups=GROUPS, seed=seed),
    "digits": simulated.digits,
}


class PolicyRegret(msgspec.Struct, frozen=True, kw_only=True):
    """The regret of a policy per run, averaged over the runs, in expected rewards.

    `error` is its standard error, None of a single run. `of_uniform` is the regret as a share of uniform choice's.
    `seconds` is the processor time per run of choosing and learning.
    """

    policy: str
    kind: str
    regret: float
    error: float | None
    of_uniform: float
    seconds: float


def compare_policies(
    environment: str, specs: Mapping[str, PolicySpec], *, rounds: int, runs: int, seed: int
) -> list[PolicyRegret]:
    """The regret of each policy and of uniform choice in `runs` shops of `rounds` decisions; the least first.

    Raises:
        BadInput: if the environment or a policy cannot be made.
    """
    entrants = {name: spec for name, spec in specs.items() if spec.kind != UNIFORM}
    entrants[UNIFORM] = PolicySpec(kind=UNIFORM)
    regrets = {name: np.zeros(runs) for name in entrants}
    seconds = dict.fromkeys(entrants, 0.0)
    for run in range(runs):
        shop = _make_environment(environment, rounds, seed + run)
        for name, spec in entrants.items():
            policy, seen = _enter(name, spec, environment, shop)
            begun = time.process_time()
            regrets[name][run] = simulated.play(policy, seen, seed=seed + run).regret.sum()
            seconds[name] += (time.process_time() - begun) / runs
    baseline = float(regrets[UNIFORM].mean())
    results = [
        PolicyRegret(
            policy=name,
            kind=entrants[name].kind,
            regret=float(regret.mean()),
            error=float(regret.std(ddof=1) / np.sqrt(runs)) if runs > 1 else None,
            of_uniform=float(regret.mean()) / baseline if baseline else 0.0,
            seconds=seconds[name],
        )
        for name, regret in regrets.items()
    ]
    return sorted(results, key=lambda result: result.regret)


def default_specs() -> dict[str, PolicySpec]:
    """One policy of each kind, by its kind; a contextual one pools by channel and reads the offers' attributes."""
    return {kind: _default_spec(kind) for kind in KINDS}


def _default_spec(kind: str) -> PolicySpec:
    pooling = {"pool": ["channel"], "attributes": ["all"]} if KINDS[kind].contextual else {}
    return msgspec.convert({"kind": kind, **pooling}, PolicySpec)


def _make_environment(name: str, rounds: int, seed: int) -> Environment:
    try:
        return ENVIRONMENTS[name](rounds, seed)
    except ImportError as error:  # `digits` is drawn from scikit-learn's data, which is not a dependency
        raise BadInput(f"--environment {name}: {error}; pip install scikit-learn") from error


def _enter(name: str, spec: PolicySpec, environment: str, shop: Environment) -> tuple[Bandit, Environment]:
    """An untrained policy, and the environment in the form that it observes.

    A contextual policy gets a constant context where the shop has none. The last column of `channels` is the group:
    a policy that pools reads it, for the others it is dropped.
    """
    parameters: dict[str, Parameter] = {"floor": spec.floor, "discount": spec.discount}
    if KINDS[spec.kind].contextual:
        if not shop.x.shape[1]:
            shop = replace(shop, x=np.ones((shop.rounds, 1)))
        elif environment == "channels" and spec.pool:
            parameters["pool"] = GROUPS
        elif environment == "channels":
            shop = replace(shop, x=shop.x[:, :-1])
        if spec.attributes and shop.traits:
            parameters["traits"] = shop.traits
    try:
        return make_policy(spec.kind, shop.arms, shop.x.shape[1], **parameters), shop
    except ValueError as error:
        raise BadInput(f"--policy {name}: {error}") from error
