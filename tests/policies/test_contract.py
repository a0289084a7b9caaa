"""What every policy promises, whichever it is."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import policies

ARMS = tuple("abcdef")
DIM = 3


def taught(kind: str, observations: int = 60, seed: int = 1, arms: tuple[str, ...] = ARMS, **parameters: Any) -> Any:
    random = np.random.default_rng(seed)
    policy = policies.make_policy(kind, arms, DIM, **parameters)
    return policy.update(*rows(random, observations, len(arms)))


def rows(random: np.random.Generator, n: int, arms: int = len(ARMS)) -> tuple[Any, ...]:
    arm = random.integers(0, arms, n)
    return random.normal(size=(n, DIM)), arm, (random.random(n) < 0.2 + 0.1 * arm).astype(float), np.full(n, 1 / arms)


@pytest.fixture(params=sorted(policies.KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(policies.KINDS)),
    seed=st.integers(0, 1000),
    observations=st.integers(0, 80),
    mask=st.lists(st.booleans(), min_size=len(ARMS), max_size=len(ARMS)).filter(any),
    floor=st.sampled_from([0.0, 1e-4, 0.02, 0.3]),
)
def test_probabilities_sum_to_one_within_mask_and_above_floor(
    kind: str, seed: int, observations: int, mask: list[bool], floor: float
) -> None:
    policy = taught(kind, observations, seed, floor=floor)
    shown = np.array(mask)
    p = policy.probabilities(np.ones(DIM), shown)
    assert p.dtype == np.float64
    assert p.shape == (len(ARMS),)
    assert abs(p.sum() - 1) < 1e-12
    assert (p[~shown] == 0).all()
    assert (p[shown] >= min(floor, 1 / shown.sum()) - 1e-15).all()
    assert np.array_equal(policy.probabilities(np.ones(DIM), candidates=np.flatnonzero(shown)), p[shown])


def test_no_arm_has_probability_zero_by_default(kind: str) -> None:
    assert (taught(kind, 500).probabilities(np.zeros(DIM)) > 0).all()


def test_a_full_mask_is_no_mask(kind: str) -> None:
    policy = taught(kind)
    assert np.allclose(policy.probabilities(np.ones(DIM)), policy.probabilities(np.ones(DIM), np.ones(len(ARMS), bool)))


def test_served_frequencies_fit_the_probabilities(kind: str) -> None:
    p = taught(kind, floor=0.01).probabilities(np.ones(DIM))
    drawn = np.searchsorted(np.cumsum(p), np.random.default_rng(3).random(20_000))
    counts = np.bincount(drawn, minlength=len(ARMS))
    assert stats.chisquare(counts, p * counts.sum()).pvalue > 0.001


def test_dump_and_load_are_bit_equal(kind: str) -> None:
    policy = taught(kind)
    data = policies.dump_policy(policy)
    again = policies.load_policy(data)
    assert policies.dump_policy(again) == data
    assert np.array_equal(again.probabilities(np.ones(DIM)), policy.probabilities(np.ones(DIM)))
    assert type(again) is type(policy)


def test_statistics_do_not_depend_on_the_split(kind: str) -> None:
    for discount in (1.0, 0.99) if kind in ADDITIVE else (1.0,):
        batch = rows(np.random.default_rng(5), 50)
        whole = policies.make_policy(kind, ARMS, DIM, discount=discount).update(*batch)
        parts = policies.make_policy(kind, ARMS, DIM, discount=discount)
        for part in np.split(np.arange(50), [1, 2, 20, 21]):
            parts = parts.update(*(column[part] for column in batch))
        for name, value in whole.statistics.items():
            assert np.allclose(value, parts.statistics[name], rtol=1e-9, atol=1e-9), name
        assert np.allclose(whole.probabilities(np.ones(DIM)), parts.probabilities(np.ones(DIM)), atol=1e-6)


ADDITIVE = sorted(set(policies.KINDS) - {"logistic_thompson"})


@pytest.mark.parametrize("kind", ADDITIVE)
@pytest.mark.parametrize("discount", [1.0, 0.99])
def test_weight_minus_one_undoes(kind: str, discount: float) -> None:
    before = taught(kind, discount=discount)
    x, arm, reward, p = rows(np.random.default_rng(6), 1)
    after = before.update(x, arm, reward, p).update(x, arm, reward, p, [-1.0])
    for name, value in before.statistics.items():
        assert np.allclose(value, after.statistics[name], rtol=0, atol=1e-9), name


@pytest.mark.parametrize("kind", ADDITIVE)
def test_a_provisional_zero_can_be_corrected(kind: str) -> None:
    x, arm, _, p = rows(np.random.default_rng(7), 1)
    provisional = taught(kind).update(x, arm, 0.0, p)
    later = provisional.update(*rows(np.random.default_rng(8), 9))
    corrected = later.update(np.vstack([x, x]), np.append(arm, arm), [0, 1], np.append(p, p), [-1, 1])
    straight = taught(kind).update(x, arm, 1.0, p).update(*rows(np.random.default_rng(8), 9))
    for name, value in straight.statistics.items():
        assert np.allclose(value, corrected.statistics[name], rtol=0, atol=1e-9), name


@pytest.mark.parametrize("kind", ADDITIVE)
def test_merged_learners_know_what_one_would(kind: str) -> None:
    base = taught(kind)
    one, two = rows(np.random.default_rng(9), 30), rows(np.random.default_rng(10), 20)
    merged = policies.merge_policies(base.update(*one), base.update(*two), base)
    straight = base.update(*one).update(*two)
    assert merged.seen == straight.seen
    for name, value in straight.statistics.items():
        assert np.allclose(value, merged.statistics[name], rtol=0, atol=1e-9), name


def test_arms_in_both_sets_keep_what_they_learnt(kind: str) -> None:
    policy = taught(kind)
    moved = policies.with_arms(policy, ("new", "d", "a"))
    back = policies.with_arms(moved, ("a", "d"))
    straight = policies.with_arms(policy, ("a", "d"))
    assert moved.arms == ("new", "d", "a")
    assert np.allclose(back.probabilities(np.ones(DIM)), straight.probabilities(np.ones(DIM)))
    assert policies.with_arms(policy, ARMS) is policy


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"reward": np.nan}, "not a finite number"),
        ({"p": 0.0}, r"\(0, 1\]"),
        ({"p": 1.5}, r"\(0, 1\]"),
        ({"arm": 6}, "between 0 and 5"),
        ({"arm": -1}, "between 0 and 5"),
        ({"arm": 0.5}, "integers"),
        ({"reward": [1.0, 0.0]}, "one reward for each"),
        ({"weight": np.inf}, "not a finite number"),
    ],
)
def test_a_record_that_cannot_be_learnt_is_refused_whole(kind: str, change: dict[str, Any], rule: str) -> None:
    policy = taught(kind)
    before = policies.dump_policy(policy)
    with pytest.raises(ValueError, match=rule):
        policy.update(**{"x": np.ones(DIM), "arm": 0, "reward": 1.0, "p": 0.5, **change})
    assert policies.dump_policy(policy) == before


def test_an_empty_mask_is_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match="no arm may be shown"):
        taught(kind).probabilities(np.ones(DIM), np.zeros(len(ARMS), bool))
    with pytest.raises(ValueError, match="one for each arm"):
        taught(kind).probabilities(np.ones(DIM), np.ones(2, bool))


def test_the_earlier_policy_stays_as_it_was(kind: str) -> None:
    policy = taught(kind)
    before = policies.dump_policy(policy)
    policy.probabilities(np.ones(DIM))
    policy.update(*rows(np.random.default_rng(11), 10))
    assert policies.dump_policy(policy) == before


def test_names_that_do_not_exist_are_answered_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="beta_thompson"):
        policies.make_policy("beta_tompson", ARMS)
    with pytest.raises(ValueError, match="epsilon"):
        policies.make_policy("epsilon_greedy", ARMS, epsilom=0.1)
    with pytest.raises(ValueError, match="each once"):
        policies.make_policy("uniform", ("a", "a"))
    with pytest.raises(ValueError, match="at least one number"):
        policies.make_policy("linear_thompson", ARMS)


def test_a_context_that_does_not_fit_is_refused() -> None:
    policy = taught("linear_thompson")
    with pytest.raises(ValueError, match="needs a context of shape"):
        policy.probabilities(np.ones(DIM + 1))
    with pytest.raises(ValueError, match="NaN"):
        policy.probabilities(np.array([1.0, np.nan, 0.0]))


@pytest.mark.parametrize("kind", [k for k in sorted(policies.KINDS) if policies.KINDS[k].contextual])
@pytest.mark.parametrize("size", [1e9, 1e20, 1e200, np.nan])
def test_a_number_too_large_to_compute_with_is_refused_both_ways(kind: str, size: float) -> None:
    policy, x = taught(kind), np.full(DIM, size)
    for use in (lambda: policy.probabilities(x), lambda: policy.expected(x), lambda: policy.update(x, 0, 1.0, 0.5)):
        with np.errstate(over="ignore"), pytest.raises(ValueError, match="x holds NaN, infinity or a number beyond"):
            use()


def test_a_reward_of_no_shop_is_refused_and_the_largest_allowed_leaves_probabilities(kind: str) -> None:
    policy = taught(kind)
    for reward in (1e13, 1e100, 1e300):
        with pytest.raises(ValueError, match="reward"):
            policy.update(np.ones(DIM), 0, reward, 0.5)
    try:
        policy.check_rewards(np.array([1e12]))
    except ValueError:
        return
    richest = policy.update(np.full(DIM, 1e7), 0, 1e12, 0.5)
    for x in (np.ones(DIM), np.full(DIM, 1e7)):
        assert richest.probabilities(x).sum() == pytest.approx(1)
        assert np.isfinite(richest.expected(x)).all()


def test_one_observation_may_come_with_all_propensities(kind: str) -> None:
    policy, x = taught(kind), np.ones(DIM)
    p = policy.probabilities(x)
    assert policies.dump_policy(policy.update(x, 2, 1.0, p)) == policies.dump_policy(policy.update(x, 2, 1.0, p[2]))
    with pytest.raises(ValueError, match="give one p for each"):
        policy.update(np.ones((1, DIM)), [2], [1.0], p)


def test_no_observations_change_nothing(kind: str) -> None:
    policy = taught(kind)
    assert policy.update([], [], [], []) is policy


@pytest.mark.parametrize(("name", "value"), [("dim", 2.5), ("dim", -1), ("seed", -1), ("seed", 0.5)])
def test_sizes_and_seeds_are_whole_numbers(kind: str, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} {value} is not a whole number"):
        policies.KINDS[kind](**({"arms": ARMS, "dim": DIM} | {name: value}))
