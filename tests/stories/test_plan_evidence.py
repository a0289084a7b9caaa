"""`plan --evidence` counts in the log whom a change drops and the days that it adds; `--markdown` is for reviews."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
import yaml

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.cli import app
from engine.cli.design.power_days import report_days
from engine.errors import BadInput
from engine.settings import Settings
from engine.snapshots.publish import publish_ramp_position
from tests.store import open_store

VARIANTS = [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}]
ANALYSIS = {"method": "fixed", "min_days": 1}
CLICK = {"primary": "click"}
STEPS = {"key": "steps", "variants": VARIANTS, "metrics": CLICK, "analysis": ANALYSIS}
RULE = {"key": "everyone", "variants": VARIANTS, "metrics": CLICK, "ramp": {"steps": [0.1, 1.0], "every": "1d"}}
SHOP = {
    "offers": {"a": {}},
    "placements": {},
    "experiments": {
        "steps": STEPS,
        "wide": STEPS | {"key": "wide", "audience": {"country": "DE"}},
        "again": STEPS | {"key": "again"},
        "tagged": STEPS | {"key": "tagged"},
        "paying": STEPS | {"key": "paying"},
        "counted": STEPS | {"key": "counted"},
        "banner": {"key": "banner", "kind": "flag", "type": "string", "rules": [RULE], "default": "old"},
    },
}


SEEN = ["steps", "wide", "again", "tagged", "paying", "counted"]


def edit(folder: Path, key: str, **more: Any) -> None:
    file = folder / f"{key}.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | more))


def analyze(shop: Any) -> Any:
    question, metrics = build_question(load_plan(shop.settings.experiments), "steps")
    return json.loads(analyze_experiment(question, metrics, shop.settings.log).json())


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        capsys.readouterr()
        assert not app(["plan", *words], result_action="return_value")
        return capsys.readouterr().out

    return run


def write_next(shop: Any, folder: Path) -> Path:
    new = shutil.copytree(shop.settings.experiments, folder / "next")
    edit(new, "steps", audience={"country": {"$in": ["DE", "AT"]}})
    edit(new, "wide", audience={})
    edit(new, "again", seed="another")
    edit(new, "tagged", audience={"tags": "regular"})
    edit(new, "paying", audience={"plan": "pro"})
    edit(new, "counted", audience={"views_7d": {"$gte": 0}})
    (new / "traits.yaml").write_text("views_7d: {count: view, window: 7d}\n")
    rule = RULE | {"variants": [{"key": "old", "weight": 0.2}, {"key": "new", "weight": 0.8}]}
    edit(new, "banner", rules=[rule])
    return new


def check_untraced(evidence: dict[str, Any], new: Path, log: Path) -> None:
    """Traces have short traits that their plan did not read, and neither lists nor what traits.yaml defines since."""
    for key, name in (("tagged", "tags"), ("counted", "views_7d")):
        one = evidence.pop(key)
        assert [one[field] for field in ("dropped", "moved", "rate", "days_added")] == [None] * 4
        assert (one["exposed"], one["untraced"]) == (90, [name])
        assert one["text"].startswith(f"the log's traces do not have {name}, which the new plan reads")
        with pytest.raises(BadInput, match=f"traces do not have {name}, which {key} reads"):
            report_days(Settings(experiments=new), log, key, metric=None, mde=0.5)


def test_a_change_is_shown_with_the_people_it_drops(open_shop: Any, tmp_path: Path, plan: Callable[..., str]) -> None:
    shop = open_shop(SHOP)
    with open_store(shop.settings.redis) as client:
        publish_ramp_position(client, "banner#everyone", 1.0)
    traits = {"tags": ["regular"], "plan": "pro"}
    known = [{"type": "identify", "message_id": f"i{n}", "user_id": f"u{n}", "traits": traits} for n in range(90)]
    shop.client().post("/v1/events", json={"batch": known}).raise_for_status()
    countries = {f"u{n}": ("DE", "AT", "CH")[n % 3] for n in range(90)}
    for days_ago in (10, 0):
        with time_machine.travel(datetime.now(UTC) - timedelta(days=days_ago), tick=True):
            for name, country in list(countries.items())[0 if days_ago else 45 : 45 if days_ago else 90]:
                shop.decide("web", experiments=SEEN, context={"country": country}, user_id=name)
    shop.collect()
    new = write_next(shop, tmp_path)
    sample = tmp_path / "sample.json"
    sample.write_text(json.dumps([{"user_id": f"u{n}", "traits": {"country": "DE"}} for n in range(300)]))
    where = [str(shop.settings.experiments), str(new), "--data", str(shop.settings.data), "--profiles", str(sample)]
    found = json.loads(plan(*where, "--redis", shop.settings.redis, "--evidence", "--json"))
    evidence = {one["key"]: one for one in found["evidence"]}
    steps, wide, again = (evidence.pop(key) for key in SEEN[:3])
    check_untraced(evidence, new, shop.settings.log)
    assert evidence.pop("paying")["text"].startswith("drops nobody")
    assert not evidence  # nobody was exposed to the flag
    assert (wide["exposed"], wide["dropped"], wide["moved"], wide["rate"]) == (30, 0, 0, 3.0)
    assert wide["text"].startswith("drops nobody")
    assert (again["dropped"], again["rate"]) == (0, 1.0)
    assert again["moved"] == pytest.approx(45, abs=25)  # five deviations
    assert f"moves {again['moved']} to another variant, adds " in again["text"]
    assert (steps["exposed"], steps["dropped"], steps["moved"]) == (90, 30, 0)
    assert steps["rate"] == pytest.approx(2 / 3)
    report = analyze(shop)
    days, left = report["days"], report["decision"]["days_left"] or 0.0
    assert days == pytest.approx(10, abs=0.1)
    # 30 have to come again, and all that is still to come at two thirds of the rate of 9 a day.
    assert steps["days_added"] == pytest.approx(30 / 6 * days / 10 + 0.5 * left, rel=0.01)
    added = f"{round(steps['days_added']):,}"
    assert steps["text"] == f"drops 30 of 90 exposed people, adds {added} days"
    assert "assumed" not in found
    # At the ramp's last step everyone is let in, so that 30 % of all move, not of a tenth.
    moves = {move["from"]: move["customers"] for move in found["moves"] if move["experiment"] == "banner"}
    assert moves == {"old": pytest.approx(90, abs=40)}  # five deviations of a binomial count
    text = plan(*where, "--evidence", "--markdown")
    assert text.startswith(f"### Counterpoint: `{where[0]}` → `{where[1]}`\n\n**")
    assert "unsafe changes**, of " in text
    assert "| **unsafe** | `steps audience" in text
    assert "- steps: drops 30 of 90 exposed people" in text
    assert "- banner#everyone: the log has no step of its ramp, so its first one is assumed" in text
    same = plan(where[0], where[0], "--markdown", *where[2:])
    assert "No change has an effect on a customer." in same
