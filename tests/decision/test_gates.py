"""The registry of gates: each has its rule and its words, and a trace names the gate of every offer that is closed."""

import re
from pathlib import Path
from typing import Any, get_args

import yaml

from engine.catalog import Plan, load_plan
from engine.catalog.plan.offer_index import set_places
from engine.customer import Profile, Trait
from engine.decision.gates import GATES, Facts, Gate, closing_gates, passing_offers

NOW = 1_790_000_000.0
OFFERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "later": {"start": "2030-01-01T00:00:00Z"},
    "elsewhere": {"renderings": {"app": {}}},
    "private": {"purpose": "marketing"},
    "tiered": {"audience": {"tier": {"$gte": 2}}},
    "refused": {"suppress": {"after": 1, "outcome": "refused", "within": "30d", "for": "60d"}},
    "capped": {"caps": [{"count": 1, "per": "1d"}]},
    "sold": {"stock": {"sku": "S"}},
    "spent": {"budget": {"amount": 10}, "value": 1.0},
    "twice": {},
}
CLOSED = {
    "later": "dates",
    "elsewhere": "channel",
    "private": "consent",
    "tiered": "audience",
    "refused": "suppressed",
    "capped": "cap",
    "sold": "stock",
    "spent": "budget",
    "twice": "shown",
}


def shop(folder: Path) -> Plan:
    (folder / "offers").mkdir(parents=True)
    for key, more in {**OFFERS, "z": {"renderings": {"web": {}, "app": {}}}}.items():
        text = yaml.safe_dump({"key": key, "renderings": {"web": {}}} | more)
        (folder / "offers" / f"{key}.yaml").write_text(text)
    files: dict[str, Any] = {
        "hero": {
            "key": "hero",
            "placement": "hero",
            "offers": list(OFFERS),
            "policy": {"kind": "uniform"},
            "reward": {"metric": "click"},
            "fallback": "z",
        },
        "channels": {
            "channels": [{"key": "web"}, {"key": "app"}],
            "placements": [{"key": "hero", "channels": ["web", "app"]}],
        },
        "metrics": {"metrics": [{"key": "click", "event": "click"}]},
    }
    for name, value in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(value))
    return load_plan(folder)


def test_every_gate_has_a_rule_and_its_words() -> None:
    assert list(GATES) == list(get_args(Gate))
    for rule in GATES.values():
        assert re.fullmatch(r"[a-z`].*[^.]", rule.meaning)
        assert re.fullmatch(r"[a-z].*[^.]", rule.for_staff)


def test_each_gate_closes_its_offer_and_a_trace_names_it(tmp_path: Path) -> None:
    selection = shop(tmp_path / "shop").selections["web", "hero"]
    facts = Facts(
        profile=Profile("u", "u", traits={"tier": Trait(1, NOW)}),
        attributes={"tier": 1},
        channel="web",
        now=NOW,
        zone="UTC",
        counts={"refused|offer:refused": [NOW - 60], "exposure|offer:capped": [NOW - 60]},
        pools={"stock:S": 0.0, "budget:spent": 0.0},
    )
    passing = {selection.arms[place] for place in set_places(passing_offers(selection, facts, ["twice"]))}
    assert closing_gates(selection, facts, ["twice"]) == CLOSED
    assert passing == OFFERS.keys() - CLOSED.keys() == {"plain"}
