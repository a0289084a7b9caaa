"""A holdout from YAML and HTTP to its report, and an experiment that is shipped as a flag."""

import json
import random
import shutil
import time
from typing import Any

import pytest
import yaml

from tests.verbs import run_verb

HALVES = [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}]
PLAIN = {"variants": HALVES, "metrics": {"primary": "revenue"}}
SHOP = {
    "offers": {"a": {}},
    "placements": {},
    "experiments": {"one": PLAIN, "two": {**PLAIN, "coverage": 0.5, "audience": {"country": "DE"}}},
    "layers": {"holdouts": [{"key": "q4", "share": 0.3}]},
}


def analyze(shop: Any, key: str, *more: str) -> str:
    folders = ("--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments))
    return run_verb("analyze", key, *more, *folders, check=True).stdout


def reason_of(shop: Any, user: str, key: str, **context: Any) -> str:
    decision = shop.decide("web", experiments=[key], user_id=user, context=context)
    return str(decision["experiments"][key]["reason"])


def test_a_holdout_says_what_all_experiments_come_to(open_shop: Any) -> None:
    shop, chance = open_shop(SHOP), random.Random(5)
    held = 0
    for n in range(240):
        decision = shop.decide("web", experiments="*", user_id=f"u{n}", context={"country": "DE" if n % 2 else "AT"})
        is_held = any(one["reason"] == "holdout" for one in decision["experiments"].values())
        held += is_held
        if chance.random() < (0.2 if is_held else 0.8):
            shop.tell("purchase", user_id=f"u{n}", properties={"revenue": 10, "order_id": f"o{n}"})
    shop.collect()
    report = json.loads(analyze(shop, "q4", "--json"))
    assert report["units"] == {"held out": held, "let in": 240 - held}
    assert report["quality"]["srm"]["ok"]
    assert report["quality"]["srm"]["expected"] == pytest.approx({"held out": 0.3, "let in": 0.7})
    assert report["covers"] == ["one", "two"]
    [revenue] = report["metrics"]
    assert revenue["absolute"]["estimate"] == pytest.approx(6.0, abs=2.4)  # four standard errors of 0.6
    shown = " ".join(analyze(shop, "q4").split())
    assert shown.startswith("All 2 experiments and flags together: revenue +")
    assert "against those held out. q4, as of " in shown


def test_who_is_held_out_would_have_a_variant(open_shop: Any) -> None:
    """So both sides of a holdout's report are the same kind of customers, whatever the audience and the coverage."""
    everyone = {**SHOP, "layers": {"holdouts": [{"key": "q4", "share": 1}]}}
    shop = open_shop(everyone, workers=1)
    found = [reason_of(shop, f"u{n}", "two", country="DE") for n in range(60)]
    assert set(found) == {"holdout", "coverage"}
    assert reason_of(shop, "u1", "two", country="AT") == "audience"


def test_a_shipped_experiment_keeps_its_holdout_out(open_shop: Any) -> None:
    shipped = {"kind": "flag", "variants": [{"key": "y"}], "holdouts": ["q4"]}
    experiments = {**SHOP["experiments"], "flag": {**shipped, "seed": "one"}}
    experiments["ruled"] = {
        "kind": "flag",
        "variants": [{"key": "y"}, {"key": "old"}],
        "rules": [{"audience": {"country": "DE"}, "variant": "y"}],
        "default": "old",
        "holdouts": ["q4"],
    }
    shop = open_shop({**SHOP, "experiments": experiments}, workers=1)
    for n in range(40):
        decision = shop.decide("web", experiments=["one", "flag", "ruled"], user_id=f"u{n}", context={"country": "DE"})
        one, flag, ruled = (decision["experiments"][key] for key in ("one", "flag", "ruled"))
        assert (one["reason"] == "holdout") is (flag["reason"] == "holdout") is (ruled["reason"] == "holdout")
        assert flag["variant"] == (None if flag["reason"] == "holdout" else "y")
        assert ruled["variant"] == ("old" if ruled["reason"] == "holdout" else "y")


def test_a_plan_says_whether_shipping_ends_the_holdout(open_shop: Any, tmp_path: Any) -> None:
    shop = open_shop(SHOP, workers=1)

    def shipped(**more: Any) -> list[dict[str, Any]]:
        folder = tmp_path / f"new{time.monotonic_ns()}"
        shutil.copytree(shop.settings.experiments, folder)
        spec = {"key": "one", "hypothesis": "It helps.", "kind": "flag", "variants": HALVES, **more}
        (folder / "one.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
        done = run_verb("plan", str(shop.settings.experiments), str(folder), "--json", check=True)
        changes: list[dict[str, Any]] = json.loads(done.stdout)["changes"]
        return [change for change in changes if change["path"] == "kind"]

    [lost] = shipped()
    assert lost["class"] == "unsafe"
    assert "keep it out by 'holdouts: [q4]'" in lost["reason"]
    [kept] = shipped(holdouts=["q4"])
    assert kept["class"] == "safe"
