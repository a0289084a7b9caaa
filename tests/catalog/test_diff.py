"""The class of each change, and its truth: a change classed as safe moves nobody and removes nobody."""

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from engine.catalog.diff.experiments import compare_specs
from engine.catalog.plan.compile import compile_plan
from engine.catalog.spec.folder import Specs
from engine.customer import Profile, Trait
from engine.errors import CatalogError
from engine.rehearse.variant_moves import VariantMove, count_moves
from tests.catalog.folder import Json, experiment, specs

NOW = 1_790_000_000.0  # 2026-09-21
PAST, LATER, LATEST = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"
WEIGHTED = [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.5}]
UNEVEN = [{"key": "a", "weight": 0.4}, {"key": "b", "weight": 0.6}]
RANGES = [{"key": "a", "range": [0, 0.2]}, {"key": "b", "range": [0.5, 0.7]}]
WIDER = [{"key": "a", "range": [0, 0.3]}, {"key": "b", "range": [0.5, 0.7]}]
MOVED = [{"key": "a", "range": [0.1, 0.3]}, {"key": "b", "range": [0.5, 0.7]}]
SHOWN = [{"key": "a", "weight": 0.5, "payload": {"colour": "red"}}, WEIGHTED[1]]
NEEDS = [{"experiment": "first", "variants": ["a"]}]
GUARDED = {"primary": "click", "guardrails": ["csat"]}
EXPLORED = {"primary": "click", "secondary": ["csat"]}
FILTER = [{"seed": "f", "ranges": [[0, 0.5]]}]

