"""Imported flags give every customer the value that the other system's own library gives."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.catalog.check.load import build_specs
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.flags import value_of
from engine.catalog.spec.folder import SINGLE
from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideRequest, decide
from engine.imports.import_flags import SYSTEMS, import_flags, to_yaml
from engine.imports.model import ImportResult

NOW = 1_790_000_000.0
Json = dict[str, Any]
Part = Mapping[str, Any]
NOTHING: Part = {}


def imported(system: str, document: Json) -> tuple[ImportResult, Plan]:
    """The import of a document, and the plan of its files, in which `check` finds nothing."""
    result = import_flags(system, document)
    return result, compile_plan(build_specs("to", {name: to_yaml(one) for name, one in result.files.items()}))


def value(result: ImportResult, plan: Plan, flag: str, customer: str | None, context: Json | None = None) -> Any:
    """What one flag gives a customer; None where it leaves the code's default."""
    key = result.flags[flag]
    assert key is not None, [str(note) for note in result.notes]
    profile = Profile(id=customer or "", unit=customer or "")
    request = DecideRequest(
        customer=CustomerIds(user_id=customer), channel="web", experiments=[key], context=context or {}
    )
    spec = plan.experiments[key].spec
    index = decide(plan, {}, profile, request, NOW).assigned[key].assignment.index
    return value_of(spec.variants[index], spec.type)


def eppo_without_shards() -> Json:
    shards = [{"salt": "s", "ranges": [{"start": 0, "end": 1}]}]
    allocation = {"key": "a", "splits": [{"variationKey": "on", "shards": shards}]}
    flag = {"enabled": True, "variations": {"on": {"key": "on", "value": "x"}}, "allocations": [allocation]}
    return {"flags": {"f": {**flag, "totalShards": 0}}}


def confidence(flag: Part = NOTHING, rule: Part = NOTHING, segment: Part = NOTHING) -> Json:
    assignment = {"variant": {"variant": "flags/f/variants/on"}, "bucketRanges": [{"upper": 10}]}
    made = {
        "name": "flags/f/rules/r",
        "segment": "segments/s",
        "enabled": True,
        "assignmentSpec": {"bucketCount": 10, "assignments": [assignment]},
    }
    variants = [{"name": "flags/f/variants/on", "value": {"a": 1}}]
    one = {"name": "flags/f", "state": "ACTIVE", "variants": variants, "rules": [{**made, **rule}]}
    return {"flags": [{**one, **flag}], "segments": [{"name": "segments/s", **segment}]}


def targets(criterion: Json) -> Json:
    return {"targeting": {"criteria": {"c": criterion}, "expression": {"ref": "c"}}}


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


