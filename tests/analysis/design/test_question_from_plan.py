"""From YAML and a log to the report: what metrics.yaml says of a metric is what the report counts."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.analysis import Report, analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.report.model import Money
from engine.analysis.sources.engines import DuckDB, ibis_table
from engine.analysis.sources.filters import matches_filter, register_filter
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.catalog import load_plan
from engine.catalog.conditions.compile import compile_condition
from engine.errors import BadInput

Write = Callable[..., Path]
Rows = list[dict[str, Any]]
HOUR, DAY = 3600.0, 86400.0
NOW = datetime.fromtimestamp(1_793_491_200.0 + 30 * DAY, UTC)
EXPERIMENT = """
key: checkout
unit: UNIT
layer: checkout
variants: [{key: control, weight: 0.5, payload: {a: 1}}, {key: one_page, weight: 0.5, payload: {a: 2}}]
metrics: {primary: spend, secondary: [coffee, per_view, back], guardrails: [orders]}
analysis: {method: fixed, min_days: 1, rope: 0.02, prior: [0.0, 0.1]}
"""
METRICS = """
metrics:
  - {key: spend, kind: revenue, event: purchase, window: 7d, covariate_window: 14d, winsorize: 0.99, money: 0.5}
  - {key: coffee, kind: count, event: purchase, filter: {basket.kind: coffee, n: {$gte: 2}}}
  - {key: per_view, kind: ratio, event: purchase, value: revenue, denominator: view, denominator_value: seen,
     denominator_filter: {page: cart}}
  - {key: back, kind: retention, event: purchase, delay: 7d, window: 7d}
  - {key: orders, kind: count, event: purchase, margin: 0.1}
