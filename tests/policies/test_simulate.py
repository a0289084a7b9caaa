"""Policies at work in simulated shops, and the ways in which other libraries fail without saying so."""

import sys
from pathlib import Path

import numpy as np
import pytest

import policies
from policies import simulate

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


@pytest.mark.parametrize(
    ("name", "code", "build"),
    [
        ("bern_easy", 1, lambda seed: simulate.bernoulli((0.4, 0.4, 0.4, 0.5, *[0.4] * 6), seed=seed)),
        ("linear", 3, lambda seed: simulate.linear(seed=seed)),
        ("digits", 4, lambda seed: simulate.digits(seed=seed)),
    ],
)
def test_draws_equal_the_reference(name: str, code: int, build: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (REFERENCE / "regret_sims.py").exists():
        pytest.skip("the reference is not beside this checkout")
    monkeypatch.syspath_prepend(str(REFERENCE))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import regret_sims  # noqa: PLC0415 - only where it lies beside the checkout

    reference, ours = regret_sims.Sim(name, 6), build((6, code))
    assert np.array_equal(reference.U, ours.luck)
    assert np.allclose(reference.P, ours.means)
    if reference.X is not None:
        assert np.allclose(reference.X, ours.x)


@pytest.mark.parametrize("kind", sorted(set(policies.KINDS) - {"uniform"}))
def test_every_policy_learns(kind: str) -> None:
    """Below uniform's regret by more than four of its standard errors."""
    shop = simulate.linear(1500, arms=4, dim=3, seed=2)
    uniform = simulate.play(policies.make_policy("uniform", shop.arms), shop).regret
    learnt = simulate.play(policies.make_policy(kind, shop.arms, 3), shop).regret
    factor = 0.7 if policies.KINDS[kind].contextual else 1.0
    assert learnt.sum() < factor * uniform.sum() - 4 * uniform.std() * np.sqrt(uniform.size) * (factor == 1.0)


def test_a_run_logs_what_it_did() -> None:
    shop = simulate.coming_and_going(600, arms=12, shown=4, seed=1)
    run = simulate.play(policies.make_policy("linear_thompson", shop.arms, 6, traits=shop.traits), shop)
    assert shop.shown is not None
    assert shop.shown[np.arange(600), run.arm].all()
    assert (run.propensity > 0).all()
    assert (run.propensity <= 1).all()
    assert (run.regret >= 0).all()
    assert run.policy.seen == 599


def test_late_rewards_are_learnt_when_known() -> None:
    shop = simulate.delayed(simulate.bernoulli((0.1, 0.6), 1000), batch=100, delay=50)
    run = simulate.play(policies.make_policy("beta_thompson", shop.arms), shop)
    assert run.propensity[:150] == pytest.approx(np.full(150, 0.5))
    assert run.policy.seen == 900
    assert run.regret[500:].mean() < 0.05


def test_forgetting_follows_a_shop_that_changes() -> None:
    shop = simulate.drifting(6000, arms=5, change=1e-3, seed=4)
    forgets = simulate.play(policies.make_policy("beta_thompson", shop.arms, discount=0.995), shop).regret.sum()
    remembers = simulate.play(policies.make_policy("beta_thompson", shop.arms), shop).regret.sum()
    assert forgets < 0.8 * remembers


def test_traits_and_pools_teach_what_separate_arms_cannot() -> None:
    shop = simulate.coming_and_going(2000, seed=7)
    related = simulate.play(policies.make_policy("linucb", shop.arms, 6, traits=shop.traits), shop).regret.sum()
    alone = simulate.play(policies.make_policy("linucb", shop.arms, 6), shop).regret.sum()
    assert related < 0.8 * alone


def test_logistic_clicks_are_learnt() -> None:
    shop = simulate.logistic(3000, arms=5, dim=3, seed=3)
    uniform = simulate.play(policies.make_policy("uniform", shop.arms), shop).regret.sum()
    assert simulate.play(policies.make_policy("logistic_thompson", shop.arms, 3), shop).regret.sum() < 0.6 * uniform


@pytest.mark.parametrize("kind", ["beta_thompson", "gaussian_thompson", "linear_thompson", "logistic_thompson"])
def test_a_sampler_is_not_near_uniform_once_it_knows(kind: str) -> None:
    """contextualbandits' LinTS stays near uniform at its defaults."""
    random = np.random.default_rng(5)
    n = 3000
    x, arm = np.column_stack([np.ones(n), random.normal(size=n)]), random.integers(0, 5, n)
    reward = (random.random(n) < np.array([0.1, 0.1, 0.5, 0.1, 0.1])[arm]).astype(float)
    p = policies.make_policy(kind, tuple("abcde"), 2).update(x, arm, reward, np.full(n, 0.2)).probabilities([1.0, 0.0])
    assert p[2] > 0.99


@pytest.mark.parametrize("kind", ["gaussian_thompson", "linear_thompson", "linucb", "squarecb"])
@pytest.mark.parametrize(("offset", "size"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 250.0), (-40.0, 0.01)])
def test_rewards_of_any_sign_and_size_prefer_the_greater(kind: str, offset: float, size: float) -> None:
    """VW's regcb explores wrongly where costs leave the range it was given, as -r does."""
    random = np.random.default_rng(6)
    n = 2000
    x, arm = np.ones((n, 1)), random.integers(0, 3, n)
    reward = offset + size * (np.array([0.2, 0.8, 0.4])[arm] + 0.3 * random.normal(size=n))
    p = policies.make_policy(kind, tuple("abc"), 1).update(x, arm, reward, np.full(n, 1 / 3)).probabilities([1.0])
    assert p.argmax() == 1
    assert p[1] > 0.9


def test_logged_propensities_judge_rightly_and_recomputed_ones_do_not() -> None:
    """The value of showing arms uniformly, by IPS: a policy that has since learnt would have shown others."""
    shop = simulate.bernoulli((0.1, 0.15, 0.3), 20_000, seed=8)
    run = simulate.play(policies.make_policy("uniform", shop.arms), shop)
    later = policies.make_policy("beta_thompson", shop.arms, floor=0.03)
    later = later.update(None, run.arm, run.reward, run.propensity)
    truth = float(shop.means[0].mean())
    logged, recomputed = run.reward / 3 / run.propensity, run.reward / 3 / later.probabilities()[run.arm]
    margin = 4 / np.sqrt(run.arm.size)
    assert abs(logged.mean() - truth) < margin * logged.std()
    assert abs(recomputed.mean() - truth) > margin * recomputed.std()


@pytest.mark.parametrize("kind", sorted(policies.KINDS))
def test_nobody_is_preferred_before_anything_is_known(kind: str) -> None:
    p = policies.make_policy(kind, tuple("abcd"), 3).probabilities(np.array([1.0, -0.4, 2.0]))
    assert p == pytest.approx(np.full(4, 0.25), abs=4 * np.sqrt(0.25 * 0.75 / 256))
