"""Who would get what: the policy that chooses is named, the same is shown again, samples say what an identify says."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.catalog.check.load import build_specs
from engine.catalog.plan.compile import compile_plan
from engine.errors import BadInput
from engine.rehearse.customers import read_sample, with_channel
from engine.rehearse.generated_customers import make_customers
from engine.rehearse.preview import preview

NOW = 1_790_000_000.0
FILES: dict[str, Any] = {
    "channels.yaml": {
        "channels": [{"key": "web"}, {"key": "till"}],
        "placements": [{"key": "hero", "channels": ["till", "web"]}],
    },
    "metrics.yaml": {"metrics": [{"key": "click", "event": "click"}]},
    "hero.yaml": {
        "key": "hero",
        "placement": "hero",
        "offers": ["one", "two", "letter"],
        "policy": {"kind": "beta_thompson"},
        "reward": {"metric": "click"},
        "fallback": "plain",
    },
    "trial.yaml": {
        "key": "trial",
        "placement": "hero",
        "variants": [{"key": "even", "weight": 0.5, "policy": {"kind": "uniform"}}, {"key": "learned", "weight": 0.5}],
    },
    "offers/one.yaml": {"key": "one", "renderings": {"web": {}, "till": {}}},
    "offers/two.yaml": {"key": "two", "renderings": {"web": {}, "till": {}}, "audience": {"loyalty.tier": {"$gte": 1}}},
    "offers/letter.yaml": {"key": "letter", "renderings": {"web": {}, "till": {}}, "purpose": "marketing"},
    "offers/plain.yaml": {"key": "plain", "renderings": {"web": {}, "till": {}}},
}
PLAN = compile_plan(build_specs("shop", {name: json.dumps(value).encode() for name, value in FILES.items()}))


def test_a_placement_under_an_experiment_names_the_policy_of_each_customers_variant() -> None:
    variants = preview(PLAN, "trial", make_customers(40), NOW)
    offers = preview(PLAN, "hero", make_customers(40), NOW)
    chosen = {"even": "trial.even@0", "learned": "hero@0"}
    assert [row.policy for row in offers] == [chosen[row.gets or ""] for row in variants]
    assert {row.policy for row in offers} == set(chosen.values())
    assert [row.policy for row in variants] == [row.policy for row in offers]


def test_who_names_no_channel_is_met_where_it_is_said() -> None:
    known = [*make_customers(1), *with_channel(make_customers(1), "till")]
    assert [row.channel for row in preview(PLAN, "hero", with_channel(known, None), NOW)] == ["web", "till"]
    assert [row.channel for row in preview(PLAN, "hero", with_channel(known, "till"), NOW)] == ["till", "till"]
    with pytest.raises(BadInput, match="'tll' is not a channel; use one of till, web"):
        preview(PLAN, "hero", with_channel(known, "tll"), NOW)


def test_asked_again_a_preview_shows_the_same() -> None:
    known = make_customers(40)
    assert preview(PLAN, "hero", known, NOW) == preview(PLAN, "hero", known, NOW + 60)


def test_a_sample_says_consents_and_nested_traits_as_an_identify_does(tmp_path: Path) -> None:
    lines = tmp_path / "customers.jsonl"
    lines.write_text(
        '{"user_id": "plain"}\n'
        '{"user_id": "gold", "traits": {"loyalty": {"tier": 2}, "bars": ["north"]}}\n'
        '{"user_id": "agreed", "traits": {"consent.marketing": true}}\n'
        '{"user_id": "denied", "traits": {"consent": {"marketing": false}}}\n'
    )
    table = tmp_path / "customers.csv"
    table.write_text("user_id,loyalty.tier,consent.marketing\nplain,,\ngold,2,\nagreed,,true\ndenied,,false\n")
    for path in (lines, table):
        closed = {row.customer: row.detail.partition(", ")[2] for row in preview(PLAN, "hero", read_sample(path), NOW)}
        assert closed == {
            "plain": "letter: consent, two: audience",
            "gold": "two 0.500, letter: consent",
            "agreed": "letter 0.500, two: audience",
            "denied": "letter: consent, two: audience",
        }


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("more.csv", "user_id,country\nx,DE\ny,DE,AT\n", "line 3: has more cells than there are columns"),
        ("nobody.csv", "user_id,country\nx,DE\n,AT\n", "line 3: its user_id is empty"),
        ("short.csv", "country,user_id\nDE\n", "line 2: its user_id is empty"),
        ("empty.csv", "user_id,country\n", "has no customer"),
        ("empty.json", "", "has no customer"),
        ("nobody.json", '[{"user_id": ""}]', "each customer is an object with user_id"),
        ("nobody.jsonl", '{"user_id": "x"}\n{"user_id": ""}\n', "line 2: "),
    ],
)
def test_a_sample_whose_customers_cannot_be_told_apart_is_refused(
    name: str, text: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=why):
        read_sample(tmp_path / name)
