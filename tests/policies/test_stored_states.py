"""States that an earlier release stored are read, choose as they did, and are written as the same bytes."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import policies

STORED = json.loads((Path(__file__).parents[1] / "vectors" / "policy_states.json").read_text())


@pytest.mark.parametrize("stored", STORED, ids=[f"{one['kind']}-{'-'.join(one['parameters'])}" for one in STORED])
def test_a_stored_state_is_read_as_it_was_written(stored: dict[str, Any]) -> None:
    data = base64.b64decode(stored["state"])
    policy = policies.load_policy(data)
    context = np.array(stored["context"]) if policy.contextual else None
    assert (policy.kind, policy.seen) == (stored["kind"], stored["seen"])
    np.testing.assert_allclose(policy.probabilities(context), stored["probabilities"], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(policy.expected(context), stored["expected"], rtol=1e-5, atol=1e-9)
    assert policies.dump_policy(policy) == data


def test_every_kind_has_a_stored_state() -> None:
    assert {one["kind"] for one in STORED} == policies.KINDS.keys()
