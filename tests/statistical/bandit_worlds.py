"""Logs of bandits whose truth is known: returning customers with tastes, late rewards, mixed policies, drift, contexts.

Many runs of a world are simulated at once, as arrays (runs, decisions). Every policy is Thompson sampling with
beta-binomial beliefs and a floor. Its probabilities are shares of posterior draws: what is logged is what it drew from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.analysis.bandits.arm_values import ArmScores, RowOwners, contrast_arms, score_arm, trend_p_value
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.multiplicity import holm

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
DRAWS = 100
SLICE = 2
"""The number of the uniform slice among the policies; 0 and 1 learn."""


@dataclass(frozen=True, kw_only=True)
class World:
    """How a log comes about; rewards are 0 or 1."""

    base: tuple[float, ...] = (0.2, 0.2, 0.2)
    """The mean reward of each arm over customers."""
    customers: int = 150
    decisions: int = 3000
    taste: str = "none"
    """How customers differ: `own` evenly by 0.15 to either side, `strong` nearly 0 or 1 by arm, `mild` by 0.04."""
    tail: float | None = None
    """The Pareto index of the customers' numbers of decisions; None if all have as many."""
    sessions: bool = False
    """Whether a customer's decisions follow each other, instead of being spread over the log."""
    floor: float = 0.02
    updates: int = 20
    """Snapshots of the policy; with `uneven` the first are short."""
    uneven: bool = False
    delay: int = 0
    """Snapshots until a reward is learnt."""
    uniform: float = 0.0
    """The share of the uniform slice."""
    stale: bool = False
    """Whether every other decision is by the snapshot before, as with two servers."""
    second: bool = False
    """Whether two policies, each learning from its own decisions alone, take turns."""
    contexts: bool = False
    """Whether a feature, which the policy reads, moves the first two arms by 0.05 to either side."""
    drift: tuple[tuple[float, float], ...] | None = None
    """By arm, what is added to its mean at the start and at the end."""

    @property
    def truth(self) -> Floats:
        """The arms' means over customers and time."""
        moved = [0.0] * len(self.base) if self.drift is None else [sum(ends) / 2 for ends in self.drift]
        return np.array(self.base) + np.array(moved)


@dataclass(frozen=True)
class Logs:
    """The logs of several runs, arrays (runs, decisions)."""

    arm: Ints
    propensity: Floats
    reward: Floats
    policy: Ints
    snapshot: Ints
    customer: Ints


RISING_AND_FALLING = ((-0.16, 0.0), (0.0, -0.16))
WORLDS = {
    "one decision each": World(customers=3000),
    "own tastes": World(taste="own"),
    "strong tastes": World(taste="strong"),
    "strong tastes, in sessions": World(taste="strong", sessions=True),
    "20 customers, strong tastes": World(taste="strong", customers=20),
    "uneven customers (Pareto 2)": World(taste="strong", customers=300, tail=2.0),
    "very uneven customers (Pareto 1.5)": World(taste="own", tail=1.5),
    "late rewards": World(taste="own", delay=4),
    "uniform slice of 20 %": World(taste="own", uniform=0.2),
    "uniform slice of 10 %, one best": World(taste="own", uniform=0.1, base=(0.3, 0.1, 0.1)),
    "two snapshots interleaved": World(taste="own", stale=True),
    "uneven snapshots, interleaved": World(taste="own", stale=True, uneven=True),
    "two policies interleaved": World(taste="own", second=True),
    "2 arms, one best, floor 5 %": World(taste="own", base=(0.3, 0.1), floor=0.05),
    "10 arms, floor 1 %": World(taste="own", base=(*[0.2] * 8, 0.3, 0.1), floor=0.01),
    "10 arms, floor 5 %": World(taste="own", base=(*[0.2] * 8, 0.3, 0.1), floor=0.05),
    "contextual": World(taste="own", contexts=True),
    "drift": World(base=(0.2, 0.2), customers=3000, drift=RISING_AND_FALLING),
    "drift, returning customers": World(base=(0.2, 0.2), taste="mild", drift=RISING_AND_FALLING),
    "drift, uniform slice": World(base=(0.2, 0.2), taste="mild", drift=RISING_AND_FALLING, uniform=0.2),
}


