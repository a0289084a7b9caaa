"""Imported flags give every customer the value that the other system's own library gives."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.imports.import_flags import SYSTEMS
from tests.imports.documents import Json, clause, constraint, growthbook, imported, value


@pytest.mark.parametrize("system", sorted(SYSTEMS.keys() - {"growthbook"}))
def test_every_customer_keeps_the_value(system: str) -> None:
    case = json.loads(Path(f"tests/vectors/import_{system}.json").read_text(encoding="utf-8"))
    result, plan = imported(system, case["document"])
    wrong = [
        (flag, customer, expected, got)
        for flag, values in case["values"].items()
        for (customer, context), expected in zip(case["customers"], values, strict=True)
        if (got := value(result, plan, flag, customer, context)) != expected
        or isinstance(got, bool) is not isinstance(expected, bool)
    ]
    assert wrong == []
    assert len(case["values"]) == 22


CASES: list[tuple[str, Json, str, list[tuple[str | None, Json, Any]]]] = [
    (
        "growthbook",
        growthbook({"condition": {"id": {"$in": ["a"]}}, "force": "yes"}, {"force": "v", "range": [0, 0]}),
        "f",
        [("a", {}, "yes"), ("b", {}, "no")],
    ),
    (
        "growthbook",
        {
            "features": {
                "parent": {"defaultValue": False, "rules": [{"condition": {"plan": "pro"}, "force": True}]},
                "child": {
                    "defaultValue": 1,
                    "rules": [
                        {"parentConditions": [{"id": "parent", "condition": {"value": True}, "gate": True}]},
                        {"force": 2},
                    ],
                },
            }
        },
        "child",
        [("a", {"plan": "pro"}, 2), ("a", {}, None)],
    ),
    (
        "unleash",
        {
            "version": 2,
            "features": [
                {"name": "old", "enabled": False, "strategies": [{"name": "default"}]},
                {
                    "name": "new",
                    "enabled": True,
                    "strategies": [],
                    "dependencies": [{"feature": "old", "enabled": False}],
                },
            ],
        },
        "new",
        [("a", {}, True)],
    ),
    (
        "unleash",
        {
            "features": [
                {
                    "name": "f",
                    "enabled": True,
                    "strategies": [
                        {
                            "name": "default",
                            "constraints": [
                                {
                                    "contextName": "plan",
                                    "operator": "STR_CONTAINS",
                                    "values": ["a.b"],
                                    "caseInsensitive": True,
                                }
                            ],
                        }
                    ],
                }
            ]
        },
        "f",
        [("u", {"plan": "xA.Bx"}, True), ("u", {"plan": "xAxBx"}, False), ("u", {}, False)],
    ),
    (
        "launchdarkly",
        {"flagValues": {"simple": 5}, "flags": {}},
        "simple",
        [("a", {}, 5)],
    ),
    (
        "launchdarkly",
        {
            "flags": {
                "f": {
                    "on": True,
                    "variations": ["x", "y"],
                    "targets": [{"values": ["a"], "variation": 1}],
                    "rules": [
                        {
                            "clauses": [{"attribute": "email", "op": "endsWith", "values": ["@b.c"], "negate": True}],
                            "variation": 1,
                        }
                    ],
                    "fallthrough": {"variation": 0},
                    "offVariation": 0,
                }
            }
        },
        "f",
        [("a", {}, "y"), ("b", {}, "x"), ("b", {"email": "d@e.f"}, "y"), ("b", {"email": "d@b.c"}, "x")],
    ),
    (
        "launchdarkly",
        {"flags": {"f": {"on": False, "variations": ["x"], "fallthrough": {"variation": 0}}}},
        "f",
        [("a", {}, None)],
    ),
    (
        "flagd",
        {
            "flags": {
                "f": {
                    "state": "ENABLED",
                    "variants": {"on": True, "off": False},
                    "defaultVariant": "off",
                    "targeting": {"if": [{"ends_with": [{"var": "email"}, "@b.c"]}, "on", None]},
                },
                "disabled": {"state": "DISABLED", "variants": {"on": True}, "defaultVariant": "on"},
            }
        },
        "f",
        [("a", {"email": "d@b.c"}, True), ("a", {"email": "d@e.f"}, False), ("a", {}, False)],
    ),
    (
        "flagd",
        {"flags": {"f": {"state": "DISABLED", "variants": {"on": 1}, "defaultVariant": "on"}}},
        "f",
        [("a", {}, None)],
    ),
    (
        "flagsmith",
        {
            "api_key": "env",
            "feature_states": [{"feature": {"name": "f"}, "enabled": True, "feature_state_value": 1, "django_id": 7}],
            "project": {
                "segments": [
                    {
                        "id": 3,
                        "name": "adults",
                        "rules": [
                            {
                                "type": "ALL",
                                "rules": [
                                    {
                                        "type": "ANY",
                                        "conditions": [{"property_": "age", "operator": "GREATER_THAN", "value": "17"}],
                                        "rules": [],
                                    }
                                ],
                                "conditions": [],
                            }
                        ],
                        "feature_states": [
                            {"feature": {"name": "f"}, "enabled": False, "feature_state_value": 2, "django_id": 8}
                        ],
                    }
                ]
            },
            "identity_overrides": [
                {
                    "identifier": "a",
                    "identity_features": [{"feature": {"name": "f"}, "enabled": True, "feature_state_value": 3}],
                }
            ],
        },
        "f",
        [
            ("a", {"age": 20}, {"enabled": True, "value": 3}),
            ("b", {"age": 20}, {"enabled": False, "value": 2}),
            ("b", {"age": "2"}, {"enabled": False, "value": 2}),
            ("b", {}, {"enabled": True, "value": 1}),
        ],
    ),
]


@pytest.mark.parametrize(("system", "document", "flag", "values"), CASES, ids=str)
def test_a_construct_means_the_same(
    system: str, document: Json, flag: str, values: list[tuple[str | None, Json, Any]]
) -> None:
    result, plan = imported(system, document)
    assert [value(result, plan, flag, customer, context) for customer, context, _ in values] == [v for *_, v in values]


@pytest.mark.parametrize(
    ("system", "document", "holds", "fails"),
    [
        ("launchdarkly", clause("greaterThan", 5), [6, [1, 7]], ["6", 5, [1, 2], []]),
        ("launchdarkly", clause("matches", "^a.*z$"), ["az", ["q", "az"]], ["b", ["q"], 5]),
        ("launchdarkly", clause("before", "2020-01-01T00:00:00Z"), ["2019-12-31T00:00:00Z", [1577836799000]], ["soon"]),
        ("launchdarkly", clause("semVerGreaterThan", "2.0"), ["2.0.1", ["1", "3"]], ["2", ["1"], 3]),
        ("unleash", constraint("SEMVER_LT", "1.2.3"), ["1.2.2", "1.2.3-beta"], ["1", "1.2", "1.2.3", "x"]),
    ],
    ids=lambda one: str(one)[:20],
)
def test_lists_and_incomplete_versions_are_read_as_there(
    system: str, document: Json, holds: list[Any], fails: list[Any]
) -> None:
    result, plan = imported(system, document)
    found = (
        {value(result, plan, "f", "ann", {"a": one}) for one in holds},
        {value(result, plan, "f", "ann", {"a": one}) for one in fails},
    )
    assert found == ({True}, {False})
