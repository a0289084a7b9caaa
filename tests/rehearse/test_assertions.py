"""`counterpoint test`: assertions beside the experiments, in a growth team's words, with the reason where one fails."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.cli import app

SHIPPED = Path(__file__).resolve().parents[2] / "experiments"
VALUES = [{"key": "old", "value": False}, {"key": "new", "value": True}]
HALVES = [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}]
FIRMS = {"key": "firms", "share": 0.5, "unit": "company"}
RULES = [
    {"audience": {"employee": True}, "variant": "new"},
    {"audience": {"country": "DE"}, "variants": HALVES, "metrics": {"primary": "conversion"}},
    {"audience": {"plan": "pro"}, "variant": "new"},
]
FILES: Mapping[str, Any] = {
    "channels.yaml": {
        "channels": [{"key": "web"}, {"key": "app"}],
        "placements": [{"key": "hero", "channels": ["web", "app"]}],
    },
    "metrics.yaml": {
        "metrics": [
            {"key": "click", "event": "click"},
            {"key": "conversion", "event": "purchase", "baseline": 0.1, "daily_units": 1000, "mde": 0.2},
            {"key": "bare", "event": "purchase"},
        ]
    },
    "layers.yaml": {"holdouts": [{"key": "q4", "share": 0.2}, FIRMS]},
    "units.yaml": {"company": {"trait": "company.id"}},
    "segments.yaml": {"segments": [{"key": "germans", "condition": {"country": "DE"}}]},
    "checkout.v2.yaml": {
        "key": "checkout.v2",
        "kind": "flag",
        "type": "boolean",
        "variants": VALUES,
        "rules": RULES,
        "default": "old",
    },
    "steps.yaml": {
        "key": "steps",
        "audience": {"country": "DE"},
        "variants": [{"key": "two"}, {"key": "one"}],
        "metrics": {"primary": "conversion"},
    },
    "draft.yaml": {
        "key": "draft",
        "status": "draft",
        "variants": [{"key": "a", "weight": 1.0}, {"key": "b", "weight": 0.0}],
    },
    "till.yaml": {"key": "till", "unit": "store", "variants": [{"key": "a"}, {"key": "b"}]},
    "hero.yaml": {
        "key": "hero",
        "placement": "hero",
        "offers": ["tea", "wine"],
        "policy": {"kind": "uniform"},
        "reward": {"metric": "click"},
        "silence": 0.3,
        "fallback": "banner",
    },
    **{
        f"offers/{key}.yaml": {"key": key, "renderings": {"web": {"text": key}, "app": {"text": key}}} | more
        for key, more in {"tea": {}, "wine": {"audience": {"age": {"$gte": 18}}}, "banner": {}}.items()
    },
}

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs assertions on the shop; their answer as JSON, or with `words` the text."""
    folder = tmp_path / "shop"
    for name, value in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(value))
    (folder / "tests").mkdir()

    def answer(*tests: Any, words: tuple[str, ...] = ("--json",), verb: str = "test", **more: Any) -> Any:
        (folder / "tests" / "shop.yaml").write_text(yaml.safe_dump({"tests": list(tests), **more}))
        capsys.readouterr()
        code = app([verb, str(folder), *words], result_action="return_value")
        found = capsys.readouterr().out
        if "--json" not in words:
            return code, found
        document = json.loads(found)
        assert code == (0 if document["ok"] else 1)
        return document

    return answer


def test_what_holds_holds(run: Run) -> None:
    found = run(
        {"given": {"country": "AT", "plan": "pro"}, "expect": {"checkout.v2": "new"}},
        {"given": {"country": "DE"}, "expect": {"checkout.v2": ["old", "new"], "steps": ["one", "two", None]}},
        {"given": {"employee": True}, "expect": {"checkout.v2": {"value": True, "reason": "rule", "rule": "employee"}}},
        {"given": {"country": "FR"}, "expect": {"checkout.v2": False, "steps": None}},
        {"expect": {"draft": {"variant": ["a", "b", None]}, "till": ["a", "b", None]}},
        {"given": {"age": 17}, "channel": "app", "expect": {"hero": "tea"}},
        {"given": {"age": 18}, "expect": {"hero": {"only": ["tea", "wine"], "may": ["wine"], "never": ["banner"]}}},
        {"experiment": "checkout.v2#de", "expect": {"power": {"conversion": 0.8, "days": 42}}},
        {"experiment": "steps", "expect": {"power": {"conversion": 0.8, "days": 42}}},
        {"customers": {"audience": {"age": {"$lt": 18}}}, "never": ["wine"], "always": ["tea"]},
        {"customers": {"held_out": "firms"}, "never": ["steps"], "always": ["tea"]},
        "no held-out customer sees steps or draft",
        "every customer in germans on web sees tea",
    )
    assert [one for one in found["results"] if not one["ok"]] == []
    assert found["passed"] == 19


