"""What a report says in money and percent: a gain or a cost only where the interval settles it, and no minus zero."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from engine.analysis import ExperimentQuestion, MeasuredMetric, Report, analyze_experiment
from engine.analysis.design.methods import Inference
from engine.analysis.render.html import report_html
from engine.analysis.render.terminal import render
from engine.analysis.report.model import Money
from engine.analysis.stats.estimate import NotEstimable, format_percents

Write = Callable[..., Path]
DAY = 86_400.0
NOW = datetime.fromtimestamp(1_793_491_200.0 + 20 * DAY, UTC)
REVENUE = MeasuredMetric(name="revenue", kind="mean", event="purchase", value="revenue", money=1.0)
QUESTION = ExperimentQuestion(
    key="checkout",
    control="control",
    weights={"control": 0.5, "new": 0.5},
    primary="revenue",
    inference=Inference(method="fixed"),
)


def reported(write_log: Write, lift: float, spread: float = 5.0, **change: object) -> Report:
    rng = np.random.default_rng(3)
    rows = [(f"{i}", ("control", "new")[i % 2], i // 100 * DAY) for i in range(1000)]
    noise = rng.normal(0, spread, len(rows))
    for side in range(2):
        noise[side::2] -= noise[side::2].mean()
    log = write_log(
        decisions=[{"decision_id": f"d{i}", "time": at, "customer": f"u{i}", "variant": v} for i, v, at in rows],
        exposures=[{"decision_id": f"d{i}", "time": at + 1, "customer": f"u{i}"} for i, _, at in rows],
        events=[
            {
                "message_id": f"m{i}",
                "time": at + 60,
                "customer": f"u{i}",
                "event": "purchase",
                "revenue": float(50 + lift * (v == "new") + noise[int(i)]),
            }
            for i, v, at in rows
        ],
    )
    return analyze_experiment(msgspec.structs.replace(QUESTION, **change), [REVENUE], log, as_of=NOW)


def shown(report: Report) -> list[str]:
    text = StringIO()
    Console(file=text, width=250).print(render(report))
    return [text.getvalue(), re.sub(r"<script>.*?</script>", "", report_html(report), flags=re.DOTALL)]


@pytest.mark.parametrize(("lift", "verb"), [(3.0, "bring"), (-3.0, "cost")])
def test_a_settled_effect_is_a_sentence_in_money(write_log: Write, lift: float, verb: str) -> None:
    report = reported(write_log, lift)
    money = report.recommendation.money_per_month
    assert isinstance(money, Money)
    assert money.settled
    low, high = sorted((abs(money.low), abs(money.high)))
    sentence = f"new would {verb} {abs(money.estimate):,.0f} a month ({low:,.0f} to {high:,.0f}) at full traffic"
    assert all(sentence in page for page in shown(report))


def test_an_open_effect_is_neither_a_gain_nor_a_cost(write_log: Write) -> None:
    report = reported(write_log, -0.3)
    money = report.recommendation.money_per_month
    assert isinstance(money, Money)
    assert money.low < 0 < money.high
    assert not money.settled
    for page in shown(report):
        assert "would cost" not in page
        assert "would bring" not in page
        assert f"The worth of new per month is open: {money.low:+,.0f} to {money.high:+,.0f} at full traffic" in page


def test_broken_data_are_worth_nothing(write_log: Write) -> None:
    report = reported(write_log, 3.0, weights={"control": 0.8, "new": 0.2})
    assert report.recommendation.verdict == "fix the data"
    assert report.recommendation.money_per_month == NotEstimable(
        "the data have a fault that must be corrected first", fault=True
    )
    assert not any("would bring" in page for page in shown(report))


@pytest.mark.parametrize("lift", [-1e-4, 0.0, 1e-4])
def test_nothing_is_minus_zero(write_log: Write, lift: float) -> None:
    for page in shown(reported(write_log, lift, spread=0.01)):
        assert re.findall("[-\u2212]0(?:\\.0+)?(?![.\\d])", page) == []


def test_percentages_have_the_digits_that_tell_them_from_zero() -> None:
    assert format_percents([0.0312, 0.011, 0.05]) == ["+3.1%", "+1.1%", "+5.0%"]
    assert format_percents([0.0003, -0.0001, 0.0007]) == ["+0.03%", "-0.01%", "+0.07%"]
    assert format_percents([-0.0, -1e-9, 0.2]) == ["+0.0%", "+0.0%", "+20.0%"]
    assert format_percents([0.0, -0.0, 0.2]) == ["+0.0%", "+0.0%", "+20.0%"]
