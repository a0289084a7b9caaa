"""The class of each change of offers, placements, moments, channels and identities, field by field."""

import copy
from typing import Any

import pytest

from engine.catalog.diff.experiments import compare_specs
from engine.catalog.diff.offers import IDENTITIES
from engine.catalog.spec.experiment import IdentitiesFile
from tests.catalog.folder import Json, specs

NOW = 1_790_000_000.0
OFFERS = ("one", "two", "plain")
SHOP: Json = {
    "channels": {
        "channels": [{"key": "web"}, {"key": "push", "outbound": True}],
        "placements": [{"key": "hero", "channels": ["web", "push"]}, {"key": "side", "channels": ["web"]}],
        "zone": "UTC",
    },
    "metrics": {"metrics": [{"key": "click", "event": "click"}, {"key": "paid", "event": "purchase"}]},
    "moments": {
        "moments": [{"key": "day", "trigger": {"date": "birthday"}, "placements": ["hero"], "offers": ["one"]}]
    },
    "segments": {"segments": [{"key": "good", "condition": {"tier": 1}}]},
    "identities": {"tiers": [50]},
    **{
        key: {
            "key": key,
            "placement": key,
            "offers": ["one", "two"],
            "policy": {"kind": "uniform"},
            "reward": {"metric": metric},
            "fallback": "plain",
        }
        for key, metric in (("hero", "click"), ("side", "paid"))
    },
    **{f"offers/{key}": {"key": key, "renderings": {"web": {}, "push": {}}} for key in OFFERS},
}


def shop(path: str = "", value: object = None) -> Json:
    """The shop with one thing changed, or without it (None), at `file:key.key`."""
    found = copy.deepcopy(SHOP)
    if path:
        file, _, rest = path.partition(":")
        if not rest:
            if value is None:
                del found[file]
            else:
                found[file] = value
            return found
        place: Any = found[file]
        *way, leaf = (int(part) if part.isdecimal() else part for part in rest.split("."))
        for part in way:
            place = place[part]
        if value is None:
            del place[leaf]
        else:
            place[leaf] = value
    return found


CASES: list[tuple[str, object, tuple[str, str, str]]] = [
    ("offers/one:caps", [{"count": 1, "per": "7d"}], ("one", "offer.caps", "safe")),
    ("offers/one:budget", {"amount": 5}, ("one", "offer.budget", "safe")),
    ("offers/one:value", 3.0, ("one", "offer.value", "safe")),
    ("offers/new", {"key": "new", "renderings": {"web": {}}}, ("new", "offer", "safe")),
    ("hero:weights", [{"offers": ["one"], "weight": 2}], ("hero", "weights", "safe")),
    ("hero:arbitration", {"value": True}, ("hero", "arbitration", "safe")),
    ("hero:reward", {"metric": "paid"}, ("hero", "reward", "unsafe")),
    ("moments:moments.0.window", "7d", ("day", "moments.window", "safe")),
    ("moments:moments.0", None, ("day", "moments", "safe")),
    ("segments:segments.0.condition", {"tier": 2}, ("good", "segments.condition", "safe")),
    ("channels:zone", "Europe/Berlin", ("channels", "zone", "safe")),
    ("channels:channels.1.quiet", {"from": "21:00", "to": "08:00"}, ("push", "channels.quiet", "safe")),
    ("channels:channels.0.caps", [{"count": 1, "per": "1d"}], ("web", "channels.caps", "safe")),
    ("channels:placements.0.channels", ["web"], ("hero", "placements.channels", "unsafe")),
    ("identities:tiers", [60], ("identities", "tiers", "safe")),
]


@pytest.mark.parametrize(("path", "value", "expected"), CASES, ids=[case[0] for case in CASES])
def test_each_change_is_reported_once(path: str, value: object, expected: tuple[str, str, str]) -> None:
    found = compare_specs(specs(**SHOP), specs(**shop(path, value)), NOW)
    assert [(change.key, change.path, change.verdict) for change in found] == [expected]


def test_another_event_of_the_reward_is_another_reward() -> None:
    found = compare_specs(specs(**SHOP), specs(**shop("metrics:metrics.0.event", "tap")), NOW)
    assert {(change.key, change.path, change.verdict) for change in found} == {
        ("hero", "reward", "unsafe"),
        ("click", "metrics.event", "safe"),
    }


def test_removing_a_placement_is_unsafe() -> None:
    without = shop("channels:placements.1", None)
    del without["side"]
    found = {
        (change.key, change.path, change.verdict) for change in compare_specs(specs(**SHOP), specs(**without), NOW)
    }
    assert found == {("side", "placements", "unsafe"), ("side", "", "unsafe")}


def test_removing_a_channel_is_unsafe() -> None:
    without = shop("channels:channels.1", None)
    without["channels"]["placements"][0]["channels"] = ["web"]
    for key in OFFERS:
        without[f"offers/{key}"]["renderings"] = {"web": {}}
    found = {
        (change.key, change.path, change.verdict) for change in compare_specs(specs(**SHOP), specs(**without), NOW)
    }
    assert {("push", "channels", "unsafe"), ("hero", "placements.channels", "unsafe")} <= found


def test_a_change_has_the_old_and_the_new_value() -> None:
    before, after = shop("offers/one:budget", {"amount": 50}), shop("offers/one:budget", {"amount": 5})
    (change,) = compare_specs(specs(**before), specs(**after), NOW)
    assert isinstance(change.old, dict)
    assert isinstance(change.new, dict)
    assert (change.old["amount"], change.new["amount"]) == (50.0, 5.0)
    assert "what was spent" in change.reason


def test_the_reasons_name_existing_fields() -> None:
    assert set(IDENTITIES) <= set(IdentitiesFile.__struct_fields__)
