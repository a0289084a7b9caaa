"""A number of an event counts the same to the learner, the profile and every report; what is no number fails none."""

import json
import random
from typing import Any

import duckdb
import pytest

from tests.stories.test_orders_agree import run_learner
from tests.verbs import run_verb

NUMBERS: list[Any] = [0, 1, 2, 4.5, -3]
NO_NUMBERS: list[Any] = [
    "NaN",
    "nan",
    "Infinity",
    "-inf",
    "7",
    " 8 ",
    "1e400",
    True,
    None,
    [1],
    {"a": 1},
    1.1e12,
    1e308,
]
METRICS = [
    {"key": "stars", "kind": "mean", "event": "rating", "value": "stars"},
    {"key": "median", "kind": "quantile", "event": "rating", "value": "stars", "quantile": 0.5},
    {"key": "per_visit", "kind": "ratio", "event": "rating", "value": "stars", "denominator": "visit"},
    {"key": "worth", "kind": "revenue", "event": "rating", "value": "stars"},
    {"key": "csat", "kind": "csat", "event": "survey"},
]
SHOP: dict[str, Any] = {
    "offers": {"a": {}},
    "metrics": METRICS,
    "placements": {"till": {"offers": ["a"], "policy": {"kind": "gaussian_thompson"}, "reward": {"metric": "stars"}}},
    "experiments": {
        "layout": {
            "variants": [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}],
            "metrics": {"primary": "stars", "secondary": ["median", "per_visit", "worth", "csat"]},
            "analysis": {"method": "fixed", "min_days": 1},
        }
    },
}
WARNING = "properties.stars: {!r:.40} is not a number up to 1e+12; no metric counts it; send a number"


@pytest.mark.parametrize("seed", [1, 2])
def test_numbers_of_events_count_alike_everywhere(open_shop: Any, seed: int) -> None:
    shop, chance = open_shop(SHOP), random.Random(seed)
    stated: dict[str, list[Any]] = {"x": [], "y": []}
    rewards: dict[str, float] = {}
    for n in range(60):
        ids = {"user_id": f"u{n}"}
        shown = shop.decide("web", "till", experiments="*", **ids)
        value = chance.choice(NUMBERS + NO_NUMBERS)
        stated[shown["experiments"]["layout"]["variant"]].append(value)
        shop.tell("visit", **ids)
        item = {"type": "track", "event": "rating", "message_id": f"r{n}", "decision_id": shown["decision_id"], **ids}
        body = {"batch": [{**item, "properties": {"stars": value}}]}
        [status] = shop.client().post("/v1/events", json=body).json()["statuses"]
        is_number = not isinstance(value, bool) and value in NUMBERS
        assert status["status"] == "accepted"
        assert status.get("warnings", []) == ([] if is_number or value is None else [WARNING.format(value)])
        if is_number:
            rewards[shown["decision_id"]] = value
        shop.tell("survey", properties={"csat": chance.choice([2, 4, "5", "nan"])}, **ids)
    run_learner(shop)
    shop.collect()
    places = ["--data", str(shop.settings.data), "--experiments", str(shop.settings.experiments)]
    done = run_verb("analyze", "layout", "--json", *places)
    assert done.returncode == 0, done.stderr
    found = {row["metric"]: row for row in json.loads(done.stdout)["metrics"]}
    for variant, values in stated.items():
        counted = [value if not isinstance(value, bool) and value in NUMBERS else 0 for value in values]
        for name in ("stars", "per_visit", "worth"):
            assert found[name]["mean"][variant] == pytest.approx(sum(counted) / len(counted), rel=1e-9), name
        assert 2 <= found["csat"]["mean"][variant] <= 4
    assert not [row for row in found.values() if "fault" in row["absolute"]]
    logged = duckdb.sql(f"SELECT decision_id, reward FROM '{shop.settings.log}/rewards/**/*.parquet'").fetchall()
    assert {decision: reward for decision, reward in logged if reward} == {
        decision: reward for decision, reward in rewards.items() if reward
    }


def test_satisfaction_of_the_log_reads_scores_as_the_profile_does(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    answers: list[dict[str, Any]] = [
        {"nps": 9},
        {"nps": "9", "score": 3},
        {"score": "nan", "value": 10},
        {"value": 7},
        {"nps": "Infinity"},
        {"score": 1e10},
        {"score": 6.0, "value": 9},
        {"nps": 55},
    ]
    scores = []
    for n, properties in enumerate(answers):
        shop.tell("nps", properties=properties, user_id=f"u{n}")
        answer = shop.client().get(f"/v1/profiles/u{n}").json()["answers"].get("nps")
        scores += [] if answer is None else [answer["score"]]
    assert scores == [9, 3, 7, 6, 55]
    for n, score in enumerate([8, 8]):
        shop.tell("checkout", properties={"survey": "nps", "score": score}, user_id=f"v{n}")
    shop.collect()
    places = ["--data", str(shop.settings.data), "--experiments", str(shop.settings.experiments)]
    done = run_verb("measure", "satisfaction", "--json", *places)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    [row] = [one for one in report["scores"] if one["by"] == "all"]
    assert "left out: 2 of nps" in report["limits"][-1]
    assert (row["answers"], row["mean"]["estimate"]) == (6, pytest.approx(41 / 6))
