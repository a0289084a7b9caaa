"""What the verbs print for people: whole words in eighty columns, values as in the YAML."""

import json
import os
import shutil
from pathlib import Path

import pytest

from engine.analysis.stats.estimate import format_level
from engine.cli.catalog import differences
from tests.verbs import run_verb

SHOP = Path(__file__).resolve().parents[2] / "experiments"


def run(*words: str, code: int = 0) -> str:
    done = run_verb(*words, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == code, done.stderr
    return done.stdout or done.stderr


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (0.5, 0.7, ["0.5 → 0.7"]),
        (None, "defined", ["nothing → defined"]),
        (["DE"], ["DE", "AT"], ["[DE] → [DE, AT]"]),
        (
            {"kind": "uniform", "floor": 0.1, "pool": []},
            {"kind": "uniform", "floor": 0.2, "pool": []},
            ["{floor: 0.1} → {floor: 0.2}"],
        ),
        ({"country": "DE"}, {"country": "DE", "tier": {"$gte": 2}}, ["{} → {tier: {$gte: 2}}"]),
        (None, None, []),
    ],
)
def test_a_change_is_printed_as_yaml_and_of_mappings_what_differs(old: object, new: object, line: list[str]) -> None:
    assert list(differences(old, new)) == line


def test_plan_names_the_keys_that_change(tmp_path: Path) -> None:
    folder = shutil.copytree(SHOP, tmp_path / "new")
    hero = folder / "home_hero.yaml"
    hero.write_text(hero.read_text().replace("floor: 0.02", "floor: 0.02\n  pool: [channel]"))
    shown = " ".join(run("plan", str(SHOP), str(folder)).split())
    assert "unsafe home_hero policy {pool: []} →" in shown
    assert "{pool: [channel]}" in shown
    assert "PolicySpec" not in shown
    assert "None of 10,000 customers moves." in shown


def test_a_preview_keeps_every_name_whole_in_eighty_columns(tmp_path: Path) -> None:
    customers = tmp_path / "customers.jsonl"
    customers.write_text("\n".join(json.dumps({"user_id": f"customer-{index}"}) for index in range(9)))
    words = ("preview", "home_hero", "--customers", str(customers), "--experiments", str(SHOP), "--data", str(tmp_path))
    lines = run(*words).splitlines()
    assert lines[0].split() == ["customer", "channel", "gets", "reason", "propensity", "policy"]
    rows = json.loads(run(*words, "--json"))
    for row, shown, detail in zip(rows, lines[1:10], lines[10:], strict=True):
        assert shown.split()[:4] == [row["customer"], row["channel"], row["gets"], row["reason"]]
        assert detail == f"{row['customer']} on {row['channel']} among {row['detail']}"


def test_check_counts_drafts_apart(tmp_path: Path) -> None:
    folder = shutil.copytree(SHOP, tmp_path / "shop")
    assert "2 experiments, 10 offers" in run("check", str(folder))
    variants = "variants: [{key: a, weight: 0.5}, {key: b, weight: 0.5}]"
    (folder / "next.yaml").write_text(f"key: next\nstatus: draft\n{variants}\n")
    assert "2 experiments, 1 draft, 10 offers" in run("check", str(folder))


def test_the_log_has_one_engine() -> None:
    assert "the log is read by DuckDB" in run("analyze", "hero_policy", "--engine", "spark", code=2)


def test_an_export_is_json_whether_it_is_asked_for_or_not(tmp_path: Path) -> None:
    for words in ((), ("--json",)):
        assert "no store ran here" in run("export", "u-1", "--data", str(tmp_path), *words, code=2)


@pytest.mark.parametrize(("alpha", "level"), [("0.05", "95%"), ("0.004", "99.6%"), ("0.000001", "99.9999%")])
def test_no_interval_is_called_one_of_a_hundred_percent(tmp_path: Path, alpha: str, level: str) -> None:
    table, page = tmp_path / "units.csv", tmp_path / "page.html"
    rows = [f"u{n},{'ab'[n % 2]},{n % 3}" for n in range(60)]
    table.write_text("\n".join(["unit,variant,x", *rows]))
    words = ("--variant", "variant", "--control", "a", "--unit", "unit", "--metric", "mean:x", "--alpha", alpha)
    run("analyze", "--table", str(table), *words, "--html", str(page))
    assert f"{level} interval<" in page.read_text()


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.5, "50%"),
        (0.0004, "0.04%"),
        (0.0025, "0.25%"),
        (1 / 3, "33.3%"),
        (0.9996, "99.96%"),
        (1.0, "100%"),
        (0.0, "0%"),
    ],
)
def test_a_share_that_somebody_set_is_never_rounded_to_none_or_all(share: float, shown: str) -> None:
    assert format_level(share) == shown