FAILING: list[tuple[Any, str]] = [
    ({"given": {"country": "FR"}, "expect": {"steps": "one"}}, "test-0: audience: {country: DE} does not match"),
    (
        {"customer": "x", "given": {"plan": "pro"}, "expect": {"checkout.v2": "old"}},
        "rule pro of checkout.v2 is",
    ),
    ({"expect": {"checkout.v2": True}}, "default: no rule gave a variant"),
    (
        {"expect": {"checkout.v2": "old"}, "at": "2020-01-01T00:00:00Z", "given": {"employee": True}},
        "rule employee",
    ),
    ({"given": {"age": 17}, "expect": {"hero": "wine"}}, "tea may be shown too; wine may not be shown: audience"),
    ({"expect": {"hero": None}}, "tea may be shown too"),
    ({"expect": {"power": {"conversion": 0.99, "days": 1}}}, "a power of 0.8 takes"),
    (
        {"experiment": "steps", "expect": {"power": {"bare": 0.8, "days": 9}}},
        "bare has no baseline, daily_units",
    ),
    (
        {"expect": {"power": {"click": 0.8, "days": 9}}},
        "no draft or running experiment has the primary metric",
    ),
    ("no held-out customer sees tea", "sees tea: at hero on app ("),
    ("every customer sees steps=one", "does not see steps=one on app, web"),
    ({"customers": {"audience": {"age": 99}}, "never": ["tea"]}, "is one of these, so it says nothing"),
]


def test_what_does_not_hold_says_why(run: Run) -> None:
    tests = [({"name": f"{n}"} | test if isinstance(test, dict) else test) for n, (test, _) in enumerate(FAILING)]
    found = run(*tests)
    assert not found["ok"]
    failed = {one["test"]: one for one in reversed(found["results"]) if not one["ok"]}
    assert len(failed) == len(FAILING)
    for n, (test, why) in enumerate(FAILING):
        one = failed[test if isinstance(test, str) else f"{n}"]
        assert why in one["why"]
        assert one["got"]
    code, table = run(*tests, words=())
    assert (code, table.count("FAILED")) == (1, found["failed"])


MISTAKEN: list[tuple[Any, str]] = [
    ({"expect": {"chekout.v2": "new"}}, "did you mean 'checkout.v2'?"),
    ({"expect": {"steps": "three"}}, "'three' is not a variant of steps"),
    ({"expect": {"hero": "beer"}}, "'beer' is not an offer"),
    ({"expect": {"steps": {"variants": "one"}}}, "'variants' is not a known key; did you mean 'variant'?"),
    ({"expect": {"power": {"conversoin": 0.8, "days": 1}}}, "did you mean 'conversion'?"),
    ({"expect": {"power": {"conversion": 0.8}}}, "is missing"),
    *(
        ({"expect": {key: value}}, "expects nothing; name a")
        for key, values in {
            "checkout.v2": [[], {}, {"rule": None}, {"variant": [], "reason": "rule"}],
            "hero": [{}, {"may": [], "never": []}],
            "power": [{"days": 14}, {"days": 14, "effect": 0.1}],
        }.items()
        for value in values
    ),
    ({"given": {}}, "has not exactly one of `expect`"),
    ({"customers": {"held_out": "q5"}, "never": ["tea"]}, "'q5' is not a holdout"),
    ({"customers": {}}, "expects nothing of its customers"),
    ({"channel": "shop", "expect": {"steps": "one"}}, "'shop' is not in channels.yaml"),
    ("every customer sees tea or wine", "is not such a sentence"),
    ("nobody sees tea", "is not such a sentence; write 'no held-out customer sees KEY'"),
]


def test_a_mistake_in_an_assertion_is_a_problem_of_check(run: Run) -> None:
    code, text = run(*(test for test, _ in MISTAKEN), verb="check", words=())
    assert code == 1
    for n, (_, message) in enumerate(MISTAKEN):
        lines = [line for line in text.splitlines() if line.startswith(f"shop/tests/shop.yaml tests[{n}]")]
        assert any(message in line for line in lines), (message, lines)
    assert run({"expect": {"hero": []}}, verb="check", words=())[0] == 0  # nothing may be shown


def test_the_shipped_shop_keeps_its_own_assertions(capsys: pytest.CaptureFixture[str]) -> None:
    assert app(["test", str(SHIPPED)], result_action="return_value") == 0
    assert "0 failed" in capsys.readouterr().out
