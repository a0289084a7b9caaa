"""Creatives over HTTP: learnt, logged with their joint probability, replayed, and reported by segment."""

import json
import statistics
import threading
import time
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import keyspace
from engine.analysis.offpolicy.evaluate import evaluate
from engine.analysis.offpolicy.policy_value import ValueEstimate
from engine.catalog import load_plan
from engine.catalog.archive import Archive
from engine.cli.app import app
from engine.journal import stream
from engine.learn import learn
from engine.rehearse.explain import explain_decision
from engine.snapshots.publish import current_snapshot
from policies import load_policy

PHOTO = {"key": "photo", "attributes": {"picture": True}, "headline": "See it"}
TEXT = {"key": "text", "attributes": {"picture": False}, "headline": "Read it"}
SHOP = {
    "offers": {
        "tea": {"renderings": {"web": [PHOTO, TEXT], "app": {"headline": "Tea"}}},
        "cake": {
            "stock": {"sku": "CAKE", "hold": "1h"},
            "renderings": {"web": [{**PHOTO, "key": "oven"}, {**TEXT, "key": "poem"}], "app": {"headline": "Cake"}},
        },
    },
    "placements": {
        "hero": {
            "offers": ["tea", "cake"],
            "policy": {"kind": "linear_thompson", "features": ["country.DE"], "floor": 0.05},
            "creatives": {
                "kind": "linear_thompson",
                "features": ["country.DE"],
                "attributes": ["picture"],
                "floor": 0.05,
            },
            "reward": {"metric": "click", "window": "1h", "settle": "1s"},
            "silence": 0.1,
        }
    },
}


def run_learner(shop: Any) -> None:
    plan = load_plan(shop.settings.experiments)
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    shop.collect()


def visit(shop: Any, number: int, *, clicks: tuple[str, ...] = ("photo", "oven")) -> tuple[str, dict[str, Any]]:
    """A visitor who clicks pictures."""
    user = f"u-{number}"
    decision = shop.decide("web", "hero", user_id=user, context={"country": "DE" if number % 2 else "AT"})
    answer = decision["offers"]["hero"]
    if answer.get("creative") in clicks:
        assert shop.tell("click", user_id=user, decision_id=decision["decision_id"]) == "accepted"
    return decision["decision_id"], answer


def chance_of_a_picture(visits: list[tuple[str, dict[str, Any]]]) -> float:
    """The mean probability with which these visitors were shown a picture rather than a text."""
    chances = [
        answer["creative_propensity"] if answer["creative"] in {"photo", "oven"} else 1 - answer["creative_propensity"]
        for _, answer in visits
        if "creative" in answer
    ]
    return statistics.fmean(chances)


def check_log(shop: Any, answered: list[tuple[str, dict[str, Any]]]) -> None:
    """The log has what was answered, with the candidates of each creative."""
    log = shop.settings.log
    rows = pa.concat_tables([pq.read_table(file) for file in (log / "decisions").glob("**/*.parquet")]).to_pylist()
    logged = {row["decision_id"]: row for row in rows}
    for decision_id, answer in answered:
        row = logged[decision_id]
        assert row["propensity"] == answer["propensity"]
        assert (row["creative"], row["creative_propensity"]) == (
            answer.get("creative"),
            answer.get("creative_propensity"),
        )
        assert (row["creative"] is None) == (answer["reason"] == "silence")
        if row["creative"]:
            assert row["creatives"] == (["photo", "text"] if answer["offer"] == "tea" else ["oven", "poem"])


def check_replay(shop: Any, redis_url: str, answered: Any) -> None:
    """Both policies learnt each lesson, and a replay draws the same, also without their snapshots."""
    with stream.connect_stream(redis_url) as client:
        taught = current_snapshot(client, "hero#creatives")
        assert taught is not None
        policy = load_policy(taught.blob)
        assert policy.arms == ("tea/photo", "tea/text", "cake/oven", "cake/poem")
        assert policy.seen == load_policy(current_snapshot(client, "hero").blob).seen  # type: ignore[union-attr]
        archive = Archive(shop.settings.data / "plans")
        for is_stored in (True, False):
            if not is_stored:
                client.delete(*(f"{keyspace.SNAPSHOT_HEADERS}:{key}:kept" for key in ("hero", "hero#creatives")))
            for decision_id, answer in answered:
                again = explain_decision(shop.settings.log, archive, client, decision_id)
                assert (again.same, again.differences) == (True, [])
                explained = again.explanation.placements["hero"]
                if "creative" in answer:
                    assert explained.creative.key == answer["creative"]  # type: ignore[union-attr]
                    assert sum(explained.creative.candidates.values()) == pytest.approx(1)  # type: ignore[union-attr]


