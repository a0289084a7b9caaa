import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.catalog.check.load import load_specs
from engine.catalog.check.warnings import find_warnings, required_units
from engine.catalog.spec.metrics import MetricSpec
from tests.catalog.folder import Json, experiment, specs

NOW = 1_790_000_000.0  # 2026-09-21
GOOD = {"hypothesis": "It helps.", "metrics": {"primary": "click", "guardrails": ["click"]}}
EXPECTED = {"baseline": 0.1, "daily_units": 2000, "mde": 0.1}


def warned_of(*experiments: Json, **files: Json) -> list[tuple[str, str]]:
    return [(p.file.removeprefix("shop/"), p.path) for p in find_warnings(specs(*experiments, **files), NOW)]


def metrics(**more: Any) -> Json:
    return {"metrics": [{"key": "click", "event": "click", **more}]}


def paying(key: str, layer: str | None = None, **more: Any) -> Json:
    variants = [{"key": "a", "payload": {"price": 1}}, {"key": "b", "payload": {"price": 2}}]
    return experiment(key, **(GOOD | {"variants": variants, "layer": layer} | more))


LAYERS = {"layers": [{"key": "l", "reserve": {"x": [0, 0.5], "y": [0.5, 1]}}, {"key": "m"}]}


def test_the_shipped_shop_has_no_warnings() -> None:
    assert find_warnings(load_specs(Path(__file__).parents[2] / "experiments"), time.time()) == []


def test_a_bare_experiment_lacks_its_hypothesis_and_its_metrics() -> None:
    assert warned_of(experiment("x")) == [("x.yaml", "hypothesis"), ("x.yaml", "metrics")]
    assert warned_of(experiment("x", **(GOOD | {"metrics": {"primary": "click"}}))) == [
        ("x.yaml", "metrics.guardrails")
    ]


DECIDED = {"decided": {"on": "2026-01-01", "why": "No effect: the colour does not matter"}}


def test_flags_and_stopped_experiments_have_no_warnings() -> None:
    assert warned_of(experiment("x", kind="flag"), experiment("y", status="stopped", **DECIDED)) == []


def test_an_experiment_that_is_over_says_what_was_learnt() -> None:
    silent = {"status": "stopped", "decided": {"on": "2026-01-01"}}
    shipped = {"status": "shipped", "ship": "a"}
    found = warned_of(experiment("x", status="stopped"), experiment("y", **silent), experiment("z", **shipped))
    assert found == [("x.yaml", "decided"), ("y.yaml", "decided"), ("z.yaml", "decided")]


@pytest.mark.parametrize(("start", "warned"), [("2026-01-01T00:00:00Z", True), ("2026-09-01T00:00:00Z", False)])
def test_a_long_run_without_an_end_is_warned_of(start: str, *, warned: bool) -> None:
    assert warned_of(experiment("x", start=start, **GOOD)) == ([("x.yaml", "end")] if warned else [])


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"analysis": {"min_days": 15}}, None),
        ({"analysis": {"min_days": 14}}, "analysis.min_days"),
        ({"analysis": {"min_days": 29}, "coverage": 0.5}, "analysis.min_days"),
        ({"analysis": {"min_days": 30}, "coverage": 0.5}, None),
        ({"start": "2026-09-01T00:00:00Z", "end": "2026-09-15T00:00:00Z"}, "end"),
        ({"start": "2026-09-01T00:00:00Z", "end": "2026-09-17T00:00:00Z"}, None),
    ],
)
def test_a_run_too_short_for_its_power_is_warned_of(fields: Json, path: str | None) -> None:
    """14,751 customers in each of two equal groups find 10 % against 11 %: 29,502 at 2,000 a day take 15 days."""
    assert warned_of(experiment("x", **GOOD, **fields), metrics=metrics(**EXPECTED)) == (
        [("x.yaml", path)] if path else []
    )


HALVED: dict[str, tuple[Json, Json]] = {
    "filter": ({"filters": [{"seed": "f", "ranges": [[0, 0.2], [0.5, 0.8]]}]}, {}),
    "holdout": ({}, {"layers": {"holdouts": [{"key": "h", "share": 0.5}]}}),
    "holdout by tag": ({"tags": ["t"]}, {"layers": {"holdouts": [{"key": "h", "share": 0.5, "tags": ["t"]}]}}),
    "prerequisite": ({"prerequisites": [{"experiment": "first", "variants": ["a"]}]}, {}),
    "parent off": ({"prerequisites": [{"experiment": "half", "off": True}]}, {}),
}


