"""Exports as people download them, with what their documentation allows beside the forms that SDKs read."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.imports.documents import Json, imported, value
from tests.verbs import run_verb


def flagsmith(conditions: list[Json], **top: Any) -> Json:
    def state(value: Any, number: int) -> Json:
        return {"django_id": number, "feature": {"id": 1, "name": "f"}, "enabled": True, "feature_state_value": value}

    rules = [{"type": "ALL", "conditions": [], "rules": [{"type": "ALL", "conditions": conditions, "rules": []}]}]
    segment = {"id": 1, "name": "s", "rules": rules, "feature_states": [state("in", 2)]}
    document = {"api_key": "env", "name": "Production", "project": {"segments": [segment]}}
    return document | {"feature_states": [state("out", 1)]} | top


def test_flagsmiths_export_of_features_is_read_by_the_verb(tmp_path: Path) -> None:
    def feature(name: str, of: Any, *shares: Any, enabled: bool = True) -> Json:
        multivariate = [
            {"percentage_allocation": share, "default_percentage_allocation": 0, "value": one, "type": "unicode"}
            for one, share in shares
        ]
        return {
            "name": name,
            "default_enabled": False,
            "is_server_key_only": False,
            "initial_value": None,
            "value": of,
            "type": "unicode",
            "enabled": enabled,
            "multivariate": multivariate,
        }

    features = [
        feature("banner", "hello"),
        feature("limit", 7, enabled=False),
        feature("price", "old", ("low", 30.0), ("high", 20.0)),
    ]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(features))
    done = run_verb("import", "flagsmith", str(file), "--to", str(tmp_path / "shop"), "--json")
    assert done.returncode == 0, done.stderr
    notes = {(one["flag"], one["place"]): one["kept"] for one in json.loads(done.stdout)["notes"]}
    assert notes == {("the export", "segments"): "not kept", ("price", "hash"): "changed"}
    assert run_verb("check", str(tmp_path / "shop")).returncode == 0
    result, plan = imported("flagsmith", {"features": features})
    assert value(result, plan, "banner", "u") == {"enabled": True, "value": "hello"}
    assert value(result, plan, "limit", "u") == {"enabled": False, "value": 7}
    given = Counter(value(result, plan, "price", f"u{n}")["value"] for n in range(4_000))
    for name, share in {"low": 0.3, "high": 0.2, "old": 0.5}.items():
        assert abs(given[name] / 4_000 - share) < 5 * (share * (1 - share) / 4_000) ** 0.5


@pytest.mark.parametrize(
    ("operator", "asked", "holds"),
    [
        ("EQUAL", "Production", True),
        ("NOT_EQUAL", "Production", False),
        ("IN", "Staging,Production", True),
        ("CONTAINS", "Prod", True),
        ("NOT_CONTAINS", "Prod", False),
        ("IS_SET", None, True),
        ("IS_NOT_SET", None, False),
    ],
)
def test_a_segment_of_flagsmith_asks_for_its_environment(operator: str, asked: str | None, *, holds: bool) -> None:
    condition = {"operator": operator, "property_": "$.environment.name", "value": asked}
    result, plan = imported("flagsmith", flagsmith([condition]))
    assert value(result, plan, "f", "u") == {"enabled": True, "value": "in" if holds else "out"}
    assert result.notes == []


def test_what_flagsmith_hashes_by_its_database_is_named() -> None:
    split = {"operator": "PERCENTAGE_SPLIT", "property_": "", "value": "30"}
    result, _ = imported("flagsmith", flagsmith([split], use_identity_composite_key_for_hashing=False))
    assert "only Flagsmith's database has" in str(result.notes[0])
    result, _ = imported("flagsmith", flagsmith([split], use_identity_composite_key_for_hashing=True))
    assert result.notes == []
    modulo = {"operator": "MODULO", "property_": "n", "value": "3.5|1.5"}
    result, plan = imported("flagsmith", flagsmith([modulo]))
    assert "3.5|1.5 is of numbers that are not whole" in str(result.notes[0])
    assert value(result, plan, "f", "u", {"n": 5}) == {"enabled": True, "value": "out"}


EXPORT: Json = {
    "features": [{"name": "f", "type": "release"}, {"name": "off"}, {"name": "child"}, {"name": "shop"}],
    "featureStrategies": [
        {"name": "default", "id": "1", "featureName": "f", "parameters": {}, "disabled": True, "segments": []},
        {
            "name": "flexibleRollout",
            "featureName": "f",
            "parameters": {"groupId": "f", "rollout": "100", "stickiness": "default"},
            "constraints": [{"contextName": "plan", "operator": "IN", "values": ["pro"], "inverted": False}],
            "segments": [],
        },
        {"name": "default", "featureName": "off", "disabled": True},
        {"name": "default", "featureName": "child"},
        {"name": "default", "featureName": "shop", "segments": [7]},
    ],
    "featureEnvironments": [
        {"enabled": True, "featureName": name, "environment": "production", "variants": []}
        for name in ("f", "off", "child", "shop")
    ],
    "segments": [{"id": 7, "name": "people"}],
    "dependencies": [{"feature": "child", "dependencies": [{"feature": "f", "enabled": True}]}],
}


def test_an_export_of_unleash_is_put_together() -> None:
    result, plan = imported("unleash", EXPORT)
    asked = [("f", {"plan": "pro"}), ("f", {}), ("off", {}), ("child", {"plan": "pro"}), ("child", {}), ("shop", {})]
    assert [value(result, plan, flag, "u", context) for flag, context in asked] == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    assert [str(note) for note in result.notes] == [
        (
            "shop default: not kept; segment 7 has no constraints in the document, so it is never on; give what "
            "/api/client/features answers"
        )
    ]


def test_an_export_of_unleash_with_variants_and_what_is_off() -> None:
    variants = [{"name": "a", "weight": 500, "stickiness": "default"}, {"name": "b", "weight": 500}]
    places = [
        {"enabled": True, "featureName": "f", "environment": "p", "variants": variants},
        {"enabled": False, "featureName": "g", "environment": "p"},
    ]
    strategies = [{"name": "default", "featureName": name} for name in ("f", "g")]
    document = {"features": [{"name": "f"}, {"name": "g"}]}
    document |= {"featureStrategies": strategies, "featureEnvironments": places}
    result, plan = imported("unleash", document)
    assert {value(result, plan, "f", f"u{n}") for n in range(40)} == {"a", "b"}
    assert not value(result, plan, "g", "u")
    both = [*places, {"enabled": False, "featureName": "f", "environment": "staging"}]
    with pytest.raises(Exception, match="export one environment at a time"):
        imported("unleash", document | {"featureEnvironments": both})


def test_eppo_splits_by_two_salts_and_many_ranges_and_takes_whole_numbers() -> None:
    def shard(salt: str, *ranges: tuple[int, int]) -> Json:
        return {"salt": salt, "ranges": [{"start": start, "end": end} for start, end in ranges]}

    splits = [
        {"variationKey": "a", "shards": [shard("t", (0, 5000)), shard("s", (0, 1000), (2000, 3000))]},
        {"variationKey": "b", "shards": [shard("t", (0, 5000)), shard("s", (1000, 2000), (3000, 10000))]},
    ]
    flag = {"enabled": True, "variationType": "INTEGER", "totalShards": 10000}
    flag |= {"variations": {"a": {"key": "a", "value": 1.0}, "b": {"key": "b", "value": 2}}}
    document = {"flags": {"f": flag | {"allocations": [{"key": "x", "splits": splits}]}}}
    result, plan = imported("eppo", document)

    def place(salt: str, who: str) -> int:
        return int(hashlib.md5(f"{salt}-{who}".encode()).hexdigest()[:8], 16) % 10000  # noqa: S324 (Eppo's hash)

    for n in range(200):
        who = f"u{n}"
        first = place("s", who) < 1000 or 2000 <= place("s", who) < 3000
        expected = None if place("t", who) >= 5000 else 1 if first else 2
        assert value(result, plan, "f", who) == expected
