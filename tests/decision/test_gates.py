"""The registry of gates: each has its rule and its words, and a trace names the gate of every offer that is closed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from engine.catalog import Plan, load_plan
from engine.catalog.plan.indexing.bits import set_places
from engine.customer import CustomerIds, Profile, Trait
from engine.decision.decision import DecideOptions, DecideRequest, decide
from engine.decision.gating.facts import Facts
from engine.decision.gating.gates import GATES, Gate
from engine.decision.gating.passing import closing_gates, passing_offers

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


def shop(folder: Path, offers: Mapping[str, dict[str, Any]] = OFFERS) -> Plan:
    (folder / "offers").mkdir(parents=True)
    for key, more in {**offers, "z": {"renderings": {"web": {}, "app": {}}}}.items():
        text = yaml.safe_dump({"key": key, "renderings": {"web": {}}} | more)
        (folder / "offers" / f"{key}.yaml").write_text(text)
    files: dict[str, Any] = {
        "hero": {
            "key": "hero",
            "placement": "hero",
            "offers": list(offers),
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
    passing = {selection.arms[place] for place in set_places(passing_offers(selection, facts, ["twice"]).bits)}
    assert closing_gates(selection, facts, ["twice"]) == CLOSED
    assert passing == OFFERS.keys() - CLOSED.keys() == {"plain"}


class Unreadable(dict[str, object]):
    """A trait that no condition can read."""

    def __eq__(self, other: object) -> bool:
        raise OverflowError

    __hash__ = None  # type: ignore[assignment]


def test_a_gate_that_fails_closes_the_offers_it_fails_on_and_no_other(tmp_path: Path) -> None:
    plan = shop(tmp_path / "shop", OFFERS | {"listed": {"audience": {"tiers": {"$elemMatch": {"a": 1}}}}})
    profile = Profile("u", "u", traits={"tiers": Trait([Unreadable(a=1)], NOW)})  # type: ignore[list-item]
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", placements=["hero"])
    decision = decide(plan, {}, profile, request, NOW, options=DecideOptions(trace=True))
    choice = decision.choices["hero"]
    [failure] = choice.failures
    assert (failure.gate, failure.candidate, type(failure.error)) == ("audience", "listed", OverflowError)
    assert choice.closed["listed"] == "failed"
    assert choice.reason == "policy"
    assert "plain" in choice.candidates
    assert "listed" not in choice.candidates