@pytest.mark.parametrize("name", HALVED)
def test_only_half_of_the_units_are_let_in(name: str) -> None:
    """Half of the units take twice the days of the test above: 29.5."""
    fields, files = HALVED[name]
    others = [
        {"key": "first", "kind": "flag", "variants": [{"key": "a"}, {"key": "b"}]},
        {"key": "half", "kind": "flag", "coverage": 0.5, "variants": [{"key": "a"}, {"key": "b"}]},
    ]
    for days, found in ((29, [("x.yaml", "analysis.min_days")]), (30, [])):
        short = experiment("x", **GOOD, **fields, analysis={"min_days": days})
        assert warned_of(short, *others, metrics=metrics(**EXPECTED), **files) == found


def test_the_sample_size_equals_that_of_r() -> None:
    """R's power.prop.test(p1=.1, p2=.11, power=.8) gives 14750.79; power.t.test(delta=1, sd=10, power=.8) 1570.7."""
    share = MetricSpec(key="m", event="e", baseline=0.1)
    assert required_units(share, 0.1, 0.05, (0.5, 0.5)) == 29_502
    mean = MetricSpec(key="m", event="e", kind="revenue", baseline=10, deviation=10)
    assert required_units(mean, 0.1, 0.05, (0.5, 0.5)) == pytest.approx(2 * 1570.7, rel=0.001)
    assert required_units(mean, 0.1, 0.05, (0.25, 0.25)) == pytest.approx(4 * 1570.7, rel=0.001)
    assert required_units(MetricSpec(key="m", event="e"), 0.1, 0.05, (0.5, 0.5)) is None


@pytest.mark.parametrize(
    ("one", "two", "warned"),
    [
        (paying("x"), paying("y"), True),
        (paying("x", "l"), paying("y", "m"), True),
        (paying("x", "l"), paying("y", "l"), False),
        (paying("x", channels=["web"]), paying("y", channels=["app"]), False),
        (paying("x", channels=["web"]), paying("y"), True),
        (paying("x"), paying("y", status="stopped", **DECIDED), False),
        (paying("x"), experiment("y", **GOOD), False),
    ],
)
def test_two_experiments_that_set_one_key_are_warned_of(one: Json, two: Json, *, warned: bool) -> None:
    found = warned_of(one, two, layers=LAYERS)
    assert found == ([("x.yaml", "variants")] if warned else [])


