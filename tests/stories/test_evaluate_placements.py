"""`evaluate` judges a placement as it chooses: with values, levers, context weights, gates and offers by tag."""

import json
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.catalog import load_plan
from engine.learn import learn
from tests.verbs import run_verb

CUSTOMERS = 600
PAYS = {("DE", "a"): 10.0, ("DE", "b"): 2.0, ("DE", "c"): 4.0, ("AT", "a"): 1.0, ("AT", "b"): 8.0}
"""What an order is worth by country and offer; `c` is for DE alone."""
WEIGHTS = [
    {"when": {"$segment": "german"}, "offers": ["a"], "weight": 3},
    {"when": {"points": {"$gte": 10}}, "offers": {"tagged": "cheap"}, "weight": 0.5},
]
TILL: dict[str, Any] = {
    "offers": {"tagged": "till"},
    "policy": {"kind": "uniform", "floor": 0.05},
    "reward": {"metric": "revenue", "window": "1d"},
    "arbitration": {"value": True},
    "weights": WEIGHTS,
}
SHOP = {
    "offers": {
        "a": {"tags": ["till", "cheap"], "value": 1.0},
        "b": {"tags": ["till"], "value": 2.0, "lever": 1.5},
        "c": {"tags": ["till"], "value": 4.0, "audience": {"country": "DE"}},
    },
    "placements": {"till": TILL},
    "segments": [{"key": "german", "condition": {"country": "DE"}}],
}


def factor(offer: str, context: dict[str, Any], chosen: dict[str, Any]) -> float:
    """By what the placement multiplies an offer's even chance, from the YAML as it is written above."""
    spec = SHOP["offers"][offer]  # type: ignore[index]
    worth = float(spec["value"]) if chosen["arbitration"]["value"] else 1.0
    worth *= float(spec.get("lever", 1.0))
    if chosen.get("weights"):
        worth *= 3.0 if offer == "a" and context["country"] == "DE" else 1.0
        worth *= 0.5 if offer == "a" and context["points"] >= 10 else 1.0
    return worth


def true_value(contexts: list[dict[str, Any]], chosen: dict[str, Any]) -> float:
    """The mean reward of these customers if the placement chose by this file."""
    total = 0.0
    for context in contexts:
        arms = [offer for offer in "abc" if (context["country"], offer) in PAYS]
        worth = [factor(offer, context, chosen) for offer in arms]
        least = 0.05
        chances = [one / sum(worth) * (1 - least * len(arms)) + least for one in worth]
        total += sum(p * PAYS[context["country"], offer] for p, offer in zip(chances, arms, strict=True))
    return total / len(contexts)


def is_near(truth: float, value: dict[str, float]) -> bool:
    """Whether the truth is within twice the 95 % interval, about four standard errors: each run draws other offers."""
    middle, half = (value["low"] + value["high"]) / 2, (value["high"] - value["low"]) / 2
    return abs(truth - middle) < 2 * half


def run_learner(shop: Any) -> None:
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)


def evaluated(shop: Any, folder: Path) -> Any:
    done = run_verb("evaluate", "--log", str(shop.settings.log), "--policy", str(folder / "till.yaml"), "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def other_folder(tmp_path: Path) -> Any:
    def copy(shop: Any, **changes: Any) -> Path:
        folder = shutil.copytree(shop.settings.experiments, tmp_path / "other")
        file = folder / "till.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
        return folder

    return copy


def test_a_placement_with_weights_values_and_gates_is_judged_as_it_chooses(
    open_next_shop: Any, other_folder: Any
) -> None:
    dice = random.Random(7)
    contexts = [{"country": dice.choice(["DE", "AT"]), "points": dice.choice([0, 20])} for _ in range(CUSTOMERS)]
    with open_next_shop(SHOP) as shop:
        run_learner(shop)
        for number, context in enumerate(contexts):
            decision = shop.decide("web", "till", user_id=f"u{number}", context=context)
            offer = decision["offers"]["till"]["offer"]
            revenue = {"revenue": PAYS[context["country"], offer], "order_id": f"o{number}"}
            shop.tell("purchase", user_id=f"u{number}", decision_id=decision["decision_id"], properties=revenue)
        run_learner(shop)
        shop.collect()

        [own] = evaluated(shop, shop.settings.experiments)["policies"]
        assert own["warnings"] == []
        assert own["mean_weight"] == pytest.approx(1, abs=1e-9)
        assert own["largest_weight"] == pytest.approx(1, abs=1e-9)

        changes = {"arbitration": {"value": False}, "weights": []}
        report = evaluated(shop, other_folder(shop, **changes))
        [other] = report["policies"]
        assert other["warnings"] == []
        assert other["verdict"]["can_be_judged"], other["verdict"]
        truth = true_value(contexts, TILL | changes)
        assert abs(truth - true_value(contexts, TILL)) > 0.3
        for estimator in ("ips", "snips", "dr"):
            assert is_near(truth, other[estimator]), (estimator, truth, other[estimator])
        assert is_near(true_value(contexts, TILL), report["on_policy"])
