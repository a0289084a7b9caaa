"""A storefront that prefetches flags and reports nothing seen: the report asks for exposures, and how to send them."""

from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.analysis import Report, analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.render.html import report_html
from engine.analysis.render.terminal import render
from engine.catalog import load_plan

VARIANTS = [{"key": "a"}, {"key": "b"}]
SHOP = {
    "offers": {"deal": {}},
    "placements": {"hero": {"offers": ["deal"]}},
    "experiments": {"layout": {"variants": VARIANTS, "metrics": {"primary": "revenue"}}},
}


def prefetch(shop: Any, customer: str) -> str:
    answer = shop.client().post("/ofrep/v1/evaluate/flags", json={"context": {"targetingKey": customer}})
    assert answer.status_code == 200, answer.text
    assert [flag["key"] for flag in answer.json()["flags"]] == ["layout"]
    return str(answer.json()["metadata"]["decisionId"])


def report_of(shop: Any) -> Report:
    shop.collect()
    question, metrics = build_question(load_plan(shop.settings.experiments), "layout")
    return analyze_experiment(question, metrics, Path(shop.settings.data) / "log")


def rendered(report: Report) -> str:
    text = StringIO()
    Console(file=text, width=120).print(render(report))
    return text.getvalue()


def test_a_report_without_exposures_asks_for_them(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    decisions = [prefetch(shop, f"u{at}") for at in range(40)]
    report = report_of(shop)
    assert report.recommendation.verdict == "fix the data"
    assert report.recommendation.why == "40 assigned, none seen: send exposures"
    for shown in (rendered(report), report_html(report).replace("&quot;", '"')):
        assert "40 assigned, none seen: send exposures" in shown
        assert "POST /v1/exposures" in shown
        assert '{"decision_id": "…", "experiments": ["layout"]}' in shown
    for decision in decisions[:30]:  # the lines of the report do it
        body = {"decision_id": decision, "experiments": ["layout"]}
        assert shop.client().post("/v1/exposures", json=body).status_code == 202
    later = report_of(shop)
    assert sum(later.units.values()) == 30
    assert later.quality.exposure is not None
    assert (later.quality.exposure.assigned, later.quality.exposure.exposed) == (40, 30)
    assert "send exposures" not in rendered(later)


def test_a_channel_that_never_exposes_is_named(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    for at in range(25):
        shop.decide("app", user_id=f"app{at}", experiments=["layout"])
        shop.decide("store", user_id=f"store{at}", experiments=["layout"], expose=False)
    report = report_of(shop)
    assert sum(report.units.values()) == 25
    (flag,) = [flag for flag in report.quality.flags if "none seen" in flag]
    assert flag.startswith("store: 25 customers assigned, none seen; send exposures from this channel")


def test_an_experiment_without_assignments_waits_for_them(open_shop: Any) -> None:
    shop = open_shop(SHOP)
    shop.decide("web", "hero", user_id="u1")
    report = report_of(shop)
    assert report.recommendation.why == "no customer was assigned to layout yet"
    assert report.recommendation.would_change == "Decisions that assign it would change this."
