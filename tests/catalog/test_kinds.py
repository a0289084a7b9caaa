"""The policies that YAML may name are those that exist."""

from typing import get_args

from engine.catalog.spec.experiment import NOT_LEARNING, PolicyKind
from policies import KINDS


def test_every_policy_can_be_named_in_yaml() -> None:
    assert set(get_args(PolicyKind)) == set(KINDS)
    assert NOT_LEARNING in KINDS
