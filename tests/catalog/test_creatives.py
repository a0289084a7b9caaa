"""Creatives in YAML: their keys, the terms that they share with all of an offer, and the policy that chooses them."""

from typing import Any

import pytest

from engine.catalog.check.warnings import find_warnings
from engine.errors import CatalogError
from engine.snapshots.header import align_policy
from policies import Bandit
from tests.catalog.folder import plan, specs

PHOTO = {"key": "photo", "headline": "See it", "attributes": {"picture": True}}
TEXT = {"key": "text", "headline": "Read it", "attributes": {"picture": False}}


def folder(web: Any, app: Any = None, **chosen: Any) -> dict[str, Any]:
    renderings = {"web": web} | ({"app": app} if app else {})
    hero = {
        "key": "hero",
        "placement": "hero",
        "offers": ["tea"],
        "policy": {"kind": "uniform"},
        "reward": {"metric": "click"},
        "fallback": "z",
    }
    channels = [{"key": "web"}, {"key": "app"}]
    return {
        "channels": {"channels": channels, "placements": [{"key": "hero", "channels": ["web"]}]},
        "hero": hero | chosen,
        "offers/tea": {"key": "tea", "renderings": renderings},
        "offers/z": {"key": "z", "renderings": {"web": {}}},
    }


def problems(web: Any, app: Any = None, **chosen: Any) -> str:
    try:
        specs(**folder(web, app, **chosen))
    except CatalogError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("web", "says"),
    [
        ([PHOTO, {"headline": "no key"}], "renderings.web[1].key: is missing; name the creative"),
        ([PHOTO, PHOTO], "renderings.web[1].key: 'photo' is the key of another creative"),
        ([{**PHOTO, "key": "a b"}], "renderings.web[0].key: 'a b' is not letters, digits"),
        ([{**PHOTO, "attributes": {"picture": [1]}}], "renderings.web[0].attributes.picture"),
        ([], "renderings.web"),
        ({"de": [PHOTO], "en": [PHOTO]}, "renderings.web.de: is a list; give the creatives as a list, and in each"),
        ([{**PHOTO, "price": 3}, {**TEXT, "price": 4}], "renderings.web[1].price: 4 here is 3 on web[0]"),
        (
            [{"key": "a", "de": {"until": "2026-12-01"}, "en": {"until": "2026-12-02"}}],
            "renderings.web[0].en.until: '2026-12-02' here is '2026-12-01' on web[0].de",
        ),
        (
            [{**PHOTO, "legal": "From 50 EUR"}, {**TEXT, "legal": "From 60 EUR"}],
            "renderings.web[1].legal: the numbers '60' here are '50' on web[0]",
        ),
        (
            {"de": {"terms": "ab 1.000,50 EUR"}, "en": {"terms": "from EUR 1,000.00"}},
            "renderings.web.en.terms: the numbers '100000' here are '100050' on web.de",
        ),
        ([{**PHOTO, "legal": "Once only"}, {**TEXT, "legal": "Once"}], "'Once' here is 'Once only' on web[0]"),
    ],
)
def test_each_mistake_is_reported_with_its_place(web: Any, says: str) -> None:
    assert says in problems(web)


def test_legal_texts_of_two_languages_differ_in_words_only() -> None:
    assert problems({"de": {"terms": "ab 1.000,50 EUR"}, "en": {"terms": "from EUR 1,000.50"}}) == ""


@pytest.mark.parametrize(
    ("here", "there", "what"),
    [
        ("20 % off", "Jetzt 15 % sparen", "percentage"),
        ("20 percent off", "20 % auf alles", ""),
        ("Now 9,90 €", "EUR 9.90 only", ""),
        ("Now 9,90 €", "EUR 9.50 only", "price"),
        ("Until 2026-12-24", "Bis 24.12.2026", ""),
        ("Until 2026-12-24", "Bis 23.12.2026", "day"),
        ("20 % off", "No number at all", ""),
    ],
)
def test_texts_that_promise_unlike_terms_are_warned_of(here: str, there: str, what: str) -> None:
    found = [
        problem
        for problem in find_warnings(specs(**folder([PHOTO | {"headline": here}, TEXT | {"headline": there}])), 0.0)
        if "is it the same offer" in problem.message
    ]
    assert [problem.path for problem in found] == (["renderings.web[1]"] if what else [])
    assert all(f"promises the {what} " in problem.message for problem in found)


def test_a_policy_of_creatives_is_checked_as_any_other() -> None:
    linear = {"kind": "linear_thompson", "features": ["hour"]}
    assert "creatives: no offer of the placement has several" in problems({"headline": "one"}, creatives=linear)
    assert "did you mean 'picture'" in problems([PHOTO, TEXT], creatives=linear | {"attributes": ["pictures"]})
    three = [PHOTO, TEXT, {"key": "note"}]
    assert "tea has 3 creatives on a channel" in problems(three, creatives={"kind": "uniform", "floor": 0.4})
    assert problems([PHOTO, TEXT], creatives=linear | {"attributes": ["picture"]}) == ""


def test_a_new_creative_begins_with_what_similar_ones_taught() -> None:
    policy = {"kind": "linear_thompson", "features": [], "attributes": ["picture"], "floor": 0.01}
    clip, note = {**PHOTO, "key": "clip"}, {**TEXT, "key": "note"}
    before = plan(**folder([PHOTO, TEXT], creatives=policy)).taught["hero#creatives"]
    after = plan(**folder([PHOTO, TEXT, clip, note], creatives=policy)).taught["hero#creatives"]
    assert after.arms == ("tea/photo", "tea/text", "tea/clip", "tea/note")
    assert isinstance(before.prior, Bandit)
    x = [[1.0] * before.prior.dim] * 200
    taught = before.prior.update(x, [0, 1] * 100, [1.0, 0.0] * 100, [0.5] * 200)
    expected = align_policy(taught, after).expected(x[0])
    assert expected[2] > expected[3] + 0.1


def test_a_creative_is_one_arm_on_all_channels() -> None:
    where = plan(**folder([PHOTO, TEXT], [TEXT, PHOTO]))
    creatives = where.policies["hero"].creatives
    assert creatives is not None
    assert creatives.arms == ("tea/photo", "tea/text")
    assert {place: at.tolist() for place, at in creatives.places.items()} == {
        ("tea", "web"): [0, 1],
        ("tea", "app"): [1, 0],
    }
