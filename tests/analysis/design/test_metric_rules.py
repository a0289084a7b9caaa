"""Single metrics from metrics.yaml to the report: caps of mostly-zero values, and remedies of missing estimates."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from engine.analysis import Report, analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.render.html import report_html
from engine.analysis.render.terminal import render
from engine.analysis.stats.estimate import Effect
from engine.catalog import load_plan
from engine.errors import CatalogError
from engine.metric_kinds import METRIC_KINDS, MetricKindName

Write = Callable[..., Path]
HOUR, DAY = 3600.0, 86400.0
NOW = datetime.fromtimestamp(1_793_491_200.0 + 30 * DAY, UTC)
EXPERIMENT = """
key: checkout
layer: checkout
variants: [{key: control, weight: 0.5, payload: {a: 1}}, {key: one_page, weight: 0.5, payload: {a: 2}}]
metrics: {primary: spend}
analysis: {method: fixed, min_days: 1}
"""


def folder_of(folder: Path, metric: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "checkout.yaml").write_text(EXPERIMENT)
    event = "" if "steps:" in metric or "event:" in metric else "event: purchase, "
    (folder / "metrics.yaml").write_text(f"metrics:\n  - {{key: spend, {event}{metric}}}\n")
    (folder / "channels.yaml").write_text("channels: [{key: web}]\nplacements: []\n")
    (folder / "layers.yaml").write_text("layers: [{key: checkout}]\n")
    return folder


def reported(folder: Path, metric: str, log: Path) -> Report:
    question, metrics = build_question(load_plan(folder_of(folder, metric)), "checkout")
    return analyze_experiment(question, metrics, log, as_of=NOW)


def shop(spent: list[float]) -> dict[str, list[dict[str, object]]]:
    """One customer for each amount, the variants in turn; a customer who spends nothing has no purchase."""
    variants = ("control", "one_page")
    rows = list(enumerate(spent))
    return {
        "decisions": [
            {"decision_id": f"d{i}", "time": 0.0, "customer": f"u{i}", "variant": variants[i % 2]} for i, _ in rows
        ],
        "exposures": [{"decision_id": f"d{i}", "time": 1.0, "customer": f"u{i}"} for i, _ in rows],
        "events": [
            {"message_id": f"m{i}", "time": HOUR, "customer": f"u{i}", "event": "purchase", "revenue": amount}
            for i, amount in rows
            if amount
        ],
    }


def rendered(report: Report) -> str:
    text = StringIO()
    Console(file=text, width=200).print(render(report))
    return text.getvalue()


def test_the_cap_of_a_mostly_zero_metric_is_a_quantile_of_what_is_not_zero(tmp_path: Path, write_log: Write) -> None:
    """Of 100 customers one buys: the 99 % quantile of all is zero, and a cap at zero would leave no metric."""
    rng = np.random.default_rng(1)
    spent = [round(float(rng.gamma(2, 10)), 2) if i % 200 in {3, 100} else 0.0 for i in range(40_000)]
    report = reported(tmp_path / "x", "kind: revenue, winsorize: 0.99", write_log(**shop(spent)))
    (spend,) = report.metrics
    buyers = np.array([amount for amount in spent if amount])
    assert isinstance(spend.absolute, Effect)
    assert spend.winsorized is not None
    assert spend.winsorized.cap == pytest.approx(np.quantile(buyers, 0.99), rel=1e-9)
    assert spend.winsorized.share == pytest.approx((buyers > spend.winsorized.cap).sum() / 40_000)
    capped = np.minimum(spent, spend.winsorized.cap)
    assert spend.mean == pytest.approx({"control": capped[::2].mean(), "one_page": capped[1::2].mean()})
    note = f"spend: values above {spend.winsorized.cap:.6g}, the 0.99 quantile of the sizes other than zero, count as"
    assert note in rendered(report)
    assert note in report_html(report)


@pytest.mark.parametrize("losing", [1.0, 0.97])
def test_losses_are_capped_as_gains_and_zeros_stay_zeros(tmp_path: Path, write_log: Write, losing: float) -> None:
    """A cap at a quantile of negative values would be negative, and all who bought nothing would count as it."""
    rng = np.random.default_rng(2)
    signs = np.where(rng.random(8_000) < losing, -1.0, 1.0)
    margins = [round(float(signs[i] * rng.gamma(0.7, 20)), 2) if i % 20 in {3, 10} else 0.0 for i in range(8_000)]
    log = shop(margins)
    log["events"] = [
        {**row, "event": "settled", "properties": json.dumps({"margin": row["revenue"]})} for row in log["events"]
    ]
    rules = "kind: mean, event: settled, value: margin, winsorize: 0.95"
    (spend,) = reported(tmp_path / "x", rules, write_log(**log)).metrics
    cap = np.quantile(np.abs([one for one in margins if one]), 0.95)
    assert spend.winsorized is not None
    assert spend.winsorized.cap == pytest.approx(cap, rel=1e-9)
    capped = np.clip(margins, -cap, cap)
    assert spend.mean == pytest.approx({"control": capped[::2].mean(), "one_page": capped[1::2].mean()})


def test_more_units_are_asked_for_only_where_they_would_help(tmp_path: Path, write_log: Write) -> None:
    log = write_log(**shop([0.0] * 500))
    for at, winsorize in enumerate(("", ", winsorize: 0.99")):
        report = reported(tmp_path / str(at), f"kind: revenue{winsorize}", log)
        assert report.recommendation.why == (
            "the primary metric cannot be estimated: spend does not vary in either variant"
        )
        assert report.recommendation.would_change.startswith(
            "Values that differ between units would change this; check that"
        )
        assert "ore units" not in rendered(report)
        assert report.metrics[0].winsorized is None


def test_a_quantile_among_ties_needs_another_level(tmp_path: Path, write_log: Write) -> None:
    report = reported(tmp_path / "x", "kind: quantile, value: revenue, quantile: 0.5", write_log(**shop([5.0] * 500)))
    assert "tied around the 0.5 quantile" in report.recommendation.why
    assert report.recommendation.would_change == "Another level, at which values differ, or the mean would change this."


def test_one_unit_needs_more(tmp_path: Path, write_log: Write) -> None:
    report = reported(tmp_path / "x", "kind: revenue", write_log(**shop([5.0, 6.0])))
    assert report.recommendation.would_change == "More units would change this."


def test_a_share_counts_whoever_bought_whatever_they_paid(tmp_path: Path, write_log: Write) -> None:
    tables = shop([20.0 if i % 3 == 0 else 0.0 for i in range(600)])
    refund = {"message_id": "r0", "time": 2 * HOUR, "customer": "u0", "event": "refund", "revenue": 20.0}
    log = write_log(**{**tables, "events": [*tables["events"], refund]})
    for at, metric in enumerate(("kind: proportion", "kind: retention, window: 7d")):
        report = reported(tmp_path / str(at), f"{metric}, value: revenue", log)
        assert report.metrics[0].mean == pytest.approx({"control": 1 / 3, "one_page": 1 / 3})


@pytest.mark.parametrize(
    ("metric", "path", "message"),
    [
        ("kind: quantile, quantile: 0.9", "value", "is missing; a metric of kind quantile needs it"),
        ("kind: quantile, value: revenue", "quantile", "is missing; a metric of kind quantile needs it"),
        ("kind: mean", "value", "is missing; a metric of kind mean needs it"),
        ("kind: count, denominator: view", "denominator", "a count has none; leave it out, or write kind: ratio"),
        ("kind: mean, value: revenue, quantile: 0.9", "quantile", "a mean has none; leave it out, or write kind: qua"),
        ("kind: count, ripe: true", "window", "is missing; 'ripe: true' counts a customer once the window is over"),
    ],
)
def test_check_refuses_what_no_report_could_measure(tmp_path: Path, metric: str, path: str, message: str) -> None:
    with pytest.raises(CatalogError) as refused:
        load_plan(folder_of(tmp_path / "x", metric))
    (problem,) = refused.value.problems
    assert problem.path == f"metrics[0].{path}"
    assert problem.message.startswith(message)


KEYS = {
    "value": "revenue",
    "denominator": "view",
    "quantile": "0.9",
    "window": "7d",
    "ripe": "true",
    "delay": "1d",
    "winsorize": "0.99",
}
OF_ONE_KIND = {"steps": "[view, purchase]", "at_least": "2"}
"""Keys that only the kind that requires them has."""


@pytest.mark.parametrize("kind", METRIC_KINDS)
def test_what_check_passes_has_a_report(tmp_path: Path, write_log: Write, kind: MetricKindName) -> None:
    """Every kind with every pair of keys: `check` refuses it, or a report measures it."""
    log, passed = write_log(**shop([float(i % 7) for i in range(200)])), 0
    required = METRIC_KINDS[kind].required
    own = [f"{key}: {text}" for key, text in OF_ONE_KIND.items() if key in required]
    for at, keys in enumerate(itertools.chain.from_iterable(itertools.combinations(KEYS, n) for n in range(4))):
        metric = ", ".join([f"kind: {kind}", *own, *(f"{key}: {KEYS[key]}" for key in keys)])
        try:
            plan = load_plan(folder_of(tmp_path / str(at), metric))
        except CatalogError:
            continue
        passed += 1
        question, metrics = build_question(plan, "checkout")
        if len(keys) == len(required) - len(own):
            assert analyze_experiment(question, metrics, log, as_of=NOW).metrics
    assert passed
