"""An experiment ends: `conclude` writes it into the YAML, all but the holdout get the variant, the report stays."""

import io
import json
import re
import time
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.catalog.check.load import load_specs
from engine.catalog.conclude import drop_key, set_key, write_conclusion
from engine.catalog.spec.conclusion import ConclusionSpec
from engine.cli import app
from engine.errors import CounterpointError
from tests.stories.conftest import write_shop

EXPERIMENT = {
    "variants": [{"key": "two", "payload": {"pages": 2}}, {"key": "one", "payload": {"pages": 1}}],
    "audience": {"country": "DE"},
    "layer": "checkout",
    "metrics": {"primary": "click"},
    "analysis": {"method": "fixed", "min_days": 1},
}
LAYERS = {
    "layers": [{"key": "checkout", "reserve": {"steps": [0.0, 0.7]}}],
    "holdouts": [{"key": "q4", "share": 0.2, "metrics": {"primary": "click"}}],
}


def verb(shop: Any, *words: str) -> str:
    """What a verb prints; it runs in this process, as a start takes longer than the verbs do."""
    where = ["--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data)]
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        assert app([*words, *where], result_action="return_value", exit_on_error=False) == 0
    return printed.getvalue()


def document(printed: str) -> Any:
    """The JSON document among the lines of the servers of this process."""
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


def visit(shop: Any, numbers: range) -> dict[str, int]:
    """The number of German customers by reason; every third of them clicks."""
    reasons: dict[str, int] = {}
    for n in numbers:
        answer = shop.decide("web", experiments=["steps"], context={"country": "DE"}, user_id=f"u{n}")
        found = answer["experiments"]["steps"]
        reasons[found["reason"]] = reasons.get(found["reason"], 0) + 1
        if n % 3 == 0:
            shop.tell("click", user_id=f"u{n}")
    return reasons


def test_a_concluded_experiment_ships_to_all_but_the_holdout_and_keeps_its_report(open_shop: Any) -> None:
    shop = open_shop({"offers": {"a": {}}, "placements": {}, "experiments": {"steps": EXPERIMENT}, "layers": LAYERS})
    before = visit(shop, range(90))
    shop.collect()
    file = shop.settings.experiments / "steps.yaml"
    file.write_text("# the team's own note\n" + file.read_text())
    first = document(verb(shop, "analyze", "steps", "--json"))
    answer = verb(shop, "conclude", "steps", "--ship", "one", "--why", "It's simpler: fewer steps", "--yes")
    assert "ship one" in answer
    spec = load_specs(shop.settings.experiments).experiments["steps"]
    assert (spec.status, spec.ship) == ("shipped", "one")
    assert spec.decided is not None
    assert spec.decided.why == "It's simpler: fewer steps"
    assert file.read_text().startswith("# the team's own note\n")
    deadline = time.monotonic() + 60
    while visit(shop, range(1, 2)).keys() & {"assigned", "layer", "coverage"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1.0)  # for the other server, which looks as often
    after = visit(shop, range(200, 290))
    assert set(after) == {"shipped", "holdout"}
    assert before["assigned"] < after["shipped"]
    assert shop.decide("web", experiments=["steps"], user_id="x")["experiments"]["steps"]["reason"] == "audience"
    shop.collect()
    report = document(verb(shop, "analyze", "steps", "--json"))
    assert report["units"] == first["units"]
    assert report["conclusion"].startswith("one was shipped on ")
    assert report["conclusion"].endswith("It's simpler: fewer steps")
    assert [row["mean"] for row in report["metrics"]] == [row["mean"] for row in first["metrics"]]
    frozen = json.loads((shop.settings.data / "reports" / "steps.json").read_text())
    assert frozen["report"]["units"] == first["units"]
    holdout = document(verb(shop, "analyze", "q4", "--json"))
    assert holdout["units"]["let in"] >= after["shipped"] + before["assigned"]
    assert holdout["units"]["held out"] >= after["holdout"]


REFUSED = [
    (["--why", "x"], "give either --ship VARIANT or --stop"),
    (["--stop"], "--why is missing"),
    (["--ship", "three", "--why", "x", "--yes"], "'three' is not"),
    (["--stop", "--why", "x"], "add --yes"),
]


def test_what_cannot_be_concluded_changes_nothing(open_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = open_shop(
        {"offers": {"a": {}}, "placements": {}, "experiments": {"steps": EXPERIMENT}, "layers": LAYERS}, workers=1
    )
    file = shop.settings.experiments / "steps.yaml"
    text = file.read_text()
    visit(shop, range(10))
    shop.collect()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for words, rule in REFUSED:
        with pytest.raises(CounterpointError, match=rule):
            verb(shop, "conclude", "steps", *words)
        assert file.read_text() == text


def test_a_question_that_changed_after_the_first_exposure_is_asked_with_both_verdicts(
    open_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop(
        {"offers": {"a": {}}, "placements": {}, "experiments": {"steps": EXPERIMENT}, "layers": LAYERS}, workers=1
    )
    visit(shop, range(60))
    shop.collect()
    file = shop.settings.experiments / "steps.yaml"
    spec = yaml.safe_load(file.read_text())
    spec["metrics"] = {"primary": "revenue"}
    file.write_text(yaml.safe_dump(spec))
    words = ["conclude", "steps", "--ship", "one", "--why", "More revenue"]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    rule = r"question changed after the first exposure \(metrics.primary: click → revenue\): .*add --yes"
    with pytest.raises(CounterpointError, match=rule):
        verb(shop, *words)
    assert "decided" not in file.read_text()
    shown = " ".join(verb(shop, *words, "--yes").split())
    assert "By the question of the start: KEEP RUNNING" in shown
    decided = load_specs(shop.settings.experiments).experiments["steps"].decided
    assert decided is not None
    assert decided.question is not None
    assert decided.question.changes == ["metrics.primary: click → revenue"]
    assert (decided.question.began, decided.question.now) == ("keep running", "keep running")
    report = document(verb(shop, "analyze", "steps", "--json"))
    assert "decided after its question changed (metrics.primary: click → revenue)" in report["conclusion"]
    frozen = json.loads((shop.settings.data / "reports" / "steps.json").read_text())
    assert frozen["report"]["first_verdict"]["plan"] == decided.question.plan


def test_a_first_plan_that_is_missing_leaves_the_question_unverified(
    open_shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop(
        {"offers": {"a": {}}, "placements": {}, "experiments": {"steps": EXPERIMENT}, "layers": LAYERS}, workers=1
    )
    visit(shop, range(60))
    shop.collect()
    assert document(verb(shop, "analyze", "steps", "--json"))["unverified_question"] == ""
    for file in [*shop.settings.plans.rglob("*")]:
        if file.is_file():
            file.unlink()
    report = document(verb(shop, "analyze", "steps", "--json"))
    assert re.search(r"plan \w+, which made the first exposure: ", report["unverified_question"])
    assert report["first_verdict"] is None
    words = ["conclude", "steps", "--ship", "one", "--why", "More clicks"]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(CounterpointError, match=r"could not be verified: plan .*add --yes"):
        verb(shop, *words)
    shown = " ".join(verb(shop, *words, "--yes").split())
    assert "could not be verified" in shown
    decided = load_specs(shop.settings.experiments).experiments["steps"].decided
    assert decided is not None
    assert decided.question is None
    assert decided.unverified is not None
    conclusion = document(verb(shop, "analyze", "steps", "--json"))["conclusion"]
    assert "could not be verified when it was decided" in conclusion


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("key: a\n", "key: a\nstatus: shipped\n"),
        ("key: a\nstatus: running  # soon\nunit: customer", "key: a\nstatus: shipped\nunit: customer"),
        ("key: a\nstatus:\n  running\n\nunit: customer\n", "key: a\nstatus: shipped\n\nunit: customer\n"),
    ],
)
def test_one_key_is_set_and_the_rest_stays(text: str, changed: str) -> None:
    assert set_key(text, "status", "shipped") == changed


def test_a_key_is_dropped_with_all_its_lines() -> None:
    text = "a: 1\ndecided:\n  on: 2026-01-01\n\n  why: x\nb:\n- 1\n- 2\nc: 3\n"
    assert drop_key(text, "decided") == "a: 1\nb:\n- 1\n- 2\nc: 3\n"
    assert drop_key(text, "b") == "a: 1\ndecided:\n  on: 2026-01-01\n\n  why: x\nc: 3\n"


RULES = """key: f
kind: flag
hypothesis: It helps.
rules:
  # the team's own note
  - {key: a, status: running, variants: [{key: x}, {key: y}], metrics: {primary: click}}
  - key: b  # of the south
    # who lives there
    audience: {country: IT}
    variants: [{key: x}, {key: y}]
    metrics: {primary: click}

default: x
"""
END = 'decided: {on: 2026-03-02, by: "kim", why: "It won"}'
ENDED = {
    "a": ("{key: a, status: running, variants", f"{{key: a, status: shipped, ship: y, {END}, variants"),
    "b": ("who lives there\n", f"who lives there\n    status: shipped\n    ship: y\n    {END}\n"),
}


@pytest.mark.parametrize("rule", ["a", "b"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_rule_of_a_flag_is_concluded_in_its_place(tmp_path: Path, rule: str, newline: str) -> None:
    folder = write_shop(tmp_path / "shop", {"offers": {}, "placements": {}})
    (folder / "f.yaml").write_bytes(RULES.replace("\n", newline).encode())
    decided = ConclusionSpec(on=date(2026, 3, 2), by="kim", why="It won")
    path = write_conclusion(folder, load_specs(folder), f"f#{rule}", ship="y", decided=decided)
    before, after = (each.replace("\n", newline) for each in ENDED[rule])
    assert path.read_bytes().decode() == RULES.replace("\n", newline).replace(before, after)
    [ended] = [one for one in load_specs(folder).experiments["f"].rules if one.status == "shipped"]
    assert (ended.key, ended.ship) == (rule, "y")
    with pytest.raises(CounterpointError, match="'f#c' is not a rule of the flag f; name one of a, b"):
        write_conclusion(folder, load_specs(folder), "f#c", ship="y", decided=decided)
