"""`counterpoint status` shows where everything stands, and `check --log` names the flags that are stale."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from engine.cli import app
from engine.snapshots.publish import open_breaker, publish_ramp_position
from tests.store import open_store

CLICK = {"primary": "click"}
VARIANTS = [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}]
STEPS = {"steps": [0.1, 0.5, 1.0], "every": "1d"}
RULE = {
    "key": "de",
    "audience": {"country": "DE"},
    "variants": VARIANTS,
    "ramp": STEPS,
    "metrics": CLICK,
}
SHOP = {
    "offers": {"a": {}},
    "placements": {"hero": {"offers": ["a"]}},
    "experiments": {
        "steps": {
            "variants": VARIANTS,
            "metrics": CLICK,
            "analysis": {"method": "fixed", "min_days": 1},
        },
        "later": {"variants": VARIANTS, "metrics": CLICK, "status": "draft"},
        "banner.v1": {"kind": "flag", "type": "boolean", "rules": [{"variant": "on"}], "default": "off"},
        "checkout.v2": {"kind": "flag", "type": "string", "rules": [RULE], "default": "old"},
    },
}
SHOP["experiments"] = {key.replace(".", "_"): {"key": key} | one for key, one in SHOP["experiments"].items()}  # type: ignore[attr-defined]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a verb in this process, for it takes seconds to start another; what it prints."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert not app(words, result_action="return_value")
        return capsys.readouterr().out

    return run


def test_status_shows_every_experiment_flag_and_placement_in_a_line(open_shop: Any, verb: Callable[..., str]) -> None:
    shop = open_shop(SHOP)
    where = ("--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data))
    before = verb("status", *where)
    assert "has no log yet" in before
    ages_ago = datetime.now(UTC) - timedelta(days=100)
    with time_machine.travel(ages_ago, tick=True):
        shop.decide("web", experiments=["banner.v1", "checkout.v2"], user_id="first")
    for n in range(40):
        keys = ["steps", "banner.v1", "checkout.v2"]
        shop.decide("web", "hero", experiments=keys, context={"country": "DE"}, user_id=f"u{n}", expose=n % 2 == 0)
    shop.collect()
    with open_store(shop.settings.redis) as client:
        publish_ramp_position(client, "checkout.v2#de", 0.5)
        open_breaker(client, "hero", "clicks fell")
    shop.client().post("/v1/experiments/steps/pause", json={"reason": "too slow"})
    found = json.loads(verb("status", "--json", *where, "--redis", shop.settings.redis))
    lines = {line["key"]: line for line in found["lines"]}
    kinds = {key: (line["kind"], line["state"]) for key, line in lines.items()}
    assert kinds == {
        "steps": ("experiment", "paused"),
        "later": ("experiment", "draft"),
        "banner.v1": ("flag", "running"),
        "checkout.v2": ("flag", "running"),
        "checkout.v2#de": ("rule", "running"),
        "hero": ("placement", "breaker open"),
    }
    assert (lines["steps"]["traffic"], lines["steps"]["units"]) == (40.0, 20)
    assert lines["steps"]["next"].startswith("Paused. Keep running: ")
    assert {light["name"] for light in lines["steps"]["lights"]} >= {"Split", "Exposures"}
    assert lines["checkout.v2"]["traffic"] == 40.0
    assert lines["checkout.v2#de"]["next"].startswith("Ramp at step 2 of 3, 0.5 of its audience. ")
    assert "counterpoint preview later" in lines["later"]["next"]
    assert "counterpoint policy close hero" in lines["hero"]["next"]
    [stale] = found["stale"]
    assert (stale["key"], stale["variant"], stale["since"]) == ("banner.v1", "on", ages_ago.date().isoformat())
    assert lines["banner.v1"]["next"] == f"Stale: {stale['text']}."
    assert stale["text"].startswith(f"gave only 'on' since {stale['since']} (100 days)")
    assert all(key in before for key in lines)
    checked = json.loads(verb("check", str(shop.settings.experiments), "--log", str(shop.settings.log), "--json"))
    assert [one["message"] for one in checked["warnings"] if one["file"].endswith("banner_v1.yaml")] == [stale["text"]]
