"""The registries of kinds and the names that YAML may use are the same."""

from typing import get_args

import msgspec
import pytest

from engine.catalog.spec.experiment import NOT_LEARNING, MetricSpec, PolicyKind
from engine.catalog.spec.metric_kinds import METRIC_KINDS, MetricKindName
from policies import KINDS


def test_every_policy_can_be_named_in_yaml() -> None:
    assert set(get_args(PolicyKind)) == set(KINDS)
    assert NOT_LEARNING in KINDS


def test_every_kind_of_metric_has_its_rules() -> None:
    assert set(get_args(MetricKindName)) == set(METRIC_KINDS)


@pytest.mark.parametrize("rules", METRIC_KINDS.values(), ids=METRIC_KINDS)
def test_a_required_key_is_a_key_of_metrics(rules: object) -> None:
    required = getattr(rules, "required", None)
    assert required is None or required in {field.name for field in msgspec.structs.fields(MetricSpec)}
