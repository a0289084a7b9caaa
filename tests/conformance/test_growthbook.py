"""GrowthBook's public conformance cases, where they lie beside the checkout."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.catalog.conditions.compile import compile_condition
from engine.hashing import bucket, bucket_ranges, choose_variant, equal_weights, in_namespace

FILE = Path(__file__).parents[2].parent / "shared" / "conformance" / "growthbook" / "cases.json"
CASES: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}

pytestmark = pytest.mark.skipif(not CASES, reason="GrowthBook's cases are not beside this checkout")


def cases(of: str) -> list[Any]:
    return [pytest.param(case, id=str(case[0])) for case in CASES.get(of, [])]


@pytest.mark.parametrize("case", cases("hash"))
def test_hash(case: list[Any]) -> None:
    seed, unit, version, expected = case
    assert bucket(seed, unit, version) == expected


@pytest.mark.parametrize("case", cases("getBucketRange"))
def test_bucket_ranges(case: list[Any]) -> None:
    _, (n, coverage, weights), expected = case
    ranges = bucket_ranges(n, coverage, weights)
    assert len(ranges) == len(expected)
    for got, wanted in zip(ranges, expected, strict=True):
        assert got == pytest.approx(wanted)


@pytest.mark.parametrize("case", cases("chooseVariation"))
def test_choose_variant(case: list[Any]) -> None:
    _, place, ranges, expected = case
    assert choose_variant(place, ranges) == expected


@pytest.mark.parametrize("case", cases("inNamespace"))
def test_in_namespace(case: list[Any]) -> None:
    _, unit, namespace, expected = case
    assert in_namespace(unit, tuple(namespace)) is expected


@pytest.mark.parametrize("case", cases("getEqualWeights"))
def test_equal_weights(case: list[Any]) -> None:
    n, expected = case
    assert equal_weights(n) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("case", cases("evalCondition"))
def test_conditions(case: list[Any]) -> None:
    _, condition, traits, expected, *groups = case
    assert compile_condition(condition, *groups)(traits) is expected
