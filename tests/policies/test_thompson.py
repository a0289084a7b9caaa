"""Known answers for probabilities of being best."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from policies import BetaThompson, GaussianThompson, LinearThompson, dump_policy, load_policy
from policies.joint_draws import Arms, Leaders, count_winners, joint_winners, normal_pool
from policies.thompson import beta_best


def integrated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(best) by adaptive integration of each arm, panel by panel."""

    def chance(k: int) -> float:
        def integrand(angle: float) -> float:
            t = min(np.sin(angle) ** 2, 1 - 1e-15)
            others = np.delete(np.arange(a.size), k)
            return float(
                np.sin(2 * angle) * stats.beta.pdf(t, a[k], b[k]) * np.prod(stats.beta.cdf(t, a[others], b[others]))
            )

        edges = np.unique(stats.beta.ppf([0, 1e-9, 1e-4, 0.05, 0.5, 0.95, 1 - 1e-4, 1 - 1e-9, 1], a[k], b[k]))
        angles = np.arcsin(np.sqrt(edges))
        return sum(integrate.quad(integrand, *ends, epsabs=1e-9, limit=200)[0] for ends in pairwise(angles))

    return np.array([chance(k) for k in range(a.size)])


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, 1.0], [1.0, 1.0]),
        ([3.0, 1.0, 7.0], [5.0, 1.0, 9.0]),
        ([4000.0, 2.0, 30.0], [6000.0, 3.0, 40.0]),
        ([1.0, 1.0, 2.0], [5000.0, 300.0, 4000.0]),
        ([5000.0, 300.0, 1.0], [1.0, 1.0, 1.0]),
        ([0.5, 0.5, 12.0], [0.5, 0.5, 11.0]),
        (np.linspace(2, 40, 10), np.full(10, 30.0)),
    ],
)
def test_beta_quadrature_equals_adaptive_integration(a: list[float], b: list[float]) -> None:
    left, right = np.asarray(a), np.asarray(b)
    assert beta_best(left, right) == pytest.approx(integrated(left, right), abs=3e-6)


def test_two_beta_arms_in_closed_form() -> None:
    """P(Beta(a, 1) > Beta(c, 1)) = a / (a + c)."""
    policy = BetaThompson(arms=("a", "b"), floor=0.0).update(None, [0] * 3 + [1], np.ones(4), np.full(4, 0.5))
    assert policy.probabilities() == pytest.approx([4 / 6, 2 / 6], abs=1e-9)


def test_thirty_showings_without_a_rare_reward_lock_no_arm_out() -> None:
    """One of 5% fails so in a fifth of all cases. Student posteriors: prior mean of weight 1, prior variance of 20."""
    arm, reward = np.repeat([0, 1], [2000, 30]), np.zeros(2030)
    reward[:100] = 1.0
    centre, variance = reward.mean(), reward.var()

    def posterior(paid: float, n: int) -> Any:
        mean = (centre + paid) / (1 + n)
        around = paid * (1 - centre) ** 2 + (n - paid) * centre**2 - (1 + n) * (mean - centre) ** 2
        return stats.t(20 + n, mean, np.sqrt((20 * variance + around) / (20 + n) / (1 + n)))

    known, doubted = posterior(100, 2000), posterior(0, 30)
    better, _ = integrate.quad(lambda v: doubted.sf(v) * known.pdf(v), 0.0, 0.2, points=[0.05], epsabs=1e-10)
    policy = GaussianThompson(arms=("a", "b"), floor=0.0).update(None, arm, reward, np.full(2030, 0.5))
    assert policy.probabilities()[1] == pytest.approx(better, abs=1e-5)
    assert better > 0.02


def test_fifty_equal_arms_share() -> None:
    p = BetaThompson(arms=tuple(map(str, range(50)))).probabilities()
    assert p == pytest.approx(np.full(50, 0.02), abs=1e-12)


def test_linear_draws_follow_the_exact_posterior() -> None:
    """Over many versions the counted shares average to the closed form for two normal scores."""
    random = np.random.default_rng(0)
    x, arm = random.normal(size=(400, 2)), random.integers(0, 2, 400)
    reward = x @ [0.3, -0.2] + 0.1 * arm + random.normal(size=400)
    at = np.array([0.5, 0.1])
    shares, closed = [], 0.0
    for seed in range(40):
        policy = LinearThompson(arms=("a", "b"), dim=2, seed=seed, floor=0.0, scale=1.0, optimistic=False)
        policy = policy.update(x, arm, reward, np.full(400, 0.5))
        shares.append(policy.probabilities(at)[0])
        rewards = policy.predict(at, slice(None))
        load = rewards.loading[0].astype(float) - rewards.loading[1]
        spread = np.sqrt(rewards.own.sum() + load @ policy.posterior.common_cover @ load)
        shape, rate = policy.posterior.noise
        gap = float(rewards.mean[0]) - float(rewards.mean[1])
        closed = float(stats.t.cdf(gap / spread / np.sqrt(rate / shape), 2 * shape))
    assert np.mean(shares) == pytest.approx(closed, abs=4 * np.sqrt(closed * (1 - closed) / 256 / 40))


def test_regressions_taken_over_equal_those_computed_again() -> None:
    random = np.random.default_rng(2)
    policy = LinearThompson(arms=tuple("abcdef"), dim=4)
    for _ in range(30):
        policy = policy.update(random.normal(size=4), random.integers(6), random.random(), 0.5)
        if random.random() < 0.6:
            policy.probabilities(np.ones(4))
    loaded = load_policy(dump_policy(policy))
    assert isinstance(loaded, LinearThompson)
    assert np.array_equal(policy.posterior.mean, loaded.posterior.mean)
    assert np.array_equal(policy.probabilities(np.ones(4)), loaded.probabilities(np.ones(4)))


def test_the_pool_does_not_depend_on_its_width() -> None:
    assert np.array_equal(normal_pool(3, 4, 40)[:, :7], normal_pool(3, 4, 7))
    assert not np.array_equal(normal_pool(3, 5, 7), normal_pool(3, 4, 7))
    pool = normal_pool(3, 4, 4)
    assert pool.mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-6)
    assert count_winners(pool.argmax(axis=1), 4).sum() == 1


@pytest.mark.parametrize("optimistic", [True, False])
@pytest.mark.parametrize("shrink", [0.01, 1.0, 30.0])
def test_a_search_among_the_leaders_finds_the_winners_of_all_scores(*, optimistic: bool, shrink: float) -> None:
    random = np.random.default_rng(int(shrink * 100))
    pool, common = normal_pool(1, 2, 700), normal_pool(1, 2, 1, stream=1)
    for arms in (700, 640, 400):
        mean = random.normal(size=arms).astype(np.float32) * np.float32(shrink)
        spread = random.gamma(2.0, size=arms).astype(np.float32)
        loading = random.uniform(-0.5, 1.0, (arms, 1)).astype(np.float32)
        at = Arms(mean, spread, loading, optimistic)
        deviations = pool[:, :arms] * spread + common * loading.T
        scores = (np.maximum(deviations, deviations * np.float32(1e-3)) if optimistic else deviations) + mean
        assert np.array_equal(joint_winners(at, pool, common, Leaders.of(pool)), scores.argmax(axis=1))
        assert np.array_equal(joint_winners(at, pool, common), scores.argmax(axis=1))


def test_rewards_outside_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match="gaussian_thompson"):
        BetaThompson(arms=("a", "b")).update(None, 0, 3.5, 0.5)