HALF: Json = {"key": "half", "coverage": 0.7, "variant": "b"}
FLAG: Json = {
    "kind": "flag",
    "default": "a",
    "rules": [{"key": "vips", "audience": {"vip": True}, "variant": "b"}, HALF | {"coverage": 0.5}],
}
SEEN = {"table": "seen", "at": "warehouse", "customer": "cid", "variant": "arm", "time": "seen_at"}
FIELDS: list[tuple[str, Json, Json, str, str]] = [
    ("higher coverage", {"coverage": 0.2}, {"coverage": 0.3}, "coverage", "safe"),
    ("lower coverage", {"coverage": 0.3}, {"coverage": 0.2}, "coverage", "unsafe"),
    ("a ramp", {"coverage": 0.2}, {"coverage": 0.2, "ramp": [{"at": LATER, "coverage": 0.9}]}, "ramp", "safe"),
    ("no ramp", {"coverage": 0.2, "ramp": [{"at": PAST, "coverage": 0.9}]}, {"coverage": 0.2}, "ramp", "unsafe"),
    (
        "a ramp less high",
        {"ramp": [{"at": LATER, "coverage": 1}], "coverage": 0.1},
        {"coverage": 0.1},
        "ramp",
        "unsafe",
    ),
    ("condition dropped", {"audience": {"vip": True, "tier": 2}}, {"audience": {"vip": True}}, "audience", "safe"),
    ("condition added", {"audience": {"vip": True}}, {"audience": {"vip": True, "tier": 2}}, "audience", "unsafe"),
    ("condition changed", {"audience": {"tier": 1}}, {"audience": {"tier": {"$gte": 1}}}, "audience", "unsafe"),
    ("weights", {"variants": WEIGHTED}, {"variants": UNEVEN}, "variants[0].weight", "unsafe"),
    ("another variant", {"variants": WEIGHTED}, {"variants": [{"key": "a"}, {"key": "c"}]}, "variants", "unsafe"),
    ("payload", {"variants": WEIGHTED}, {"variants": SHOWN}, "variants[0]", "unsafe"),
    ("ranges wider", {"variants": RANGES}, {"variants": WIDER}, "variants", "safe"),
    ("ranges moved", {"variants": RANGES}, {"variants": MOVED}, "variants", "unsafe"),
    ("ranges for weights", {"variants": WEIGHTED}, {"variants": RANGES}, "variants", "unsafe"),
    ("seed", {}, {"seed": "again"}, "seed", "unsafe"),
    ("hash version", {}, {"hash_version": 1}, "hash_version", "unsafe"),
    ("hash", {}, {"hash": "eppo"}, "hash", "unsafe"),
    ("buckets", {"hash": "eppo"}, {"hash": "eppo", "buckets": 100}, "buckets", "unsafe"),
    ("unit", {}, {"unit": "device"}, "unit", "unsafe"),
    ("switchback", {}, {"switchback": {"every": "2h"}}, "switchback", "unsafe"),
    ("exposures", {}, {"exposures": SEEN}, "exposures", "unsafe"),
    ("fallback", {"unit": "device"}, {"unit": "device", "fallback_unit": "customer"}, "fallback_unit", "unsafe"),
    ("kind", {}, {"kind": "flag"}, "kind", "unsafe"),
    ("layer", {}, {"layer": "other"}, "layer", "unsafe"),
    ("filter", {}, {"filters": FILTER}, "filters", "unsafe"),
    ("no filter", {"filters": FILTER}, {}, "filters", "safe"),
    ("prerequisite", {}, {"prerequisites": NEEDS}, "prerequisites", "unsafe"),
    ("no prerequisite", {"prerequisites": NEEDS}, {}, "prerequisites", "safe"),
    ("tag of a holdout", {}, {"tags": ["held"]}, "tags", "unsafe"),
    ("flag held out", {"kind": "flag"}, {"kind": "flag", "holdouts": ["tagged"]}, "holdouts", "unsafe"),
    ("flag let in", {"kind": "flag", "holdouts": ["tagged"]}, {"kind": "flag"}, "holdouts", "unsafe"),
    ("shipped", {}, {"status": "shipped", "ship": "a"}, "status", "unsafe"),
    ("another shipped", {"status": "shipped", "ship": "a"}, {"status": "shipped", "ship": "b"}, "ship", "unsafe"),
    (
        "decided",
        {"status": "stopped"},
        {"status": "stopped", "decided": {"on": "2026-01-01", "why": "no effect"}},
        "decided",
        "safe",
    ),
    ("tag of none", {}, {"tags": ["loose"]}, "tags", "safe"),
    ("tag let go", {"tags": ["held"]}, {}, "tags", "safe"),
    ("fewer channels", {}, {"channels": ["web"]}, "channels", "unsafe"),
    ("more channels", {"channels": ["web"]}, {"channels": ["web", "app"]}, "channels", "safe"),
    ("paused", {}, {"status": "paused"}, "status", "unsafe"),
    ("stopped", {}, {"status": "stopped"}, "status", "unsafe"),
    ("a draft again", {}, {"status": "draft"}, "status", "unsafe"),
    ("running", {"status": "draft"}, {"status": "running"}, "status", "safe"),
    ("resumed", {"status": "paused"}, {"status": "running"}, "status", "safe"),
    ("stopped for good", {"status": "paused"}, {"status": "stopped"}, "status", "safe"),
    ("started again", {"status": "stopped"}, {"status": "running"}, "status", "unsafe"),
    ("ends later", {"end": LATER}, {"end": LATEST}, "end", "safe"),
    ("ended", {"end": LATER}, {"end": PAST}, "end", "unsafe"),
    ("goes on", {"end": PAST}, {"end": LATER}, "end", "unsafe"),
    ("starts later", {"start": LATER}, {"start": LATEST}, "start", "safe"),
    ("starts earlier", {"start": LATER}, {"start": PAST}, "start", "safe"),
    ("waits again", {"start": PAST}, {"start": LATER}, "start", "unsafe"),
    ("sticky", {}, {"sticky": True}, "sticky", "safe"),
    ("not sticky", {"sticky": True}, {}, "sticky", "unsafe"),
    ("bucket version", {"sticky": True}, {"sticky": True, "bucket_version": 1}, "bucket_version", "unsafe"),
    (
        "least version",
        {"bucket_version": 1},
        {"bucket_version": 1, "min_bucket_version": 1},
        "min_bucket_version",
        "unsafe",
    ),
    ("title", {"title": "One page"}, {"title": "Two pages"}, "title", "safe"),
    ("words", {"hypothesis": "It helps."}, {"hypothesis": "It harms."}, "hypothesis", "safe"),
    ("owner", {}, {"owner": "growth"}, "owner", "safe"),
    ("metrics", {}, {"metrics": {"primary": "click"}}, "metrics", "safe"),
    ("primary metric", {"metrics": {"primary": "click"}}, {"metrics": {"primary": "csat"}}, "metrics", "unsafe"),
    ("no guardrail", {"metrics": GUARDED}, {"metrics": {"primary": "click"}}, "metrics", "unsafe"),
    ("secondary", {"metrics": {"primary": "click"}}, {"metrics": EXPLORED}, "metrics", "safe"),
    ("alpha", {}, {"analysis": {"alpha": 0.1}}, "analysis", "unsafe"),
    ("method", {}, {"analysis": {"method": "fixed"}}, "analysis", "unsafe"),
    ("a longer run", {}, {"analysis": {"min_days": 28}}, "analysis", "safe"),
    ("a shorter run", {}, {"analysis": {"min_days": 2}}, "analysis", "unsafe"),
    ("alpha of a draft", {"status": "draft"}, {"status": "draft", "analysis": {"alpha": 0.1}}, "analysis", "safe"),
    ("other places", FLAG, FLAG | {"environments": {"staging": {"default": "b"}}}, "environments", "safe"),
    ("default", FLAG, FLAG | {"default": "b"}, "default", "unsafe"),
    ("type", FLAG, FLAG | {"type": "string"}, "type", "unsafe"),
    ("rule's order", FLAG, FLAG | {"rules": FLAG["rules"][::-1]}, "rules", "unsafe"),
    ("last rule", FLAG, FLAG | {"rules": [*FLAG["rules"], {"key": "all", "variant": "b"}]}, "rules.all", "safe"),
    ("first rule", FLAG, FLAG | {"rules": [{"key": "all", "variant": "b"}, *FLAG["rules"]]}, "rules.all", "unsafe"),
    ("no rule", FLAG, FLAG | {"rules": FLAG["rules"][:1]}, "rules.half", "unsafe"),
    ("last coverage", FLAG, FLAG | {"rules": [FLAG["rules"][0], HALF]}, "rules.half.coverage", "safe"),
    ("testers", {}, {"force": [{"customers": ["qa"], "variant": "a"}]}, "force", "safe"),
    ("anything in a draft", {"status": "draft"}, {"status": "draft", "seed": "y"}, "seed", "safe"),
]
HOUSE: Json = {
    "sources": {"sources": [{"key": "warehouse", "kind": "files", "path": "tables"}]},
    "layers": {
        "layers": [{"key": "l"}, {"key": "other"}],
        "holdouts": [{"key": "all", "share": 0.05}, {"key": "tagged", "share": 0.3, "tags": ["held"]}],
    },
    "metrics": {"metrics": [{"key": "click", "event": "click"}, {"key": "csat", "kind": "csat", "event": "survey"}]},
    "segments": {"segments": [{"key": "good", "condition": {"tier": {"$gte": 1}, "vip": True}}]},
}


