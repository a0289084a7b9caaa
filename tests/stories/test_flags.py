"""A flag with rules over HTTP: what each customer gets, what the log has of it, and the report of one of its rules."""

import json
from typing import Any

import duckdb

from tests.verbs import run_verb

SPLIT = [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}]
FLAG = {
    "key": "team/checkout.v2",
    "kind": "flag",
    "type": "boolean",
    "variants": [{"key": "old", "value": False}, {"key": "new", "value": True}],
    "rules": [
        {"audience": {"employee": True}, "variant": "new"},
        {
            "audience": {"country": "DE"},
            "coverage": 0.8,
            "variants": SPLIT,
            "metrics": {"primary": "click"},
            "analysis": {"method": "fixed", "min_days": 1},
        },
    ],
    "default": "old",
}
KEY = "team/checkout.v2"
OFREP = "/ofrep/v1/evaluate/flags"


def analyze(shop: Any, key: str) -> Any:
    folders = ("--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments))
    done = run_verb("analyze", key, "--json", *folders)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_flag_answers_by_its_rules_and_one_rule_has_a_report(open_shop: Any) -> None:
    shop = open_shop({"offers": {"a": {}}, "placements": {}, "experiments": {"team_checkout_v2": FLAG}})
    counted = {"old": 0, "new": 0}
    for n in range(120):
        context = {"country": "DE" if n % 2 else "FR"} | ({"employee": True} if n % 10 == 0 else {})
        told = shop.decide("web", experiments=[KEY], context=context, user_id=f"u{n}")["experiments"][KEY]
        if n % 10 == 0:
            assert told == {"variant": "new", "payload": {"value": True}, "reason": "rule", "rule": "employee"}
        elif n % 2 == 0 or told["reason"] == "default":
            assert told == {"variant": "old", "payload": {"value": False}, "reason": "default"}
        else:
            assert (told["reason"], told["rule"]) == ("assigned", "de")
            counted[told["variant"]] += 1
        if n % 3 == 0:
            shop.tell("click", user_id=f"u{n}")
    shop.collect()
    report = analyze(shop, f"{KEY}#de")
    assert report["units"] == counted
    assert report["quality"]["srm"]["ok"]
    keys = f"SELECT key, count(*) FROM '{shop.settings.log}/decisions/**/*.parquet' GROUP BY key"
    assert dict(duckdb.sql(keys).fetchall()) == {
        KEY: 120 - sum(counted.values()) - 12,
        f"{KEY}#de": sum(counted.values()),
        f"{KEY}#employee": 12,
    }


def test_ofrep_has_the_value_of_every_answer(open_shop: Any) -> None:
    shop = open_shop({"offers": {"a": {}}, "placements": {}, "experiments": {"team_checkout_v2": FLAG}})
    client = shop.client()
    for path in (f"{OFREP}/{KEY}", f"{OFREP}/team%2Fcheckout.v2"):
        found = client.post(path, json={"context": {"targetingKey": "u1", "country": "FR"}}).json()
        assert (found["value"], found["reason"], found["variant"]) == (False, "DEFAULT", "old")
    employee = {"context": {"targetingKey": "u1", "employee": True}}
    found = client.post(f"{OFREP}/{KEY}", json=employee).json()
    assert (found["value"], found["reason"], found["metadata"]["rule"]) == (True, "TARGETING_MATCH", "employee")
    [flag] = client.post(OFREP, json=employee).json()["flags"]
    assert (flag["key"], flag["value"]) == (KEY, True)
    german = {"customer": {"user_id": "u7"}, "channel": "web", "context": {"country": "DE"}, "experiments": [KEY]}
    explained = client.post("/v1/explain", json=german).json()["experiments"][KEY]
    assert explained["reason"] in {"assigned", "default"}
    prefetch = client.post("/v1/decide", json=german | {"expose": False}).json()
    seen = {"decision_id": prefetch["decision_id"], "experiments": [KEY]}
    assert client.post("/v1/exposures", json=seen).status_code == 202
    paused = client.post("/v1/experiments/team%2Fcheckout.v2/pause", json={"reason": "trial"})
    assert paused.status_code < 300, paused.text


def test_explain_replays_a_decision_of_a_rule(open_shop: Any) -> None:
    shop = open_shop({"offers": {"a": {}}, "placements": {}, "experiments": {"team_checkout_v2": FLAG}})
    answer = shop.decide("web", experiments=[KEY], context={"country": "DE", "employee": True}, user_id="u1")
    shop.collect()
    places = ("--data", str(shop.settings.data), "--redis", shop.settings.redis)
    done = run_verb("explain", answer["decision_id"], "--json", *places)
    assert done.returncode == 0, done.stderr
    assert '"rule": "employee"' in json.dumps(json.loads(done.stdout))
