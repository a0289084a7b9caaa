"""`bisect` finds the line of YAML, or the snapshot, that changed what one customer gets."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.catalog import load_plan
from engine.cli.app import app
from engine.learn import learn
from engine.rehearse.bisect import find_last_change

SHOP = {
    "offers": {"a": {}, "b": {}},
    "placements": {
        "hero": {"offers": ["a"]},
        "row": {
            "offers": ["a", "b"],
            "policy": {"kind": "linear_thompson", "features": [{"trait": "country", "one_of": ["fr"]}]},
            "reward": {"metric": "click"},
        },
    },
}


def edit(shop: Any, name: str, **more: Any) -> None:
    """Change a file and wait until the server has the plan."""
    before = shop.decide("web", "hero", user_id="watcher")["plan"]
    file = Path(shop.settings.experiments) / f"{name}.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | more))
    for _ in range(600):
        if shop.decide("web", "hero", user_id="watcher")["plan"] != before:
            return
        time.sleep(0.1)
    raise AssertionError("the plan was not replaced")


def test_the_line_and_the_snapshot_that_changed_an_answer_are_found(
    open_shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = open_shop(SHOP, workers=1)
    people = [f"p{number}" for number in range(80)]
    first = {who: shop.decide("web", "row", user_id=who)["decision_id"] for who in people}
    edit(shop, "row", policy={"kind": "beta_thompson", "floor": 0.001})
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    early = {who: shop.offer("web", "row", user_id=who) for who in people}
    clicks = []
    for number in range(60):
        shown = shop.decide("web", "row", user_id=f"u{number}")
        event = {"type": "track", "event": "click", "message_id": f"c{number}", "channel": "web", "properties": {}}
        if shown["offers"]["row"]["offer"] == "a":
            clicks.append({**event, "decision_id": shown["decision_id"], "user_id": f"u{number}"})
    assert shop.client().post("/v1/events", json={"batch": clicks}).status_code == 200
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    for _ in range(600):
        if not shop.decide("web", "row", user_id="watcher")["offers"]["row"]["policy"].endswith("@0"):
            break
        time.sleep(0.1)
    late = {who: shop.offer("web", "row", user_id=who) for who in people}

    assert shop.offer("web", "hero", user_id="jo") == "a"
    edit(shop, "offers/b", title="Another title")
    edit(shop, "offers/a", title="A title", audience={"country": "fr"})
    edit(shop, "hero", arbitration={"value": True})
    assert shop.offer("web", "hero", user_id="jo") == "banner"
    shop.collect()

    def bisect(customer: str, *words: str) -> dict[str, Any]:
        capsys.readouterr()
        settings = ["--data", str(shop.settings.data), "--redis", shop.settings.redis]
        code = app(["bisect", customer, *words, *settings, "--json"], result_action="return_value")
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert code == (0 if found["cause"] in ("plan", "snapshot") else 1)
        return found

    found = bisect("jo")
    assert (found["key"], found["cause"], found["is_alone"]) == ("hero", "plan", True)
    assert [(line["file"], line["path"]) for line in found["lines"]] == [("offers/a.yaml", "audience")]
    assert (found["before"]["got"], found["after"]["got"]) == ("a", "banner")

    def first_by(cause: str, others: set[str], asked: dict[str, tuple[str, ...]]) -> dict[str, Any]:
        """The first customer's answer with this cause: draws differ, so not everyone's answer has it."""
        for who, words in asked.items():
            one = bisect(who, *words)
            if one["cause"] == cause:
                return one
            assert one["cause"] in others
        raise AssertionError(f"of {len(asked)} customers none has the cause {cause}")

    changed = {who: ("--key", "row") for who in people if early[who] != late[who]}
    assert first_by("snapshot", {"other"}, changed)["snapshots"][0] == "row@0"
    # The snapshot of the last decision is of another kind than the policy of the first plan, which starts from a prior.
    by_plan = first_by("plan", {"snapshot", "other", "nothing"}, {who: ("--before", first[who]) for who in people})
    assert {line["path"].partition(".")[0] for line in by_plan["lines"]} == {"policy"}


def test_the_last_change_of_an_answer_is_found() -> None:
    for flips in range(1, 9):
        assert find_last_change(range(9), lambda at, flips=flips: at >= flips) == (flips - 1, flips)
    assert find_last_change(range(9), lambda at: at in (1, 2, 6, 7, 8)) == (5, 6)
    assert find_last_change(range(9), lambda _: True) is None
    assert find_last_change(range(9), lambda _: False) is None
