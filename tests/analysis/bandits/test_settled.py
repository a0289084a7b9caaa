"""Rewards that settle after two days: exposures younger than that count in no rate, and the report says so."""

from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from engine.analysis import policy_report
from engine.analysis.bandits.policy_report import RewardRate
from engine.analysis.render.terminal import render_policies
from engine.errors import BadInput

Write = Callable[..., Path]
START, DAY = 1_793_491_200.0, 86_400.0
TRUTH, DAYS, PER_DAY = 0.2, 10, 400


def settling(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Rewards within two days, or a zero after two days, as a learner logs them."""
    rng = np.random.default_rng(seed)
    tables: dict[str, list[dict[str, Any]]] = {"decisions": [], "exposures": [], "rewards": []}
    for number in range(DAYS * PER_DAY):
        at = number * DAY / PER_DAY
        base = {"decision_id": f"d{number}", "key": "hero"}
        offer = "ab"[int(rng.random() < 0.5)]
        chosen = {"variant": offer, "propensity": 0.5, "candidates": ["a", "b"], "policy": "hero@1"}
        own = {"customer": f"c{number}", "time": at}
        tables["decisions"].append({**base, **own, **chosen, "kind": "offer", "reason": "policy"})
        tables["exposures"].append({**base, **own})
        is_rewarded = bool(rng.random() < TRUTH)
        wait = float(rng.random()) * 2 * DAY if is_rewarded else 2 * DAY
        tables["rewards"].append({**base, "reward": float(is_rewarded), "time": at + wait})
    return tables


def test_rates_count_settled_exposures_only(write_log: Write) -> None:
    folder = write_log(**settling(3))
    report = policy_report(folder, "hero", as_of=datetime.fromtimestamp(START + DAYS * DAY, UTC))
    (row,) = report.policies
    assert row.exposures == pytest.approx(8 * PER_DAY, abs=2)
    assert report.unsettled.exposures == DAYS * PER_DAY - row.exposures
    assert (report.unsettled.hours, report.unsettled.counted) == (48.0, False)
    text = StringIO()
    Console(file=text, width=200).print(render_policies(report))
    assert "(20.0%) are not counted yet: their 48 hours for a reward are over by 2026-11-12 23:5" in text.getvalue()
    later = policy_report(folder, "hero", as_of=datetime.fromtimestamp(START + 20 * DAY, UTC))
    assert later.policies[0].exposures == DAYS * PER_DAY
    assert later.unsettled.text == ""


def test_reports_of_every_day_cover_the_truth(write_log: Write) -> None:
    folder = write_log(**settling(4))
    for day in range(5, 11):
        report = policy_report(folder, "hero", alpha=0.001, as_of=datetime.fromtimestamp(START + day * DAY, UTC))
        rate = report.policies[0].rate
        assert isinstance(rate, RewardRate)
        assert rate.low < TRUTH < rate.high


def test_a_placement_younger_than_its_window_is_reported_once_rewards_settle(write_log: Write) -> None:
    """At a day every exposure may still be rewarded; counted as they are, they would show 12 % instead of 20 %."""
    folder, day = write_log(**settling(5)), datetime.fromtimestamp(START + DAY, UTC)
    with pytest.raises(BadInput, match=r"48 hours for a reward are over by 2026-11-04 00:00 UTC. None has settled"):
        policy_report(folder, "hero", as_of=day, window=2 * DAY)
    with pytest.raises(BadInput, match="the log has no zero that shows a reward's window"):
        policy_report(folder, "hero", as_of=day)
    early = policy_report(folder, "hero", as_of=day, window=DAY / 2)
    assert early.policies[0].exposures == pytest.approx(PER_DAY / 2, abs=3)
    assert (early.unsettled.hours, early.unsettled.known_by) == (12.0, "plan")
    young = policy_report(folder, "hero", as_of=day, ripe=False)
    assert young.policies[0].exposures == PER_DAY + 1
    assert "have neither a reward nor a zero in the log yet, and count as zero" in young.unsettled.text


def test_rewards_that_never_come_late_tell_their_window(write_log: Write) -> None:
    """A log of clicks within a minute, without zeros: the last minute alone is left out."""
    tables = settling(6)
    tables["rewards"] = [
        {**row, "time": shown["time"] + 60.0 * (at % 7) / 6}
        for at, (row, shown) in enumerate(zip(tables["rewards"], tables["exposures"], strict=True))
        if row["reward"]
    ]
    report = policy_report(write_log(**tables), "hero", as_of=datetime.fromtimestamp(START + DAYS * DAY, UTC))
    assert report.unsettled.known_by == "delays"
    assert report.policies[0].exposures >= DAYS * PER_DAY - 3
