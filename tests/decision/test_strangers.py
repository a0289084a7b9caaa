"""What a request without any id may know: nothing that is settled customer by customer."""

import json
from typing import Any

import pytest

from engine.catalog.check.load import build_specs
from engine.catalog.plan.compile import compile_plan
from engine.decision.assign import is_same_for_everyone

NOW = 1_790_000_000.0
ONE: dict[str, Any] = {"kind": "flag", "variants": [{"key": "on", "weight": 1}]}
TWO: dict[str, Any] = {"kind": "flag", "variants": [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.5}]}
OPEN: dict[str, Any] = {"seed": "part", "ranges": [[0, 0.5]]}
NEEDED: dict[str, Any] = {"prerequisites": [{"experiment": "needed", "variants": ["on"]}]}


@pytest.mark.parametrize(
    ("spec", "store", "same"),
    [
        (ONE, None, True),
        (TWO, None, False),
        (ONE | {"coverage": 0.5}, None, False),
        (ONE | {"sticky": True}, None, False),
        (ONE | NEEDED, None, False),
        (ONE | {"filters": [OPEN]}, None, False),
        (ONE | {"filters": [OPEN | {"unit": "device"}]}, None, False),
        (TWO | {"unit": "store"}, "store-1", True),
        (TWO | {"unit": "store"}, None, False),
        (TWO | {"unit": "store"}, "", False),
        (TWO | {"unit": "store"} | NEEDED, "store-1", False),
        (TWO | {"unit": "store", "filters": [OPEN]}, "store-1", True),
        (TWO | {"unit": "store", "filters": [OPEN | {"unit": "customer"}]}, "store-1", False),
        (ONE | {"sticky": True, "status": "paused"}, None, True),
    ],
)
def test_only_what_needs_no_customer_is_the_same_for_everyone(
    spec: dict[str, Any], store: str | None, *, same: bool
) -> None:
    files: dict[str, Any] = {
        "channels.yaml": {"channels": [{"key": "web"}], "placements": []},
        "metrics.yaml": {"metrics": [{"key": "click", "event": "click"}]},
        "needed.yaml": {"key": "needed", **ONE},
        "asked.yaml": {"key": "asked", **spec},
    }
    plan = compile_plan(build_specs("shop", {name: json.dumps(value).encode() for name, value in files.items()}))
    assert is_same_for_everyone(plan, plan.experiments["asked"], {"store"} if store else (), NOW) is same
