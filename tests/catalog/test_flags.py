"""Flags with rules in YAML: what `check` accepts, the values of their variants, and what a change of them does."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.check.load import build_specs
from engine.catalog.check.warnings import find_warnings
from engine.catalog.diff.experiments import compare_specs
from engine.catalog.plan.compile import compile_plan
from engine.decision.assign import assign
from engine.errors import CatalogError
from tests.catalog.folder import Json, plan, specs, subject

NOW = 1_790_000_000.0
SPLIT = [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}]
CHECKOUT: Json = {
    "key": "checkout.v2",
    "kind": "flag",
    "type": "object",
    "rules": [
        {"audience": {"employee": True}, "variant": "new"},
        {"audience": {"country": "DE"}, "coverage": 0.5, "variants": SPLIT, "metrics": {"primary": "click"}},
        {"audience": {"plan": "pro"}, "coverage": 0.1, "variant": "new"},
    ],
    "default": "old",
    "environments": {"staging": {"default": "new"}},
}
UNITS = [f"u-{number}" for number in range(600)]


def answers(of: Any, key: str = "checkout.v2", **attributes: Any) -> list[tuple[str, str, str]]:
    """The variant, the reason and the rule of each unit."""
    flag = of.experiments[key]
    found = [assign(of, flag, subject(unit, **attributes), NOW) for unit in UNITS]
    return [(flag.spec.variants[one.index].key, one.reason, one.rule.key if one.rule else "") for one in found]


def test_the_first_rule_that_gives_a_variant_decides() -> None:
    of = plan(CHECKOUT)
    assert set(answers(of, employee=True, country="DE")) == {("new", "rule", "checkout.v2#employee")}
    assert set(answers(of)) == {("old", "default", "")}
    german = answers(of, country="DE")
    assert {one for one in german if one[2]} == {
        ("old", "assigned", "checkout.v2#de"),
        ("new", "assigned", "checkout.v2#de"),
    }
    assert 250 < sum(bool(rule) for *_, rule in german) < 350  # 300 and four deviations of 12
    assert {one[0] for one in german if not one[2]} == {"old"}
    both = answers(of, country="DE", plan="pro")
    assert [a for a, b in zip(both, german, strict=True) if b[2]] == [b for b in german if b[2]]
    # Those that the experiment leaves get the rollout's share, not none of it: each rule has a hash of its own.
    left = [a for a, b in zip(both, german, strict=True) if not b[2]]
    assert 10 < sum(rule == "checkout.v2#pro" for *_, rule in left) < 52  # 30 of 300, and four deviations of 5.2


def test_an_environment_has_its_own_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_ENVIRONMENT", "staging")
    assert set(answers(plan(CHECKOUT))) == {("new", "default", "")}
    switch = {"key": "s", "kind": "flag", "type": "boolean", "default": "off"}
    of = plan(switch | {"environments": {"staging": {"default": "on"}}})
    assert {answer[0] for answer in answers(of, "s")} == {"on"}
    monkeypatch.setenv("COUNTERPOINT_ENVIRONMENT", "stagin")
    assert ["did you mean 'staging'" in one.message for one in find_warnings(specs(CHECKOUT), NOW)].count(True) == 1


def test_a_flag_without_rules_and_shares_gives_its_default() -> None:
    switch = {
        "key": "s",
        "kind": "flag",
        "type": "boolean",
        "variants": [{"key": "on"}, {"key": "off"}],
        "default": "on",
    }
    assert set(answers(plan(switch), "s")) == {("on", "default", "")}
    assert set(answers(plan(switch | {"audience": {"a": 1}}), "s")) == {("on", "audience", "")}
    halves = [{"key": "on", "weight": 0.5}, {"key": "off", "weight": 0.5}]
    assert {answer[:2] for answer in answers(plan(switch | {"variants": halves}), "s")} == {
        ("on", "assigned"),
        ("off", "assigned"),
    }


@pytest.mark.parametrize(
    ("kind", "variants", "values"),
    [
        ("boolean", [{"key": "on"}, {"key": "off"}], [{"value": True}, {"value": False}]),
        ("number", [{"key": "5"}, {"key": "b", "value": 1.5}], [{"value": 5}, {"value": 1.5}]),
        ("string", [{"key": "blue"}, {"key": "b", "value": "red"}], [{"value": "blue"}, {"value": "red"}]),
        ("object", [{"key": "a"}, {"key": "b", "value": {"x": 1}}], [{}, {"x": 1}]),
        ("object", [{"key": "a", "payload": {"value": 1}}], [{"value": 1}]),
        ("boolean", [{"key": "a", "payload": {"value": True}}], [{"value": True}]),
        ("boolean", [{"key": "on"}, {"key": "as_coded", "value": None}], [{"value": True}, {"value": None}]),
    ],
)
def test_every_variant_has_a_value_of_the_type(kind: str, variants: list[Json], values: list[Json]) -> None:
    flag = {"key": "f", "kind": "flag", "type": kind, "variants": variants, "default": variants[0]["key"]}
    flag["rules"] = [{"variant": variants[-1]["key"]}]
    assert [variant.payload for variant in plan(flag).experiments["f"].spec.variants] == values


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"default": None}, "default: is missing"),
        ({"type": "string", "variants": [{"key": "old", "value": 1}]}, "1 of 'old' is not of the flag's type"),
        ({"type": "boolean"}, "'old' has no value"),
        ({"type": "boolean", "variants": [{"key": "old", "value": "yes"}, {"key": "new", "value": True}]}, "'yes' of"),
        ({"type": "number", "variants": [{"key": "old", "value": True}, {"key": "new", "value": 1}]}, "True of 'old'"),
        ({"rules": [{"variant": "new", "variants": SPLIT}]}, "rules[0]: has a variant and variants"),
        ({"rules": [{"audience": {"a": 1}}]}, "rules[0]: has a variant and variants"),
        ({"rules": [{"audience": {"a": {"$foo": 1}}, "variant": "new"}]}, "rules[0].audience"),
        ({"rules": [{"key": "a", "variant": "new"}, {"key": "a", "variant": "old"}]}, "'a' names 2 rules"),
        ({"rules": [{"variants": [{"key": "a", "weight": 0.5}, {"key": "b", "weight": 0.9}]}]}, "sum to 1.4"),
        ({"rules": [{"variant": "new", "metrics": {"primary": "clik"}}]}, "did you mean 'click'"),
        ({"rules": [{"variant": "new", "audience": {"$segment": "vip"}}]}, "'vip' is not in"),
        ({"coverage": 0.5}, "coverage: belongs to a rule"),
        ({"kind": "experiment"}, "rules: is a key of flags"),
        ({"variants": [{"key": "old"}, {"key": "new"}], "default": "odl"}, "default: 'odl' is not a variant"),
        ({"variants": [{"key": "old"}, {"key": "new"}], "rules": [{"variant": "nwe"}]}, "did you mean 'new'"),
        ({"environments": {"prod": {"default": "nwe"}}, "variants": [{"key": "old"}, {"key": "new"}]}, "'nwe'"),
        (
            {"environments": {"prod": {"rules": [{"variant": "new", "metrics": {"primary": "clik"}}]}}},
            "environments.prod.rules[0].metrics",
        ),
        ({"environments": {"staging": {"default": "new", "rules": [{"variants": []}]}}}, "environments.staging.rules"),
        ({"prerequisites": [{"experiment": "checkout.v2", "off": True}]}, "back to itself"),
        ({"rules": [{"variant": "new", "start": 20270101}]}, "rules[0].start"),
        ({"rules": [{"variant": "new", "buckets": 9}]}, "rules[0].buckets: has no effect with the hash growthbook"),
        ({"rules": [{"variant": "new", "varaint": 1}]}, "did you mean 'variant'"),
    ],
)
def test_check_names_the_mistake(more: Json, message: str) -> None:
    changed = {key: value for key, value in (CHECKOUT | more).items() if value is not None}
    with pytest.raises(CatalogError) as caught:
        specs(changed)
    assert any(message in f"{one.path}: {one.message}" for one in caught.value.problems), caught.value.problems


def test_keys_have_dots_slashes_and_colons() -> None:
    files = {
        "channels.yaml": b"channels: [{key: web}]",
        "metrics.yaml": b"metrics: [{key: click, event: click}]",
        "team_checkout_v2.yaml": b"{key: 'team/checkout:v2', variants: [{key: 'a/1'}, {key: 'b:2'}]}",
    }
    assert "team/checkout:v2" in compile_plan(build_specs("shop", files)).experiments
    with pytest.raises(CatalogError, match="is not the file's name"):
        build_specs("shop", files | {"other.yaml": files["team_checkout_v2.yaml"]})
    with pytest.raises(CatalogError, match="letters, digits"):
        build_specs("shop", files | {"a b.yaml": b"{key: 'a b', variants: [{key: a}, {key: b}]}"})


def test_prerequisites_ask_for_a_value_a_rule_or_off() -> None:
    parent = {"key": "p", "kind": "flag", "type": "boolean", "default": "off"}
    parent["rules"] = [{"key": "germans", "audience": {"country": "DE"}, "variant": "on"}]
    needs: dict[str, Json] = {"v": {"value": True}, "r": {"rules": ["germans"]}, "o": {"off": True}}
    of = plan(
        parent,
        *(
            {"key": key, "kind": "flag", "variants": [{"key": "x"}], "prerequisites": [{"experiment": "p"} | need]}
            for key, need in needs.items()
        ),
    )
    for country, reached in (("DE", {"v", "r"}), ("FR", {"o"})):
        person = subject("u", country=country)
        assert {key for key in needs if assign(of, of.experiments[key], person, NOW).index >= 0} == reached


def test_a_paused_flag_gives_its_default_and_a_degraded_one_no_experiment() -> None:
    of = plan(CHECKOUT | {"status": "paused"})
    assert set(answers(of, employee=True)) == {("old", "paused", "")}
    of, person = plan(CHECKOUT), subject("u", country="DE")
    found = assign(of, of.experiments["checkout.v2"], msgspec.structs.replace(person, degraded=True), NOW)
    assert (found.reason, found.rule) == ("degraded", None)


def test_a_holdout_covers_the_rules_that_are_experiments() -> None:
    held = {"holdouts": [{"key": "h", "share": 1.0}]}
    of = plan(CHECKOUT, layers=held)
    assert set(answers(of, country="DE")) == {("old", "default", ""), ("old", "holdout", "checkout.v2#de")}
    german = answers(plan(CHECKOUT), country="DE")
    assert [one[1] == "holdout" for one in answers(of, country="DE")] == [one[1] == "assigned" for one in german]
    # What the flag gives without the experiment stays theirs: a rollout after it.
    both, without = answers(of, country="DE", plan="pro"), answers(plan(CHECKOUT), plan="pro")
    assert [one[0] for one in both] == [one[0] for one in without]
    assert set(answers(plan(CHECKOUT, layers=held), employee=True)) == {("new", "rule", "checkout.v2#employee")}


AUDIENCE = st.sampled_from([{}, {"vip": True}, {"tier": {"$gte": 1}}, {"vip": True, "tier": {"$gte": 1}}])
VARIANT = st.sampled_from([{"variant": "a"}, {"variant": "b"}, {"variants": [{"key": "a"}, {"key": "b"}]}])
RULE = st.builds(
    lambda key, audience, coverage, variant: {"key": key, "audience": audience, "coverage": coverage} | variant,
    st.sampled_from("rstu"),
    AUDIENCE,
    st.sampled_from([0.2, 0.5, 1.0]),
    VARIANT,
)
RULES = st.lists(RULE, min_size=1, max_size=4, unique_by=lambda rule: str(rule["key"]))
PEOPLE = [subject(f"u-{n}", vip=n % 2 == 0, tier=n % 3) for n in range(90)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(RULES, st.data(), st.sampled_from("ab"))
def test_a_safe_change_of_rules_moves_nobody(rules: list[Json], data: st.DataObject, default: str) -> None:
    """Who was decided by a rule is decided by it still, and those with the default are admitted at most."""
    flag = {"key": "f", "kind": "flag", "rules": rules, "default": "a"}
    place = data.draw(st.integers(0, len(rules)))
    spares = data.draw(RULE)
    changed = [rule for rule in rules if rule["key"] != spares["key"]]
    changed.insert(min(place, len(changed)), spares)
    edit = data.draw(st.sampled_from(["insert", "drop", "swap", "default"]))
    if edit == "drop":
        changed = rules[:place] + rules[place + 1 :] or rules
    elif edit == "swap":
        changed = [*rules[1:], rules[0]]
    after = flag | {"rules": rules if edit == "default" else changed, "default": default if edit == "default" else "a"}
    old, new = specs(flag), specs(after)
    if any(change.verdict == "unsafe" for change in compare_specs(old, new, NOW)):
        return
    was, now = compile_plan(old), compile_plan(new)
    for person in PEOPLE:
        had, has = (assign(of, of.experiments["f"], person, NOW) for of in (was, now))
        keys = [
            of.experiments["f"].spec.variants[one.index].key for of, one in zip((was, now), (had, has), strict=True)
        ]
        if had.rule is not None:
            assert (keys[0], had.rule.key) == (keys[1], has.rule.key if has.rule else None)
        elif has.rule is None:
            assert keys[0] == keys[1]
