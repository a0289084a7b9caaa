"""Bounds of KL-UCB against a root finder."""

import numpy as np
import pytest
from scipy import optimize, special

from policies import KLUCB
from policies.klucb import upper_bounds


def test_bounds_are_roots_of_the_divergence() -> None:
    random = np.random.default_rng(0)
    mean = np.concatenate([random.random(200), [0.0, 1.0, 0.5, 1e-4]])
    allowance = np.concatenate([10.0 ** random.uniform(-6, 1, 200), [0.5, 0.5, 0.0, 3.0]])

    def kl(p: float, q: float) -> float:
        return float(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q))

    for p, d, q in zip(mean, allowance, upper_bounds(mean, allowance), strict=True):
        top = 1 - 1e-12
        root = top if kl(p, top) <= d else optimize.brentq(lambda t, p=p, d=d: kl(p, t) - d, p, top, xtol=1e-13)
        assert q == pytest.approx(root, abs=2e-6 if d == 0 else 1e-8)


def test_every_arm_is_shown_before_any_twice() -> None:
    policy = KLUCB(("a", "b", "c"), floor=0.0)
    seen = []
    for _ in range(3):
        arm = int(policy.probabilities().argmax())
        seen.append(arm)
        policy = policy.update(None, arm, 1.0, 1.0)
    assert sorted(seen) == [0, 1, 2]