def classify(old: Specs, new: Specs) -> set[tuple[str, str, str]]:
    return {(change.key, change.path, change.verdict) for change in compare_specs(old, new, NOW)}


@pytest.mark.parametrize("case", FIELDS, ids=lambda case: case[0])
def test_every_kind_of_change_has_its_class(case: tuple[str, Json, Json, str, str]) -> None:
    _, before, after, path, verdict = case
    old, new = (specs(experiment("x", **fields), experiment("first"), **HOUSE) for fields in (before, after))
    assert ("x", path, verdict) in classify(old, new)
    assert {verdict for _, at, verdict in classify(old, new) if at != path} <= {verdict}


def test_the_table_has_every_field_of_an_experiment() -> None:
    fields = {path.partition("[")[0].partition(".")[0] for _, _, _, path, _ in FIELDS} | {"placement", "key"}
    assert set(type(specs(experiment("x")).experiments["x"]).__struct_fields__) == fields


def changed(**sections: Any) -> Json:
    layers = {"layers": [{"key": "l", "reserve": {"one": [0.0, 0.4], "two": [0.5, 1.0]}}, {"key": "other"}]}
    return HOUSE | {"layers": HOUSE["layers"] | layers | sections}


LAYERS: dict[str, tuple[Json, str, str, str]] = {
    "wider range": (
        {"layers": [{"key": "l", "reserve": {"one": [0, 0.5], "two": [0.5, 1]}}]},
        "one",
        "layer_range",
        "safe",
    ),
    "narrower range": (
        {"layers": [{"key": "l", "reserve": {"one": [0.1, 0.4], "two": [0.5, 1]}}]},
        "one",
        "layer_range",
        "unsafe",
    ),
    "layer's seed": ({"layers": [{**changed()["layers"]["layers"][0], "seed": "s"}]}, "l", "layers", "unsafe"),
    "layer's hash": ({"layers": [{**changed()["layers"]["layers"][0], "hash_version": 1}]}, "l", "layers", "unsafe"),
    "smaller holdout": ({"holdouts": [{"key": "all", "share": 0.01}]}, "all", "holdouts", "safe"),
    "larger holdout": ({"holdouts": [{"key": "all", "share": 0.5}]}, "all", "holdouts", "unsafe"),
    "holdout's seed": ({"holdouts": [{"key": "all", "share": 0.05, "seed": "s"}]}, "all", "holdouts", "unsafe"),
    "no holdout": ({"holdouts": []}, "all", "holdouts", "unsafe"),
    "another holdout": (
        {"holdouts": [*HOUSE["layers"]["holdouts"], {"key": "h", "share": 0.1}]},
        "h",
        "holdouts",
        "unsafe",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_and_holdouts_have_their_class(name: str) -> None:
    sections, key, path, verdict = LAYERS[name]
    two = [experiment("one", layer="l"), experiment("two", layer="l")]
    assert (key, path, verdict) in classify(specs(*two, **changed()), specs(*two, **changed(**sections)))


def test_adding_and_removing_experiments() -> None:
    one, two = experiment("one"), experiment("two")
    assert classify(specs(one), specs(one, two)) == {("two", "", "safe")}
    assert classify(specs(one, two), specs(one)) == {("two", "", "unsafe")}
    assert classify(specs(one, two | {"status": "stopped"}), specs(one)) == {("two", "", "safe")}


def test_leaving_an_experiment_leaves_those_that_require_it() -> None:
    needs = experiment("second", prerequisites=[{"experiment": "first", "variants": ["a"]}])
    third = experiment("third", prerequisites=[{"experiment": "second", "variants": ["a"]}])
    old, new = (specs(third, needs, experiment("first", seed=seed)) for seed in ("s", "t"))
    assert classify(old, new) == {
        ("first", "seed", "unsafe"),
        ("second", "prerequisites", "unsafe"),
        ("third", "prerequisites", "unsafe"),
    }


def test_a_stricter_segment_changes_the_experiments_that_use_it() -> None:
    named = experiment("x", audience={"$segment": "good"})
    more, fewer = ({"tier": {"$gte": 1}, "vip": True, "country": "DE"}, {"vip": True})
    old = specs(named, **HOUSE)
    for condition, verdict in ((more, "unsafe"), (fewer, "safe")):
        new = specs(named, **HOUSE | {"segments": {"segments": [{"key": "good", "condition": condition}]}})
        assert classify(old, new) == {("x", "audience", verdict), ("good", "segments.condition", "safe")}


def test_equal_folders_have_no_change() -> None:
    assert classify(specs(experiment("x"), **HOUSE), specs(experiment("x"), **HOUSE)) == set()


SHARE = st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.8, 1.0])
TERM = st.sampled_from([{"tier": {"$gte": 1}}, {"vip": True}, {"$segment": "good"}, {"$not": {"$segment": "good"}}])
DATES = st.sampled_from([None, PAST, LATER, LATEST])
VARIANTS = st.sampled_from(
    [WEIGHTED, UNEVEN, RANGES, WIDER, MOVED, [{"key": "a"}, {"key": "b"}], [{"key": "a"}, {"key": "b"}, {"key": "c"}]]
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "coverage": SHARE,
    "ramp": st.lists(SHARE, max_size=2).map(
        lambda shares: [{"at": at, "coverage": s} for at, s in zip((PAST, LATER), sorted(shares), strict=False)]
    ),
    "audience": st.lists(TERM, max_size=3).map(lambda terms: {"$and": terms} if terms else {}),
    "variants": VARIANTS,
    "seed": st.sampled_from([None, "s", "t"]),
    "hash_version": st.sampled_from([1, 2]),
    "unit": st.sampled_from(["customer", "device"]),
    "fallback_unit": st.sampled_from([None, "device", "customer"]),
    "kind": st.sampled_from(["experiment", "flag"]),
    "layer": st.sampled_from([None, "l", "other"]),
    "status": st.sampled_from(["draft", "running", "running", "running", "paused", "stopped"]),
    "start": DATES,
    "end": DATES,
    "channels": st.sampled_from([None, ["web"], ["web", "app"]]),
    "prerequisites": st.lists(
        st.sampled_from(["a", "b"]).map(lambda key: {"experiment": "first", "variants": [key]}), max_size=2
    ),
    "filters": st.lists(SHARE.map(lambda high: {"seed": "f", "ranges": [[0, high]]}), max_size=2),
    "sticky": st.booleans(),
    "bucket_version": st.sampled_from([0, 1]),
    "min_bucket_version": st.sampled_from([0, 1]),
    "tags": st.sampled_from([[], ["held"], ["loose"], ["held", "loose"]]),
}
RESERVE = st.sampled_from([{}, {"one": [0, 0.4]}, {"one": [0, 0.6]}, {"one": [0.2, 0.9]}])
LAYER_SEED = st.sampled_from([None, "another"])
HOLDOUTS = st.lists(
    st.builds(
        lambda key, share, tags: {"key": key, "share": share, "tags": tags},
        st.sampled_from(["all", "held"]),
        st.sampled_from([0.0, 0.1, 0.3]),
        st.sampled_from([["held"], ["held"], []]),
    ),
    max_size=2,
    unique_by=lambda holdout: holdout["key"],
)
SEGMENT = st.sampled_from([{"tier": {"$gte": 1}}, {"tier": {"$gte": 1}, "vip": True}, {"vip": True}])
HOUSES: dict[str, st.SearchStrategy[Any]] = {
    "reserve": RESERVE,
    "layer_seed": LAYER_SEED,
    "holdouts": HOLDOUTS,
    "segment": SEGMENT,
    "first": st.fixed_dictionaries({"coverage": SHARE, "seed": st.sampled_from(["first", "other"])}),
}
DEVICE = {"device_id": "d-1"}
SAMPLE = [
    Profile(
        f"u-{n}",
        f"u-{n}",
        traits={"tier": Trait(n % 3, 0.0), "vip": Trait(n % 2 == 0, 0.0)},
        sticky={"one__0": "ab"[n // 5 % 2]} if n % 5 == 0 else {"one__1": "b"} if n % 7 == 0 else {},
    )
    for n in range(60)
]
"""Sixty notice whatever 120 do, at the same examples: each rule of `compare_specs`, taken out alone, is found."""


PLAIN: Json = {
    "coverage": 1.0,
    "ramp": [],
    "variants": WEIGHTED,
    "unit": "customer",
    "status": "running",
    "reserve": {},
    "layer_seed": None,
    "holdouts": [],
    "segment": {"tier": {"$gte": 1}},
    "first": {"coverage": 1.0, "seed": "first"},
}


BASES = st.sampled_from(
    [
        PLAIN,
        PLAIN | {"layer": "l", "reserve": {"one": [0, 0.6]}},
        PLAIN | {"prerequisites": [{"experiment": "first", "variants": ["a"]}]},
        PLAIN | {"sticky": True},
        PLAIN | {"holdouts": [{"key": "held", "share": 0.3, "tags": ["held"]}]},
        PLAIN | {"unit": "device", "fallback_unit": "customer"},
    ]
)


CHANGES = VALUES | HOUSES
NAMES = {most: st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=most, unique=True) for most in (2, 3)}


def drawn(data: st.DataObject, base: Json, most: int) -> Json:
    """`base` with up to `most` of its fields drawn again."""
    return base | {field: data.draw(CHANGES[field], label=field) for field in data.draw(NAMES[most])}


def built(house: Json) -> Specs | None:
    spec = {key: value for key, value in house.items() if key in VALUES and value is not None}
    spec["coverage"] = min([spec["coverage"], *(step["coverage"] for step in spec["ramp"])])
    if spec.get("fallback_unit") == spec["unit"]:
        del spec["fallback_unit"]
    if spec.get("end", LATEST) <= spec.get("start", PAST):
        spec.pop("end", None)
    if any("range" in variant for variant in spec["variants"]):
        spec = {key: value for key, value in spec.items() if key not in {"coverage", "ramp"}}
    layers = [{"key": "l", "reserve": house["reserve"]}, {"key": "other"}]
    if house["layer_seed"]:
        layers[0]["seed"] = house["layer_seed"]
    try:
        return specs(
            experiment("one", **spec),
            experiment("first", **house["first"]),
            layers={"layers": layers, "holdouts": house["holdouts"]},
            segments={"segments": [{"key": "good", "condition": house["segment"]}]},
        )
    except CatalogError:
        return None


def harmed(found: list[VariantMove]) -> list[VariantMove]:
    return [move for move in found if not move.source.startswith("(")]


@settings(max_examples=800, deadline=None, derandomize=True)
@given(st.data())
def test_a_safe_change_moves_nobody_and_removes_nobody(data: st.DataObject) -> None:
    house = drawn(data, data.draw(BASES), 3)
    old, new = built(house), built(drawn(data, house, 2))
    if old is None or new is None:
        event("refused by check")
        return
    sticky = old.experiments["one"].sticky
    sample = SAMPLE if sticky else [Profile(p.id, p.unit, traits=p.traits) for p in SAMPLE]
    found = compare_specs(old, new, NOW)
    shared = any(change.verdict == "unsafe" for change in found if change.path in {"holdouts", "layers"})
    unsafe = {change.key for change in found if change.verdict == "unsafe"}
    event(f"safe: {not unsafe}, changes: {bool(found)}")
    if shared:
        return
    bad = harmed(count_moves(compile_plan(old), compile_plan(new), sample, NOW))
    assert [move for move in bad if move.experiment not in unsafe] == []
