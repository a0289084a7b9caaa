"""`counterpoint import`: what it writes passes `check`, nothing is overwritten, and GrowthBook's values stay."""

import json
from pathlib import Path

import pytest

from engine.cli.bridges.imports import import_flags_of
from engine.errors import BadInput
from engine.hashing import bucket
from engine.imports.growthbook import rollout_end
from tests.verbs import run_verb

FEATURES = {
    "features": {
        "checkout": {
            "defaultValue": "classic",
            "rules": [
                {"condition": {"employee": True}, "force": "one-page"},
                {"force": "one-page", "coverage": 0.25, "hashAttribute": "id", "hashVersion": 1},
                {
                    "key": "layout",
                    "condition": {"country": {"$in": ["DE", "AT"]}},
                    "hashVersion": 2,
                    "coverage": 0.5,
                    "weights": [0.4, 0.6],
                    "variations": ["classic", "one-page"],
                    "meta": [{"key": "control"}, {"key": "one_page"}],
                    "namespace": ["pricing", 0, 0.8],
                },
            ],
        },
        "dark": {"defaultValue": False, "rules": [{"force": True, "coverage": 0.3, "hashAttribute": "company"}]},
        "child": {
            "defaultValue": 0,
            "rules": [{"force": 1, "parentConditions": [{"id": "checkout", "condition": {"value": "one-page"}}]}],
        },
    }
}


def test_ten_thousand_customers_keep_their_values(tmp_path: Path) -> None:
    source = tmp_path / "features.json"
    source.write_text(json.dumps(FEATURES), encoding="utf-8")
    to = tmp_path / "moved"
    done = run_verb("import", "growthbook", str(source), "--to", str(to), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["proof"] == {"customers": 10_000, "compared": 30_000, "equal": 30_000, "differences": []}
    assert answer["flags"] == {"checkout": "checkout", "dark": "dark", "child": "child"}
    assert sorted(path.name for path in to.iterdir()) == answer["files"]
    checked = run_verb("check", str(to))
    assert checked.returncode == 0, checked.stderr
    with pytest.raises(BadInput, match=r"has .*checkout\.yaml.* already; import into a new folder"):
        import_flags_of("growthbook", source, to=to)


def test_values_are_compared_in_a_folder_that_has_files_and_without_what_is_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "shop"
    to.mkdir()
    (to / "channels.yaml").write_text("channels: [{key: app, title: App}]\n", encoding="utf-8")
    source = tmp_path / "features.json"
    half = {"defaultValue": 0, "rules": [{"force": 1, "coverage": "0.5"}]}
    features = {"x": None, "half": half, "metrics": {"defaultValue": 1}}
    source.write_text(json.dumps({"features": features, "savedGroups": {"g": None}}), encoding="utf-8")
    assert import_flags_of("growthbook", source, to=to, ids=500, json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["flags"] == {"x": None, "half": "half", "metrics": "metrics-2"}
    assert answer["proof"] == {"customers": 500, "compared": 1_000, "equal": 1_000, "differences": []}


def test_people_on_the_boundary_of_a_rollout_stay_in_it() -> None:
    for version in (1, 2):
        for coverage in (0.0, 0.1, 0.29, 0.333, 0.5, 0.57, 0.9999, 1.0):
            end = rollout_end(coverage, version)
            for number in range(5_000):
                place = bucket("f", f"u-{number}", version)
                assert place is not None
                assert (place < end) is (coverage > 0 and place <= coverage)


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    for text, message in (("[]", "is a list"), ("{", "neither JSON nor YAML"), ("{}", "has no 'features'")):
        source = tmp_path / "features.json"
        source.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=message):
            import_flags_of("growthbook", source, to=tmp_path / "moved")
