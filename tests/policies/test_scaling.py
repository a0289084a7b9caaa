"""The unit and the zero of a feature, and a feature that never varies, change nothing."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from policies.simulate import Environment, play

ARMS = tuple("abcd")
CONTEXTUAL = sorted(kind for kind, policy in policies.KINDS.items() if policy.contextual)
TRAITS = {arm: (1.0, 0.3 * place) for place, arm in enumerate((*ARMS, "e"))}
STORED = json.loads((Path(__file__).parents[1] / "vectors" / "policy_states.json").read_text())


def taught(kind: str, x: np.ndarray, **parameters: Any) -> Any:
    """A policy after 120 observations in four batches, whose third arm gains from the feature."""
    random = np.random.default_rng(3)
    arm, u = random.integers(0, 4, len(x)), random.random(len(x))
    reward = (u < 0.3 + 0.25 * feature(len(x)) * (arm == 2)).astype(float)
    policy = policies.make_policy(kind, ARMS, x.shape[1], **parameters)
    for rows in np.array_split(np.arange(len(x)), 4):
        policy = policy.update(x[rows], arm[rows], reward[rows], np.full(rows.size, 0.25))
    return policy


def feature(n: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(5).uniform(-1, 1, n))


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(CONTEXTUAL),
    unit=st.sampled_from([1e-3, 0.5, 60.0, 2000.0, 1e5]),
    zero=st.sampled_from([0.0, -3.0, 0.5, 40.0]),
    constant=st.sampled_from([None, 0.0, 1.0, -250.0]),
    shape=st.sampled_from(["plain", "pool", "traits", "pool and traits"]),
)
def test_unit_zero_and_constants_of_features_change_no_probability(
    kind: str, unit: float, zero: float, constant: float | None, shape: str
) -> None:
    pool, traits = "pool" in shape, "traits" in shape
    group = [np.random.default_rng(6).integers(0, 2, 120)] if pool else []
    parameters: dict[str, Any] = {"pool": 2} if pool else {}
    ours_more = parameters | ({"traits": TRAITS} if traits else {})
    other_traits = {arm: (1.0, unit * (trait + zero)) for arm, (_, trait) in TRAITS.items()}
    theirs_more = parameters | ({"traits": other_traits} if traits else {})
    more = [] if constant is None else [np.full(120, constant)]
    plain = taught(kind, np.column_stack([np.ones(120), feature(120), *group]), **ours_more)
    scaled = unit * (feature(120) + zero)
    other = taught(kind, np.column_stack([np.ones(120), scaled, *more, *group]), **theirs_more)
    for value in (-0.9, 0.1, 0.8):
        ours = [1.0, value, *([0.0] if pool else [])]
        theirs = [1.0, unit * (value + zero), *([constant] if more else []), *([0.0] if pool else [])]
        assert other.expected(theirs) == pytest.approx(plain.expected(ours), abs=1e-3)
        if not (traits and more):  # draws of common coefficients are as many as features
            assert other.probabilities(theirs) == pytest.approx(plain.probabilities(ours), abs=0.05)


def shop(unit: float = 1.0, zero: float = 0.0, constant: float | None = None) -> Environment:
    """Clicks that depend on one feature, uniform in [0, 1) before unit and zero."""
    random = np.random.default_rng(11)
    u, level, slope = random.random(600), random.normal(size=4), random.normal(size=4)
    means = 1 / (1 + np.exp(1.5 - 0.4 * level - 2.0 * slope * (2 * u[:, None] - 1)))
    columns = [np.ones(600), unit * (u + zero), *([] if constant is None else [np.full(600, constant)])]
    return Environment(ARMS, np.column_stack(columns), means, random.random(600))


@pytest.mark.parametrize("kind", CONTEXTUAL)
def test_regret_does_not_depend_on_the_scale_of_a_feature(kind: str) -> None:
    shops = (shop(), shop(unit=2000.0), shop(zero=3.0), shop(zero=30_000.0), shop(constant=7.0))
    regrets = [play(policies.make_policy(kind, ARMS, one.x.shape[1]), one).regret.sum() for one in shops]
    uniform = play(policies.make_policy("uniform", ARMS), shop()).regret.sum()
    assert regrets == pytest.approx([regrets[0]] * len(shops), rel=0.1)
    assert regrets[0] < 0.6 * uniform


@pytest.mark.parametrize("kind", CONTEXTUAL)
def test_a_category_that_comes_late_is_learnt_at_once(kind: str) -> None:
    random = np.random.default_rng(7)
    n, late = 2100, 2000
    x, arm = np.column_stack([np.ones(n), np.arange(n) >= late]), random.integers(0, 4, n)
    reward = (random.random(n) < np.where((arm == 1) & (x[:, 1] > 0), 0.95, 0.1)).astype(float)
    policy = policies.make_policy(kind, ARMS, 2).update(x, arm, reward, np.full(n, 0.25))
    assert policy.probabilities([1.0, 1.0]).argmax() == 1
    assert policy.expected([1.0, 1.0])[1] > 0.5
    assert policy.expected([1.0, 0.0]) == pytest.approx(np.full(4, 0.1), abs=0.06)


@pytest.mark.parametrize("kind", CONTEXTUAL)
def test_learners_that_scale_apart_add_up(kind: str) -> None:
    x = np.column_stack([np.ones(240), 500 + 100 * feature(240)])
    arm, reward = np.arange(240) % 4, (feature(240) > 0.4).astype(float)
    base = policies.make_policy(kind, ARMS, 2)
    halves = [
        base.update(x[half], arm[half], reward[half], np.full(120, 0.25)) for half in (slice(120), slice(120, None))
    ]
    merged = policies.merge_policies(*halves, base)
    one = base.update(x, arm, reward, np.full(240, 0.25))
    for at in ([1.0, 420.0], [1.0, 580.0]):
        assert merged.expected(at) == pytest.approx(one.expected(at), abs=0.05)
    for whole in (policies.merge_policies(one, base, base), policies.merge_policies(base, one, base)):
        assert whole.scaling == one._rescaled().scaling


@pytest.mark.parametrize("trait", [(), (50.0, 60.0, 70.0, 80.0, 65.0)])
def test_what_leaving_arms_taught_survives_another_scale(trait: tuple[float, ...]) -> None:
    """The arms left while the feature was near 3; it moves to 40 afterwards."""
    n = 400
    early = np.column_stack([np.ones(n), 3 + 0.5 * feature(n)])
    late = np.column_stack([np.ones(n), 40 + 5 * feature(n)])
    arm = np.arange(n) % 4
    names = (*ARMS, "e")
    traits = {arm: (1.0, trait[place]) if trait else (1.0,) for place, arm in enumerate(names)}
    policy = policies.make_policy("linear_thompson", names, 2, traits=traits)
    policy = policy.update(early, arm, 0.2 * early[:, 1], np.full(n, 0.2))
    alone = policies.with_arms(policy, ("e",))
    assert alone.expected([1.0, 3.2])[0] == pytest.approx(policy.expected([1.0, 3.2])[4], abs=0.001)
    moved = alone.update(late, np.zeros(n, int), 0.2 * late[:, 1], np.ones(n))
    assert moved.expected([1.0, 44.0])[0] == pytest.approx(8.8, abs=0.1)
    assert moved.expected([1.0, 3.2])[0] == pytest.approx(0.64, abs=0.1)


@pytest.mark.parametrize("stored", [one for one in STORED if one["kind"] in CONTEXTUAL])
def test_a_state_of_before_is_standardized_from_its_next_observation(stored: dict[str, Any]) -> None:
    policy: Any = policies.load_policy(base64.b64decode(stored["state"]))
    assert policy.scaling == ()
    context = np.array(stored["context"])
    after = policy.update(context, 0, 0.0, 0.5)
    assert bool(after.scaling) == policy.tune
    again = policies.load_policy(policies.dump_policy(after))
    assert np.array_equal(again.probabilities(context), after.probabilities(context))
    assert after.expected(context) == pytest.approx(policy.expected(context), abs=0.25)
