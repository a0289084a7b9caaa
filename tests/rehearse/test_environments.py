"""Policies in simulated shops: every environment can be made, and every policy can enter it."""

from typing import get_args

import msgspec
import pytest

from engine.catalog.spec.experiment import PolicySpec
from engine.cli.simulate import Name
from engine.rehearse.environments import ENVIRONMENTS, compare_policies


def test_every_environment_of_the_verb_is_made() -> None:
    assert set(ENVIRONMENTS) == set(get_args(Name))


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_a_policy_with_groups_and_attributes_enters_every_environment(name: str) -> None:
    related = {"kind": "linear_thompson", "pool": ["channel"], "attributes": ["tags.loyalty"]}
    specs = {
        "related": msgspec.convert(related, PolicySpec),
        "alone": PolicySpec(kind="linear_thompson"),
    }
    results = compare_policies(name, specs, rounds=120, runs=1, seed=3)
    assert {result.policy for result in results} == {"related", "alone", "uniform"}
    assert all(result.regret >= 0 for result in results)
