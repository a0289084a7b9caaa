"""Other bandit libraries on our simulated shops; `policies_bench.py` runs this in an environment of its own.

`policies_peers.py SHARE SHOP…` prints one JSON line per run: environment, peer, seed, regret, seconds. With share 0 it
times MABWiser's LinTS instead.
"""

# ruff: noqa: D102 - Peer documents the two verbs of an adapter

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
from contextualbandits.online import LinUCB as ContextualLinUCB
from mabwiser.mab import MAB, LearningPolicy
from obp.policy import BernoulliTS
from obp.policy import LinUCB as ObpLinUCB
from river import bandit
from vowpalwabbit import Workspace

from loadtests.policies_shops import SHOPS, seeds
from policies.simulate import Environment

ALPHA = 0.5  # the width of the bound, from 0.1 to 1, with the least regret of LinUCB on the linear shop in each library


class Peer(Protocol):
    """An adapter of a peer. If it chooses an arm that is not shown, a shown one is drawn instead."""

    def choose(self, x: np.ndarray, shown: np.ndarray) -> int: ...
    def learn(self, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> None: ...


class Obp:
    """obp ranks all arms; the first that is shown is chosen."""

    def __init__(self, shop: Environment, seed: int) -> None:
        arms, self.dim = len(shop.arms), shop.x.shape[1]
        if self.dim:
            self.policy = ObpLinUCB(dim=self.dim, n_actions=arms, len_list=arms, epsilon=ALPHA, random_state=seed)
        else:
            self.policy = BernoulliTS(n_actions=arms, len_list=arms, random_state=seed)

    def choose(self, x: np.ndarray, shown: np.ndarray) -> int:
        ranked = self.policy.select_action(x[None]) if self.dim else self.policy.select_action()
        return int(ranked[np.isin(ranked, shown)][0])

    def learn(self, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> None:
        for context, chosen, paid in zip(x, arm, reward, strict=True):
            if self.dim:
                self.policy.update_params(int(chosen), float(paid), context[None])
            else:
                self.policy.update_params(int(chosen), float(paid))


class MabWiser:
    """MABWiser predicts every arm's expectation; the best that is shown is chosen."""

    def __init__(self, shop: Environment, seed: int) -> None:
        self.arms, self.dim, self.ready = len(shop.arms), shop.x.shape[1], False
        rule = LearningPolicy.LinUCB(alpha=ALPHA) if self.dim else LearningPolicy.ThompsonSampling()
        self.policy, self.random = MAB(list(range(self.arms)), rule, seed=seed), np.random.default_rng(seed)

    def choose(self, x: np.ndarray, shown: np.ndarray) -> int:
        if not self.ready:
            return int(self.random.choice(shown))
        expected = self.policy.predict_expectations(x[None]) if self.dim else self.policy.predict_expectations()
        return int(max(shown, key=expected.__getitem__))

    def learn(self, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> None:
        fit = self.policy.partial_fit if self.ready else self.policy.fit
        fit(arm.tolist(), reward.tolist(), x) if self.dim else fit(arm.tolist(), reward.tolist())
        self.ready = True


class VowpalWabbit:
    """VW's SquareCB over the shown actions, these described by their identity and traits."""

    def __init__(self, shop: Environment, seed: int) -> None:
        self.shop, self.random, self.choices = shop, np.random.default_rng(seed), {}
        pairs = "-q sa -q st" if shop.traits else "-q sa"
        self.policy = Workspace(f"--cb_explore_adf --squarecb {pairs} --quiet --random_seed {seed}")
        self.actions = [self._action(k) for k in range(len(shop.arms))]

    def _action(self, k: int) -> str:
        traits = self.shop.traits.get(self.shop.arms[k], ())
        described = " ".join(f"{i}:{value:.5f}" for i, value in enumerate(traits))
        return f"|a k{k}" + (f" |t {described}" if traits else "")

    def _shared(self, x: np.ndarray) -> str:
        return "shared |s " + " ".join(f"{i}:{value:.5f}" for i, value in enumerate(x)) if x.size else "shared |s c"

    def choose(self, x: np.ndarray, shown: np.ndarray) -> int:
        p = np.array(self.policy.predict([self._shared(x), *(self.actions[k] for k in shown)]))
        drawn = int(self.random.choice(p.size, p=p / p.sum()))
        self.choices.setdefault((x.tobytes(), int(shown[drawn])), []).append((shown, float(p[drawn])))
        return int(shown[drawn])

    def learn(self, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> None:
        for context, chosen, paid in zip(x, arm.tolist(), reward.tolist(), strict=True):
            shown, p = self.choices[context.tobytes(), chosen].pop(0)
            lines = [f"0:{1 - paid}:{p} " * (k == chosen) + self.actions[k] for k in shown]
            self.policy.learn([self._shared(context), *lines])


class Contextual:
    """contextualbandits' LinUCB does not support arms that come and go."""

    def __init__(self, shop: Environment, seed: int) -> None:
        self.policy = ContextualLinUCB(len(shop.arms), alpha=ALPHA, random_state=seed + 1)
        self.random, self.ready = np.random.default_rng(seed), False

    def choose(self, x: np.ndarray, shown: np.ndarray) -> int:
        arm = int(self.policy.predict(x[None])[0]) if self.ready else -1
        return arm if arm in shown else int(self.random.choice(shown))

    def learn(self, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> None:
        self.policy.partial_fit(x, arm, reward)
        self.ready = True


class River:
    """river's disjoint LinUCB chooses among the arms it is given."""

    def __init__(self, shop: Environment, seed: int) -> None:
        self.policy = bandit.LinUCBDisjoint(alpha=ALPHA, seed=seed)
        self.names = [str(i) for i in range(shop.x.shape[1])]

    def _context(self, x: np.ndarray) -> dict[str, float]:
        return dict(zip(self.names, x.tolist(), strict=True))

    def choose(self, x: np.ndarray, shown: np.ndarray) -> int:
        return int(self.policy.pull(shown.tolist(), context=self._context(x)))

    def learn(self, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> None:
        for context, chosen, paid in zip(x, arm.tolist(), reward.tolist(), strict=True):
            self.policy.update(chosen, self._context(context), paid)


PEERS: dict[str, Callable[[Environment, int], Peer]] = {
    "obp": Obp,
    "mabwiser": MabWiser,
    "vowpalwabbit": VowpalWabbit,
    "contextualbandits": Contextual,
    "river": River,
}


def regret(peer: Peer, shop: Environment, seed: int) -> float:
    """The peer's regret over all rounds; it learns each reward when it is known."""
    random, rounds = np.random.default_rng(seed), shop.rounds
    known = np.arange(1, rounds + 1) if shop.known is None else shop.known
    arm, reward, due = np.zeros(rounds, int), np.zeros(rounds), {}
    everything = np.arange(len(shop.arms))
    for at in range(rounds):
        if at in due:
            rows = due.pop(at)
            peer.learn(shop.x[rows], arm[rows], reward[rows])
        shown = everything if shop.shown is None else np.flatnonzero(shop.shown[at])
        chosen = peer.choose(shop.x[at], shown)
        arm[at] = chosen if chosen in shown else random.choice(shown)
        reward[at] = shop.reward(at, arm[at])
        due.setdefault(int(known[at]), []).append(at)
    return float((shop.best - shop.means[np.arange(rounds), arm]).sum())


def encode_channels(shop: Environment) -> Environment:
    """The shop with a channel's position, the last number of a context, as indicators: peers have no groups."""
    channel = shop.x[:, -1] if shop.x.shape[1] else np.empty(0)
    if channel.size == 0 or (channel != np.floor(channel)).any() or channel.max() < 2:
        return shop
    return replace(shop, x=np.column_stack([shop.x[:, :-1], np.eye(int(channel.max()) + 1)[channel.astype(int)]]))


def slowest_thompson() -> float:
    """Median microseconds of one MABWiser LinTS choice, 50 arms, 32 dimensions."""
    random = np.random.default_rng(0)
    policy = MAB(list(range(50)), LearningPolicy.LinTS(alpha=ALPHA), seed=0)
    x, arm = random.normal(size=(2000, 32)), random.integers(0, 50, 2000)
    policy.fit(arm.tolist(), random.random(2000).tolist(), x)
    spent = []
    for row in range(100):
        start = time.process_time()
        policy.predict(x[row : row + 1])
        spent.append(time.process_time() - start)
    return float(np.median(spent)) * 1e6


def runs(share: float, shops: Iterable[str]) -> Iterator[dict[str, object]]:
    if not share:
        yield {"mabwiser_lints_microseconds": slowest_thompson()}
        return
    for name in shops:
        about = SHOPS[name]
        for peer, make in PEERS.items():
            contextual = about.build(0).x.shape[1] > 0
            if not contextual and peer in {"contextualbandits", "river"}:
                continue
            for seed in seeds(about.peers, share):
                start = time.process_time()
                shop = encode_channels(about.build(seed))
                yield {
                    "environment": name,
                    "policy": peer,
                    "seed": seed,
                    "regret": regret(make(shop, seed), shop, seed),
                    "seconds": time.process_time() - start,
                }


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for line in runs(float(sys.argv[1]), sys.argv[2:]):
        print(json.dumps(line), flush=True)
