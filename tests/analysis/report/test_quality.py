"""What a report says before and beside its numbers: exposures, novelty, whales, segments, the HTML file."""

import itertools
import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom, fisher_exact

from engine.analysis import ExperimentQuestion, MeasuredMetric, Report, aa_experiment, analyze_experiment
from engine.analysis.checks.random_splits import Rate
from engine.analysis.design.methods import Inference
from engine.analysis.render.html import report_html
from engine.analysis.render.terminal import render
from engine.analysis.report.past_experiments import baseline_of_log
from engine.analysis.report.quality import exposure_check
from engine.analysis.report.sample_ratio import flag_broken_splits
from engine.analysis.stats.bayes import estimate_prior, pool_effects
from engine.analysis.stats.estimate import Effect, NotEstimable

Write = Callable[..., Path]
Rows = list[dict[str, Any]]
HOUR, DAY = 3600.0, 86400.0
NOW = datetime.fromtimestamp(1_793_491_200.0 + 40 * DAY, UTC)
REVENUE = MeasuredMetric(name="revenue", kind="mean", event="purchase", value="revenue")
QUESTION = ExperimentQuestion(
    key="checkout",
    control="control",
    weights={"control": 0.5, "one_page": 0.5},
    primary="revenue",
    inference=Inference(method="fixed"),
)
VARIANTS = ("control", "one_page")


def customers(n: int, channel: Callable[[int], str] = lambda _: "web") -> tuple[Rows, Rows]:
    """Decisions and exposures of n customers, the variants in turn."""
    decisions = [
        {"decision_id": f"d{i}", "time": 0.0, "customer": f"u{i}", "variant": VARIANTS[i % 2], "channel": channel(i)}
        for i in range(n)
    ]
    return decisions, [{"decision_id": f"d{i}", "time": 1.0, "customer": f"u{i}"} for i in range(n)]


def purchase(i: int, revenue: float, at: float) -> dict[str, Any]:
    return {"message_id": f"m{i}-{at}", "time": at, "customer": f"u{i}", "event": "purchase", "revenue": revenue}


def analyzed(log: Path, spec: MeasuredMetric = REVENUE, **more: Any) -> Report:
    question = msgspec.structs.replace(QUESTION, primary=spec.name)
    return analyze_experiment(question, [spec], log, as_of=NOW, **more)


def test_exposures_lost_in_one_variant_spoil_the_comparison(write_log: Write) -> None:
    rng = np.random.default_rng(1)
    decisions, exposures = customers(4000)
    kept = [row for i, row in enumerate(exposures) if i % 2 == 0 or i % 10 != 1]
    events = [purchase(i, float(rng.gamma(2, 5)), HOUR) for i in range(4000)]
    weights = {"control": 2000.0, "one_page": 1600.0}  # the split alone looks as asked
    question = msgspec.structs.replace(QUESTION, weights=weights)
    log = write_log(decisions=decisions, exposures=kept, events=events)
    report = analyze_experiment(question, [REVENUE], log, as_of=NOW)
    assert report.quality.srm.ok
    assert report.quality.exposure is not None
    assert report.quality.exposure.shares == {"control": 1.0, "one_page": 0.8}
    assert report.recommendation.verdict == "fix the data"
    assert "a different share was exposed" in report.recommendation.why


def test_double_and_orphaned_exposures_are_counted(write_log: Write) -> None:
    decisions, exposures = customers(10)
    orphan = {"decision_id": "gone", "time": 5.0, "customer": "u3"}
    report = analyzed(write_log(decisions=decisions, exposures=[*exposures, exposures[0], orphan], events=[]))
    assert report.quality.exposure is not None
    assert (report.quality.exposure.double, report.quality.exposure.orphans) == (1, 1)
    assert report.units == {"control": 5, "one_page": 5}


def test_an_effect_that_wears_off_is_called_novelty(write_log: Write) -> None:
    rng = np.random.default_rng(2)
    decisions, exposures = customers(3000)
    events = []
    for i in range(3000):
        for day in range(30):
            lift = 3.0 * (i % 2) * (day == 0)
            events.append(purchase(i, float(rng.normal(5, 2)) + lift, day * DAY + HOUR))
    report = analyzed(write_log(decisions=decisions, exposures=exposures, events=events))
    spans = [(row.from_day, row.to_day) for row in report.quality.novelty]
    assert spans == [(0, 1), (1, 3), (3, 7), (7, 14), (14, 28)]
    first, last = report.quality.novelty[0].effect, report.quality.novelty[-1].effect
    assert isinstance(first, Effect)
    assert isinstance(last, Effect)
    assert first.low < 3.0 < first.high
    assert abs(last.estimate) < 0.1
    assert any("effect fades" in flag for flag in report.quality.flags)