"""


def reported(
    folder: Path, log: Path, unit: str = "customer", analysis: str = "", coverage: str = "", **more: Any
) -> Report:
    folder = folder / "experiments"
    folder.mkdir()
    (folder / "checkout.yaml").write_text(EXPERIMENT.replace("UNIT", unit).replace("rope:", f"{analysis} rope:"))
    with (folder / "checkout.yaml").open("a") as file:
        file.write(coverage)
    (folder / "metrics.yaml").write_text(METRICS)
    (folder / "channels.yaml").write_text("channels: [{key: web}]\nplacements: []\n")
    (folder / "layers.yaml").write_text("layers: [{key: checkout}]\n")
    question, metrics = build_question(load_plan(folder), "checkout")
    return analyze_experiment(question, metrics, log, as_of=NOW, **more)


def shop(customers: int = 400) -> dict[str, Rows]:
    """A habit explains most of what is spent; every fourth basket is coffee; the variant spends two more."""
    rng = np.random.default_rng(11)
    tables: dict[str, Rows] = {"decisions": [], "exposures": [], "events": []}
    for i in range(customers):
        who, habit, at = f"u{i}", float(rng.gamma(3.0, 10.0)), (i % 20) * DAY
        variant = ("control", "one_page")[i // 20 % 2]
        context = json.dumps({"store": f"S{i % 40}", "loyalty.tier": i % 3})
        tables["decisions"].append(
            {"decision_id": f"d{i}", "time": at, "customer": who, "variant": variant, "context": context}
        )
        tables["exposures"].append({"decision_id": f"d{i}", "time": at, "customer": who})
        for n, (then, spent) in enumerate(
            ((-3 * DAY, habit), (HOUR, habit + rng.normal(0, 2) + 2 * (variant != "control")), (8 * DAY, 5.0))
        ):
            kind = "coffee" if i % 4 == 0 else "tea"
            properties = json.dumps({"basket": {"kind": kind}, "n": n + 1})
            row = {"message_id": f"p{i}-{n}", "time": at + then, "customer": who, "event": "purchase"}
            tables["events"].append({**row, "revenue": float(spent), "properties": properties})
        for page in ("cart", "home"):
            view = {"message_id": f"v{i}-{page}", "time": at + HOUR, "customer": who, "event": "view"}
            tables["events"].append({**view, "properties": json.dumps({"page": page, "seen": 2})})
    return tables


def by_name(report: Report) -> dict[str, Any]:
    return {metric.metric: metric for metric in report.metrics}


def test_what_metrics_yaml_says_is_what_the_report_counts(tmp_path: Path, write_log: Write) -> None:
    report = reported(tmp_path, write_log(**shop()))
    found = by_name(report)
    spend = found["spend"]
    assert spend.covariates == ["spend in the 14 days before"]
    assert spend.variance_reduction > 0.9
    assert isinstance(spend.absolute, Effect)
    assert spend.absolute.low < 2.0 < spend.absolute.high
    assert "prior" in spend.interpretation or "belief" in spend.interpretation
    assert found["coffee"].mean == pytest.approx({"control": 0.5, "one_page": 0.5})  # n is 2 and 3, a quarter of all
    assert found["back"].mean == {"control": 1.0, "one_page": 1.0}
    assert found["orders"].mean == {"control": 2.0, "one_page": 2.0}
    assert isinstance(report.recommendation.money_per_month, Money)
    assert report.recommendation.money_per_month.estimate == pytest.approx(
        spend.absolute.estimate * 400 / report.days * 30 * 0.5  # type: ignore[operator]
    )


def test_a_denominator_has_its_own_filter_and_value(tmp_path: Path, write_log: Write) -> None:
    tables = shop()
    report = reported(tmp_path, write_log(**tables))
    earned: dict[str, float] = {"control": 0.0, "one_page": 0.0}
    variant = {row["customer"]: row["variant"] for row in tables["decisions"]}
    first = {row["customer"]: row["time"] for row in tables["decisions"]}
    for row in tables["events"]:
        if row["event"] == "purchase" and row["time"] >= first[row["customer"]]:
            earned[variant[row["customer"]]] += row["revenue"]
    views = {name: 2.0 * sum(of == name for of in variant.values()) for name in earned}  # the cart's, two seen in each
    expected = {name: earned[name] / views[name] for name in earned}
    assert by_name(report)["per_view"].mean == pytest.approx(expected)


def test_stores_are_worth_what_their_customers_bring(tmp_path: Path, write_log: Write) -> None:
    tables = shop()
    for row in tables["decisions"]:
        row["variant"] = ("control", "one_page")[int(row["customer"][1:]) % 40 % 2]
    report = reported(tmp_path, write_log(**tables), unit="store")
    assert sum(report.units.values()) == 40
    effect, money = by_name(report)["spend"].absolute, report.recommendation.money_per_month
    assert isinstance(money, Money)
    assert isinstance(effect, Effect)
    assert money.estimate == pytest.approx(effect.estimate * 400 / report.days * 30 * 0.5)  # type: ignore[operator]


def test_strata_take_noise_off_that_no_covariate_knows(tmp_path: Path, write_log: Write) -> None:
    tables = shop()
    for row in tables["events"]:
        if row["message_id"].endswith("-1"):
            row["revenue"] += 40.0 * (int(row["customer"][1:]) % 3)  # after the exposure, a tier spends more
    log = write_log(**tables)
    errors = {}
    for name, analysis in (("plain", ""), ("strata", "stratum: loyalty.tier,"), ("lin", "adjust: lin,")):
        (tmp_path / name).mkdir()
        spend = by_name(reported(tmp_path / name, log, analysis=analysis))["spend"].absolute
        assert isinstance(spend, Effect)
        errors[name] = spend.se
    assert errors["strata"] < errors["plain"] / 3
    assert errors["lin"] == pytest.approx(errors["plain"], rel=0.02)


def test_coverage_is_the_width_of_all_variants_ranges(tmp_path: Path, write_log: Write) -> None:
    log = write_log(**shop())
    whole = reported(tmp_path, log).recommendation.money_per_month
    (tmp_path / "half").mkdir()
    half = reported(tmp_path / "half", log, coverage="coverage: 0.5").recommendation.money_per_month
    assert isinstance(whole, Money)
    assert isinstance(half, Money)
    assert half.estimate == pytest.approx(2 * whole.estimate, rel=1e-3)


def test_minutes_are_no_month(tmp_path: Path, write_log: Write) -> None:
    tables = shop()
    for name in ("decisions", "exposures"):
        for row in tables[name]:
            row["time"] = float(row["customer"][1:])
    report = reported(tmp_path, write_log(**tables))
    assert report.recommendation.money_per_month == NotEstimable(
        "the report covers less than a day of traffic; a month needs at least one"
    )


def test_a_segment_that_nobody_has_is_one_line(tmp_path: Path, write_log: Write) -> None:
    log = write_log(**shop())
    with pytest.raises(
        BadInput, match=r"^no decision of checkout in the log has the trait 'nope'; it has channel, loy"
    ):
        reported(tmp_path, log, segment="nope")


@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_asks_to_fix_the_log(tmp_path: Path, write_log: Write, wild: float) -> None:
    tables = shop()
    next(row for row in tables["events"] if row["message_id"] == "p0-1")["revenue"] = wild
    report = reported(tmp_path, write_log(**tables))
    assert by_name(report)["spend"].absolute == NotEstimable("spend has values that are NaN or infinite", fault=True)
    assert report.recommendation.verdict == "fix the data"
    assert by_name(report)["coffee"].mean == pytest.approx({"control": 0.5, "one_page": 0.5})


def test_rows_that_stand_twice_count_once(tmp_path: Path, write_log: Write) -> None:
    tables = shop()
    once = reported(tmp_path, write_log(**tables))
    (tmp_path / "again").mkdir()
    for _ in range(2):
        log = write_log(decisions=tables["decisions"], exposures=tables["exposures"])
    twice = reported(tmp_path / "again", log)
    assert twice.units == once.units
    assert by_name(twice)["spend"].mean == pytest.approx(by_name(once)["spend"].mean)
    assert twice.quality.exposure is not None
    assert twice.quality.exposure.double == 2 * 400
    assert any("exposures were sent twice" in flag for flag in twice.quality.flags)


DOCUMENTS = st.dictionaries(
    st.sampled_from(["a", "b"]), st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["x", "1", ""])
)
CONDITIONS = st.dictionaries(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["x", "1"])
    | st.sampled_from([{"$gt": 0}, {"$in": ["x", 1]}, {"$exists": False}, {"$ne": True}, {"$regex": "^x"}]),
    min_size=1,
)


@settings(max_examples=25, deadline=None)
@given(CONDITIONS, st.lists(DOCUMENTS, min_size=1, max_size=8))
def test_a_filter_means_what_the_plan_means(condition: dict[str, object], documents: list[dict[str, object]]) -> None:
    source = DuckDB()
    register_filter(source, condition)
    register_filter(source, condition)
    listed = ", ".join(f"({at}, '{json.dumps(document)}')" for at, document in enumerate(documents))
    table = ibis_table(source.view("given", f"SELECT * FROM (VALUES {listed}) AS t(id, properties)"))
    rows = source.rows(table.select("id", ok=matches_filter(table["properties"], condition)).order_by("id"))
    assert [bool(ok) for _, ok in rows] == [compile_condition(condition)(document) for document in documents]


@pytest.mark.parametrize(("analysis", "prior"), [("method: bayesian", (0.0, 0.02)), ("method: fixed", (0.0, math.inf))])
def test_a_bayesian_experiment_without_a_prior_is_sceptical(
    tmp_path: Path, analysis: str, prior: tuple[float, float]
) -> None:
    (tmp_path / "metrics.yaml").write_text(METRICS)
    (tmp_path / "channels.yaml").write_text("channels: [{key: web}]\nplacements: []\n")
    (tmp_path / "layers.yaml").write_text("layers: [{key: checkout}]\n")
    text = EXPERIMENT.replace("UNIT", "customer")
    text = text.replace("{method: fixed, min_days: 1, rope: 0.02, prior: [0.0, 0.1]}", f"{{{analysis}}}")
    (tmp_path / "checkout.yaml").write_text(text)
    question, _ = build_question(load_plan(tmp_path), "checkout")
    assert (question.inference.prior.mean, question.inference.prior.sd) == prior
