"""`plan --value`: which lines of YAML can be judged on a log, alone or in groups, and why others cannot."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis.planvalue import shown_rows
from engine.analysis.planvalue.shown_rows import read_shown_log
from engine.catalog import load_plan
from engine.cli.app import app
from engine.errors import BadInput
from tests.statistical.plan_value_worlds import World, draw_world, serve, write_folder

Value = Callable[[dict[str, Any]], dict[str, Any]]
SEED = 2
"""A world whose policy learns."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    found = draw_world(SEED, 700)
    assert found.learns
    found.old["hero"]["policy"]["floor"] = 0.15
    found.old["other"] = found.old["hero"] | {"key": "other", "placement": "other", "reward": {"metric": "sale"}}
    found.old["channels"]["placements"].append({"key": "other", "channels": ["web"]})
    found.old["metrics"]["metrics"].append({"key": "sale", "event": "purchase", "kind": "revenue"})
    variants = [{"key": "even", "weight": 0.4, "policy": {"kind": "uniform"}}, {"key": "learnt", "weight": 0.6}]
    test = {"key": "hero_test", "hypothesis": "It learns.", "placement": "hero", "variants": variants}
    found.old["hero_test"] = test | {"metrics": {"primary": "click"}}
    folder = tmp_path_factory.mktemp("world")
    serve(found, load_plan(write_folder(folder / "old", found.old)), folder / "log")
    return found, folder


@pytest.fixture
def value(world: tuple[World, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Value:
    def run(changed: dict[str, Any]) -> dict[str, Any]:
        new = write_folder(tmp_path / "new", json.loads(json.dumps(dict(world[0].old))) | changed)
        words = ["plan", str(world[1] / "old"), str(new), "--value", "--log", str(world[1] / "log"), "--json"]
        assert not app(words, result_action="return_value")
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["value"]
        return found

    return run


def edited(world: tuple[World, Path], name: str, **more: Any) -> dict[str, Any]:
    return {name: json.loads(json.dumps(world[0].old[name])) | more}


def test_each_line_stands_with_its_place_and_its_value(world: tuple[World, Path], value: Value) -> None:
    found = value(edited(world, "offers/d", lever=4.0) | edited(world, "offers/a", title="Another name"))
    by_path = {line["lines"][0]["path"]: line for line in found["lines"]}
    assert by_path["title"]["verdict"] == "no effect"
    lever = by_path["lever"]
    assert lever["lines"] == [{"file": "offers/d.yaml", "line": 7, "path": "lever", "new": 4.0}]
    assert lever["changed"] > 0.9
    assert lever["per_thousand"]["low"] < lever["per_thousand"]["estimate"] < lever["per_thousand"]["high"]
    assert "less than a day" in lever["per_month"]["not_estimable"]
    assert found["together"]["per_thousand"] == lever["per_thousand"]
    assert found["currency"] == "EUR"


def test_lines_that_are_no_plan_alone_are_judged_together(world: tuple[World, Path], value: Value) -> None:
    test = json.loads(json.dumps(world[0].old["hero_test"]))
    test["variants"][0]["weight"], test["variants"][1]["weight"] = 0.9, 0.1
    found = value({"hero_test": test} | edited(world, "offers/b", lever=0.5))
    assert [[line["path"] for line in group["lines"]] for group in found["lines"]] == [
        ["variants.even.weight", "variants.learnt.weight"],
        ["lever"],
    ]


def test_what_the_log_never_showed_cannot_be_judged(world: tuple[World, Path], value: Value) -> None:
    offer = {"key": "e", "value": 9, "renderings": {"web": {}}}
    hero = edited(world, "hero", offers=["a", "b", "c", "d", "e"])
    found = value({"offers/e": offer} | hero)
    assert [line["verdict"] for line in found["lines"]] == ["cannot be judged", "no effect"]
    assert "had no chance in those decisions" in found["lines"][0]["per_thousand"]["not_estimable"]
    assert found["together"]["verdict"] == "cannot be judged"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"caps": [{"count": 1, "per": "1d"}]}, "the counts of exposure|offer:a"),
        ({"audience": {"vip": True}}, "the traits vip"),
        ({"budget": {"amount": 5}}, "what would be left of the stock, the budget or the codes of a"),
    ],
)
def test_a_limit_on_what_no_decision_logged_cannot_be_judged(
    world: tuple[World, Path], value: Value, more: dict[str, Any], why: str
) -> None:
    (line,) = value(edited(world, "offers/a", **more))["lines"]
    assert line["verdict"] == "cannot be judged"
    assert why in line["per_thousand"]["not_estimable"]


