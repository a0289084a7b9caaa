"""A frozen holdout: its customers are decided by an archived plan, under the limits of today."""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine.catalog.archive import Archive
from engine.catalog.watch import PlanWatch
from engine.cli import app
from engine.errors import CatalogError, CounterpointError
from engine.learn.reward_rules import reward_rules
from engine.learn.teach import fit_to_plan
from tests.stories.conftest import write_shop

HALVES = [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}]
FLAG = {"kind": "flag", "type": "string", "variants": [{"key": "old", "payload": {"value": "old"}}]}
NEW_VALUE = {"key": "new", "payload": {"value": "new"}}
BEFORE = {
    "offers": {"a": {"tags": ["t"]}, "b": {}},
    "placements": {"hero": {"offers": ["a", "b"]}, "mail": {"offers": ["b"]}},
    "experiments": {
        "layout": {"variants": HALVES, "metrics": {"primary": "revenue"}},
        "theme": {**FLAG, "default": "old"},
    },
    "channels": {"email": {"outbound": True}},
}
TODAY = {
    **BEFORE,
    "offers": {"a": {"stock": {"sku": "S", "at_least": 1}, "purpose": "marketing"}, "c": {}},
    "placements": {"hero": {"offers": ["c"]}, "mail": {"offers": ["c"]}, "strip": {"offers": ["c"]}},
    "experiments": {
        "layout": {"status": "shipped", "ship": "y", "variants": HALVES, "metrics": {"primary": "revenue"}},
        "theme": {**FLAG, "variants": [*FLAG["variants"], NEW_VALUE], "default": "new"},
        "extra": {"variants": HALVES, "metrics": {"primary": "revenue"}},
        "gate": {
            "kind": "flag",
            "type": "boolean",
            "variants": [{"key": "on", "payload": {"value": True}}, {"key": "off", "payload": {"value": False}}],
            "rules": [{"variant": "on"}],
            "default": "off",
        },
    },
}


def archive_before(tmp_path: Path, shop: Any = BEFORE) -> str:
    """Run the plan of before on the data directory; its version."""
    watch = PlanWatch(write_shop(tmp_path / "before", shop), Archive(tmp_path / "data" / "plans"))
    return watch.plan.version


def frozen(version: str, share: float = 0.4, **more: Any) -> dict[str, Any]:
    return {**TODAY, **more, "layers": {"holdouts": [{"key": "q4", "share": share, "keeps": version}]}}


