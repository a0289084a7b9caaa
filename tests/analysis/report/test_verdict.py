"""Verdicts of a growth team: when to ship, when a guardrail holds it back, when to stop looking."""

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from engine.analysis import Report, analyze_table
from engine.analysis.design.methods import Inference, Method
from engine.analysis.design.metrics import Role
from engine.analysis.report.guardrails import classify_guardrails
from engine.analysis.report.model import MetricReport, Quality
from engine.analysis.report.sample_ratio import SampleRatio
from engine.analysis.report.verdict import leading_variant, recommend
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable

GOOD = Quality(srm=SampleRatio(p=0.5, ok=True, expected={}))
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
    assert recommend([winner, held], GOOD, FIXED).verdict == "ship"
    waiting = recommend([winner, wide], GOOD, FIXED)
    assert waiting.verdict == "keep running"
    assert "csat may still be worse than its margin of 2%" in waiting.why
    assert recommend([winner, harmed], GOOD, FIXED).verdict == "stop"
    assert [m.guard for m in classify_guardrails([winner, held, wide, harmed])] == [None, "passed", "open", "harmed"]
    slower = row("seconds", -0.01, 0.01, "guardrail", margin=0.02, direction="decrease")
    assert classify_guardrails([slower])[0].guard == "passed"


def test_a_guardrail_without_a_margin_stops_for_harm_alone() -> None:
    assert recommend(
        [row("revenue", 0.02, 0.06), row("csat", -0.04, 0.05, "guardrail", margin=0.0)], GOOD, FIXED
    ).verdict == ("ship")


def test_of_two_winners_the_one_whose_guardrail_holds_ships() -> None:
    rows = [
        row("revenue", 0.05, 0.09, variant="bold"),
        row("revenue", 0.02, 0.06, variant="calm"),
        row("csat", -0.09, 0.01, "guardrail", variant="bold", margin=0.02),
        row("csat", -0.01, 0.01, "guardrail", variant="calm", margin=0.02),
    ]
    assert leading_variant(rows) == "bold"
    assert recommend(rows, GOOD, FIXED).why.startswith("calm is better")


def test_what_makes_no_practical_difference_is_stopped() -> None:
    found = recommend([row("revenue", -0.006, 0.008)], GOOD, FIXED)
    assert found.verdict == "stop"
    assert "no variant differs from control on revenue by more than 1%" in found.why
    assert recommend([row("revenue", -0.006, 0.018)], GOOD, FIXED, days=10).verdict == "keep running"


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
    found = [recommend(rows, GOOD, settings, days=20) for rows in cases]
    assert [one.verdict for one in found] == ["ship", "keep running", "stop", "keep running", "fix the data"]
    assert all(one.would_change for one in found)
    early = recommend(cases[0], GOOD, settings, days=3.0, min_days=14)
    assert (early.verdict, early.days_left) == ("keep running", 11.0)


def test_days_left_count_to_the_decision_and_not_to_the_interval_alone() -> None:
    """Two variants: Holm's first step asks each for alpha / 2, so it takes longer than one variant's interval."""
    one = [row("revenue", -0.004, 0.05)]
    two = [*one, row("revenue", -0.02, 0.022, variant="other")]
    alone, beside = (recommend(rows, GOOD, FIXED, days=10).days_left for rows in (one, two))
    assert alone is not None
    assert beside is not None
    assert 0 < alone < beside


def test_the_best_of_many_ships_only_when_it_loses_little_to_the_best() -> None:
    lucky = Bayes(0.999, 0.0001, 0.3, 0.1, 0.9)
    rows = [row("revenue", 0.1, 0.9, variant=f"v{i}", bayes=lucky, loss_best=0.02) for i in range(3)]
    found = recommend(rows, GOOD, Inference(method="bayesian"), days=5)
    assert found.verdict == "keep running"
    assert "An expected loss to the best of all below 0.05%" in found.would_change
    sure = msgspec.structs.replace(rows[0], loss_best=0.0001)
    assert recommend([sure, *rows[1:]], GOOD, Inference(method="bayesian"), days=5).verdict == "ship"


def priors_report(variants: dict[str, float], prior: tuple[float, float], **more: Any) -> Report:
    """A bayesian report of exponential amounts, 120 of each variant with the given mean."""
    draw = np.random.default_rng(4)
    shares = draw.exponential(1.0, (len(variants), 120))
    columns = {
        "v": np.repeat(list(variants), 120).tolist(),
        "x": np.concatenate([mean * row / row.mean() for mean, row in zip(variants.values(), shares, strict=True)]),
    }
    options = {"method": "bayesian", "prior": prior} | more
    return analyze_table(pa.table(columns), variant="v", control="a", metrics=["mean:x"], **options)


def test_a_prior_holds_for_several_variants_as_for_one() -> None:
    """A prior of 0 ± 2 % leaves nothing to ship after 120 noisy amounts, however many variants there are."""
    one = priors_report({"a": 10.0, "c": 15.0}, (0.0, 0.02))
    two = priors_report({"a": 10.0, "b": 10.0, "c": 15.0}, (0.0, 0.02))
    assert [one.recommendation.verdict, two.recommendation.verdict] == ["keep running"] * 2
    for row_ in two.metrics:
        assert isinstance(row_.bayes, Bayes)
        assert row_.loss_best is not None
        assert row_.loss_best >= row_.bayes.expected_loss
        assert row_.chance_best is not None
        assert row_.chance_best <= row_.bayes.chance_to_win


