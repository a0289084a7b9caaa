"""Experiments whose weights change while the rate of all customers changes too: no effect is what reports find."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment
from engine.analysis.design.methods import Inference
from engine.analysis.report.model import Report
from engine.analysis.stats.estimate import Effect
from tests.statistical.test_open_windows import DAY, START, TIME, decision_columns, write_tables

METRICS = [
    MeasuredMetric(name="conversion", kind="proportion", event="purchase"),
    MeasuredMetric(name="basket", kind="quantile", event="purchase", value="revenue", quantile=0.5),
]
UNITS = 1200
RUNS = 4
THIRD = 1 / 3
WORLDS = {
    "a variant that begins a week later": [({"a": 0.5, "b": 0.5}, 0.1), ({"a": THIRD, "b": THIRD, "c": THIRD}, 0.3)],
    "an experiment that begins with control alone": [({"a": 1.0}, 0.1), ({"a": 0.5, "b": 0.5}, 0.3)],
    "weights that change twice": [
        ({"a": 0.9, "b": 0.1}, 0.1),
        ({"a": 0.5, "b": 0.5}, 0.2),
        ({"a": 0.1, "b": 0.9}, 0.3),
    ],
    "a variant that pauses": [({"a": 0.5, "b": 0.5}, 0.1), ({"a": 1.0}, 0.3), ({"a": 0.5, "b": 0.5}, 0.2)],
    "a variant that ends": [({"a": 0.5, "b": 0.5}, 0.1), ({"a": 1.0}, 0.3)],
}
Weeks = list[tuple[dict[str, float], float]]


def report(folder: Path, rng: np.random.Generator, weeks: Weeks) -> Report:
    """The report of an experiment with `UNITS` customers a week, by each week's weights and share of buyers."""
    names = sorted({name for weights, _ in weeks for name in weights})
    size = len(weeks) * UNITS
    week = np.repeat(np.arange(len(weeks)), UNITS)
    shares = np.array([[weights.get(name, 0.0) for name in names] for weights, _ in weeks])[week]
    arm = (rng.random(size)[:, None] > np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
    rate = np.array([rate for _, rate in weeks])[week]
    customers = [f"c{at}" for at in range(size)]
    seen = START + np.arange(size) * 7 * DAY / UNITS
    times = pa.array((seen * 1e6).astype(np.int64)).cast(TIME)
    decisions = decision_columns(customers, times) | {
        "kind": ["experiment"] * size,
        "key": ["checkout"] * size,
        "variant": [names[at] for at in arm],
        "plan": [f"p{at}" for at in week],
        "propensity": shares[np.arange(size), arm].tolist(),
    }
    bought = np.flatnonzero(rng.random(size) < rate)
    at = pa.array(((seen[bought] + 60) * 1e6).astype(np.int64)).cast(TIME)
    events = {
        "message_id": [f"m{index}" for index in bought],
        "time": at,
        "received": at,
        "customer": [customers[index] for index in bought],
        "event": ["purchase"] * bought.size,
        "decision_id": pa.nulls(bought.size, pa.string()),
        "channel": ["web"] * bought.size,
        "revenue": rng.gamma(2.0, 50.0 * rate[bought]),
        "properties": ["{}"] * bought.size,
    }
    exposures = {"decision_id": customers, "time": times, "key": ["checkout"] * size, "customer": customers}
    write_tables(folder, {"decisions": decisions, "exposures": exposures, "events": events})
    question = ExperimentQuestion(
        key="checkout",
        control="a",
        weights=dict(zip(names, shares[-1].tolist(), strict=True)),
        primary="conversion",
        secondary=("basket",),
        inference=Inference(method="fixed"),
    )
    return analyze_experiment(question, METRICS, folder)


@pytest.mark.parametrize("name", WORLDS)
def test_a_change_of_weights_is_no_effect(name: str, tmp_path: Path) -> None:
    hits, asked = 0, 0
    for run in range(RUNS):
        found = report(tmp_path / str(run), np.random.default_rng((5, run)), WORLDS[name])
        assert found.quality.exposure is None or found.quality.exposure.p > 1e-4
        assert any("the weights changed" in flag for flag in found.quality.flags)
        for row in found.metrics:
            assert isinstance(row.absolute, Effect), row
            asked += 1
            hits += row.absolute.low <= 0 <= row.absolute.high
    assert hits / asked >= 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / asked)