def growthbook(*rules: Json, default: Any = "no") -> Json:
    return {"features": {"f": {"defaultValue": default, "rules": list(rules)}}}


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
    ("system", "document", "note"),
    [
        (
            "unleash",
            {"features": [{"name": "f", "enabled": True, "strategies": [{"name": "mine"}]}]},
            "the strategy 'mine' is not",
        ),
        (
            "launchdarkly",
            {"flags": {"f": {"on": True, "variations": [1], "fallthrough": {"variation": 3}}}},
            "MALFORMED_FLAG",
        ),
        (
            "launchdarkly",
            {
                "flags": {
                    "f": {
                        "on": True,
                        "variations": [1],
                        "fallthrough": {"variation": 0},
                        "rules": [{"variation": 0, "clauses": [{"attribute": "kind", "op": "in", "values": ["user"]}]}],
                    }
                }
            },
            "asks for the kind of the context",
        ),
        (
            "flagd",
            {
                "flags": {
                    "f": {
                        "state": "ENABLED",
                        "variants": {"on": 1},
                        "targeting": {"if": [{">": [{"+": [1, 2]}, 1]}, "on"]},
                    }
                }
            },
            "computes a value with '\\+'",
        ),
        (
            "eppo",
            {
                "flags": {
                    "f": {"enabled": True, "variationType": "INTEGER", "variations": {"a": {"key": "a", "value": "x"}}}
                }
            },
            "TYPE_MISMATCH",
        ),
        (
            "growthbook",
            growthbook({"condition": {"email": {"$regex": "(?=a)b"}}, "force": 1}),
            "check says: .*lookaround",
        ),
        ("growthbook", {"features": {"a b": {"defaultValue": 1}}}, "its key here is a-b"),
        *(
            (
                "flagd",
                {"flags": {"f": {"state": "ENABLED", "variants": {"on": 1}, "targeting": {"if": [test, "on"]}}}},
                why,
            )
            for test, why in (
                ({">": [{"var": "$flagd.timestamp"}, 99_999_999_999_999]}, "not kept; has the time 99999999999999 s"),
                ({"<": [{"var": "$flagd.timestamp"}, "soon"]}, "not kept; compares the time with 'soon'"),
            )
        ),
        (
            "launchdarkly",
            {
                "flags": {
                    "f": {
                        "on": True,
                        "variations": [1],
                        "fallthrough": {"variation": 0},
                        "rules": [{"variation": 0, "clauses": [{"attribute": "a", "op": "after", "values": [1e18]}]}],
                    }
                }
            },
            "not kept; has the time 1000000000000000 s",
        ),
        ("growthbook", growthbook({"force": 1, "coverage": 1e308}), "not kept; has a value that cannot be read"),
        ("confidence", confidence(rule={"enabled": False}), "f r: changed; the rule is not enabled"),
        ("confidence", confidence(rule={"environments": ["environments/dev"]}), "changed; the rule is for dev"),
        (
            "confidence",
            confidence(rule={"materialization_spec": {"read_materialization": "m"}}),
            "changed; stored assignments are not in the file",
        ),
        ("confidence", confidence(rule={"segment": "segments/none"}), "the segment is not in the file, or archived"),
        ("confidence", confidence(flag={"state": "ARCHIVED"}), "f: not kept; is archived"),
        (
            "confidence",
            confidence(segment={"allocation": {"proportion": {"value": "0.3"}}}),
            "changed; its buckets are not in the file",
        ),
        (
            "confidence",
            confidence(segment={"bitsetAllocation": {"bitset": "Dw=="}}),
            "not kept; has the segment segments/s with a part of the buckets, and the file has no account",
        ),
        (
            "confidence",
            confidence(segment=targets({"materializedSegment": {"materializedSegment": "m"}})),
            "not kept; asks for a materialized segment",
        ),
        (
            "confidence",
            confidence(segment=targets({"segment": {"segment": "segments/s"}})),
            "not kept; has the segment segments/s, which needs itself",
        ),
        (
            "confidence",
            confidence(segment=targets({"attribute": {"attributeName": "a", "newRule": {}}})),
            "not kept; has a targeting rule without a known form: attributeName, newRule",
        ),
        ("eppo", eppo_without_shards(), "not kept; has a value that cannot be read"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_what_is_not_kept_is_named_with_its_reason(system: str, document: Json, note: str) -> None:
    result, _ = imported(system, document)
    assert any(re.search(note, str(one)) for one in result.notes), result.notes


def clause(op: str, value: Any) -> Json:
    rule = {"variation": 1, "clauses": [{"attribute": "a", "op": op, "values": [value]}]}
    flag = {"on": True, "variations": [False, True], "fallthrough": {"variation": 0}, "salt": "s", "rules": [rule]}
    return {"flags": {"f": flag}}


def constraint(operator: str, operand: str) -> Json:
    one = {"contextName": "a", "operator": operator, "value": operand}
    return {"features": [{"name": "f", "enabled": True, "strategies": [{"name": "default", "constraints": [one]}]}]}


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


def test_a_flag_that_cannot_be_kept_takes_those_with_it_that_need_it() -> None:
    bad = {"defaultValue": 1, "rules": [{"condition": {"a": {"$regex": "(?=a)"}}, "force": 2}]}
    child = {"defaultValue": 1, "rules": [{"parentConditions": [{"id": "bad", "condition": {"value": 2}}], "force": 3}]}
    result, _ = imported("growthbook", {"features": {"bad": bad, "child": child, "good": {"defaultValue": 1}}})
    assert result.flags == {"bad": None, "child": None, "good": "good"}


def test_a_flag_never_takes_the_name_of_a_file_that_is_no_flag() -> None:
    on = {"state": "ENABLED", "variants": {"on": True}, "defaultVariant": "on"}
    names = [*(name.removesuffix(".yaml") for name in SINGLE), "Metrics"]
    result, plan = imported("flagd", {"flags": dict.fromkeys(names, on)})
    assert result.flags == {**{name: f"{name}-2" for name in names}, "Metrics": "Metrics-3"}
    assert all(value(result, plan, name, "ann") is True for name in names)
    assert any(re.search("metrics key: changed; .* metrics.yaml is no flag's file", str(one)) for one in result.notes)


@pytest.mark.parametrize(
    ("system", "document", "kept"),
    [
        (
            "unleash",
            {
                "features": [
                    None,
                    {"name": "a", "strategies": 3},
                    {"name": "b", "enabled": True, "strategies": [{"name": "default", "segments": [7]}]},
                    {"name": "ok", "enabled": True},
                ],
                "segments": [{"id": 7, "constraints": 1}],
            },
            {"a": None, "b": None, "ok": "ok"},
        ),
        (
            "flagsmith",
            {"feature_states": [None, {"feature": {"name": "ok"}, "enabled": True}]},
            {"feature_states[0]": None, "ok": "ok"},
        ),
        (
            "flagsmith",
            {"features": {"a": None, "ok": {"key": "1", "name": "ok"}}, "segments": {"s": {"key": 1, "rules": 2}}},
            {"a": None, "ok": "ok"},
        ),
        ("flagd", {"flags": {"a": 1, "ok": {"state": "ENABLED", "variants": {"on": 1}}}}, {"a": None, "ok": "ok"}),
        (
            "confidence",
            {"flags": [None, {"name": "flags/a", "rules": [3]}, {"name": "flags/ok"}], "segments": [1]},
            {"flags[0]": None, "a": None, "ok": "ok"},
        ),
    ],
    ids=lambda one: str(one)[:20],
)
def test_a_malformed_flag_stops_no_other(system: str, document: Json, kept: Json) -> None:
    assert imported(system, document)[0].flags == kept