def check_report(report: Any, answers: list[dict[str, Any]]) -> None:
    """By creative, channel and segment."""
    cells = {(row["offer"], row["creative"], row["channel"], row["segment"]): row for row in report["creatives"]}
    assert {cell[2:] for cell in cells} == {("web", "DE"), ("web", "AT")}
    assert {cell[:2] for cell in cells} >= {("tea", "photo"), ("tea", "text"), ("cake", "oven"), ("cake", "poem")}
    shown = Counter(answer["offer"] for answer in answers if "creative" in answer)
    for offer, count in shown.items():
        assert sum(row["exposures"] for cell, row in cells.items() if cell[0] == offer) == count
    assert all(row["naive_mean"] == (1.0 if cell[1] in {"photo", "oven"} else 0.0) for cell, row in cells.items())
    assert sum(row["exposures"] for row in report["arms"]) == 260


def check_evaluation_of_creatives(shop: Any, answers: list[dict[str, Any]]) -> None:
    """Creatives drawn evenly are valued by the creatives that were drawn: each picture is clicked and no text."""
    judged = evaluate(shop.settings.log, [shop.settings.data / "even.yaml"], placement="hero#creatives")
    shown = [answer for answer in answers if "creative" in answer]
    assert (judged.arms, judged.decisions) == (4, len(shown))
    [policy] = judged.policies
    by_hand = sum(0.5 / one["creative_propensity"] * (one["creative"] in {"photo", "oven"}) for one in shown)
    assert isinstance(policy.ips, ValueEstimate)
    assert policy.ips.value == pytest.approx(by_hand / len(shown), rel=1e-9)


def test_pictures_are_learnt_beside_their_offer(
    open_shop: Any, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = open_shop(SHOP, workers=1)
    shop.stock("CAKE", 1000)
    run_learner(shop)
    first = [visit(shop, number) for number in range(160)]
    time.sleep(1.1)  # what was not clicked has settled when the next visitor comes
    first.append(visit(shop, 160))
    run_learner(shop)
    deadline = time.monotonic() + 30
    while "hero@0" in str(shop.decide("web", "hero", user_id="probe", expose=False)["offers"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    later = [visit(shop, number) for number in range(161, 260)]
    # The logged chances have no noise of the draw: before learning they are 0.5 each, within 512 draws' error of 0.022.
    assert chance_of_a_picture(first) == pytest.approx(0.5, abs=3 * 0.022)
    assert chance_of_a_picture(later) > 0.5 + 3 * 0.022
    run_learner(shop)

    check_log(shop, first + later)
    check_replay(shop, redis_url, (first[0], later[0], later[-1]))
    asked = ["analyze", "hero", "--segment", "country", "--no-ripe", "--json"]
    places = ["--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data)]
    assert app([*asked, *places], result_action="return_value") in {0, None}
    check_report(json.loads(capsys.readouterr().out), [answer for _, answer in first + later])

    (shop.settings.data / "even.yaml").write_text("policy: {kind: uniform}\n")
    judged = evaluate(shop.settings.log, [shop.settings.data / "even.yaml"])
    assert judged.arms == 3  # two offers and silence: a creative is no arm of the placement
    check_evaluation_of_creatives(shop, [answer for _, answer in first + later])


def test_what_staff_the_page_and_the_mail_see_names_the_creative(open_shop: Any) -> None:
    shop = open_shop(SHOP | {"placements": {"hero": SHOP["placements"]["hero"] | {"silence": 0.0}}})  # type: ignore[index]
    body = {"customer": {"user_id": "ada"}, "channel": "web", "placements": ["hero"]}
    view = shop.client().post("/v1/agent", json=body).json()["suggestions"]["hero"]
    assert view["creative"] == {"See it": "photo", "Read it": "text"}.get(view["rendering"]["headline"]) or view[
        "creative"
    ] in {"oven", "poem"}
    explained = shop.explain("web", "hero", user_id="ada")
    assert explained["creative"]["key"] in explained["creative"]["candidates"]
    offer_propensity = next(one["propensity"] for one in explained["candidates"] if one["offer"] == explained["offer"])
    assert explained["propensity"] == pytest.approx(offer_propensity * explained["creative"]["propensity"])
    app_answer = shop.decide("app", "hero", user_id="ada")["offers"]["hero"]
    assert "creative" not in app_answer
