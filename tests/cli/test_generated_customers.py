"""Customers that nobody gave have the traits and consents that the shop's conditions ask about."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_tables import run

CHANNELS = {"channels": [{"key": "web"}], "placements": []}
METRICS = {"metrics": [{"key": "click", "event": "click"}]}
VARIANTS = [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.5}]
SEGMENTS = {"segments": [{"key": "dach", "condition": {"country": {"$in": ["DE", "AT", "CH"]}}}]}


def shop(folder: Path, **experiments: dict[str, Any]) -> str:
    folder.mkdir()
    files: dict[str, Any] = {"channels.yaml": CHANNELS, "metrics.yaml": METRICS, "segments.yaml": SEGMENTS}
    files |= {f"{key}.yaml": {"key": key, "variants": VARIANTS, **spec} for key, spec in experiments.items()}
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return str(folder)


def simulate(folder: str, key: str, data: Path) -> dict[str, float]:
    words = ("simulate", key, "--customers", "400", "--experiments", folder, "--data", str(data), "--json")
    return {one["outcome"]: one["share"] for one in json.loads(run(*words))["outcomes"]}


NARROW: dict[str, dict[str, Any]] = {
    "a list and a number": {"$segment": "dach", "orders.revenue": {"$gt": 250}},
    "a version and a pattern": {"app": {"$vgte": "4.2.0"}, "city": {"$regex": "^Berlin$"}, "beta": True},
    "a consent and dates": {"consent.marketing": True, "signup": {"$within": "30d"}, "paid": {"$before": "now"}},
    "alternatives": {"$or": [{"tier": "gold", "age": {"$gte": 18, "$lt": 26}}, {"tier": "none of these", "age": 99}]},
    "a list trait and a negation": {"tags": {"$elemMatch": {"$eq": "vip"}}, "$not": {"country": "DE"}},
    "twelve traits": {f"t{n}": n for n in range(12)},
}


@pytest.mark.parametrize("audience", NARROW.values(), ids=list(NARROW))
def test_a_draft_with_an_audience_is_assigned_to_customers_who_meet_it(
    audience: dict[str, Any], tmp_path: Path
) -> None:
    folder = shop(tmp_path / "shop", draft={"status": "draft", "audience": audience})
    shares = simulate(folder, "draft", tmp_path)
    assert shares["a"] > 0.1
    assert shares["b"] > 0.1
    assert shares["(audience)"] > 0.1


def test_a_prerequisites_audience_is_met_too(tmp_path: Path) -> None:
    needed = {"status": "running", "audience": {"country": "FR", "tier": {"$in": ["gold", "silver"]}}}
    after = {"status": "draft", "prerequisites": [{"experiment": "first", "variants": ["a"]}], "audience": {"age": 40}}
    shares = simulate(shop(tmp_path / "shop", first=needed, second=after), "second", tmp_path)
    assert shares["a"] + shares["b"] > 0.1


def test_plan_counts_who_moves_when_an_audience_changes(tmp_path: Path) -> None:
    wide = {"status": "running", "audience": {"country": {"$in": ["DE", "AT"]}}}
    narrow = {"status": "running", "audience": {"country": "DE"}}
    old, new = shop(tmp_path / "old", trial=wide), shop(tmp_path / "new", trial=narrow)
    moves = json.loads(run("plan", old, new, "--json"))["moves"]
    assert {(one["from"], one["to"]) for one in moves} == {("a", "(audience)"), ("b", "(audience)")}
    assert all(one["customers"] > 500 for one in moves)


@pytest.mark.parametrize("unit", ["device", "store"])
def test_plan_counts_who_moves_by_device_and_store(unit: str, tmp_path: Path) -> None:
    before: dict[str, Any] = {"status": "running", "unit": unit, "seed": "one"}
    folders = shop(tmp_path / "old", trial=before), shop(tmp_path / "new", trial=before | {"seed": "two"})
    moves = json.loads(run("plan", *folders, "--json"))["moves"]
    assert {(one["from"], one["to"]) for one in moves} == {("a", "b"), ("b", "a")}


def test_a_preview_without_a_file_shows_generated_customers_of_both_kinds(tmp_path: Path) -> None:
    folder = shop(tmp_path / "shop", draft={"status": "draft", "audience": {"country": "DE"}})
    rows = json.loads(run("preview", "draft", "--experiments", folder, "--data", str(tmp_path), "--json"))
    assert len(rows) == 20
    assert {row["reason"] for row in rows} == {"assigned", "audience"}


def test_preview_at_a_time_decides_as_of_then(tmp_path: Path) -> None:
    times = {"status": "running", "start": "2026-11-27T00:00:00+01:00", "end": "2026-11-30T00:00:00+01:00"}
    evening = {"hour": {"$gte": 18}}
    folder = shop(tmp_path / "shop", week=times | {"audience": evening})
    words = ("preview", "week", "--experiments", folder, "--data", str(tmp_path), "--json", "--at")

    def reasons(at: str) -> set[str]:
        return {row["reason"] for row in json.loads(run(*words, at))}

    assert reasons("2026-11-26T23:00:00Z") == {"assigned"}  # midnight of the 27th at UTC+1, 23 o'clock of the shop
    assert reasons("2026-11-26T22:59:59Z") == {"not_started"}
    assert reasons("2026-11-28T12:00:00Z") == {"audience"}
    assert reasons("2026-11-28T19:00:00Z") == {"assigned"}
    assert reasons("2026-12-01T00:00:00Z") == {"ended"}
    for wrong in ("2026-11-28", "2026-11-28T19:00:00", "noon"):
        assert "RFC 3339" in run(*words, wrong, code=2)
