"""GrowthBook's `run` and `stickyBucket` cases through the adapter, where they lie beside the checkout."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.adapter import Imported

FILE = Path(__file__).parents[2].parent / "shared" / "conformance" / "growthbook" / "cases.json"
CASES: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}

NOT_OURS = {
    "single variation": "`check` refuses an experiment of one variant; a flag may have one",
    "negative forced variation": "`check` refuses to force a variant that is not there",
    "high forced variation": "`check` refuses to force a variant that is not there",
    "querystring force": "a decision has no page address; testers are forced by name",
    "querystring force with inactive": "a decision has no page address; testers are forced by name",
    "coverage take precendence over forced": "`force` names testers, and no coverage shuts them out",
}
"""Cases that cannot apply, each with its reason."""

pytestmark = pytest.mark.skipif(not CASES, reason="GrowthBook's cases are not beside this checkout")


@pytest.mark.parametrize("case", [pytest.param(c, id=c[0]) for c in CASES.get("run", []) if c[0] not in NOT_OURS])
def test_run(case: list[Any]) -> None:
    _, context, experiment, value, inside, hashed = case
    imported = Imported(experiment, context)
    if not context.get("enabled", True):
        imported.plan = replace(imported.plan, paused=frozenset({experiment["key"]}))
    got = imported.run()
    assert (got.index >= 0) is inside
    assert imported.spec.variants[max(got.index, 0)].payload["value"] == value
    assert (got.reason in {"assigned", "sticky"}) is hashed


@pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in CASES.get("stickyBucket", [])])
def test_sticky_bucket(case: list[Any]) -> None:
    _, context, documents, feature, expected, documents_after = case
    rule = {"key": feature, **context["features"][feature]["rules"][0]}
    imported = Imported(rule, context, documents)
    got = imported.run()
    if expected is None:
        assert got.index < 0
    else:
        assert imported.spec.variants[got.index].key == expected["key"]
        assert imported.spec.variants[got.index].payload["value"] == expected["value"]
        assert got.unit == expected["hashValue"]
        assert (got.reason == "sticky") is expected["stickyBucketUsed"]
    stored = imported.documents_after(got)
    assert {place: stored[place] for place in documents_after} == documents_after


def test_every_case_left_out_is_there() -> None:
    assert set(NOT_OURS) <= {case[0] for case in CASES["run"]}