def simulate(world: World, runs: int, rng: np.random.Generator) -> Logs:
    """The logs of `runs` runs of a world."""
    arms, size = len(world.base), world.decisions
    customer, taste = _draw_customers(world, runs, rng), _draw_tastes(world, runs, rng)
    context = rng.integers(0, 2, (runs, size)) if world.contexts else np.zeros((runs, size), np.intp)
    policy = np.where(rng.random((runs, size)) < 0.5, 1, 0) if world.second else np.zeros((runs, size), np.intp)
    policy[rng.random((runs, size)) < world.uniform] = SLICE
    log = Logs(*(np.zeros((runs, size), kind) for kind in (np.intp, float, float)), policy, policy * 1000, customer)
    edges = np.unique((np.linspace(0, 1, world.updates + 1) ** (2 if world.uneven else 1) * size).astype(int))
    shift, run = np.zeros((2, arms)), np.arange(runs)[:, None]
    shift[:, :2] = [[-0.05, 0.05], [0.05, -0.05]] if world.contexts else 0.0
    counts, wins = np.zeros((2, len(edges) - 1, runs, 2, 2, arms))
    previous = np.zeros(0)
    for at, (first, last) in enumerate(pairwise(edges)):
        rows, known = slice(first, last), max(0, at - world.delay)
        table = _probabilities(world, wins[:known].sum(0), counts[:known].sum(0), rng)
        who, x = np.minimum(policy[:, rows], 1), context[:, rows]
        p, snapshot = table[run, np.where(policy[:, rows] == SLICE, 0, who), x], np.full(x.shape, at)
        if world.stale and at:
            old = rng.random(x.shape) < 0.5
            p = np.where(old[..., None], previous[run, np.where(policy[:, rows] == SLICE, 0, who), x], p)
            snapshot[old] = at - 1
        p = np.where((policy[:, rows] == SLICE)[..., None], 1 / arms, p)
        arm = (rng.random(x.shape)[..., None] > np.cumsum(p, axis=2)[..., :-1]).sum(axis=2)
        mean = taste[run, customer[:, rows], arm] + shift[x, arm] + _drifted(world, first, last, arm)
        log.arm[:, rows], log.reward[:, rows] = arm, rng.random(x.shape) < mean
        log.propensity[:, rows] = np.take_along_axis(p, arm[..., None], axis=2)[..., 0]
        log.snapshot[:, rows] += np.where(policy[:, rows] == SLICE, 0, snapshot)
        own = who if world.second else np.zeros_like(who)
        np.add.at(counts[at], (np.broadcast_to(run, arm.shape), own, x, arm), 1.0)
        np.add.at(wins[at], (np.broadcast_to(run, arm.shape), own, x, arm), log.reward[:, rows])
        previous = table
    return log


def _draw_customers(world: World, runs: int, rng: np.random.Generator) -> Ints:
    """The customer of each decision."""
    if world.tail is None:
        even = np.tile(np.arange(world.decisions) * world.customers // world.decisions, (runs, 1))
        return even if world.sessions else rng.permuted(even, axis=1)
    shares = rng.pareto(world.tail, (runs, world.customers)) + 0.1
    return np.array([rng.choice(world.customers, world.decisions, p=row / row.sum()) for row in shares])


def _draw_tastes(world: World, runs: int, rng: np.random.Generator) -> Floats:
    """The mean reward of each arm (runs, customers, arms) for each customer."""
    base, shape = np.array(world.base), (runs, world.customers, len(world.base))
    if world.taste == "strong":
        return rng.beta(base / 2, (1 - base) / 2, shape)
    spread = {"none": 0.0, "mild": 0.04, "own": min(0.15, float(base.min()), float(1 - base.max()))}[world.taste]
    return base + rng.uniform(-spread, spread, shape)


def _probabilities(world: World, wins: Floats, counts: Floats, rng: np.random.Generator) -> Floats:
    """Each arm's probability (runs, policies, contexts, arms) by Thompson sampling with a floor."""
    used = np.s_[:, : 1 + world.second, : 1 + world.contexts]
    won, lost = wins[used], (counts - wins)[used]
    draws = rng.beta(1 + won, 1 + lost, (DRAWS, *won.shape))
    best = (draws.argmax(axis=-1)[..., None] == np.arange(wins.shape[-1])).mean(axis=0)
    return np.broadcast_to(best * (1 - wins.shape[-1] * world.floor) + world.floor, wins.shape)


def _drifted(world: World, first: int, last: int, arm: Ints) -> Floats:
    """What drift adds to the mean of each arm (runs, rows)."""
    if world.drift is None:
        return np.zeros(arm.shape)
    start, end = np.array(world.drift).T
    time = (np.arange(first, last) + 0.5) / world.decisions
    return (start[arm] + (end - start)[arm] * time).astype(np.float64)


@dataclass
class SeriesTally:
    """Intervals of one kind over all runs."""

    asked: int = 0
    given: int = 0
    covering: int = 0
    width: float = 0.0

    def add(self, found: object, truth: float) -> None:
        """Counts an interval, or a refusal."""
        self.asked += 1
        if isinstance(found, Effect):
            self.given += 1
            self.covering += found.low <= truth <= found.high
            self.width += found.high - found.low

    @property
    def coverage(self) -> float:
        """The share of the intervals that contain the truth."""
        return self.covering / max(self.given, 1)


def score_run(world: World, logs: Logs, run: int) -> list[ArmScores]:
    """The arms' scores in one run."""
    owners = RowOwners(policy=logs.policy[run], customer=logs.customer[run], customers=world.customers)
    everywhere = np.ones(world.decisions, bool)
    return [
        score_arm(
            candidate=everywhere,
            taken=logs.arm[run] == arm,
            propensity=logs.propensity[run],
            reward=logs.reward[run],
            owners=owners,
        )
        for arm in range(len(world.base))
    ]


def measure(world: World, runs: int, seed: int) -> tuple[SeriesTally, SeriesTally, float]:
    """The coverage of arms and of contrasts, and the share of the runs in which a trend was found."""
    arms, contrasts, trends = SeriesTally(), SeriesTally(), 0
    for part in parts(runs):
        logs = simulate(world, len(part), np.random.default_rng((seed, part[0])))
        for run in range(len(part)):
            scored = score_run(world, logs, run)
            for one, truth in enumerate(world.truth):
                arms.add(scored[one].value(0.05), float(truth))
                for other in range(one):
                    found = contrast_arms(scored[one], scored[other], 0.05)
                    contrasts.add(found, float(truth - world.truth[other]))
            tested = [p for p in map(trend_p_value, scored) if p is not None]
            trends += bool(tested) and min(holm(tested)) < 0.05
    return arms, contrasts, trends / runs


def parts(runs: int) -> Iterator[range]:
    """The runs in parts that fit into memory."""
    for first in range(0, runs, 100):
        yield range(first, min(first + 100, runs))