def test_a_selection_of_one_offer_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "offers").mkdir()
    files = {
        "channels.yaml": "channels: [{key: web}]\nplacements: [{key: hero, channels: [web]}]\n",
        "metrics.yaml": "metrics: [{key: click, event: click}]\n",
        "hero.yaml": "key: hero\nplacement: hero\noffers: [one]\npolicy: {kind: uniform}\n"
        "reward: {metric: click}\nfallback: plain\n",
        "offers/one.yaml": "key: one\nrenderings: {web: {}}\n",
        "offers/plain.yaml": "key: plain\nrenderings: {web: {}}\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert [problem.path for problem in find_warnings(load_specs(tmp_path), NOW)] == ["offers"]


@pytest.mark.parametrize(
    ("kind", "open_to_all", "warned"), [("kl_ucb", 100, True), ("kl_ucb", 99, False), ("uniform", 100, False)]
)
def test_the_usual_floor_is_warned_of_where_anyone_may_have_too_many_offers(
    kind: str, open_to_all: int, *, warned: bool
) -> None:
    keys = [f"o{number}" for number in range(150)]
    closed = {"audience": {"country": "DE"}}
    offers = {
        f"offers/{key}": {"key": key, "renderings": {"web": {}}} | ({} if number < open_to_all else closed)
        for number, key in enumerate(keys)
    }
    offers["offers/plain"] = {"key": "plain", "renderings": {"web": {}}}
    hero = {"key": "hero", "placement": "hero", "offers": keys, "reward": {"metric": "click"}, "fallback": "plain"}
    channels = {"channels": [{"key": "web"}], "placements": [{"key": "hero", "channels": ["web"]}]}
    found = find_warnings(specs(channels=channels, hero=hero | {"policy": {"kind": kind}}, **offers), NOW)
    assert ["policy.floor" in problem.path for problem in found].count(True) == warned


def test_placements_of_a_channel_with_one_fallback_are_warned_of() -> None:
    def hero(key: str, **more: Any) -> Json:
        plain = {"policy": {"kind": "uniform"}, "reward": {"metric": "click"}, "fallback": "plain"}
        return {"key": key, "placement": key, "offers": ["one", "two"]} | plain | more

    def fallbacks(side: Json) -> list[str]:
        offers = {f"offers/{key}": {"key": key, "renderings": {"web": {}}} for key in ("one", "two", "plain", "other")}
        channels = {
            "channels": [{"key": "web"}],
            "placements": [{"key": key, "channels": ["web"]} for key in ("hero", "side")],
        }
        found = find_warnings(specs(channels=channels, hero=hero("hero"), side=side, **offers), NOW)
        return [str(problem) for problem in found if problem.path == "fallback"]

    assert fallbacks(hero("side", fallback="other")) == []
    assert fallbacks(hero("side"))[0].startswith("shop/side.yaml fallback: 'plain' is also the fallback of hero on web")


def test_many_placements_with_one_fallback_are_warned_of_once_each() -> None:
    keys = [f"p{number}" for number in range(7)]
    shop = {
        key: {
            "key": key,
            "placement": key,
            "offers": ["one", "two"],
            "policy": {"kind": "uniform"},
            "reward": {"metric": "click"},
            "fallback": "plain",
        }
        for key in keys
    }
    offers = {f"offers/{key}": {"key": key, "renderings": {"web": {}}} for key in ("one", "two", "plain")}
    channels = {"channels": [{"key": "web"}], "placements": [{"key": key, "channels": ["web"]} for key in keys]}
    found = find_warnings(specs(channels=channels, **shop, **offers), NOW)
    assert [problem.file for problem in found] == [f"shop/{key}.yaml" for key in keys[1:]]
    assert "also the fallback of p0, p1, p2 and 3 more on web" in found[-1].message


@pytest.mark.parametrize(
    ("audience", "traits"),
    [
        ({"recency_days": {"$lte": 30}}, ["audience.recency_days"]),
        ({"basket": {"$gte": 0}}, ["audience.basket"]),
        ({"$not": {"satisfaction.ces": {"$lt": 3}}}, ["audience.satisfaction.ces"]),
        ({"$or": [{"age": {"$lt": 18}}, {"age": {"$gt": 60}}]}, ["audience.age"]),
        ({"recency_days": {"$lte": 30, "$exists": True}}, []),
        ({"$and": [{"age": {"$exists": True}}, {"age": {"$lt": 18}}]}, []),
        ({"age": {"$gte": 18, "$lt": 30}}, []),
        ({"loyalty.tier": {"$lte": 1}, "hour": {"$lt": 11}}, []),
        ({"since": {"$before": "2026-01-01T00:00:00Z"}, "country": {"$ne": "DE"}}, []),
        ({"app": {"$vlt": "2.0.0"}}, ["audience.app"]),
        ({"app": {"$vgte": "2.0.0"}}, []),
        ({"email": {"$not": {"$regex": "@example"}}}, ["audience.email"]),
        ({"$not": {"email": {"$regexi": "@example"}}}, ["audience.email"]),
        ({"$nor": [{"email": {"$regex": "@example"}}, {"age": {"$gte": 18}}]}, ["audience.email", "audience.age"]),
        ({"$nor": [{"$not": {"email": {"$regex": "@example"}}}]}, []),
        ({"name": {"$regex": "^n"}}, ["audience.name"]),
        ({"name": {"$regex": "^a"}}, []),
        ({"since": {"$not": {"$before": "now"}}}, ["audience.since"]),
        ({"since": {"$not": {"$before": "now"}, "$exists": True}}, []),
    ],
)
def test_a_comparison_that_holds_without_the_trait_is_warned_of(audience: Json, traits: list[str]) -> None:
    found = warned_of(experiment("x", **GOOD, audience=audience))
    assert found == sorted(("x.yaml", path) for path in traits)


@pytest.mark.parametrize(
    ("operators", "remedy"),
    [
        ({"$lt": "2026-01-01"}, "$before: 2026-01-01T00:00:00Z"),
        ({"$gte": "2026-01-01T00:00:00+02:00"}, "$after: 2026-01-01T00:00:00+02:00"),
        ({"$not": {"$gt": "2026-01-01"}, "$exists": True}, "$after: 2026-01-01T00:00:00Z"),
        ({"$lt": "m"}, None),
        ({"$eq": "2026-01-01"}, None),
        ({"$after": "2026-01-01T00:00:00Z"}, None),
    ],
)
def test_a_date_that_is_compared_as_text_is_warned_of(operators: Json, remedy: str | None) -> None:
    found = find_warnings(specs(experiment("x", **GOOD, audience={"since": operators})), NOW)
    assert [problem.message.rpartition("'")[0].rpartition("'")[2] for problem in found] == ([remedy] if remedy else [])


def test_comparisons_of_every_kind_of_condition_are_checked() -> None:
    asked = {"age": {"$lt": 18}}
    selection = {
        "key": "hero",
        "placement": "hero",
        "offers": ["one", "two"],
        "policy": {"kind": "uniform"},
        "reward": {"metric": "click"},
        "fallback": "plain",
        "weights": [{"when": asked, "offers": ["one"], "weight": 2}],
    }
    moment = {"key": "now", "trigger": {"when": asked}, "audience": asked, "placements": ["hero"], "offers": ["one"]}
    files = {f"offers/{key}": {"key": key, "renderings": {"web": {}}} for key in ("two", "plain")}
    found = find_warnings(
        specs(
            channels={"channels": [{"key": "web"}], "placements": [{"key": "hero", "channels": ["web"]}]},
            hero=selection,
            moments={"moments": [moment]},
            segments={"segments": [{"key": "young", "condition": asked}]},
            **files,
            **{"offers/one": {"key": "one", "renderings": {"web": {}}, "audience": asked}},
        ),
        NOW,
    )
    assert [(problem.file, problem.path) for problem in found] == [
        ("shop/hero.yaml", "weights[0].when.age"),
        ("shop/moments.yaml", "moments[0].audience.age"),
        ("shop/moments.yaml", "moments[0].trigger.when.age"),
        ("shop/offers/one.yaml", "audience.age"),
        ("shop/segments.yaml", "segments[0].condition.age"),
    ]


@pytest.mark.parametrize(
    ("audience", "value"),
    [
        ({"hour": "morning"}, "'morning'"),
        ({"hour": {"$in": [9, 10]}}, "9"),
        ({"hour": 9}, "9"),
        ({"hour": {"$gte": 900}}, "900"),
        ({"hour": {"$gte": 9, "$lt": 17.5}}, None),
        ({"hour": {"$lte": 24}}, None),
        ({"weekday": "Monday"}, "'Monday'"),
        ({"weekday": {"$in": [0, 7]}}, "7"),
        ({"weekday": {"$nin": [5, 6]}}, None),
        ({"$or": [{"country": "DE"}, {"$not": {"channel": "kiosk"}}]}, "'kiosk'"),
        ({"channel": {"$in": ["web"]}}, None),
        ({"channel": {"$ini": ["WEB"]}}, None),
        ({"channel": {"$exists": True}}, None),
        ({"id": {"$in": ["u-1"]}}, None),
        ({"sent_hour": 9, "country": "DE"}, None),
    ],
)
def test_a_value_that_a_reserved_name_never_has_is_warned_of(audience: Json, value: str | None) -> None:
    found = [
        str(problem)
        for problem in find_warnings(specs(experiment("x", audience=audience, **GOOD)), NOW)
        if "the engine sets" in problem.message
    ]
    assert bool(found) == (value is not None)
    assert all(value in one and "give the caller's value another name" in one for one in found if value)


@pytest.mark.parametrize(
    ("feature", "warned"),
    [
        ({"trait": "channel", "one_of": ["web", "kiosk"]}, True),
        ({"trait": "hour", "range": [0, 86400]}, True),
        ({"trait": "weekday", "one_of": ["Monday"]}, True),
        ({"trait": "channel", "one_of": ["web"]}, False),
        ({"trait": "hour", "range": [0, 24]}, False),
        ("hour", False),
    ],
)
def test_a_feature_of_a_reserved_name_is_warned_of(feature: Json, *, warned: bool, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(Path(__file__).parents[2] / "experiments", folder)
    hero = yaml.safe_load((folder / "home_hero.yaml").read_text())
    hero["policy"]["features"] = [feature]
    (folder / "home_hero.yaml").write_text(yaml.safe_dump(hero))
    paths = [problem.path for problem in find_warnings(load_specs(folder), NOW) if "the engine sets" in problem.message]
    assert paths == (["policy.features[0]"] if warned else [])


@pytest.mark.parametrize(
    ("feature", "warned"),
    [
        ("orders.revenue", True),
        ({"trait": "age"}, True),
        ({"trait": "age", "range": [18, 90]}, False),
        ({"trait": "vip", "one_of": [True]}, False),
        ("affinity.tea", False),
        ("loyalty.tier", False),
        ("hour", False),
    ],
)
def test_a_number_without_a_range_is_warned_of(feature: Json, *, warned: bool, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(Path(__file__).parents[2] / "experiments", folder)
    hero = yaml.safe_load((folder / "home_hero.yaml").read_text())
    hero["policy"]["features"] = [feature]
    (folder / "home_hero.yaml").write_text(yaml.safe_dump(hero))
    found = [one for one in find_warnings(load_specs(folder), NOW) if "has no `range`" in one.message]
    assert [one.path for one in found] == (["policy.features[0]"] if warned else [])