def test_one_unit_that_is_the_mean_is_named_and_winsorized(write_log: Write) -> None:
    rng = np.random.default_rng(3)
    decisions, exposures = customers(400)
    events = [purchase(i, float(rng.gamma(2, 5)), HOUR) for i in range(400)] + [purchase(1, 1e6, 2 * HOUR)]
    log = write_log(decisions=decisions, exposures=exposures, events=events)
    report = analyzed(log)
    assert any(re.match(r"one unit holds 100% of revenue in one_page", flag) for flag in report.quality.flags)
    capped = analyzed(log, msgspec.structs.replace(REVENUE, winsorize=0.99))
    assert capped.metrics[0].mean["one_page"] < 20
    assert not [flag for flag in capped.quality.flags if "one unit" in flag]


def test_segments_are_pulled_together(write_log: Write) -> None:
    rng = np.random.default_rng(4)
    channels = ("web", "web", "app", "app", "store", "store", "email", "email")
    decisions, exposures = customers(1600, lambda i: channels[i % 8])
    events = [purchase(i, float(rng.normal(20, 8)) + (i % 2), HOUR) for i in range(1600)]
    report = analyzed(write_log(decisions=decisions, exposures=exposures, events=events), segment="channel")
    (found,) = report.segments
    assert [row.segment for row in found.effects] == ["app", "email", "store", "web"]
    assert sum(sum(row.units.values()) for row in found.effects) == 1600
    total = report.metrics[0].absolute
    assert isinstance(total, Effect)
    for row in found.effects:
        assert isinstance(row.measured, Effect)
        assert isinstance(row.shrunken, Effect)
        assert abs(row.shrunken.estimate - total.estimate) <= abs(row.measured.estimate - total.estimate) + 0.1
        assert row.shrunken.se < row.measured.se
    assert found.heterogeneity_p is not None
    console = Console(width=160, record=True, file=StringIO())
    console.print(render(report))
    assert "revenue, one_page, by channel" in console.export_text()
    page = report_html(report)
    assert "<h2>By channel</h2>" in page
    assert "<script" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)


def test_a_quantile_of_events_from_the_log(write_log: Write) -> None:
    rng = np.random.default_rng(5)
    decisions, exposures = customers(600)
    events, values = [], {name: [] for name in VARIANTS}
    for i in range(600):
        for k in range(int(rng.integers(1, 5))):
            value = float(rng.lognormal(3 + 0.1 * (i % 2), 0.6))
            values[VARIANTS[i % 2]].append(value)
            events.append(purchase(i, value, HOUR * (k + 1)))
    spec = MeasuredMetric(name="basket p90", kind="quantile", event="purchase", value="revenue", quantile=0.9)
    report = analyzed(write_log(decisions=decisions, exposures=exposures, events=events), spec)
    assert report.metrics[0].mean == pytest.approx({name: np.quantile(part, 0.9) for name, part in values.items()})
    assert report.metrics[0].units == {"control": 300, "one_page": 300}


def test_group_sequential_waits_for_its_first_look(write_log: Write) -> None:
    decisions, exposures = customers(100)
    events = [purchase(i, float(i % 7), HOUR) for i in range(100)]
    log = write_log(decisions=decisions, exposures=exposures, events=events)
    question = msgspec.structs.replace(QUESTION, inference=Inference(method="group_sequential", planned=1000))
    report = analyze_experiment(question, [REVENUE], log, as_of=NOW)
    assert report.metrics[0].absolute == NotEstimable("the first planned look is at 200 units; 100 were seen")
    sooner = msgspec.structs.replace(QUESTION, inference=Inference(method="group_sequential", planned=100))
    later = analyze_experiment(sooner, [REVENUE], log, as_of=NOW)
    assert isinstance(later.metrics[0].absolute, Effect)


def test_a_day_or_segment_whose_split_is_off() -> None:
    parts = {"web": {"a": 500, "b": 510}, "app": {"a": 600, "b": 400}}
    even = {name: (part, {"a": 0.5, "b": 0.5}) for name, part in parts.items()}
    (flag,) = flag_broken_splits(even, {})
    assert flag.startswith("the split is wrong in segment app: a 600, b 400 (p = ")
    (flag,) = flag_broken_splits({}, even, sequential=True)
    assert flag.startswith("the split is wrong on app: ")
    assert exposure_check({"a": 100, "b": 100}, {"a": 90, "b": 90}, 0, 0).p == 1.0


