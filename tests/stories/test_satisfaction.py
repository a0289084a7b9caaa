"""Satisfaction is the mean of the answers, not of the customers: from surveys over HTTP to the report."""

import json
import math
from typing import Any

import numpy as np
import pytest

from tests.verbs import run_verb

SHOP = {
    "metrics": [
        {"key": "click", "event": "click"},
        {"key": "csat_score", "kind": "csat", "event": "survey"},
        {"key": "nps_score", "kind": "nps", "event": "survey"},
        {"key": "ces_score", "kind": "ces", "event": "survey", "value": "effort"},
    ],
    "offers": {"a": {}},
    "placements": {},
    "experiments": {
        "layout": {
            "variants": [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}],
            "metrics": {"primary": "csat_score", "secondary": ["nps_score", "ces_score"]},
            "analysis": {"method": "fixed", "min_days": 1},
        }
    },
}


def analyze(shop: Any) -> Any:
    words = ["analyze", "layout", "--log", str(shop.settings.log), "--experiments", str(shop.settings.experiments)]
    done, text = run_verb(*words, "--json", check=True), run_verb(*words, check=True)
    return json.loads(done.stdout), " ".join(text.stdout.split())


def nps(answers: list[int]) -> float:
    return 100 * (sum(answer >= 9 for answer in answers) - sum(answer <= 6 for answer in answers)) / len(answers)


def test_scores_are_means_of_answers_clustered_by_customer(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    rng = np.random.default_rng(5)
    answers: dict[str, list[list[int]]] = {"x": [], "y": []}
    for n in range(120):
        decided = shop.decide("web", experiments=["layout"], user_id=f"u{n}")
        given = [int(answer) for answer in rng.integers(0, 11, size=rng.choice([0, 0, 1, 3]))]
        answers[decided["experiments"]["layout"]["variant"]].append(given)
        for answer in given:
            properties = {"csat": 1 + answer % 5, "nps": answer, "effort": answer / 2, "note": "thanks"}
            shop.tell("survey", user_id=f"u{n}", properties=properties)
        if n % 7 == 0:
            shop.tell("survey", user_id=f"u{n}", properties={"note": "no score"})
    shop.collect()
    report, text = analyze(shop)
    rows = {row["metric"]: row for row in report["metrics"]}
    for variant, given in answers.items():
        flat = [answer for of_customer in given for answer in of_customer]
        assert rows["csat_score"]["mean"][variant] == pytest.approx(np.mean([1 + answer % 5 for answer in flat]))
        assert rows["nps_score"]["mean"][variant] == pytest.approx(nps(flat))
        assert rows["ces_score"]["mean"][variant] == pytest.approx(np.mean(flat) / 2)
        assert rows["csat_score"]["response"][variant] == pytest.approx(np.mean([bool(one) for one in given]))
    assert rows["nps_score"]["absolute"]["se"] == pytest.approx(
        math.sqrt(sum(clustered_variance(given) for given in answers.values())), rel=1e-9
    )
    assert "csat_score is the mean of the answers" in text


def clustered_variance(given: list[list[int]]) -> float:
    """The variance of a net promoter score by the delta method over customers.

    It grows with their unequal numbers of answers, as docs/reference/statistics/reports.md says of ratios.
    """
    scores = np.array([sum((answer >= 9) - (answer <= 6) for answer in one) * 100.0 for one in given])
    sizes = np.array([len(one) for one in given], dtype=float)
    ratio = scores.sum() / sizes.sum()
    variance = float(np.var(scores - ratio * sizes, ddof=1) / len(given) / sizes.mean() ** 2)
    unequal = float(np.var(sizes) / sizes.mean() ** 2)
    effective = len(given) / (1 + unequal)
    return variance * (1 + min(max(unequal - 1, 0.0), 1.0) * 3 / effective)


def test_variants_that_answer_at_different_rates_are_flagged(open_shop: Any) -> None:
    shop = open_shop(SHOP, workers=1)
    for n in range(100):
        variant = shop.decide("web", experiments=["layout"], user_id=f"u{n}")["experiments"]["layout"]["variant"]
        if variant == "x" or n % 5 == 0:
            shop.tell("survey", user_id=f"u{n}", properties={"csat": 1 + n % 5, "nps": n % 11, "effort": n % 7})
    shop.collect()
    report, _ = analyze(shop)
    assert any("the shares that answered csat_score differ" in flag for flag in report["quality"]["flags"])
