"""Expected rewards, beside the propensities."""

import numpy as np
import pytest
from scipy import special

import policies


def test_means_of_the_observed_rewards() -> None:
    policy = policies.BetaThompson(("a", "b", "c")).update(None, [0, 0, 1], [1.0, 0.0, 1.0], np.full(3, 0.3))
    assert policy.expected() == pytest.approx([0.5, 1.0, 0.0])
    assert policy.expected(candidates=np.array([1])) == pytest.approx([1.0])


@pytest.mark.parametrize("kind", ["linear_thompson", "linucb", "logistic_thompson"])
def test_contextual_policies_recover_the_truth(kind: str) -> None:
    random = np.random.default_rng(3)
    n = 20_000
    x, arm = np.column_stack([np.ones(n), random.normal(size=(n, 1))]), random.integers(0, 3, n)
    weights = np.array([[-2.5, 0.5], [-2.0, -0.5], [-3.0, 0.0]])
    truth = special.expit if kind.startswith("logistic") else lambda z: 0.5 + 0.1 * z
    reward = random.random(n) < truth((x * weights[arm]).sum(axis=1))
    policy = policies.make_policy(kind, ("a", "b", "c"), 2).update(x, arm, reward, np.full(n, 1 / 3))
    at = np.array([1.0, 0.4])
    spread = np.sqrt(0.25 / (n / 3)) * 4
    assert policy.expected(at) == pytest.approx(truth(weights @ at), abs=spread + 0.01)
