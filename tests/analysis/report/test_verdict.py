"""Verdicts of a growth team: when to ship, when a guardrail holds it back, when to stop looking."""

from typing import Any

import msgspec
import pytest

from engine.analysis.design.methods import Inference, Method
from engine.analysis.design.metrics import Role
from engine.analysis.report.model import MetricReport, Quality
from engine.analysis.report.quality import SampleRatio
from engine.analysis.report.verdict import decide, judged, leader
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable

GOOD = Quality(SampleRatio(0.5, ok=True, expected={}))
FIXED = Inference(method="fixed")


def row(name: str, low: float, high: float, role: Role = "primary", variant: str = "new", **more: Any) -> MetricReport:
    middle = (low + high) / 2
    relative = Effect(middle, low, high, (high - low) / 3.92, 0.01 if low > 0 or high < 0 else 0.4)
    absolute = msgspec.structs.replace(
        relative, estimate=middle * 20, low=low * 20, high=high * 20, se=relative.se * 20
    )
    return MetricReport(
        metric=name,
        kind="mean",
        variant=variant,
        method="fixed",
        role=role,
        direction=more.pop("direction", "increase"),
        units={"control": 1000, variant: 1000},
        mean={"control": 20.0, variant: 20.0 * (1 + middle)},
        absolute=absolute,
        relative=relative,
        bayes=more.pop("bayes", NotEstimable("not asked")),
        adjusted_p=relative.p,
        **more,
    )


def test_a_winner_ships_once_its_guardrails_are_shown_to_hold() -> None:
    winner = row("revenue", 0.02, 0.06)
    held = row("csat", -0.005, 0.01, "guardrail", margin=0.02)
    wide = row("csat", -0.04, 0.05, "guardrail", margin=0.02)
    harmed = row("csat", -0.09, -0.03, "guardrail", margin=0.02)
    assert decide([winner, held], GOOD, FIXED).verdict == "ship"
    waiting = decide([winner, wide], GOOD, FIXED)
    assert waiting.verdict == "keep running"
    assert "csat may still be worse than its margin of 2.0%" in waiting.why
    assert decide([winner, harmed], GOOD, FIXED).verdict == "stop"
    assert [m.guard for m in judged([winner, held, wide, harmed])] == [None, "passed", "open", "harmed"]
    slower = row("seconds", -0.01, 0.01, "guardrail", margin=0.02, direction="decrease")
    assert judged([slower])[0].guard == "passed"


def test_a_guardrail_without_a_margin_stops_for_harm_alone() -> None:
    assert decide(
        [row("revenue", 0.02, 0.06), row("csat", -0.04, 0.05, "guardrail", margin=0.0)], GOOD, FIXED
    ).verdict == ("ship")


def test_of_two_winners_the_one_whose_guardrail_holds_ships() -> None:
    rows = [
        row("revenue", 0.05, 0.09, variant="bold"),
        row("revenue", 0.02, 0.06, variant="calm"),
        row("csat", -0.09, 0.01, "guardrail", variant="bold", margin=0.02),
        row("csat", -0.01, 0.01, "guardrail", variant="calm", margin=0.02),
    ]
    assert leader(rows) == "bold"
    assert decide(rows, GOOD, FIXED).why.startswith("calm is better")


def test_what_makes_no_practical_difference_is_stopped() -> None:
    found = decide([row("revenue", -0.006, 0.008)], GOOD, FIXED)
    assert found.verdict == "stop"
    assert "no variant differs from control on revenue by more than 1.0%" in found.why
    assert decide([row("revenue", -0.006, 0.018)], GOOD, FIXED, days=10).verdict == "keep running"


@pytest.mark.parametrize("method", ["fixed", "sequential", "group_sequential", "bayesian"])
def test_every_verdict_says_what_would_change_it(method: Method) -> None:
    settings = Inference(method=method)
    sure = Bayes(0.999, 0.0001, 0.03, 0.02, 0.06)
    even = Bayes(0.5, 0.02, 0.02, -0.1, 0.1)
    lost = Bayes(0.001, 0.03, 0.0001, -0.06, -0.02)
    cases = [
        [row("revenue", 0.02, 0.06, bayes=sure)],
        [row("revenue", -0.1, 0.12, bayes=even)],
        [row("revenue", -0.06, -0.02, bayes=lost)],
        [msgspec.structs.replace(row("revenue", 0, 1), absolute=NotEstimable("3 rows"))],
        [msgspec.structs.replace(row("revenue", 0, 1), absolute=NotEstimable("NaN", fault=True))],
    ]
    found = [decide(rows, GOOD, settings, days=20) for rows in cases]
    assert [one.verdict for one in found] == ["ship", "keep running", "stop", "keep running", "fix the data"]
    assert all(one.would_change for one in found)
    early = decide(cases[0], GOOD, settings, days=3.0, min_days=14)
    assert (early.verdict, early.days_left) == ("keep running", 11.0)


def test_days_left_count_to_the_decision_and_not_to_the_interval_alone() -> None:
    """Two variants: Holm's first step asks each for alpha / 2, so it takes longer than one variant's interval."""
    one = [row("revenue", -0.004, 0.05)]
    two = [*one, row("revenue", -0.02, 0.022, variant="other")]
    alone, beside = (decide(rows, GOOD, FIXED, days=10).days_left for rows in (one, two))
    assert alone is not None
    assert beside is not None
    assert 0 < alone < beside


def test_the_best_of_many_ships_only_when_it_loses_little_to_the_best() -> None:
    lucky = Bayes(0.999, 0.0001, 0.3, 0.1, 0.9)
    rows = [row("revenue", 0.1, 0.9, variant=f"v{i}", bayes=lucky, loss_best=0.02) for i in range(3)]
    found = decide(rows, GOOD, Inference(method="bayesian"), days=5)
    assert found.verdict == "keep running"
    assert "An expected loss to the best of all below 0.050%" in found.would_change
    sure = msgspec.structs.replace(rows[0], loss_best=0.0001)
    assert decide([sure, *rows[1:]], GOOD, Inference(method="bayesian"), days=5).verdict == "ship"
