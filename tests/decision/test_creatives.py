"""Creatives, decided without any store: exact joint propensities, languages, and what shows none."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from engine import decide
from engine.catalog.plan.plan import Plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideOptions, DecideRequest, Decision
from engine.decision.offers import Snapshot
from engine.journal.from_decision import decision_record
from policies import BetaThompson
from tests.catalog.folder import plan

NOW = 1_790_000_000.0
PHOTO = {"key": "photo", "headline": "See it"}
TEXT = {"key": "text", "headline": "Read it"}
VIDEO = {"key": "video", "de": {"headline": "Sieh es"}, "en": {"headline": "Watch it"}}


def shop(*, offers: Mapping[str, Any] | None = None, moments: Any = (), count: int = 1, **chosen: Any) -> Plan:
    renderings = offers or {"a": [PHOTO, TEXT, VIDEO], "b": {"headline": "b"}, "c": [TEXT, PHOTO]}
    places = [{"key": "hero", "channels": ["web", "app"], "count": count}]
    files: dict[str, Any] = {
        "channels": {"channels": [{"key": "web"}, {"key": "app"}], "placements": places},
        "moments": {"moments": list(moments)},
        "hero": {
            "key": "hero",
            "placement": "hero",
            "offers": list(renderings),
            "policy": {"kind": "beta_thompson", "floor": 0.02},
            "reward": {"metric": "click"},
            "fallback": "z",
        }
        | chosen,
        "offers/z": {"key": "z", "renderings": {"web": [TEXT, PHOTO], "app": {}}},
    }
    for key, one in renderings.items():
        files[f"offers/{key}"] = {"key": key, "renderings": {"web": one, "app": {"headline": f"{key} in the app"}}}
    return plan(**files)


def ask(where: Plan, number: int = 0, snapshots: Mapping[str, Snapshot] | None = None, **more: Any) -> Decision:
    channel, context = more.pop("channel", "web"), more.pop("context", {})
    lost, forced = more.pop("lost", {}), more.pop("preview", {})
    request = DecideRequest(customer=CustomerIds(user_id="u"), channel=channel, placements=["hero"], context=context)
    options = DecideOptions(trace=True, availability=Availability(lost={"hero": lost}), preview=forced, **more)
    return decide(where, snapshots or {}, Profile("u", "u"), request, NOW, decision_id=f"d{number}", options=options)


def learnt(where: Plan) -> dict[str, Snapshot]:
    """An offer and a creative that earned more than the others."""
    chosen = where.policies["hero"]
    creatives = where.taught["hero#creatives"]
    found = {}
    for key, arms in (("hero", chosen.arms), (creatives.key, creatives.arms)):
        policy = BetaThompson(arms, floor=0.02).update(None, [0] * 6 + [1] * 6, [1.0] * 4 + [0.0] * 8, [0.5] * 12)
        found[key] = Snapshot(policy, 12)
    return found


@pytest.mark.parametrize("lost", [{}, {"c": "stock"}])
@pytest.mark.parametrize("silence", [0.0, 0.2])
def test_served_creatives_follow_their_logged_propensity(lost: Mapping[str, Any], silence: float) -> None:
    where = shop(silence=silence)
    snapshots, runs = learnt(where), 4000
    served: Counter[tuple[str | None, str | None]] = Counter()
    logged: dict[tuple[str | None, str | None], float] = {}
    for number in range(runs):
        decision = ask(where, number, snapshots, lost=lost)
        answer, (row,) = decision.answer.offers["hero"], decision_record(decision, NOW).rows
        assert row.propensity == answer.propensity
        creative = row.creative.key if row.creative else None
        assert answer.creative == creative
        if row.creative is not None:
            assert answer.creative_propensity == row.creative.propensity
            assert row.offer_propensity == pytest.approx(decision.choices["hero"].propensity)
        served[row.variant, creative] += 1
        logged[row.variant, creative] = row.propensity
    assert sum(logged.values()) == pytest.approx(1.0)
    assert {creative for offer, creative in served if offer == "a"} == {"photo", "text", "video"}
    assert {creative for offer, creative in served if offer in {"b", "silence"}} == {None}
    statistic = sum((served[shown] - runs * p) ** 2 / (runs * p) for shown, p in logged.items())
    assert chi2.sf(statistic, len(logged) - 1) > 1e-3


def test_a_channel_with_one_rendering_has_no_creative() -> None:
    answer = ask(shop(), channel="app").answer.offers["hero"]
    assert (answer.creative, answer.creative_propensity) == (None, None)
    assert answer.rendering == {"headline": f"{answer.offer} in the app"}
    assert shop(offers={"a": {"headline": "a"}}).policies["hero"].creatives is None


def test_the_rendering_is_that_of_the_creative_in_the_customers_language() -> None:
    where = shop(offers={"a": [PHOTO, VIDEO]}, policy={"kind": "uniform"})
    found = {}
    for number in range(40):
        for language in ("de", "en"):
            answer = ask(where, number, context={"language": language}).answer.offers["hero"]
            found[answer.creative, language] = answer.rendering, answer.language
    assert found["video", "de"] == ({"headline": "Sieh es"}, "de")
    assert found["video", "en"] == ({"headline": "Watch it"}, "en")
    assert found["photo", "de"] == found["photo", "en"] == ({"headline": "See it"}, None)


def test_a_fallback_an_open_breaker_and_a_preview_draw_no_creative() -> None:
    where = shop(offers={"a": [PHOTO, TEXT]})
    for decision in (ask(where, lost={"a": "stock"}), ask(where, degraded=True), ask(where, tripped=["hero"])):
        answer, (row,) = decision.answer.offers["hero"], decision_record(decision, NOW).rows
        assert (answer.offer, answer.creative, answer.rendering) == ("z", None, {"headline": "Read it"})
        assert (row.propensity, row.creative) == (1.0, None)
    assert ask(where, preview={"hero": "a"}).answer.offers["hero"].rendering == {"headline": "See it"}
    forced = ask(where, preview={"hero": "a/text"}).answer.offers["hero"]
    assert (forced.creative, forced.rendering, forced.propensity) == ("text", {"headline": "Read it"}, 1.0)


def test_a_moment_of_an_offer_that_the_placement_lacks_draws_its_creatives_evenly() -> None:
    moment = {"key": "now", "trigger": {"when": {"channel": "web"}}, "placements": ["hero"], "offers": ["c"]}
    where = shop(moments=[moment], offers={"a": [PHOTO, TEXT], "c": [PHOTO, TEXT]})
    shown = Counter(ask(where, number).answer.offers["hero"].creative for number in range(200))
    assert set(shown) == {"photo", "text"}
    assert ask(where).answer.offers["hero"].reason == "moment"


def test_each_item_of_a_list_has_a_creative_of_its_own() -> None:
    where = shop(count=3, policy={"kind": "uniform"})
    decision = ask(where, 1)
    answer, rows = decision.answer.offers["hero"], decision_record(decision, NOW).rows
    assert answer.items
    assert [item.creative is not None for item in answer.items] == [item.offer != "b" for item in answer.items]
    assert {row.joint for row in rows} == {answer.propensity}
    product = 1.0
    for item in answer.items:
        product *= item.propensity
    assert answer.propensity == pytest.approx(product) == pytest.approx(1 / 6 / 3 / 2)
    explained = [ask(where, 1).answer.offers["hero"].items for _ in range(2)]
    assert explained[0] == explained[1] == answer.items


@settings(max_examples=60, deadline=None)
@given(
    creatives=st.lists(st.lists(st.sampled_from("pqrst"), min_size=1, max_size=5, unique=True), min_size=1, max_size=4),
    count=st.integers(1, 3),
    number=st.integers(0, 10_000),
    silence=st.sampled_from([0.0, 0.3]),
)
def test_a_decision_is_the_same_again_and_its_propensity_the_product(
    creatives: list[list[str]], count: int, number: int, silence: float
) -> None:
    offers = {f"o{at}": [{"key": key, "headline": key} for key in keys] for at, keys in enumerate(creatives)}
    where = shop(offers=offers, count=count, silence=silence)
    one, again = ask(where, number), ask(where, number)
    assert one.answer == again.answer
    for name, choice in one.items():
        creative = choice.creative
        assert (creative is None) == (choice.reason in {"silence", "fallback"}), name
        if creative is not None:
            assert creative.candidates == creatives[int(choice.offer.key[1:])]
            assert sum(creative.probabilities) == pytest.approx(1.0)
            assert creative.propensity == creative.probabilities[creative.candidates.index(creative.key)]
            assert choice.shown_propensity == choice.propensity * creative.propensity