def test_a_wide_prior_comes_to_the_flat_one() -> None:
    arms = {"a": 10.0, "b": 11.0, "c": 12.0}
    flat, wide = (priors_report(arms, (0.0, sd)).metrics for sd in (float("inf"), 1e4))
    for ours, theirs in zip(flat, wide, strict=True):
        assert ours.chance_best == pytest.approx(theirs.chance_best, abs=0.02)
        assert ours.loss_best == pytest.approx(theirs.loss_best, abs=0.01)


def test_the_loss_that_ships_is_the_loss_that_is_named() -> None:
    found = priors_report({"a": 10.0, "b": 10.0, "c": 30.0}, (0.0, 1.0))
    shipped = next(one for one in found.metrics if one.variant == "c")
    assert found.recommendation.verdict == "ship"
    assert shipped.loss_best is not None
    assert f"if another is the best of all, the expected loss is {shipped.loss_best:.3%}" in found.recommendation.why


@pytest.mark.parametrize("empty", ["a", "b"])
def test_a_variant_without_outcomes_has_no_credible_interval(empty: str) -> None:
    """Its posterior is refused, and no interval of another method stands in its place."""
    for kind in ("mean", "proportion"):
        for prior in ((0.0, float("inf")), (0.0, 0.02)):
            bought = np.tile([1.0, 0.0, 0.0], 400)
            columns = {"v": ["a"] * 1200 + ["b"] * 1200, "x": np.concatenate([bought * (empty != v) for v in "ab"])}
            found = analyze_table(
                pa.table(columns), variant="v", control="a", metrics=[f"{kind}:x"], method="bayesian", prior=prior
            )
            (only,) = found.metrics
            assert only.absolute == only.relative == only.bayes
            assert isinstance(only.absolute, NotEstimable)
            assert only.units == {"a": 1200, "b": 1200}
            assert found.recommendation.verdict == "keep running"


def test_a_variant_that_cannot_be_judged_yet_counts_as_a_comparison() -> None:
    """Holm's level is shared by all comparisons of the primary metric, also by those without an estimate."""
    draw = np.random.default_rng(5)
    columns = {
        "v": ["a"] * 2000 + ["b"] * 2000 + ["c"],
        "x": np.concatenate([draw.normal(5, 1, 2000), draw.normal(5.07, 1, 2000), [0.0]]),
    }
    weights = {"a": 0.4999, "b": 0.4999, "c": 0.0002}
    found = analyze_table(
        pa.table(columns), variant="v", control="a", metrics=["mean:x"], method="fixed", weights=weights
    )
    judged, refused = found.metrics
    assert isinstance(judged.absolute, Effect)
    assert isinstance(refused.absolute, NotEstimable)
    assert judged.absolute.p is not None
    assert judged.adjusted_p == pytest.approx(2 * judged.absolute.p)
    assert refused.adjusted_p is None


@pytest.mark.parametrize("rate", [0.10, 0.15])
def test_a_variant_that_cannot_be_judged_yet_may_still_win(rate: float) -> None:
    """Neither a loss of the others nor their equality to control stops an experiment with an open variant."""
    bought = {"a": (5000, 0.15), "b": (5000, rate), "c": (60, 0.15)}
    columns = {
        "v": [name for name, (n, _) in bought.items() for _ in range(n)],
        "x": [float(i < n * share) for n, share in bought.values() for i in range(n)],
    }
    weights = {"a": 0.497, "b": 0.497, "c": 0.006}
    options: dict[str, Any] = {"method": "sequential", "rope": 0.5, "weights": weights}
    found = analyze_table(pa.table(columns), variant="v", control="a", metrics=["proportion:x"], **options)
    assert found.recommendation.verdict == "keep running"
    assert "but c cannot be judged yet: too few outcomes" in found.recommendation.why
    kept = {name: [value for value, v in zip(columns[name], columns["v"], strict=True) if v != "c"] for name in columns}
    options["weights"] = {"a": 0.5, "b": 0.5}
    alone = analyze_table(pa.table(kept), variant="v", control="a", metrics=["proportion:x"], **options)
    assert alone.recommendation.verdict == "stop"


def test_a_guardrail_without_a_margin_holds_back_what_is_worse_by_its_own_interval() -> None:
    """The joint interval alone stops; the guardrail's own is enough not to ship."""
    winner = row("revenue", 0.02, 0.06)
    worse = row("csat", -0.05, -0.001, "guardrail", margin=0.0, joint=Effect(-0.0255, -0.06, 0.01, 0.0125))
    for direction in ("increase", "decrease"):
        guard = worse
        if direction == "decrease":
            guard = row(
                "csat",
                0.001,
                0.05,
                "guardrail",
                margin=0.0,
                joint=Effect(0.0255, -0.01, 0.06, 0.0125),
                direction="decrease",
            )
        found = recommend([winner, guard], GOOD, FIXED)
        assert found.verdict == "keep running"
        assert "csat is worse by its own interval" in found.why
        assert classify_guardrails([guard])[0].guard == "open"


def test_quantiles_are_refused_beyond_the_last_planned_look() -> None:
    values = np.random.default_rng(7).lognormal(0, 1, 4000)
    found = analyze_table(
        pa.table({"v": ["a"] * 2000 + ["b"] * 2000, "x": values}),
        variant="v",
        control="a",
        metrics=["quantile:x@0.9", "mean:x"],
        method="group_sequential",
        planned=1000,
        looks=4,
    )
    for one in found.metrics:
        assert isinstance(one.absolute, NotEstimable)
        assert one.absolute.not_estimable.startswith("4,000 units are more than the 1,000 planned")
