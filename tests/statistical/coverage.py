"""How often the intervals of an off-policy evaluation cover the true value, on simulated logs whose truth is known.

`python -m tests.statistical.coverage` prints the table of docs/reference/statistics/evaluate.md: 1,000 logs per kind.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.analysis.offpolicy.crossfit import fit_reward_model, predict, train_progressively
from engine.analysis.offpolicy.logged_choices import LoggedChoices
from engine.analysis.offpolicy.policy_value import ValueEstimate, estimate_values
from engine.analysis.offpolicy.target_policies import PolicyFile, TargetPolicy, make_target
from engine.catalog.spec.experiment import FeatureSpec, PolicySpec
from policies import Bandit, LinearThompson

Floats = NDArray[np.float64]
ESTIMATORS = ("ips", "snips", "dr", "switch_dr")
ARMS = ("a", "b", "c")
CONTEXTS = ({"country": "at"}, {"country": "de"})
SHARE = np.array([0.4, 0.6])
FIXED = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
READS: list[str | FeatureSpec] = [FeatureSpec(trait="country", one_of=["de"])]
POLICIES = {
    "fixed": PolicySpec(kind="uniform"),
    "learnt, draws": PolicySpec(kind="linear_thompson", features=READS, floor=0.05),
    "learnt, greedy": PolicySpec(kind="epsilon_greedy", floor=0.05),
}


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of log: expected rewards (contexts, arms), and how it is collected.

    `taste` is the spread of a customer's own taste for each arm; `often` whether customers come several times.
    """

    means: Floats
    adaptive: bool = False
    often: bool = False
    taste: float = 0.0


ALIKE = np.array([[0.20, 0.20, 0.20], [0.20, 0.20, 0.20]])
APART = np.array([[0.20, 0.20, 0.20], [0.15, 0.30, 0.20]])
KINDS = {
    "arms apart": Kind(APART),
    "arms alike": Kind(ALIKE),
    "arms alike, customers come often": Kind(ALIKE, often=True, taste=0.15),
    "bandit's, arms apart": Kind(APART, adaptive=True),
    "bandit's, arms alike": Kind(ALIKE, adaptive=True),
    "bandit's, arms alike, customers come often": Kind(ALIKE, adaptive=True, often=True, taste=0.15),
}


def simulated(kind: Kind, n: int, rng: np.random.Generator) -> LoggedChoices:
    """A log of n decisions in the order of time."""
    who = rng.integers(0, n // 4, n) if kind.often else np.arange(n)
    _, first, of = np.unique(who, return_index=True, return_inverse=True)
    customer = np.argsort(np.argsort(first))[of]  # counted in the order in which they first came
    taste = rng.uniform(-kind.taste, kind.taste, (n, len(ARMS)))[customer]
    home = rng.choice(2, n, p=SHARE)
    context = home[customer]
    arm, propensity, reward = np.empty(n, np.intp), np.empty(n), np.empty(n)
    policy: Bandit = LinearThompson(ARMS, 2, floor=0.05)
    for rows in np.array_split(np.arange(n), 20 if kind.adaptive else 1):
        table = np.array([policy.probabilities([1.0, x]) for x in (0.0, 1.0)]) if kind.adaptive else FIXED
        p = table[context[rows]]
        arm[rows] = (rng.random(rows.size)[:, None] > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
        propensity[rows] = p[np.arange(rows.size), arm[rows]]
        reward[rows] = rng.random(rows.size) < kind.means[context[rows], arm[rows]] + taste[rows, arm[rows]]
        if kind.adaptive:
            x = np.column_stack([np.ones(rows.size), context[rows]])
            policy = policy.update(x, arm[rows], reward[rows], propensity[rows])
    sets, which = (np.arange(len(ARMS)),), np.zeros(n, np.intp)
    n = len(arm)
    rows = (arm, reward, propensity, customer, sets, which, CONTEXTS, context, np.zeros(n, np.intp), np.arange(n))
    return LoggedChoices("simulated", "hero", ARMS, *rows)


def value(policy: Bandit, means: Floats) -> float:
    """What a policy truly earns per decision."""
    p = [policy.probabilities([1.0, x] if policy.dim else None) for x in (0.0, 1.0)]
    return float(SHARE @ (np.array(p) * means).sum(axis=1))


def estimates(kind: Kind, log: LoggedChoices) -> Iterator[tuple[str, str, float, ValueEstimate]]:
    """Policy, estimator, the true value and its estimate."""
    model = fit_reward_model(log)
    for name, spec in POLICIES.items():
        target: TargetPolicy = make_target(PolicyFile(name, spec), log)
        steps = list(train_progressively(target))
        found = predict(target, model, steps)
        true = sum(value(policy, kind.means) * rows.size for policy, rows in steps) / found.rows.size
        values = estimate_values(log.select_rows(found.rows), found, 0.05)
        for estimator in ESTIMATORS:
            estimate = getattr(values, estimator)
            assert isinstance(estimate, ValueEstimate)
            yield name, estimator, true, estimate


def coverage(kind: Kind, logs: int, *, n: int = 2000, seed: int = 1) -> Mapping[tuple[str, str, str], float]:
    """The share of the logs in which an interval covers, by policy, estimator, and `t` or `bernstein`."""
    hits: Counter[tuple[str, str, str]] = Counter()
    for run in range(logs):
        log = simulated(kind, n, np.random.default_rng((seed, list(KINDS.values()).index(kind), run)))
        for policy, estimator, true, values in estimates(kind, log):
            hits[policy, estimator, "t"] += values.low <= true <= values.high
            hits[policy, estimator, "bernstein"] += values.bernstein.low <= true <= values.bernstein.high
    return {key: count / logs for key, count in hits.items()}


def table(logs: int) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| log | policy | IPS | SNIPS | DR | SWITCH-DR | Bernstein, least of the four |"
    yield "|---|---|---|---|---|---|---|"
    for name, kind in KINDS.items():
        found = coverage(kind, logs)
        for policy in POLICIES:
            shares = " | ".join(f"{found[policy, estimator, 't']:.1%}" for estimator in ESTIMATORS)
            least = min(found[policy, estimator, "bernstein"] for estimator in ESTIMATORS)
            yield f"| {name} | {policy} | {shares} | {least:.1%} |"


if __name__ == "__main__":
    for line in table(int(sys.argv[1]) if len(sys.argv) > 1 else 1000):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
