"""The problems that `check` reports of inconsistent offers, channels and moments."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from engine.catalog import load_plan
from engine.catalog.spec.offer import OfferSpec
from engine.errors import CatalogError

OFFER = {"key": "drink", "renderings": {"web": {"price": 2, "terms": "one each"}, "till": {"price": 2}}}
FILES: dict[str, Any] = {
    "offers/banner.yaml": {"key": "banner", "renderings": {"web": {}, "till": {}, "mail": {}}},
    "offers/drink.yaml": OFFER,
    "hero.yaml": {
        "key": "hero",
        "placement": "hero",
        "offers": ["drink"],
        "policy": {"kind": "uniform"},
        "reward": {"metric": "click"},
        "fallback": "banner",
    },
    "channels.yaml": {
        "channels": [{"key": "web"}, {"key": "till"}, {"key": "mail", "outbound": True}],
        "placements": [{"key": "hero", "channels": ["web", "till", "mail"]}],
    },
    "metrics.yaml": {"metrics": [{"key": "click", "event": "click"}]},
    "moments.yaml": {
        "moments": [{"key": "day", "trigger": {"date": "born"}, "placements": ["hero"], "offers": ["drink"]}]
    },
}
MAIL = {"key": "mail", "outbound": True}


def problems(tmp_path: Path, file: str, **change: Any) -> list[str]:
    silence = {file: {"key": "silence", "renderings": {"web": {}}}} if file == "offers/silence.yaml" else {}
    for name, value in (FILES | silence).items():
        path = tmp_path / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**value, **change} if name == file else value))
    try:
        load_plan(tmp_path / "shop")
    except CatalogError as error:
        return [str(problem) for problem in error.problems]
    return []


def moment(**change: Any) -> dict[str, Any]:
    return {"moments": [FILES["moments.yaml"]["moments"][0] | change]}


def channels(**change: Any) -> dict[str, Any]:
    return {"channels": [{"key": "web"}, {"key": "till"}, MAIL | change]}


def test_a_field_of_an_offer_restricts_it_unless_it_only_describes_or_weighs_it() -> None:
    plain = OfferSpec(key="banner", renderings={"web": {}})
    assert plain.is_unrestricted
    describing = {"key", "title", "tags", "attributes", "value", "lever", "renderings"}
    assert set(OfferSpec.__struct_fields__) >= describing
    for name in OfferSpec.__struct_fields__:
        assert replace(plain, **{name: ["set"]}).is_unrestricted == (name in describing), name


def test_a_consistent_shop_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == []


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (
            "offers/drink.yaml",
            {"renderings": {"web": {"price": 2}, "till": {"price": 3}}},
            "renderings.web.price: 2 here is 3 on till; one offer has the same price on every channel and language",
        ),
        (
            "offers/drink.yaml",
            {"renderings": {"web": {"de": {"price": 3}, "en": {"price": 2}}}},
            "renderings.web.en.price: 2 here is 3 on web.de",
        ),
        (
            "offers/drink.yaml",
            {"renderings": {"web": {"de": {"headline": "a"}, "en": {"headline": "b"}, "image": "c.jpg"}}},
            "renderings.web: has de and en beside 'image'; repeat it in each language",
        ),
        ("offers/silence.yaml", {}, "key: 'silence' is the log's name for deliberate silence"),
        ("offers/drink.yaml", {"caps": [{"count": 1, "per": "2d", "window": "calendar"}]}, "is not a calendar window"),
        ("channels.yaml", {"suppress": {"when": "complain_open"}}, "suppress.when: 'complain_open' is not in"),
        ("channels.yaml", {"suppress": {"when": "complaint_open", "except": ["drnk"]}}, "did you mean 'drink'?"),
        ("offers/drink.yaml", {"caps": [{"count": 1, "per": "500d"}]}, "longer than 400 days"),
        ("offers/drink.yaml", {"caps": [{"count": 1, "per": "1d", "scope": "tag"}]}, "caps[0].tag: is missing"),
        ("offers/drink.yaml", {"caps": [{"count": 1, "per": "1d", "zone": "Berlin"}]}, "'Berlin' is not a time zone"),
        ("offers/drink.yaml", {"budget": {"amount": 5, "cost": 6}}, "budget.cost: 6 is more than the whole amount"),
        ("offers/banner.yaml", {"purpose": "marketing"}, "'banner' is not for everyone at any time"),
        ("offers/banner.yaml", {"stock": {"sku": "X"}}, "'banner' is not for everyone at any time"),
        ("channels.yaml", {"zone": "Mars"}, "zone: 'Mars' is not a time zone"),
        ("channels.yaml", channels(outbound=False, quiet={"from": "21:00", "to": "08:00"}), "add 'outbound: true'"),
        ("channels.yaml", channels(quiet={"from": "25:00", "to": "08:00"}), "is not a time of day"),
        ("channels.yaml", channels(quiet={"from": "21:00", "to": "21:00"}), "give them another end"),
        ("moments.yaml", moment(trigger={}), "has no condition; give one of event, date and when"),
        ("moments.yaml", moment(trigger={"event": "a", "date": "b"}), "has event and date"),
        ("moments.yaml", moment(offers=["drnk"]), "'drnk' is not in offers/; did you mean 'drink'?"),
        ("moments.yaml", moment(placements=["sky"]), "placements[0]: 'sky' is not in channels.yaml"),
        ("moments.yaml", moment(channels=["mail"]), "none has a rendering for mail"),
        (
            "hero.yaml",
            {"weights": [{"offers": {"tagged": "retention"}, "weight": 10}]},
            "weights[0].offers.tagged: no offer has the tag 'retention'",
        ),
        ("hero.yaml", {"weights": [{"offers": ["banner"], "weight": 10}]}, "is not in the offers of this placement"),
    ],
)
def test_each_mistake_is_reported_with_its_place(tmp_path: Path, file: str, change: Any, says: str) -> None:
    found = problems(tmp_path, file, **change)
    assert any(says in problem for problem in found), found
