"""The head of a report: what the experiment's file says of it, in JSON, in the terminal and on the page."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from engine.analysis import analyze_experiment, analyze_table
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.render.html import report_html
from engine.analysis.render.terminal import render
from engine.catalog import load_plan

Write = Callable[..., Path]
DAY = 86_400.0
NOW = datetime.fromtimestamp(1_793_491_200.0 + 30 * DAY, UTC)
EXPERIMENT = """
key: checkout
title: The <one-page> checkout
hypothesis: Fewer steps, more orders.
owner: growth
layer: checkout
start: 2026-11-01T00:00:00Z
end: 2026-12-24T00:00:00Z
channels: [web, app]
audience: {country: {$in: [DE, AT]}}
variants: [{key: control, weight: 0.5, payload: {a: 1}}, {key: one_page, weight: 0.5, payload: {a: 2}}]
metrics: {primary: spend}
analysis: {method: fixed, alpha: 0.1, min_days: 1}
"""


def test_a_report_repeats_what_the_file_says(tmp_path: Path, write_log: Write) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "checkout.yaml").write_text(EXPERIMENT)
    (folder / "metrics.yaml").write_text(
        "currency: CHF\nmetrics:\n  - {key: spend, kind: revenue, event: purchase, value: revenue}\n"
    )
    (folder / "channels.yaml").write_text("channels: [{key: web}, {key: app}, {key: store}]\nplacements: []\n")
    (folder / "layers.yaml").write_text("layers: [{key: checkout}]\n")
    rows = [(i, ("control", "one_page")[i % 2], (2 + i // 40) * DAY) for i in range(400)]
    log = write_log(
        decisions=[{"decision_id": f"d{i}", "time": at, "customer": f"u{i}", "variant": v} for i, v, at in rows],
        exposures=[{"decision_id": f"d{i}", "time": at + 1, "customer": f"u{i}"} for i, _, at in rows],
        events=[
            {
                "message_id": f"m{i}",
                "time": at + 60,
                "customer": f"u{i}",
                "event": "purchase",
                "revenue": 10 + i % 7 + 20.0 * (v == "one_page"),
            }
            for i, v, at in rows
        ],
    )
    question, metrics = build_question(load_plan(folder), "checkout")
    report = analyze_experiment(question, metrics, log, as_of=NOW)
    head = {
        "title": "The <one-page> checkout",
        "hypothesis": "Fewer steps, more orders.",
        "owner": "growth",
        "start": "2026-11-01T00:00:00+00:00",
        "end": "2026-12-24T00:00:00+00:00",
        "first_exposure": "2026-11-03T00:00:01+00:00",
        "last_exposure": "2026-11-12T00:00:01+00:00",
        "channels": ["web", "app"],
        "audience": {"country": {"$in": ["DE", "AT"]}},
        "currency": "CHF",
        "method": "fixed",
    }
    assert {key: json.loads(report.json())[key] for key in head} == head
    text = StringIO()
    Console(file=text, width=200).print(render(report))
    page = report_html(report)
    assert "The <one-page> checkout (checkout), as of 2026-12-01" in text.getvalue()
    assert "<title>The &lt;one-page&gt; checkout (checkout)</title>" in page
    for line in (
        "Hypothesis: Fewer steps, more orders.",
        "Owner: growth.",
        "Dates: from 2026-11-01 to 2026-12-24, seen from 2026-11-03 to 2026-11-12.",
        'Channels: web, app. Audience: {"country":{"$in":["DE","AT"]}}.',
        "Method: fixed (valid at a single look), 90% intervals. Currency: CHF.",
        " CHF a month (",
    ):
        assert line in text.getvalue()
        assert line in page.replace("&quot;", '"')


def test_a_table_has_a_method_and_its_name() -> None:
    table = pa.table({"v": ["a", "b"] * 20, "x": [float(i % 7) for i in range(40)]})
    report = analyze_table(table, variant="v", control="a", metrics=["mean:x"], alpha=0.01)
    assert (report.title, report.method, report.currency) == ("table", "sequential", "")
    text = StringIO()
    Console(file=text, width=200).print(render(report))
    assert "Method: sequential (valid at every look), 99% intervals.\n" in text.getvalue()