def run(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "engine", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


def test_who_is_held_out_has_the_plan_of_before(open_shop: Any, tmp_path: Path) -> None:
    shop = open_shop(frozen(archive_before(tmp_path)))
    shop.stock("S", 1000)
    kept, today = [], []
    for n in range(100):
        shop.consent("marketing", user_id=f"u{n}")
        asked = ["layout", "theme", "extra", "gate"]
        decision = shop.decide("web", "hero", "strip", experiments=asked, user_id=f"u{n}")
        (kept if decision["experiments"]["layout"]["reason"] == "holdout" else today).append(decision)
    assert abs(len(kept) - 40) < 20  # four standard errors of 4.9
    for decision in today:
        got = {key: one["variant"] for key, one in decision["experiments"].items()}
        assert got == {"layout": "y", "theme": "new", "extra": got["extra"], "gate": "on"}
        assert got["extra"] in {"x", "y"}
        assert decision["offers"]["hero"]["offer"] == "c"
    for decision in kept:
        got = {key: one["variant"] for key, one in decision["experiments"].items()}
        assert got == {"layout": got["layout"], "theme": "old", "extra": None, "gate": "off"}
        assert {one["reason"] for one in decision["experiments"].values()} == {"holdout"}
        assert decision["offers"]["hero"]["policy"] == "hero~q4@0"
        assert decision["offers"]["hero"]["propensity"] == 0.5
        assert decision["offers"]["strip"]["offer"] == "banner"  # a placement that the kept plan does not have
    assert {one["experiments"]["layout"]["variant"] for one in kept} == {"x", "y"}
    assert {one["offers"]["hero"]["offer"] for one in kept} == {"a", "b"}
    everything = shop.decide("web", experiments="*", user_id=user_of(kept[0]))["experiments"]
    assert {key: one["variant"] for key, one in everything.items()}["theme"] == "old"
    shop.collect()
    where = ["--data", str(shop.settings.data), "--experiments", str(shop.settings.experiments)]
    for decision in (kept[0], today[0]):
        replayed = json.loads(
            run("explain", decision["decision_id"], *where[:2], "--redis", shop.settings.redis, "--json")
        )
        assert replayed["same"], replayed["differences"]
        explanation = replayed["explanation"]
        assert explanation.get("holdout") == ("q4" if decision is kept[0] else None)
        held = explanation.get("held_out")
        assert (held is None) == (decision is today[0])
        if held is not None:
            version = yaml.safe_load((shop.settings.experiments / "layers.yaml").read_text())["holdouts"][0]["keeps"]
            assert (held["pool"], held["archived_plan"]) == ("q4", version)
            assert held["position"] < held["share"] == 0.4
            assert f"plan {version} decides" in held["rule"]


def test_exclusive_groups_once_and_ramps_are_those_of_the_kept_plan(open_shop: Any, tmp_path: Path) -> None:
    birthday = {"key": "gift", "trigger": {"event": "registered"}, "placements": ["hero"], "offers": ["a"]}
    ramp = {"steps": [0.5, 1], "every": "1d", "advance": "guardrails_hold"}
    split = {"status": "running", "variants": HALVES, "metrics": {"primary": "click"}}
    placements = {"hero": {"offers": ["a"]}, "mail": {"offers": ["b"]}}
    before = {
        "offers": {"a": {"exclusive": ["g"]}, "b": {"exclusive": ["g"]}},
        "placements": placements,
        "moments": [birthday | {"once": {"per": "occurrence"}}],
        "experiments": {"slow": {**split, "ramp": ramp}},
    }
    today = {
        "offers": {"a": {}, "b": {}},
        "placements": placements,
        "moments": [birthday],
        "experiments": {"slow": split},
    }
    version = archive_before(tmp_path, before)
    shop = open_shop({**today, "layers": {"holdouts": [{"key": "q4", "share": 0.5, "keeps": version}]}}, workers=1)
    reasons: dict[bool, list[str]] = {True: [], False: []}
    for n in range(40):
        who = f"u{n}"
        shop.tell("registered", user_id=who)
        first = shop.decide("web", "hero", "mail", experiments=["slow"], user_id=who)
        is_held = shop.explain_all("web", "hero", user_id=who).get("holdout") == "q4"
        shown = {place: one["offer"] for place, one in first["offers"].items()}
        assert shown == {"hero": "a", "mail": "banner" if is_held else "b"}
        again = shop.decide("web", "hero", user_id=who)["offers"]["hero"]["reason"]
        assert again == ("policy" if is_held else "moment")
        reasons[is_held].append(first["experiments"]["slow"]["variant"] or "none")
    assert len(reasons[True]) > 8
    assert "none" in reasons[True]  # the first step of the ramp lets half of them in
    assert {"x", "y"} & set(reasons[True])
    assert "none" not in reasons[False]


def user_of(decision: dict[str, Any]) -> str:
    return str(decision["customer"])


def test_the_limits_of_today_hold_for_who_is_held_out(open_shop: Any, tmp_path: Path) -> None:
    """Stock, consent, caps of offers and channels, breakers and the kill switch; whatever the kept plan had."""
    version = archive_before(tmp_path)
    offers = {**TODAY["offers"], "b": {"caps": [{"count": 1, "per": "1d", "event": "exposure"}]}}
    channels = {
        "email": {"outbound": True, "caps": [{"count": 2, "per": "1d", "event": "exposure", "scope": "channel"}]}
    }
    shop = open_shop(frozen(version, share=1, offers=offers, channels=channels))
    shop.stock("S", 2)
    got = [shop.offer("web", "hero", user_id="u1") for _ in range(12)]
    assert sorted(set(got)) == ["b", "banner"]  # no consent to marketing; one b a day
    assert got.count("b") == 1
    for n in range(2, 9):
        shop.consent("marketing", user_id=f"u{n}")
    shown = [shop.offer("web", "hero", user_id=f"u{n}") for n in range(2, 9) for _ in range(4)]
    assert shown.count("a") <= 2  # two in stock
    assert shown.count("b") == 7
    mailed = [shop.decide("email", "mail", user_id="u30")["offers"]["mail"] for _ in range(4)]
    assert [one["offer"] for one in mailed] == ["b", "banner", None, None]
    paused = shop.client().post("/v1/experiments/hero/pause", json={"reason": "test"})
    assert paused.status_code == 200, paused.text
    shop.client().post("/v1/experiments/layout/pause", json={"reason": "test"})
    body = {"customer": {"user_id": "u40"}, "channel": "web", "placements": ["hero"], "experiments": ["layout"]}
    for client in shop.clients:
        until = time.monotonic() + 20
        while (answer := client.post("/v1/decide", json=body).json())["offers"]["hero"]["reason"] != "breaker":
            assert time.monotonic() < until
            time.sleep(0.05)
        while answer["experiments"]["layout"]["variant"] is not None:
            assert time.monotonic() < until
            answer = client.post("/v1/decide", json=body).json()
            time.sleep(0.05)


@pytest.mark.parametrize("limit", [{"stock": {"sku": "B"}}, {"end": "2026-01-01T00:00:00Z"}, {"purpose": "marketing"}])
def test_a_fallback_of_before_that_is_limited_today_gives_way_to_that_of_today(
    open_shop: Any, tmp_path: Path, limit: dict[str, Any]
) -> None:
    version = archive_before(tmp_path)
    offers = {**TODAY["offers"], "banner": limit, "d": {}, "b": {"end": "2026-01-01T00:00:00Z"}}
    placements = {key: {**one, "fallback": "d"} for key, one in TODAY["placements"].items()}
    shop = open_shop(frozen(version, share=1, offers=offers, placements=placements))
    shop.stock("B", 0)
    shown = [shop.decide("web", "hero", "strip", user_id=f"u{n}")["offers"] for n in range(5)]
    assert {(one["hero"]["offer"], one["hero"]["reason"]) for one in shown} == {("d", "fallback")}
    shop.client().post("/v1/experiments/hero/pause", json={"reason": "test"})
    until = time.monotonic() + 20
    while (one := shop.decide("web", "hero", user_id="u1")["offers"]["hero"])["reason"] != "breaker":
        assert time.monotonic() < until
        time.sleep(0.05)
    assert one["offer"] == "d"


def test_the_report_compares_everyone_with_the_kept_plan(open_shop: Any, tmp_path: Path) -> None:
    """Also who was only asked for an offer, or for nothing that the kept plan has."""
    version, chance, held = archive_before(tmp_path), random.Random(3), 0
    shop = open_shop(frozen(version, share=0.3))
    for n in range(240):
        placements, asked = ((), ["extra"]) if n % 2 else (("hero",), [])
        decision = shop.decide("web", *placements, experiments=asked, user_id=f"u{n}")
        is_held = (
            decision["experiments"]["extra"]["reason"] == "holdout"
            if n % 2
            else decision["offers"]["hero"]["offer"] != "c"
        )
        held += is_held
        if chance.random() < (0.2 if is_held else 0.8):
            shop.tell("purchase", user_id=f"u{n}", properties={"revenue": 10, "order_id": f"o{n}"})
    shop.collect()
    where = ["--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments)]
    report = json.loads(run("analyze", "q4", *where, "--data", str(shop.settings.data), "--json"))
    assert report["units"] == {"held out": held, "let in": 240 - held}
    assert report["quality"]["srm"]["ok"]
    [revenue] = report["metrics"]
    assert revenue["absolute"]["low"] < 6.0 < revenue["absolute"]["high"]
    assert revenue["absolute"]["estimate"] == pytest.approx(6.0, abs=2.4)  # four standard errors of 0.6
    shown = " ".join(run("analyze", "q4", *where, "--data", str(shop.settings.data)).split())
    assert shown.startswith("Everything that changed since the kept plan: revenue +")
    extra = json.loads(run("analyze", "extra", *where, "--data", str(shop.settings.data), "--json"))
    assert sum(extra["units"].values()) < 120  # nobody who is held out is in today's experiment


def test_a_plan_that_is_not_archived_is_an_error_of_check_and_of_a_start(tmp_path: Path) -> None:
    version = archive_before(tmp_path)
    folder, plans = write_shop(tmp_path / "today", frozen(version)), tmp_path / "data" / "plans"
    assert "No problems" in run("check", str(folder), "--data", str(tmp_path / "data"))
    (plans / f"{version}.json").rename(plans / "elsewhere")
    (plans / "newest").unlink()
    shown = run("check", str(folder), "--data", str(tmp_path / "data"), code=1)
    assert f"today/layers.yaml holdouts[0].keeps: plan '{version}' is not in the archive {plans}" in shown
    with pytest.raises(CatalogError, match="is not in the archive"):
        PlanWatch(folder, Archive(plans))
    (plans / f"{version}.json").write_text("{")
    assert "restore it from a backup" in run("check", str(folder), "--data", str(tmp_path / "data"), code=1)
    wrong = {"key": "layout", "share": 0.1, "keeps": "q3", "tags": ["t"]}
    (folder / "layers.yaml").write_text(yaml.safe_dump({"holdouts": [wrong]}), encoding="utf-8")
    shown = run("check", str(folder), "--data", str(tmp_path / "data"), code=1)
    assert "holdouts[0].keeps: 'q3' does not match ^[0-9a-f]{12}$" in shown


def test_a_kept_plan_may_keep_one_itself(tmp_path: Path) -> None:
    """Who is in two holdouts has the older plan: that of today's first, which sends them on."""
    first = archive_before(tmp_path)
    plans = tmp_path / "data" / "plans"
    second = PlanWatch(write_shop(tmp_path / "second", frozen(first, share=0.5)), Archive(plans)).plan.version
    third = frozen(second, share=0.5)
    watch = PlanWatch(write_shop(tmp_path / "third", third), Archive(plans))
    assert sorted(watch.plan.policies) == [
        "hero",
        "hero~q4",
        "hero~q4~q4",
        "mail",
        "mail~q4",
        "mail~q4~q4",
        "strip",
        "strip~q4",
    ]
    again = Archive(plans).read_specs(watch.plan.version)
    assert again.version == watch.plan.version
    assert again.kept.keys() == {second}
    shutil.copytree(plans, tmp_path / "copy")
    assert Archive(tmp_path / "copy").read_specs(watch.plan.version).kept[second].kept.keys() == {first}


def test_plan_says_that_customers_go_back(tmp_path: Path) -> None:
    version = archive_before(tmp_path)
    old, new = write_shop(tmp_path / "old", TODAY), write_shop(tmp_path / "new", frozen(version))
    found = json.loads(run("plan", str(old), str(new), "--data", str(tmp_path / "data"), "--json"))
    [change] = [one for one in found["changes"] if one["path"] == "holdouts"]
    assert change["class"] == "unsafe"
    assert f"go back to the plan {version}" in change["reason"]
    back = [move for move in found["moves"] if move["experiment"] == "theme"]
    assert [(move["from"], move["to"]) for move in back] == [("new", "old")]
    assert back[0]["customers"] / found["sample"] == pytest.approx(0.4, abs=0.06)
    previewed = run("preview", "theme", "--experiments", str(new), "--data", str(tmp_path / "data"), "--json")
    reasons = {row["reason"] for row in json.loads(previewed)}
    assert "holdout" in reasons


def test_verbs_find_the_kept_plan_in_the_data_that_they_are_given(tmp_path: Path) -> None:
    folder = write_shop(tmp_path / "shop", frozen(archive_before(tmp_path)))
    (folder / "tests").mkdir()
    tests = [{"expect": {"extra": ["x", "y", None]}}]
    (folder / "tests" / "shop.yaml").write_text(yaml.safe_dump({"tests": tests}), encoding="utf-8")
    units, codes = tmp_path / "units.csv", tmp_path / "codes.txt"
    units.write_text("customer,sales\n" + "".join(f"c{n},{n}\n" for n in range(8)), encoding="utf-8")
    codes.write_text("CODE1\n", encoding="utf-8")
    shop = ["--experiments", str(folder)]
    verbs: list[tuple[list[str], str]] = [
        (["balance", "extra", "--covariates", str(units), "--seeds", "10", *shop], ""),
        (["test", str(folder)], ""),
        (["coupons", "import", str(codes), "--offer", "nothing", *shop], "--offer nothing"),
        (["traits", "backfill", *shop], "traits.yaml defines no trait"),
        (["aa", "extra", *shop], "log"),
    ]
    for words, problem in verbs:
        for data, expected in (("data", problem), ("elsewhere", "layers.yaml holdouts[0].keeps")):
            asked = [*words, "--data", str(tmp_path / data)]
            if expected:
                with pytest.raises(CounterpointError) as error:
                    app(asked, result_action="return_value", exit_on_error=False)
                assert expected in str(error.value)
                assert ("keeps" in str(error.value)) == (data == "elsewhere")
            else:
                assert app(asked, result_action="return_value", exit_on_error=False) == 0


def test_a_kept_policy_begins_with_what_todays_learnt_and_learns_apart(tmp_path: Path) -> None:
    learning = {"policy": {"kind": "beta_thompson"}}
    before = {**BEFORE, "placements": {"hero": {"offers": ["a", "b"], **learning}, "mail": {"offers": ["b"]}}}
    version = archive_before(tmp_path, before)
    now = {**frozen(version), "placements": {"hero": {"offers": ["a", "c"], **learning}, "mail": {"offers": ["c"]}}}
    plan = PlanWatch(write_shop(tmp_path / "today", now), Archive(tmp_path / "data" / "plans")).plan
    rules = reward_rules(plan)
    fresh = fit_to_plan({}, rules)
    ones = np.ones(3)
    learnt = replace(fresh["hero"], policy=fresh["hero"].policy.update(None, np.zeros(3, dtype=int), ones, ones / 2))
    began = fit_to_plan({"hero": learnt}, rules)
    assert began["hero~q4"].policy.arms == ("a", "b", "c")  # its own arms, then the other that it knows
    assert began["hero~q4"].policy.seen == 3
    taught = began["hero~q4"].policy.update(None, np.ones(5, dtype=int), np.ones(5), np.ones(5) / 2)
    later = fit_to_plan({**began, "hero~q4": replace(began["hero~q4"], policy=taught)}, rules)
    assert (later["hero"].policy.seen, later["hero~q4"].policy.seen) == (3, 8)
