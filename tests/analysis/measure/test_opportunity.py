"""Opportunity: uplifts by place cover the truth, holes are ranked by money, groups are found and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.opportunity.mixture import fit_mixture
from engine.analysis.measure.opportunity.report import OpportunityOptions, measure_opportunity
from engine.analysis.measure.sources import EventSource
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput
from tests.analysis.measure.worlds import EFFECTS, OFFERS, write_world

DAY = 86_400.0
TODAY = 0.4 * (EFFECTS @ [0.7, 0.15, 0.15]) + 0.6 * (EFFECTS @ [0.15, 0.45, 0.4])
"""The orders per showing that today's choices add in the worlds."""


def test_uplifts_cover_the_truth(tmp_path: Path) -> None:
    covered, cells = 0, 0
    for seed in range(4):
        report = measure_opportunity(EventSource(log_dir=write_world(tmp_path / str(seed), seed, customers=1200)))
        for one in report.cells:
            truth = 10 * (EFFECTS[OFFERS.tolist().index(one.offer)] - TODAY)
            assert one.segment == "new"
            assert isinstance(one.uplift, Effect)
            assert isinstance(one.measured, Effect)
            assert abs(one.uplift.estimate) < abs(one.measured.estimate)
            covered += one.uplift.low < truth < one.uplift.high
            cells += 1
    assert cells == 24
    assert covered >= 20


def test_a_month_needs_a_week_and_margin_scales(tmp_path: Path) -> None:
    source = EventSource(log_dir=write_world(tmp_path, 1, customers=1500))
    report = measure_opportunity(source, OpportunityOptions(margin=0.3))
    assert report.days < 7
    assert isinstance(report.together, NotEstimable)
    assert isinstance(report.money, NotEstimable)
    assert all(one.eligible is None and not one.best for one in report.cells)


def offer_rows(count: int, reason: str, *, channel: str, start: int) -> list[dict[str, Any]]:
    return [
        {
            "decision_id": f"{channel}{reason}{n}",
            "customer": f"c{n}",
            "kind": "offer",
            "key": "hero",
            "channel": channel,
            "variant": "banner" if reason == "fallback" else "a",
            "reason": reason,
            "candidates": [] if reason == "fallback" else ["a", "b"],
            "context": '{"tier": "gold"}' if n % 2 else "{}",
            "time": start + n * DAY / 10,
        }
        for n in range(count)
    ]


def test_holes_are_ranked_by_what_is_at_stake(write_log: Callable[..., Path]) -> None:
    decisions = [
        *offer_rows(100, "fallback", channel="web", start=0),
        *offer_rows(60, "fallback", channel="app", start=0),
        *offer_rows(100, "policy", channel="web", start=5),
        *offer_rows(50, "deferred", channel="push", start=5),
    ]
    events: list[dict[str, Any]] = [
        {"message_id": f"m{n}", "event": "purchase", "customer": f"c{n}", "time": n * DAY / 10 + 60, "revenue": 10.0}
        for n in range(80)
    ]
    events.append({"message_id": "last", "event": "visit", "customer": "z", "time": 40 * DAY})
    report = measure_opportunity(EventSource(log_dir=write_log(decisions=decisions, events=events)))
    first, second = report.holes
    assert (first.channel, second.channel, first.stage) == ("web", "app", "new")
    assert first.empty.estimate == pytest.approx(0.5)
    assert (second.empty.estimate, second.spent) == (1.0, 10.0)
    assert first.spent == pytest.approx(8.0)
    by_tier = measure_opportunity(
        EventSource(log_dir=write_log(decisions=decisions, events=events)), OpportunityOptions(by="tier")
    )
    assert {one.segment for one in by_tier.holes} == {"gold", "unknown"}
    assert isinstance(report.personas, NotEstimable)


def test_groups_are_found_and_named(write_log: Callable[..., Path]) -> None:
    rng = np.random.default_rng(2)
    events: list[dict[str, Any]] = []
    for n in range(300):
        often, channel = (12, "app") if n % 3 == 0 else (1, "store")
        for at in range(rng.poisson(often) + 1):
            place = {"customer": f"c{n}", "channel": channel, "time": float(rng.uniform(0, 90)) * DAY}
            events.append({"message_id": f"{n}-{at}", "event": "purchase", "revenue": 10.0, **place})
    personas = measure_opportunity(EventSource(log_dir=write_log(events=events))).personas
    assert not isinstance(personas, NotEstimable)
    best = personas[0]
    assert best.channel == "app"
    assert best.driver == "more orders"
    assert 90 <= sum(one.customers for one in personas if one.channel == "app") <= 110
    assert "orders often" in best.name or "mostly app" in best.name
    assert sum(one.customers for one in personas) == 300
    assert len({one.name for one in personas}) == len(personas)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_groups_is_found(count: int) -> None:
    rng = np.random.default_rng(count)
    group = rng.integers(0, count, 900)
    numbers = rng.normal(size=(900, 3)) * 0.5 + group[:, None] * 3
    codes = [np.where(rng.random(900) < 0.8, group, rng.integers(0, count, 900)).astype(np.int64)]
    mixture = fit_mixture((numbers - numbers.mean(0)) / numbers.std(0), codes, [count])
    assert mixture.weights.size == count
    assert mixture.weights.sum() == pytest.approx(1.0)


def test_nothing_is_invented(tmp_path: Path) -> None:
    report = measure_opportunity(EventSource(log_dir=tmp_path))
    assert (report.cells, report.holes, report.picture()) == ([], [], None)
    assert isinstance(report.money, NotEstimable)
    assert isinstance(report.personas, NotEstimable)


def test_a_margin_is_a_share(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a share of revenue"):
        measure_opportunity(EventSource(log_dir=tmp_path), OpportunityOptions(margin=1.4))