def test_past_experiments_make_a_prior() -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(0.01, 0.03, 400)
    ses = rng.uniform(0.01, 0.05, 400)
    prior = estimate_prior((truth + rng.normal(0, ses)).tolist(), ses.tolist())
    assert prior.mean == pytest.approx(0.01, abs=0.006)
    assert prior.sd == pytest.approx(0.03, abs=0.006)
    assert pool_effects([0.1, 0.1, 0.1], [0.5, 0.5, 0.5])[1] == 0.0
    assert estimate_prior([0.1, 0.2], [0.1, 0.1]).sd == float("inf")


def test_the_log_checks_itself_and_gives_the_next_baseline(write_log: Write) -> None:
    rng = np.random.default_rng(8)
    decisions, exposures = customers(2000)
    spent = rng.gamma(1.0, 20.0, 2000)
    events = [purchase(i, float(spent[i]), HOUR) for i in range(2000)]
    log = write_log(decisions=decisions, exposures=exposures, events=events)
    (check,) = aa_experiment(QUESTION, [REVENUE], log, as_of=NOW, runs=400)
    assert isinstance(check.coverage, Rate)
    assert check.units == 1000
    assert check.coverage.ok
    baseline = baseline_of_log(QUESTION, [REVENUE], log, as_of=NOW)
    assert baseline.value == pytest.approx(spent[::2].mean())
    assert baseline.sd == pytest.approx(spent[::2].std(ddof=1))
    median = msgspec.structs.replace(REVENUE, kind="quantile", quantile=0.5)
    of_median = baseline_of_log(QUESTION, [median], log, as_of=NOW)
    assert (of_median.kind, of_median.value) == ("quantile", pytest.approx(np.median(spent[::2])))
    both = msgspec.structs.replace(QUESTION, primary="median", secondary=("revenue",))
    known = [REVENUE, msgspec.structs.replace(median, name="median")]
    of_rows, of_units = aa_experiment(both, known, log, as_of=NOW, runs=200)
    assert (of_rows.metric, of_rows.units, of_rows.ok) == ("median", 1000, True)
    assert of_units.units == check.units
    assert of_median.sd == pytest.approx(20.0, rel=0.2)  # half over the density, which is half of one over the mean


def test_a_bayesian_experiment_ends_when_there_is_little_left_to_lose(write_log: Write) -> None:
    rng = np.random.default_rng(9)
    decisions, exposures = customers(2000)
    question = msgspec.structs.replace(QUESTION, inference=Inference(method="bayesian"))
    verdicts = []
    for name, lift in (("up", 2.0), ("none", 0.0), ("down", -2.0)):
        spec = MeasuredMetric(name=name, kind="mean", event=name, value="revenue")
        events = [purchase(i, float(rng.normal(20, 8)) + lift * (i % 2), HOUR) | {"event": name} for i in range(2000)]
        log = write_log(decisions=decisions, exposures=exposures, events=events)
        decisions, exposures = [], []  # written once
        report = analyze_experiment(msgspec.structs.replace(question, primary=name), [spec], log, as_of=NOW)
        verdicts.append(report.recommendation.verdict)
    assert verdicts == ["ship", "keep running", "stop"]


def test_the_exposures_of_few_units_are_tested_exactly() -> None:
    """Three of five exposed against 99 % of a thousand: a normal approximation gives 1e-15."""
    few: tuple[dict[str, int], dict[str, int]] = {"a": 1000, "b": 5}, {"a": 990, "b": 3}
    exact = fisher_exact([[990, 10], [3, 2]]).pvalue
    assert exact > 1e-3
    assert exposure_check(*few, 0, 0).p == pytest.approx(exact, rel=1e-6)
    assert exposure_check(*few, 0, 0, sequential=True).p >= exact
    gone = exposure_check({"a": 40, "b": 40}, {"a": 40, "b": 20}, 0, 0)
    assert gone.p == pytest.approx(fisher_exact([[40, 0], [20, 20]]).pvalue, rel=1e-6)
    three = exposure_check({"a": 50, "b": 50, "c": 50}, {"a": 49, "b": 50, "c": 20}, 0, 0, sequential=True)
    assert three.p < 1e-3


@pytest.mark.parametrize("sizes", [(60, 60), (150, 8)])
def test_the_gate_of_exposures_is_kept_for_few_units(sizes: tuple[int, int]) -> None:
    """Summed over all outcomes at an exposed share of 95 %."""
    chances = [binom(size, 0.95).pmf(np.arange(size + 1)) for size in sizes]
    alarms = sum(
        one * other
        for (at, one), (by, other) in itertools.product(*(enumerate(side) for side in chances))
        if one * other > 1e-9 and exposure_check(dict(zip("ab", sizes, strict=True)), {"a": at, "b": by}, 0, 0).p < 1e-3
    )
    assert alarms <= 1e-3
