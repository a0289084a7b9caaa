"""The simulated shops of the policies' benchmark, which ours and the peers' runs share draw for draw."""

from collections.abc import Callable

from policies import simulate
from policies.simulate import Environment

EASY = (0.4, 0.4, 0.4, 0.5, *[0.4] * 6)
LOW = (0.05, 0.02, 0.01, 0.1, 0.05, 0.02, 0.01, 0.05, 0.02, 0.01)
Build = Callable[[int], Environment]

SHOPS: dict[str, tuple[Build, float | None]] = {
    "bernoulli 0.5, 0.4": (lambda seed: simulate.bernoulli(EASY, seed=(seed, 1)), 170.0),
    "bernoulli 0.1, low": (lambda seed: simulate.bernoulli(LOW, seed=(seed, 2)), 80.0),
    "linear": (lambda seed: simulate.linear(seed=(seed, 3)), 352.0),
    "digits": (lambda seed: simulate.digits(seed=(seed, 4)), 437.0),
    "offers come and go": (lambda seed: simulate.coming_and_going(seed=(seed, 5)), None),
    "batches of 1000, late": (lambda seed: simulate.delayed(simulate.linear(seed=(seed, 3)), 1000, 500), None),
    "channels alike": (lambda seed: simulate.channels(seed=(seed, 6)), None),
}
"""Each shop with the regret that was measured before, None where peers have no answer."""
