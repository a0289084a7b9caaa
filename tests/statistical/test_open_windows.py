"""Experiments read on day 8 of a metric with `window: 7d`, with equal rates, one variant's customers buying later.

And placements read on day 5 whose rewards settle after two days, with a rate of 20 %.
The share of runs whose 95 % interval contains the truth, 0, is at least 95 % less the binomial error of the number of
runs. `make calibrate-verdicts` makes 500 runs of it.
"""

import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment, policy_report
from engine.analysis.bandits.policy_report import RewardRate
from engine.analysis.design.methods import Inference
from engine.analysis.stats.estimate import Effect

RUNS = int(os.environ.get("RUNS", "12"))
START, DAY = 1_793_491_200, 86_400
TIME = pa.timestamp("us", tz="UTC")
RATE, PER_DAY = 0.2, 250
CONVERSION = MeasuredMetric(name="conversion", kind="proportion", event="purchase", window=7.0 * DAY)
QUESTION = ExperimentQuestion(
    key="checkout",
    control="control",
    weights={"control": 0.5, "new": 0.5},
    primary="conversion",
    inference=Inference(method="fixed"),
)


def decision_columns(names: list[str], times: pa.Array) -> dict[str, object]:
    """The columns of decisions, of which some are the same in all rows."""
    count = len(names)
    return {
        "decision_id": names,
        "time": times,
        "customer": names,
        "channel": ["web"] * count,
        "reason": ["assigned"] * count,
        "propensity": [0.5] * count,
        "context": ["{}"] * count,
        "plan": ["p"] * count,
        "crossover": [False] * count,
        "version": [""] * count,
        "device": pa.nulls(count, pa.string()),
        "policy": pa.nulls(count, pa.string()),
        "candidates": pa.nulls(count, pa.list_(pa.string())),
    }


def write_run(folder: Path, rng: np.random.Generator) -> None:
    """Eight days of customers; of each variant a fifth buy, after 12 hours or after 3 days on average, within 7."""
    count = 8 * PER_DAY
    seen = START + np.arange(count) * DAY / PER_DAY
    is_new = rng.random(count) < 0.5
    buys = rng.random(count) < RATE
    wait = rng.exponential(np.where(is_new, 3.0, 0.5)) % 7.0
    names = [f"c{at}" for at in range(count)]
    micros = pa.array((seen * 1e6).astype(np.int64)).cast(TIME)
    decisions = decision_columns(names, micros) | {
        "kind": ["experiment"] * count,
        "key": ["checkout"] * count,
        "variant": np.where(is_new, "new", "control").tolist(),
    }
    bought = np.flatnonzero(buys)
    at = pa.array(((seen + wait * DAY)[bought] * 1e6).astype(np.int64)).cast(TIME)
    events = {
        "message_id": [f"m{index}" for index in bought],
        "time": at,
        "received": at,
        "customer": [names[index] for index in bought],
        "event": ["purchase"] * bought.size,
        "decision_id": pa.nulls(bought.size, pa.string()),
        "channel": ["web"] * bought.size,
        "revenue": np.full(bought.size, 10.0),
        "properties": ["{}"] * bought.size,
    }
    exposures = {"decision_id": names, "time": micros, "key": ["checkout"] * count, "customer": names}
    write_tables(folder, {"decisions": decisions, "exposures": exposures, "events": events})


def write_tables(folder: Path, tables: dict[str, dict[str, object]]) -> None:
    """The log's tables, each as one file."""
    for table, columns in tables.items():
        place = folder / table / "day=2026-11-01"
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), place / "0.parquet")


def write_placement(folder: Path, rng: np.random.Generator) -> None:
    """Five days of a placement: a fifth is rewarded, evenly within two days; the others have a zero then."""
    count = 5 * PER_DAY
    seen = START + np.arange(count) * DAY / PER_DAY
    rewarded = rng.random(count) < RATE
    come = seen + DAY * np.where(rewarded, rng.uniform(0.0, 2.0, count), 2.0)
    names = [f"d{at}" for at in range(count)]
    micros = pa.array((seen * 1e6).astype(np.int64)).cast(TIME)
    base = {"decision_id": names, "time": micros, "key": ["hero"] * count, "customer": names}
    decisions = decision_columns(names, micros) | {
        "kind": ["offer"] * count,
        "key": ["hero"] * count,
        "variant": np.where(rng.random(count) < 0.5, "a", "b").tolist(),
        "policy": ["hero@1"] * count,
        "candidates": [["a", "b"]] * count,
    }
    known = np.flatnonzero(come <= START + 5 * DAY)
    rewards = {
        "decision_id": [names[at] for at in known],
        "time": pa.array((come[known] * 1e6).astype(np.int64)).cast(TIME),
        "key": ["hero"] * known.size,
        "reward": rewarded[known].astype(np.float64),
    }
    write_tables(folder, {"decisions": decisions, "exposures": base, "rewards": rewards})


def test_a_placement_whose_rewards_settle_late_shows_its_rate(tmp_path: Path) -> None:
    rng = np.random.default_rng(20_261_131)
    covered = counted = 0
    for run in range(RUNS):
        folder = tmp_path / str(run)
        write_placement(folder, rng)
        report = policy_report(folder, "hero", as_of=datetime.fromtimestamp(START + 5 * DAY, UTC))
        whole = policy_report(folder, "hero", as_of=datetime.fromtimestamp(START + 5 * DAY, UTC), ripe=False)
        rate, raw = report.policies[0].rate, whole.policies[0].rate
        assert isinstance(rate, RewardRate)
        assert isinstance(raw, RewardRate)
        covered += rate.low <= RATE <= rate.high
        counted += raw.low <= RATE <= raw.high
    sys.stdout.write(
        f"placement, day 5, rewards within 2 days: {covered / RUNS:.1%} of {RUNS} runs cover the truth; "
        f"{counted / RUNS:.1%} where open windows count\n"
    )
    assert covered / RUNS >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / RUNS)
    assert counted < covered


def test_equal_rates_that_come_late_are_no_effect(tmp_path: Path) -> None:
    rng = np.random.default_rng(20_261_130)
    covered = 0
    for run in range(RUNS):
        folder = tmp_path / str(run)
        write_run(folder, rng)
        report = analyze_experiment(QUESTION, [CONVERSION], folder, as_of=datetime.fromtimestamp(START + 8 * DAY, UTC))
        effect = report.metrics[0].relative
        assert isinstance(effect, Effect)
        covered += effect.low <= 0 <= effect.high
    sys.stdout.write(f"open windows, day 8 of 7 days: {covered / RUNS:.1%} of {RUNS} runs cover the truth\n")
    assert covered / RUNS >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / RUNS)
