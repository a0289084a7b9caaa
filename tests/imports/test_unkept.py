"""What an import cannot keep is named with its reason, and stops nothing else."""

import re

import pytest

from engine.catalog.spec.folder import SINGLE
from tests.imports.documents import Json, confidence, eppo_without_shards, growthbook, imported, targets, value


@pytest.mark.parametrize(
    ("system", "document", "note"),
    [
        (
            "unleash",
            {"features": [{"name": "f", "enabled": True, "strategies": [{"name": "mine"}]}]},
            "the strategy 'mine' is a custom one",
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
    taken = "metrics key: changed; .* metrics.yaml is not a flag's file"
    assert any(re.search(taken, str(one)) for one in result.notes)


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
