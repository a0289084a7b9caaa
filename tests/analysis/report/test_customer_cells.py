"""A report of customers, which one pass sums, beside the same report split by a trait, which stores each exposure."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment
from engine.analysis.design.methods import Inference
from engine.analysis.report.experiment_units import read_experiment_units
from engine.analysis.sources.engines import DuckDB

DAY = 86_400.0
START = 1_793_491_200.0
NOW = datetime.fromtimestamp(START + 40 * DAY, UTC)
REVENUE = MeasuredMetric(name="revenue", kind="mean", event="purchase", value="revenue", covariate_window=7 * DAY)
VARIANTS = ("control", "one_page")


def shop(chance: random.Random) -> dict[str, list[dict[str, Any]]]:
    """A log with older versions, two plans, customers of two variants, and exposures sent twice or of no decision."""
    decisions: list[dict[str, Any]] = []
    exposures: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for number in range(400):
        customer, time = f"u{chance.randrange(150)}", number * DAY / 20
        variant = VARIANTS[len(customer) * int(customer[1:]) % 2] if chance.random() < 0.98 else chance.choice(VARIANTS)
        decisions.append(
            {
                "decision_id": f"d{number}",
                "time": time,
                "customer": customer if chance.random() < 0.97 else None,
                "variant": variant,
                "reason": chance.choice(["assigned", "sticky"]),
                "channel": chance.choice(["web", "app"]),
                "propensity": 0.5 if number < 300 else 0.4,
                "plan": "p1" if number < 300 else "p2",
                "version": "1" if number < 60 else "2",
                "context": '{"tier": 1}',
            }
        )
        sent = [time + chance.random() * DAY for _ in range(chance.choice([0, 1, 1, 1, 2]))]
        exposures += [{"decision_id": f"d{number}", "time": at, "customer": customer} for at in sent]
        if chance.random() < 0.5:
            named = chance.choice([None, None, f"d{number}", "gone"])
            at = time + (chance.random() - 0.3) * DAY
            event = {"message_id": f"m{number}", "time": max(at, 0.0), "customer": customer, "event": "purchase"}
            events.append(event | {"decision_id": named, "revenue": round(chance.random() * 50, 2)})
    exposures.append({"decision_id": "lost", "time": 5.0, "customer": "u1"})
    return {"decisions": decisions, "exposures": exposures, "events": events}


@pytest.mark.parametrize("start", [None, START + 6 * DAY])
@pytest.mark.parametrize("seed", [1, 2])
def test_one_pass_finds_what_stored_exposures_give(
    write_log: Callable[..., Path], seed: int, start: float | None
) -> None:
    question = ExperimentQuestion(
        key="checkout",
        control="control",
        weights=dict.fromkeys(VARIANTS, 0.5),
        primary="revenue",
        start=start,
        inference=Inference(method="fixed"),
    )
    log = write_log(**shop(random.Random(seed)))  # no secret
    summed = analyze_experiment(question, [REVENUE], log, as_of=NOW)
    stored = analyze_experiment(question, [REVENUE], log, as_of=NOW, segment="tier")
    by_channel = analyze_experiment(question, [REVENUE], log, as_of=NOW, segment="channel")
    assert summed.quality.exposure == stored.quality.exposure == by_channel.quality.exposure
    assert summed.quality.exposure.double > 0
    assert summed.quality.exposure.orphans == 1
    assert summed.quality.crossovers == stored.quality.crossovers > 0
    assert summed.units == stored.units == by_channel.units
    assert summed.quality.uncounted == stored.quality.uncounted
    assert summed.quality.srm == stored.quality.srm
    (own,), (other,) = summed.metrics, stored.metrics
    assert own.mean == pytest.approx(other.mean, rel=1e-12)
    assert own.absolute.se == pytest.approx(other.absolute.se, rel=1e-12)


def test_one_engine_reads_experiments_of_several_units(write_log: Callable[..., Path]) -> None:
    """The effects of `measure kpis` read all experiments of a log with one engine."""
    weights = dict.fromkeys(VARIANTS, 0.5)
    question = ExperimentQuestion(key="checkout", control="control", weights=weights, primary="revenue")
    tables = shop(random.Random(1))  # no secret
    for row in tables["decisions"]:
        row["device"] = row["customer"]
    log, source = write_log(**tables), DuckDB()
    found = []
    for unit in ("device", "customer", "device", "customer"):
        asked = msgspec.structs.replace(question, unit=unit)
        units = read_experiment_units(source, asked, [REVENUE], log, NOW).units
        found += source.rows(units.aggregate(n=units.count()))
    assert len(found) == 4
    assert len(set(found)) == 1