def test_a_policy_of_another_kind_is_trained_on_earlier_customers(world: tuple[World, Path], value: Value) -> None:
    hero = json.loads(json.dumps(world[0].old["hero"]))
    hero["policy"] = {"kind": "beta_thompson", "floor": 0.1}
    test = json.loads(json.dumps(world[0].old["hero_test"])) | {"status": "stopped"}
    found = value({"hero": hero, "hero_test": test})
    together = found["together"]
    assert together["notes"] == ["the policy of hero was trained on earlier customers"]
    assert together["verdict"] in ("earns", "loses", "open")
    assert 0.7 * found["decisions"] < together["decisions"] < found["decisions"]


def test_rules_cost_what_the_log_can_tell(world: tuple[World, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rent", "--experiments", str(world[1] / "old"), "--log", str(world[1] / "log")]
    assert not app([*words, "--json"], result_action="return_value")
    found = {f"{one['where']} {one['rule']}": one for one in json.loads(capsys.readouterr().out)["rules"]}
    assert found["offers/b audience"]["verdict"] == "no effect"  # nobody's tier is below 0
    floor = found["hero policy.floor"]
    assert floor["verdict"] in ("costs", "open")
    assert floor["per_thousand"]["low"] < floor["per_thousand"]["estimate"] < floor["per_thousand"]["high"]
    assert not app(words, result_action="return_value")
    assert "costs per 1,000 decisions" in " ".join(capsys.readouterr().out.split())


def test_the_cost_of_a_rule_that_closed_offers_cannot_be_judged(
    world: tuple[World, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = edited(world, "offers/b", audience={"tier": {"$gte": 1}})
    old = write_folder(tmp_path / "closed", json.loads(json.dumps(dict(world[0].old))) | closed)
    serve(world[0], load_plan(old), tmp_path / "log")
    words = ["rent", "--experiments", str(old), "--log", str(tmp_path / "log"), "--json"]
    assert not app(words, result_action="return_value")
    found = {f"{one['where']} {one['rule']}": one for one in json.loads(capsys.readouterr().out)["rules"]}
    assert found["offers/b audience"]["verdict"] == "cannot be judged"
    assert "had no chance" in found["offers/b audience"]["per_thousand"]["not_estimable"]


def test_a_text_names_lines_values_and_reasons(
    world: tuple[World, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = edited(world, "offers/d", lever=4.0) | edited(world, "offers/a", caps=[{"count": 1, "per": "1d"}])
    new = write_folder(tmp_path / "new", dict(world[0].old) | changed)
    words = ["plan", str(world[1] / "old"), str(new), "--value", "--log", str(world[1] / "log")]
    assert not app(words, result_action="return_value")
    shown = " ".join(capsys.readouterr().out.split())
    assert "offers/d.yaml:7 lever nothing → 4.0" in shown
    assert "cannot be judged" in shown
    assert "the log does not have the counts of exposure|offer:a" in shown
    assert not app([*words, "--markdown"], result_action="return_value")
    assert "**What it is worth on the log**" in capsys.readouterr().out


def test_a_feed_is_one_line_whatever_is_in_it(
    world: tuple[World, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"feed": "products.csv", "key": "sku", "rendering": {"web": {"headline": "{title}"}}}
    files = json.loads(json.dumps(dict(world[0].old))) | edited(world, "other", offers=entry)
    folders = [write_folder(tmp_path / name, files) for name in ("old", "new")]
    for folder, rows in zip(folders, ('t1,"Tea"', 't1,"Tea: green"\nt2,Mint'), strict=True):
        (folder / "products.csv").write_text(f"sku,title\n{rows}\n")
    words = ["plan", *map(str, folders), "--value", "--log", str(world[1] / "log")]
    assert not app([*words, "--json"], result_action="return_value")
    found = json.loads(capsys.readouterr().out)
    (line,) = found["value"]["lines"]
    assert (line["lines"][0]["file"], line["verdict"]) == ("products.csv", "no effect")
    assert not app(words, result_action="return_value")
    shown = " ".join(capsys.readouterr().out.split())
    (change,) = found["changes"]
    assert (change["old"], change["new"]) == ("1 item", "2 items, 1 added, 0 removed, 1 changed")
    assert "products.csv changed" in shown


def test_a_part_of_a_large_log_has_decisions_without_a_customer(
    world: tuple[World, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world[1] / "log", tmp_path / "log")
    for file in (tmp_path / "log" / "decisions").glob("*/*.parquet"):
        rows = pq.read_table(file, partitioning=None)
        nobody = pa.nulls(rows.num_rows, rows.schema.field("customer").type)
        pq.write_table(rows.set_column(rows.schema.get_field_index("customer"), "customer", nobody), file)
    whole = len(read_shown_log(tmp_path / "log").rows)
    monkeypatch.setattr(shown_rows, "MOST_ROWS", whole // 2)
    assert 0.4 < len(read_shown_log(tmp_path / "log").rows) / whole < 0.6  # five deviations of a binomial count


def test_an_empty_log_has_nothing_to_judge_by(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no decision on an offer that was seen"):
        read_shown_log(tmp_path)
