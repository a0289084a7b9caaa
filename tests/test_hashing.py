import json
import math
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.hashing import (
    bucket,
    bucket_ranges,
    choose_variant,
    equal_weights,
    in_namespace,
    seeded_bucket,
    uniform_draw,
    variant_lookup,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "hashing_growthbook.json").read_text())
IDS = [f"u-{number}" for number in range(100_000)]

texts = st.text(max_size=80) | st.text(alphabet=st.characters(), max_size=20)
shares = st.lists(st.integers(1, 20), min_size=1, max_size=6).map(lambda n: [part / sum(n) for part in n])


def fnv1a32(text: str) -> int:
    state = 0x811C9DC5
    data = text.encode("utf-16-le", "surrogatepass")
    for low, high in zip(data[::2], data[1::2], strict=True):
        state = (state ^ (low | high << 8)) * 0x01000193 % 2**32
    return state


@pytest.mark.parametrize("case", VECTORS["bucket"], ids=repr)
def test_bucket_is_what_the_javascript_sdk_gives(case: list[Any]) -> None:
    seed, unit, version, expected = case
    assert bucket(seed, unit, version) == expected


@pytest.mark.parametrize("case", VECTORS["bucket_ranges"], ids=repr)
def test_ranges_are_those_of_the_javascript_sdk(case: list[Any]) -> None:
    n, coverage, weights, expected = case
    assert bucket_ranges(n, coverage, weights) == [tuple(part) for part in expected]


@pytest.mark.parametrize("case", VECTORS["in_namespace"], ids=repr)
def test_namespaces_are_those_of_the_javascript_sdk(case: list[Any]) -> None:
    unit, namespace, expected = case
    assert in_namespace(unit, tuple(namespace)) is expected


@pytest.mark.parametrize("case", VECTORS["choose_variant"], ids=repr)
def test_the_variant_is_that_of_the_javascript_sdk(case: list[Any]) -> None:
    place, ranges, expected = case
    assert choose_variant(place, ranges) == expected


@settings(deadline=None)
@given(texts, texts)
def test_bucket_is_its_formula_over_utf16_units(seed: str, unit: str) -> None:
    assert bucket(seed, unit) == fnv1a32(str(fnv1a32(seed + unit))) % 10_000 / 10_000
    assert bucket(seed, unit, 1) == fnv1a32(unit + seed) % 1_000 / 1_000
    assert seeded_bucket(seed)(unit) == bucket(seed, unit)


ranges_of_any_kind = st.lists(
    st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2)) | st.integers(0, 10_000).map(lambda n: (n / 10_000, 0.8)),
    max_size=4,
)


@settings(deadline=None)
@given(ranges_of_any_kind, st.text(max_size=8), st.lists(texts, min_size=20, max_size=20))
def test_the_lookup_of_a_variant_equals_the_plain_way(
    ranges: list[tuple[float, float]], seed: str, units: list[str]
) -> None:
    assign = variant_lookup(seed, ranges)
    assert [assign(unit) for unit in units] == [choose_variant(bucket(seed, unit), ranges) for unit in units]


def test_every_place_at_every_edge_has_its_variant() -> None:
    places = {bucket("edges", unit): unit for unit in IDS}
    assert len(places) > 9_990
    for weights, coverage in [([0.5, 0.5], 1), ([1 / 3] * 3, 0.37), ([0.1, 0.2, 0.7], 0.9999), ([0.29, 0.71], 0.57)]:
        ranges = bucket_ranges(len(weights), coverage, weights)
        assign = variant_lookup("edges", ranges)
        assert all(assign(unit) == choose_variant(place, ranges) for place, unit in places.items())


def test_an_unknown_hash_version_has_no_place() -> None:
    assert bucket("seed", "u-7", 3) is None


@settings(deadline=None)
@given(shares, st.floats(0, 1), st.floats(0, 1), st.integers(0, 9_999))
def test_raising_coverage_moves_nobody(weights: list[float], one: float, other: float, place: int) -> None:
    low, high = sorted((one, other))
    before = choose_variant(place / 10_000, bucket_ranges(len(weights), low, weights))
    after = choose_variant(place / 10_000, bucket_ranges(len(weights), high, weights))
    assert before in {-1, after}


@settings(deadline=None)
@given(shares, st.floats(0, 1))
def test_ranges_lie_apart_and_cover_what_they_should(weights: list[float], coverage: float) -> None:
    ranges = bucket_ranges(len(weights), coverage, weights)
    assert sum(high - low for low, high in ranges) == pytest.approx(coverage)
    for (_, high), (low, _) in pairwise(ranges):
        assert high <= low + 1e-12


def test_equal_weights_sum_to_one() -> None:
    assert equal_weights(0) == equal_weights(-1) == []
    assert all(math.isclose(sum(equal_weights(n)), 1) for n in range(1, 50))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.1, 0.2, 0.7], [0.9, 0.1], equal_weights(7)])
@pytest.mark.parametrize("seed", ["checkout_layout", "実験"])
def test_shares_fit_their_weights(weights: list[float], seed: str) -> None:
    place = seeded_bucket(seed)
    ranges = bucket_ranges(len(weights), 1, weights)
    counts = [0] * len(weights)
    for unit in IDS:
        counts[choose_variant(place(unit), ranges)] += 1
    assert stats.chisquare(counts, [weight * len(IDS) for weight in weights]).pvalue > 0.001


def test_seeds_are_independent_of_each_other() -> None:
    ranges = bucket_ranges(2)
    chosen = {
        seed: [choose_variant(place(unit), ranges) for unit in IDS]
        for seed, place in ((seed, seeded_bucket(seed)) for seed in ("a", "b", "layer:checkout", "layer:home"))
    }
    for one, other in combinations(chosen, 2):
        table = [[0, 0], [0, 0]]
        for left, right in zip(chosen[one], chosen[other], strict=True):
            table[left][right] += 1
        assert stats.chi2_contingency(table).pvalue > 0.001, (one, other)


def test_the_draw_of_a_decision_is_uniform_and_its_own_for_every_placement() -> None:
    home = [uniform_draw(unit, "home_hero") for unit in IDS]
    basket = [uniform_draw(unit, "basket") for unit in IDS]
    assert all(0 <= draw < 1 for draw in home)
    assert stats.kstest(home, "uniform").pvalue > 0.001
    assert abs(stats.pearsonr(home, basket).statistic) < 4 / math.sqrt(len(IDS))


def test_a_draw_can_be_replayed_and_borders_between_its_texts_count() -> None:
    assert uniform_draw("5b19c7cf", "home_hero") == 0.3458684514923135
    assert uniform_draw("ab", "c") != uniform_draw("a", "bc")
    assert uniform_draw("1:a", "b") != uniform_draw("1", ":ab")
