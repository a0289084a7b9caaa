"""Guardrails from the log to the verdict: harm is judged over all guardrails and variants together."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment
from engine.analysis.design.methods import Inference, Method
from engine.analysis.render.terminal import notes
from engine.analysis.report.model import Report
from engine.analysis.stats.estimate import Effect

Write = Callable[..., Path]
START, DAY = 1_793_491_200.0, 86_400.0
NOW = datetime.fromtimestamp(START + 30 * DAY, UTC)
NAMES = tuple(f"g{at}" for at in range(10))
METRICS = [MeasuredMetric(name=name, kind="proportion", event=name) for name in ("conversion", *NAMES)]
UNITS = 400
REACHED = 200  # units of each variant that did a thing


def log(lost: int) -> dict[str, list[dict[str, Any]]]:
    """Three equal variants, but that `lost` fewer of `a` did g3."""
    decisions, exposures, events = [], [], []
    for variant in ("control", "a", "b"):
        for at in range(UNITS):
            customer = f"{variant}-{at}"
            decisions.append({"decision_id": customer, "time": 0.0, "customer": customer, "variant": variant})
            exposures.append({"decision_id": customer, "time": 0.0, "customer": customer})
            for name in ("conversion", *NAMES):
                if at < REACHED - (lost if (variant, name) == ("a", "g3") else 0):
                    event = {"message_id": f"{customer}-{name}", "time": 60.0, "customer": customer, "event": name}
                    events.append(event)
    return {"decisions": decisions, "exposures": exposures, "events": events}


def report(folder: Path, guardrails: tuple[str, ...], method: Method = "fixed") -> Report:
    question = ExperimentQuestion(
        key="checkout",
        control="control",
        weights={"control": 1 / 3, "a": 1 / 3, "b": 1 / 3},
        primary="conversion",
        guardrails=guardrails,
        inference=Inference(method=method, rope=0.0),
    )
    return analyze_experiment(question, METRICS, folder, as_of=NOW)


def test_one_of_twenty_guardrail_intervals_beyond_zero_is_no_harm_yet(write_log: Write) -> None:
    folder = write_log(**log(lost=32))
    alone, many = report(folder, ("g3",)), report(folder, NAMES)
    assert alone.recommendation.verdict == "stop"
    assert many.recommendation.verdict == "keep running"
    row = next(metric for metric in many.metrics if (metric.metric, metric.variant) == ("g3", "a"))
    assert row.guard == "open"
    assert isinstance(row.relative, Effect)
    assert isinstance(row.joint, Effect)
    assert row.relative.high < 0 < row.joint.high
    assert any("not by the interval for all guardrails together" in note for note in notes(many))
    assert msgspec.json.decode(many.json())["metrics"][8]["joint"]["high"] == row.joint.high


@pytest.mark.parametrize("method", ["fixed", "sequential", "bayesian"])
def test_clear_harm_stops_however_many_guardrails_there_are(write_log: Write, method: Method) -> None:
    found = report(write_log(**log(lost=110)), NAMES, method)
    assert found.recommendation.verdict == "stop"
    assert "g3 is worse with a than its margin allows" in found.recommendation.why
    assert "holds for all 20 comparisons of guardrails together" in found.recommendation.why
