"""The hashes of other systems give the places that their own libraries give, and rules and filters use them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from engine.catalog.diff.experiments import compare_specs
from engine.catalog.plan.peer_hashing import murmur3, murmur3_long, peer_place
from engine.decision.assign import assign
from tests.catalog.folder import plan, specs, subject

CASES: list[list[Any]] = json.loads(Path("tests/vectors/hashing_peers.json").read_text(encoding="utf-8"))["cases"]


def test_murmur3_gives_its_published_values() -> None:
    assert [murmur3(b""), murmur3(b"", 1), murmur3(b"test"), murmur3(b"Hello, world!", 0x9747B28C)] == [
        0x00000000,
        0x514E28B7,
        0xBA6BD213,
        0x24884CBA,
    ]


def test_murmur3_of_128_bits_gives_its_published_values() -> None:
    fox = b"The quick brown fox jumps over the lazy dog"
    assert [murmur3_long(data) for data in (b"", b"hello", fox)] == [0, 0xCBD8A7B341BD9B02, 0xE34BBC7BBC071B6C]


@pytest.mark.parametrize(("name", "seed", "buckets", "unit", "place"), CASES, ids=str)
def test_a_unit_has_the_place_that_the_other_system_gives(
    name: Any, seed: str, buckets: int | None, unit: str, place: float
) -> None:
    assert math.isclose(peer_place(name, seed, buckets)(unit), place, abs_tol=1e-12)


def test_no_place_is_1() -> None:
    for name in ("launchdarkly", "flagsmith", "eppo", "unleash", "confidence"):
        place = peer_place(name, "s")
        assert all(0 <= place(f"u-{number}") < 1 for number in range(20_000))


def test_a_rule_and_its_filters_have_hashes_of_their_own() -> None:
    admitted = {"seed": "group", "hash": "unleash", "ranges": [[0, 0.3]]}
    halves = [{"key": "a", "range": [0, 0.5]}, {"key": "b", "range": [0.5, 1]}]
    split = {"variants": halves, "seed": "f", "hash": "unleash_variants", "filters": [admitted]}
    shop = plan({"key": "f", "kind": "flag", "default": "a", "rules": [split]})
    rollout, variants = peer_place("unleash", "group"), peer_place("unleash_variants", "f")
    for unit in (f"u-{number}" for number in range(500)):
        found = assign(shop, shop.experiments["f"], subject(unit), 0.0)
        expected = ("assigned", int(variants(unit) >= 0.5)) if rollout(unit) < 0.3 else ("default", 0)
        assert (found.reason, found.index) == expected


def test_another_hash_assigns_everyone_again() -> None:
    flag = {"key": "f", "kind": "flag", "default": "a", "rules": [{"key": "r", "variant": "b", "coverage": 0.5}]}
    other = {**flag, "rules": [{"key": "r", "variant": "b", "coverage": 0.5, "hash": "eppo"}]}
    found = [(one.path, one.verdict) for one in compare_specs(specs(flag), specs(other), 0.0)]
    assert ("rules.r.hash", "unsafe") in found
