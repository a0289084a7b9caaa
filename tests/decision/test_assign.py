"""Who gets what and why: from the YAML through the plan to the assignment."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.decision.assign import AssignmentReason, assign
from tests.catalog.folder import Json, experiment, plan, subject

NOW = 1_790_000_000.0
UNITS = [f"u-{number}" for number in range(400)]
WEIGHTS = st.lists(st.integers(1, 20), min_size=2, max_size=5).map(lambda parts: [p / sum(parts) for p in parts])
SHARE = st.integers(0, 100).map(lambda percent: percent / 100)
SEED = st.text("abcdefgh-_0123", min_size=1, max_size=12)


def weighted(weights: list[float]) -> list[Json]:
    return [{"key": f"v{index}", "weight": weight} for index, weight in enumerate(weights)]


def variants(of: Any, key: str, now: float = NOW, **attributes: Any) -> list[int]:
    return [assign(of, of.experiments[key], subject(unit, **attributes), now).index for unit in UNITS]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(WEIGHTS, SHARE, SHARE, SEED)
def test_raising_coverage_moves_nobody(weights: list[float], one: float, two: float, seed: str) -> None:
    low, high = sorted((one, two))
    before = plan(experiment("x", seed=seed, variants=weighted(weights), coverage=low))
    after = plan(experiment("x", seed=seed, variants=weighted(weights), coverage=high))
    for had, has in zip(variants(before, "x"), variants(after, "x"), strict=True):
        assert had in {-1, has}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(WEIGHTS, st.lists(SHARE, min_size=1, max_size=4), SEED)
def test_a_ramp_only_lets_people_in(weights: list[float], steps: list[float], seed: str) -> None:
    days = [f"2026-01-0{day + 1}T00:00:00Z" for day in range(len(steps))]
    ramp = [{"at": at, "coverage": share} for at, share in zip(days, sorted(steps), strict=True)]
    of = plan(experiment("x", seed=seed, variants=weighted(weights), coverage=0, ramp=ramp))
    at = [1_767_225_600.0 + 86_400 * day - 1 for day in range(len(steps) + 1)]
    seen = [variants(of, "x", now) for now in at]
    assert set(seen[0]) == {-1}
    for before, after in pairwise(seen):
        assert all(had in {-1, has} for had, has in zip(before, after, strict=True))
    assert seen[-1] == variants(plan(experiment("x", seed=seed, variants=weighted(weights), coverage=max(steps))), "x")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(WEIGHTS, SEED, st.sampled_from([{"country": "DE"}, {"tier": {"$gte": 2}}, {"$or": [{"tier": 1}, {"age": 7}]}]))
def test_dropping_a_condition_moves_nobody(weights: list[float], seed: str, dropped: Json) -> None:
    kept = {"vip": True}
    before = plan(experiment("x", seed=seed, variants=weighted(weights), audience=kept | dropped))
    after = plan(experiment("x", seed=seed, variants=weighted(weights), audience=kept))
    for tier in (1, 3):
        seen = {"vip": True, "country": "AT" if tier == 1 else "DE", "tier": tier}
        for had, has in zip(variants(before, "x", **seen), variants(after, "x", **seen), strict=True):
            assert had in {-1, has}


EDGES = st.lists(st.integers(1, 999), min_size=1, max_size=4, unique=True).map(
    lambda cuts: [0.0, *(cut / 1000 for cut in sorted(cuts)), 1.0]
)


def layered(edges: list[float], *, stopped: int = -1) -> Any:
    keys = [f"x{index}" for index in range(len(edges) - 1)]
    reserve = {key: [low, high] for key, low, high in zip(keys, edges, edges[1:], strict=False)}
    files = {"layers": {"layers": [{"key": "l", "reserve": reserve}, {"key": "other"}]}}
    return plan(
        *(
            experiment(key, layer="l", status="stopped" if index == stopped else "running")
            for index, key in enumerate(keys)
        ),
        experiment("apart", layer="other"),
        **files,
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(EDGES)
def test_a_unit_is_in_at_most_one_experiment_of_a_layer(edges: list[float]) -> None:
    of = layered(edges)
    inside = np.array([variants(of, f"x{index}") for index in range(len(edges) - 1)]) >= 0
    assert (inside.sum(axis=0) == 1).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(EDGES, st.data())
def test_stopping_one_experiment_moves_nobody_in_another(edges: list[float], data: st.DataObject) -> None:
    stopped = data.draw(st.integers(0, len(edges) - 2))
    before, after = layered(edges), layered(edges, stopped=stopped)
    for key in before.experiments:
        if key != f"x{stopped}":
            assert variants(before, key) == variants(after, key)


def test_the_shares_fit_the_weights_and_layers_do_not_depend_on_each_other() -> None:
    weights = [0.5, 0.3, 0.2]
    of = plan(
        experiment("one", layer="l", variants=weighted(weights)),
        experiment("two", layer="m", variants=weighted(weights)),
        layers={"layers": [{"key": "l"}, {"key": "m"}]},
    )
    table = np.zeros((3, 3))
    for number in range(100_000):
        customer = subject(f"customer-{number}")
        table[tuple(assign(of, of.experiments[key], customer, NOW).index for key in ("one", "two"))] += 1
    expected = np.array(weights) * 100_000
    assert stats.chisquare(table.sum(axis=1), expected).pvalue > 0.001
    assert stats.chisquare(table.sum(axis=0), expected).pvalue > 0.001
    assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_place_in_a_layer_does_not_depend_on_the_variant(share: float) -> None:
    of = plan(
        experiment("one", layer="l", coverage=0.8),
        experiment("two", layer="l"),
        layers={"layers": [{"key": "l", "reserve": {"one": [0, share], "two": [share, 1]}}]},
    )
    counts = np.zeros(3)
    for number in range(100_000):
        counts[assign(of, of.experiments["one"], subject(f"customer-{number}"), NOW).index] += 1
    inside = 0.4 * share
    assert stats.chisquare(counts, 100_000 * np.array([inside, inside, 1 - 2 * inside])).pvalue > 0.001


def test_membership_in_one_layer_does_not_depend_on_the_other() -> None:
    of = plan(
        experiment("one", layer="l"),
        experiment("two", layer="m"),
        layers={"layers": [{"key": key, "reserve": {x: [0, 0.5]}} for key, x in (("l", "one"), ("m", "two"))]},
    )
    table = np.zeros((2, 2))
    for number in range(100_000):
        customer = subject(f"customer-{number}")
        table[tuple(int(assign(of, of.experiments[key], customer, NOW).index >= 0) for key in ("one", "two"))] += 1
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_global_holdout_shuts_out_of_experiments_and_not_of_flags() -> None:
    of = plan(
        experiment("x"),
        experiment("y", seed="another", layer="l"),
        experiment("flag", kind="flag", variants=[{"key": "on"}]),
        layers={"layers": [{"key": "l"}], "holdouts": [{"key": "all", "share": 0.1}]},
    )
    held = [at < 0 for at in variants(of, "x")]
    assert held == [at < 0 for at in variants(of, "y")]
    assert 20 < sum(held) < 65  # 400 units at 0.1: 40, within four standard deviations (6)
    assert set(variants(of, "flag")) == {0}


def test_a_tagged_holdout_shuts_out_of_what_has_its_tag() -> None:
    of = plan(
        experiment("x", tags=["pricing"]),
        experiment("y"),
        layers={"holdouts": [{"key": "prices", "share": 1, "tags": ["pricing", "shipping"]}]},
    )
    customer = subject("u-1")
    assert assign(of, of.experiments["x"], customer, NOW).reason == "holdout"
    assert assign(of, of.experiments["y"], customer, NOW).reason == "assigned"


def test_a_holdout_of_customers_holds_in_an_experiment_of_devices() -> None:
    of = plan(experiment("x", unit="device"), layers={"holdouts": [{"key": "all", "share": 0.5}]})
    got = [assign(of, of.experiments["x"], subject("u-7", device=f"d-{n}"), NOW).reason for n in range(50)]
    assert len(set(got)) == 1


def test_a_prerequisite_lets_in_those_with_its_variant() -> None:
    of = plan(
        experiment("first"),
        experiment("second", seed="s2", prerequisites=[{"experiment": "first", "variants": ["b"]}]),
        experiment("third", seed="s3", prerequisites=[{"experiment": "second", "variants": ["a", "b"]}]),
    )
    first, second, third = (variants(of, key) for key in ("first", "second", "third"))
    assert [at >= 0 for at in second] == [at == 1 for at in first]
    assert [at >= 0 for at in third] == [at >= 0 for at in second]


REASONS: dict[AssignmentReason, tuple[Json, Json]] = {
    "assigned": ({}, {}),
    "forced": ({"force": [{"customers": ["u-1"], "variant": "b"}], "coverage": 0}, {}),
    "sticky": ({"sticky": True, "coverage": 0}, {"held": {"x__0": "b"}}),
    "version": ({"sticky": True, "min_bucket_version": 1, "bucket_version": 1}, {"held": {"x__0": "b"}}),
    "holdout": ({"tags": ["held"]}, {}),
    "layer": ({"filters": [{"seed": "f", "ranges": [[0, 0]]}]}, {}),
    "prerequisite": ({"prerequisites": [{"experiment": "never", "variants": ["a"]}]}, {}),
    "audience": ({"audience": {"country": "DE"}}, {"country": "AT"}),
    "coverage": ({"coverage": 0}, {}),
    "unit": ({"unit": "store"}, {}),
    "paused": ({"status": "paused"}, {}),
    "not_started": ({"start": "2090-01-01T00:00:00Z"}, {}),
    "ended": ({"end": "2020-01-01T00:00:00Z"}, {}),
    "shipped": ({"status": "shipped", "ship": "b", "coverage": 0, "end": "2020-01-01T00:00:00Z"}, {}),
    "rule": ({"kind": "flag", "rules": [{"variant": "a"}], "default": "b"}, {}),
    "default": ({"kind": "flag", "rules": [{"audience": {"vip": True}, "variant": "a"}], "default": "b"}, {}),
    "degraded": ({}, {"degraded": True}),
    "preview": ({"status": "paused", "audience": {"vip": True}}, {"preview": {"x": "b"}}),
}


def test_the_table_has_every_reason_that_assign_gives() -> None:
    assert set(REASONS) == set(get_args(AssignmentReason)) - {"channel"}


@pytest.mark.parametrize("reason", REASONS)
def test_every_exit_has_its_reason(reason: AssignmentReason) -> None:
    fields, attributes = dict(REASONS[reason][0]), dict(REASONS[reason][1])
    of = plan(
        experiment("x", **fields),
        experiment("never", status="stopped"),
        layers={"holdouts": [{"key": "h", "share": 1, "tags": ["held"]}]},
    )
    held, degraded = attributes.pop("held", {}), attributes.pop("degraded", False)
    forced = attributes.pop("preview", {})
    customer = msgspec.structs.replace(subject("u-1", **attributes), sticky=held, degraded=degraded, preview=forced)
    got = assign(of, of.experiments["x"], customer, NOW)
    assert got.reason == reason
    assert (got.index >= 0) is (reason in {"assigned", "forced", "preview", "sticky", "rule", "default", "shipped"})
    if reason in {"forced", "preview", "sticky"}:
        assert (got.index, got.unit) == (1, "u-1")


def test_the_kill_switch_pauses_a_running_experiment() -> None:
    of = replace(plan(experiment("x")), paused=frozenset({"x"}))
    assert assign(of, of.experiments["x"], subject("u-1"), NOW).reason == "paused"


def test_an_experiment_runs_from_its_start_until_before_its_end() -> None:
    of = plan(experiment("x", start="2026-01-01T00:00:00Z", end="2026-01-02T00:00:00+00:00"))
    begin = 1_767_225_600.0
    times = {begin - 1: "not_started", begin: "assigned", begin + 86_399: "assigned", begin + 86_400: "ended"}
    assert {at: assign(of, of.experiments["x"], subject("u-1"), at).reason for at in times} == times


def test_units_are_devices_and_stores_and_their_fallback() -> None:
    of = plan(
        experiment("customers", seed="s"),
        experiment("devices", seed="s", unit="device", fallback_unit="customer"),
        experiment("stores", seed="s", unit="store"),
    )
    customer = subject("u-1", device="d-1", store="S12")
    assert [assign(of, of.experiments[key], customer, NOW).unit for key in of.experiments] == ["u-1", "d-1", "S12"]
    without = subject("u-1")
    assert assign(of, of.experiments["devices"], without, NOW) == assign(of, of.experiments["customers"], without, NOW)
    as_store = assign(of, of.experiments["stores"], subject("u-1", store="u-1"), NOW)
    assert as_store == assign(of, of.experiments["customers"], subject("u-1"), NOW)


def test_own_ranges_and_filters_decide_in_place_of_weights() -> None:
    ranges = [{"key": "a", "range": [0.9, 1]}, {"key": "b", "range": [0, 0.2]}]
    of = plan(
        experiment("x", seed="s", variants=ranges),
        experiment("y", seed="s", filters=[{"seed": "s", "ranges": [[0, 0.1], [0.2, 0.4]]}]),
    )
    for unit in UNITS:
        place = of.experiments["x"].hash_unit(unit)
        customer = subject(unit)
        assert assign(of, of.experiments["x"], customer, NOW).index == (0 if place >= 0.9 else 1 if place < 0.2 else -1)
        inside = place < 0.1 or 0.2 <= place < 0.4
        assert (assign(of, of.experiments["y"], customer, NOW).index >= 0) is inside


def test_a_group_is_a_list_of_values() -> None:
    groups = {"segments": [{"key": "staff", "values": ["u-1", "u-2"]}]}
    of = plan(experiment("x", audience={"id": {"$inGroup": "staff"}}), segments=groups)
    got = {unit: assign(of, of.experiments["x"], subject(unit, id=unit), NOW).reason for unit in ("u-1", "u-3")}
    assert got == {"u-1": "assigned", "u-3": "audience"}
