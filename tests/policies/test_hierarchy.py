"""Levels of coefficients against one dense regression that holds them all."""

from typing import Any

import numpy as np
import pytest

from policies import LinearThompson, LinUCB, dump_policy, load_policy, with_arms
from policies.linear.regression import next_tuning

ARMS = ("a", "b", "c")
TRAITS = {"a": (1.0, 0.0), "b": (1.0, 1.0), "c": (1.0, 0.5), "d": (1.0, 2.0)}


def dense(policy: Any, x: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> Any:
    """Design row of (arm, context), posterior mean and covariance of [common, arms, groups], by unit noise."""
    n, q = policy.features, len(next(iter(policy.traits.values()), ()))
    groups = policy.pool + 1 if policy.pool else 0
    precisions = [policy.prior] * (q * n) + [1e-6] + [policy.between] * (3 * n) + [policy.within] * (3 * groups * n)

    def row(k: int, context: np.ndarray) -> np.ndarray:
        own, trait = np.eye(3)[k], np.array(policy.traits.get(ARMS[k], ()))
        regressors, group = policy.split(context[None])
        cell = np.kron(own, np.eye(groups)[group[0]]) if groups else np.empty(0)
        coefficients = np.kron(np.concatenate([trait, own, cell]), regressors[0])
        return np.insert(coefficients, q * n, 1.0)

    design = np.array([row(k, c) for k, c in zip(arm, x, strict=True)])
    cover = np.linalg.inv(design.T @ design + np.diag(precisions))
    mean = cover @ design.T @ reward
    explained = float(mean @ design.T @ reward)
    return row, mean, cover, explained


@pytest.mark.parametrize("traits", [{}, TRAITS])
@pytest.mark.parametrize("pool", [0, 2])
def test_levels_equal_one_dense_regression(traits: dict[str, tuple[float, ...]], pool: int) -> None:
    random = np.random.default_rng(4)
    x, arm, reward = random.normal(size=(80, 3)), random.integers(0, 3, 80), random.normal(size=80)
    if pool:
        x[:, -1] = random.integers(0, pool + 1, 80)
    policy = LinUCB(ARMS, 3, traits=traits, pool=pool, between=2.0, within=5.0, tune=False)
    policy = policy.update(x, arm, reward, np.ones(80))
    row, mean, cover, explained = dense(policy, x, arm, reward)
    for group in range(pool + 1):
        at = np.array([0.3, -0.8, group if pool else 0.7])
        rewards = policy.predict(at, slice(None))
        rows = np.array([row(k, at) for k in range(3)])
        assert rewards.mean + policy.posterior.common[-1] == pytest.approx(rows @ mean, abs=1e-5)
        joint = rewards.loading @ policy.posterior.common_cover @ rewards.loading.T + np.diag(rewards.own)
        if not pool:
            assert joint == pytest.approx(rows @ cover @ rows.T, abs=1e-5)
        assert rewards.spread(policy.posterior.common_cover) ** 2 == pytest.approx(
            np.diag(rows @ cover @ rows.T), abs=1e-5
        )
    assert policy.posterior.noise == pytest.approx((41.0, reward.var() + (reward @ reward - explained) / 2))


def test_a_new_arm_starts_from_what_similar_ones_taught() -> None:
    random = np.random.default_rng(5)
    arms = tuple("abcdefghij")
    traits = {arm: (1.0, 0.2 * k) for k, arm in enumerate(arms)} | {"new": (1.0, 3.0)}
    x, arm = np.column_stack([np.ones(4000), random.normal(size=4000)]), random.integers(0, 10, 4000)
    reward = 0.3 + 0.2 * 0.2 * arm * x[:, 1] + 0.2 * random.normal(size=4000)
    policy = LinearThompson(arms, 2, traits=traits).update(x, arm, reward, np.ones(4000))
    widened = with_arms(policy, (*arms, "new"))
    at = np.array([1.0, 1.0])
    expected = widened.predict(at, slice(None)).mean + widened.posterior.common[-1]
    assert expected == pytest.approx([0.3 + 0.04 * k for k in range(10)] + [0.9], abs=0.1)
    assert widened.probabilities(at).argmax() == 10


def test_what_leaving_arms_taught_of_the_common_stays() -> None:
    random = np.random.default_rng(6)
    x, arm = random.normal(size=(300, 2)), random.integers(0, 3, 300)
    policy = LinearThompson(ARMS, 2, traits=dict.fromkeys((*ARMS, "z"), (1.0,)), tune=False).update(
        x, arm, x[:, 0] + 0.1 * arm, np.ones(300)
    )
    alone = with_arms(policy, ("z",))
    assert alone.predict(np.array([1.0, 0.0]), slice(None)).mean == pytest.approx(policy.posterior.common[:1], abs=1e-5)
    assert alone.posterior.noise == pytest.approx(policy.posterior.noise)
    assert with_arms(policy, ("a", "z")).posterior.common == pytest.approx(policy.posterior.common)


@pytest.mark.parametrize("spread", [0.03, 1.0])
def test_shrinkage_follows_how_much_channels_differ(spread: float) -> None:
    random = np.random.default_rng(7)
    n, pool = 6000, 4
    x = np.column_stack([np.ones(n), random.normal(size=n), random.integers(0, pool, n)])
    arm = random.integers(0, 3, n)
    own = random.normal(size=(3, 2)) + spread * random.normal(size=(pool, 3, 2))
    reward = (own[x[:, 2].astype(int), arm] * x[:, :2]).sum(axis=1) + random.normal(size=n)
    policy = LinearThompson(ARMS, 3, pool=pool).update(x, arm, reward, np.ones(n))
    assert policy.within == pytest.approx(1 / spread**2, rel=4) if spread == 1.0 else policy.within > 150
    unseen = policy.predict(np.array([1.0, 0.0, -1]), slice(None))
    seen = policy.predict(np.array([1.0, 0.0, 2]), slice(None))
    cover = policy.posterior.common_cover
    assert (unseen.spread(cover) > seen.spread(cover)).all()


@pytest.mark.parametrize("pool", [0, 4])
def test_shrinkage_of_arms_is_the_one_that_they_were_made_with(pool: int) -> None:
    """30 arms of 3 coefficients tell a variance to 15 %, and the grid of it to a factor of 1.4."""
    random = np.random.default_rng(11)
    n, arms = 12_000, tuple(map(str, range(30)))
    features = random.normal(size=(n, 2)) / np.sqrt(2)  # as the policy standardizes two features
    x = np.column_stack([np.ones(n), features, random.integers(0, 4, n)])
    arm = random.integers(0, 30, n)
    own = 0.5 * random.normal(size=(30, 3)) + (0.2 * random.normal(size=(4, 30, 3)) if pool else np.zeros((4, 30, 3)))
    reward = (own[x[:, 3].astype(int), arm] * x[:, :3]).sum(axis=1) + random.normal(size=n)
    seen = x if pool else x[:, :3]
    policy = LinUCB(arms, seen.shape[1], pool=pool).update(seen, arm, reward, np.ones(n))
    assert 4 / 1.6 < policy.between < 4 * 1.6
    assert not pool or 25 / 1.6 < policy.within < 25 * 1.6
    assert policy.posterior.noise[1] / policy.posterior.noise[0] == pytest.approx(1, abs=4 * (2 / n) ** 0.5 + 0.02)


def test_tuning_does_not_depend_on_how_batches_are_cut() -> None:
    random = np.random.default_rng(8)
    batch = random.normal(size=(200, 3)), random.integers(0, 3, 200), random.random(200), np.full(200, 0.3)
    whole = LinearThompson(ARMS, 3, traits=TRAITS).update(*batch)
    parts = LinearThompson(ARMS, 3, traits=TRAITS)
    for part in np.array_split(np.arange(200), 23):
        parts = parts.update(*(column[part] for column in batch))
    assert parts.between == pytest.approx(whole.between, rel=1e-9)
    assert whole.between != LinearThompson(ARMS, 3).between
    assert [next_tuning(n, 6) for n in (0, 23, 24, 30)] == [24, 24, 30, 37]


def test_traits_and_groups_survive_the_wire() -> None:
    random = np.random.default_rng(9)
    x = np.column_stack([random.normal(size=(50, 2)), random.integers(0, 2, 50)])
    policy = LinearThompson(ARMS, 3, traits=TRAITS, pool=2)
    policy = policy.update(x, random.integers(0, 3, 50), random.random(50), np.ones(50))
    again = load_policy(dump_policy(policy))
    assert dump_policy(again) == dump_policy(policy)
    assert np.array_equal(again.probabilities(x[0]), policy.probabilities(x[0]))


def test_an_arm_whose_traits_come_with_it_starts_from_what_similar_ones_taught() -> None:
    random = np.random.default_rng(10)
    x, arm = random.normal(size=(600, 2)), random.integers(0, 3, 600)
    policy = LinearThompson(ARMS, 2, traits=TRAITS).update(x, arm, random.random(600) + (arm == 0), np.ones(600))
    twin = with_arms(policy, (*ARMS, "twin"), {**TRAITS, "twin": TRAITS["a"]})
    everything = LinearThompson((*ARMS, "twin"), 2, traits={**TRAITS, "twin": TRAITS["a"]})
    before = with_arms(with_arms(policy, (*ARMS, "twin"), {**TRAITS, "twin": TRAITS["a"]}), ARMS)
    assert twin.posterior.common == pytest.approx(policy.posterior.common)
    assert twin.expected([0.5, 0.5])[3] > everything.expected([0.5, 0.5])[3]
    assert before.expected([0.5, 0.5]) == pytest.approx(policy.expected([0.5, 0.5]))


def test_traits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="every arm equally many"):
        LinearThompson(ARMS, 2, traits={"a": (1.0,)})
    with pytest.raises(ValueError, match="leaves no feature before the group"):
        LinearThompson(ARMS, 1, pool=2)
    with pytest.raises(ValueError, match="not positive"):
        LinearThompson(ARMS, 2, between=0.0)
    with pytest.raises(ValueError, match="another length"):
        with_arms(LinearThompson(ARMS, 2, traits=TRAITS), ARMS, dict.fromkeys(ARMS, (1.0,)))
