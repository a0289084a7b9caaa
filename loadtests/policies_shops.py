"""The simulated shops of the policies' bench; ours and the peers play the same draws."""

from collections.abc import Callable
from dataclasses import dataclass

from policies import simulate
from policies.simulate import Environment

EASY = (0.4, 0.4, 0.4, 0.5, *[0.4] * 6)
LOW = (0.05, 0.02, 0.01, 0.1, 0.05, 0.02, 0.01, 0.05, 0.02, 0.01)
Build = Callable[[int], Environment]

FIRST_SEED = 1_000_000
"""The first seed of the bench; the policies' defaults were chosen on lower seeds only."""


@dataclass(frozen=True)
class Shop:
    """A shop, the earlier regret, the number of peers' runs, and the allowed ratio of our regret to theirs."""

    build: Build
    before: float | None
    peers: int
    share: float = 1.0


SHOPS: dict[str, Shop] = {
    "bernoulli 0.5, 0.4": Shop(lambda seed: simulate.bernoulli(EASY, seed=(seed, 1)), 170.0, 100),
    "bernoulli 0.1, low": Shop(lambda seed: simulate.bernoulli(LOW, seed=(seed, 2)), 80.0, 20),
    "linear": Shop(lambda seed: simulate.linear(seed=(seed, 3)), 352.0, 10),
    "digits": Shop(lambda seed: simulate.digits(seed=(seed, 4)), 437.0, 3),
    "offers come and go": Shop(lambda seed: simulate.coming_and_going(seed=(seed, 5)), None, 2, 0.8),
    "batches of 1000, late": Shop(lambda seed: _late(simulate.coming_and_going(seed=(seed, 5))), None, 4, 0.8),
    "linear, late": Shop(lambda seed: _late(simulate.linear(seed=(seed, 3))), None, 12),
    "channels alike": Shop(lambda seed: simulate.channels(seed=(seed, 6)), None, 10, 0.8),
}


def _late(shop: Environment) -> Environment:
    return simulate.delayed(shop, 1000, 500)


def seeds(runs: int, share: float) -> range:
    """The seeds of a share of `runs` runs, at least one."""
    return range(FIRST_SEED, FIRST_SEED + max(1, round(runs * share)))
