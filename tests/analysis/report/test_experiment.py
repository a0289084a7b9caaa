"""An experiment's report from a log: who counts, what counts, and when."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from engine.analysis import ExperimentQuestion, MeasuredMetric, analyze_experiment
from engine.analysis.design.methods import Inference, Method
from engine.analysis.render.terminal import render
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

Write = Callable[..., Path]
START = 1_793_491_200.0
HOUR, DAY = 3600.0, 86400.0
NOW = datetime.fromtimestamp(START + 30 * DAY, UTC)
REVENUE = MeasuredMetric(name="revenue", kind="mean", event="purchase", value="revenue", money=1.0)
CONVERSION = MeasuredMetric(name="conversion", kind="proportion", event="purchase")
QUESTION = ExperimentQuestion(
    key="checkout",
    control="control",
    weights={"control": 0.5, "one_page": 0.5},
    primary="revenue",
    inference=Inference(method="fixed"),
)


def shown(customer: str, variant: str, at: float = 0.0, **more: Any) -> dict[str, list[dict[str, Any]]]:
    name = f"{customer}-{at}"
    return {
        "decisions": [{"decision_id": name, "time": at, "customer": customer, "variant": variant, **more}],
        "exposures": [{"decision_id": name, "time": at, "customer": customer}],
    }


def bought(customer: str, revenue: float | None, at: float, **more: Any) -> dict[str, list[dict[str, Any]]]:
    row = {"message_id": f"{customer}-{at}", "time": at, "customer": customer, "event": "purchase", "revenue": revenue}
    return {"events": [{**row, **more}]}


def together(*parts: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    names = ("decisions", "exposures", "events")
    return {name: [row for part in parts for row in part.get(name, [])] for name in names}


def means(report: Any, metric: str) -> dict[str, float]:
    return next(m.mean for m in report.metrics if m.metric == metric)


def shop() -> list[dict[str, list[dict[str, Any]]]]:
    """Two customers per variant: control earns 10 and 0, one_page 20 and 4 + 6."""
    return [
        shown("a", "control"),
        shown("b", "control"),
        shown("c", "one_page"),
        shown("d", "one_page"),
        bought("a", 10.0, HOUR),
        bought("c", 20.0, HOUR),
        bought("d", 4.0, HOUR),
        bought("d", 6.0, 2 * HOUR),
    ]


def test_values_are_summed_per_customer_after_the_first_exposure(write_log: Write) -> None:
    extra = [
        bought("b", 99.0, -HOUR),  # before the exposure
        bought("z", 99.0, HOUR),  # never exposed
        shown("b", "control", at=5 * HOUR),  # seen again: the first exposure counts
        bought("b", None, 6 * HOUR, event="view"),
    ]
    report = analyze_experiment(QUESTION, [REVENUE], write_log(**together(*shop(), *extra)), as_of=NOW)
    assert report.units == {"control": 2, "one_page": 2}
    assert means(report, "revenue") == pytest.approx({"control": 5.0, "one_page": 15.0})
    effect = report.metrics[0].absolute
    assert isinstance(effect, Effect)
    assert effect.se == pytest.approx(np.sqrt(np.var([10, 0], ddof=1) / 2 + np.var([20, 10], ddof=1) / 2))


def test_the_revenue_of_any_event_adds_up(write_log: Write) -> None:
    renewed = [
        bought("a", 10.0, HOUR, event="renewal"),
        bought("a", 5.0, 2 * HOUR, event="renewal"),
        bought("b", None, HOUR, event="renewal"),
        bought("d", 7.0, HOUR, event="renewal"),
    ]
    metric = msgspec.structs.replace(REVENUE, event="renewal")
    report = analyze_experiment(QUESTION, [metric], write_log(**together(*shop(), *renewed)), as_of=NOW)
    assert means(report, "revenue") == pytest.approx({"control": 7.5, "one_page": 3.5})


def test_an_assignment_that_was_not_seen_does_not_count(write_log: Write) -> None:
    unseen = shown("e", "one_page") | {"exposures": []}
    forced = shown("f", "one_page", reason="forced")
    other = shown("g", "one_page", key="banner")
    report = analyze_experiment(QUESTION, [REVENUE], write_log(**together(*shop(), unseen, forced, other)), as_of=NOW)
    assert report.units == {"control": 2, "one_page": 2}


def test_a_customer_who_saw_two_variants_is_counted_and_left_out(write_log: Write) -> None:
    both = [shown("e", "control"), shown("e", "one_page", at=HOUR), bought("e", 500.0, 2 * HOUR)]
    flagged = [shown("f", "control", crossover=True)]
    report = analyze_experiment(QUESTION, [REVENUE], write_log(**together(*shop(), *both, *flagged)), as_of=NOW)
    assert report.units == {"control": 2, "one_page": 2}
    assert report.quality.crossovers == 2
    assert "2 units saw two variants and are left out" in report.quality.flags


def merged(before: str, after: str, at: float) -> dict[str, list[dict[str, Any]]]:
    row = {"message_id": f"merge:{before}:{after}", "time": at, "customer": after, "event": "$merge"}
    return {"events": [row | {"properties": f'{{"from":"{before}","into":"{after}"}}'}]}


def test_a_visitor_who_logged_in_is_one_unit_with_all_that_both_did(write_log: Write) -> None:
    logged_in = [
        shown("v1", "one_page"),
        bought("v1", 6.0, HOUR),
        merged("v1", "v2", 2 * HOUR),
        shown("v2", "one_page", at=3 * HOUR),
        merged("v2", "u", 4 * HOUR),
        shown("u", "one_page", at=5 * HOUR),
        bought("u", 30.0, 6 * HOUR),
    ]
    report = analyze_experiment(QUESTION, [REVENUE], write_log(**together(*shop(), *logged_in)), as_of=NOW)
    assert report.units == {"control": 2, "one_page": 3}
    assert means(report, "revenue") == {"control": 5.0, "one_page": (20 + 10 + 36) / 3}
    assert report.quality.crossovers == 0


def test_a_variant_seen_before_the_login_and_another_after_it_are_one_crossover(write_log: Write) -> None:
    crossed = [shown("v", "one_page"), merged("v", "u", HOUR), shown("u", "control", at=2 * HOUR)]
    report = analyze_experiment(QUESTION, [REVENUE], write_log(**together(*shop(), *crossed)), as_of=NOW)
    assert report.units == {"control": 2, "one_page": 2}
    assert report.quality.crossovers == 1


def test_a_tablet_that_merged_once_is_nobodys_later(write_log: Write) -> None:
    tablet = [shown("tablet", "one_page"), merged("tablet", "u", HOUR), shown("tablet", "one_page", at=DAY)]
    report = analyze_experiment(QUESTION, [REVENUE], write_log(**together(*shop(), *tablet)), as_of=NOW)
    assert report.units == {"control": 2, "one_page": 4}


def test_two_that_each_became_the_other_stay_two(write_log: Write) -> None:
    raced = [shown("v", "one_page"), shown("w", "one_page"), merged("v", "w", HOUR), merged("w", "v", HOUR)]
    report = analyze_experiment(QUESTION, [REVENUE], write_log(**together(*shop(), *raced)), as_of=NOW)
    assert report.units == {"control": 2, "one_page": 4}


def test_a_new_version_draws_the_units_anew(write_log: Write) -> None:
    old = [shown(who, "one_page", at=-DAY, version="1") for who in "abcd"]
    new = [shown(who, "control", version="2") for who in "ab"] + [shown(who, "one_page", version="2") for who in "cd"]
    log = write_log(**together(*old, *new, bought("a", 10.0, HOUR), bought("c", 20.0, HOUR)))
    report = analyze_experiment(QUESTION, [REVENUE], log, as_of=NOW)
    assert report.units == {"control": 2, "one_page": 2}
    assert report.quality.crossovers == 0
    before = analyze_experiment(QUESTION, [REVENUE], log, as_of=datetime.fromtimestamp(START - HOUR, UTC))
    assert before.units == {"control": 0, "one_page": 4}


def test_windows_and_dates_bound_what_counts(write_log: Write) -> None:
    log = write_log(**together(*shop(), bought("b", 7.0, 3 * DAY), shown("late", "control", at=20 * DAY)))
    within = msgspec.structs.replace(REVENUE, window=DAY)
    assert means(analyze_experiment(QUESTION, [within], log, as_of=NOW), "revenue")["control"] == pytest.approx(10 / 3)
    assert means(analyze_experiment(QUESTION, [REVENUE], log, as_of=NOW), "revenue")["control"] == pytest.approx(17 / 3)
    early = datetime.fromtimestamp(START + 2 * DAY, UTC)
    report = analyze_experiment(QUESTION, [REVENUE], log, as_of=early)
    assert report.units["control"] == 2
    assert means(report, "revenue")["control"] == pytest.approx(5.0)
    assert report.as_of == "2026-11-03T00:00:00+00:00"


def test_kinds_of_metric(write_log: Write) -> None:
    views = [
        {
            "message_id": f"v{i}",
            "time": HOUR,
            "customer": who,
            "event": "view",
            "properties": '{"page": {"kind": "cart"}, "n": 2}',
        }
        for i, who in enumerate("aabcd")
    ]
    log = write_log(**together(*shop(), {"events": views}, bought("a", 3.0, 8 * DAY)))
    metrics = [
        REVENUE,
        CONVERSION,
        MeasuredMetric(name="orders", kind="count", event="purchase"),
        MeasuredMetric(name="per view", kind="ratio", event="purchase", value="revenue", denominator="view"),
        MeasuredMetric(name="seen", kind="mean", event="view", value="n", filter={"page.kind": "cart"}),
        MeasuredMetric(name="none", kind="mean", event="view", value="n", filter={"page.kind": "home"}),
        MeasuredMetric(name="back", kind="retention", event="purchase", delay=7 * DAY, window=7 * DAY),
    ]
    question = msgspec.structs.replace(QUESTION, secondary=tuple(m.name for m in metrics[1:]))
    report = analyze_experiment(question, metrics, log, as_of=NOW)
    assert means(report, "conversion") == pytest.approx({"control": 0.5, "one_page": 1.0})
    assert means(report, "orders") == pytest.approx({"control": 1.0, "one_page": 1.5})
    assert means(report, "per view") == pytest.approx({"control": 13 / 3, "one_page": 15.0})
    assert means(report, "seen") == pytest.approx({"control": 3.0, "one_page": 2.0})
    assert means(report, "back") == pytest.approx({"control": 0.5, "one_page": 0.0})
    none = next(m for m in report.metrics if m.metric == "none")
    assert isinstance(none.absolute, NotEstimable)
    assert none.absolute.not_estimable == "none does not vary in either variant"


def test_retention_waits_until_the_window_is_over(write_log: Write) -> None:
    back = MeasuredMetric(name="back", kind="retention", event="purchase", delay=7 * DAY, window=7 * DAY)
    question = msgspec.structs.replace(QUESTION, primary="back")
    fresh = [shown(f"n{i}", "control", at=20 * DAY) for i in range(5)]
    log = write_log(**together(*shop(), *fresh, bought("a", 3.0, 8 * DAY)))
    report = analyze_experiment(question, [back], log, as_of=NOW)
    assert report.units["control"] == 7
    assert report.metrics[0].units["control"] == 2


def test_cuped_uses_what_came_before_the_exposure(write_log: Write) -> None:
    rng = np.random.default_rng(3)
    parts = []
    for i in range(300):
        habit = rng.gamma(2.0, 10.0)
        parts.append(shown(f"u{i}", ("control", "one_page")[i % 2]))
        parts.append(bought(f"u{i}", habit, -DAY))
        parts.append(bought(f"u{i}", habit + rng.normal(0, 2) + 1.0 * (i % 2), DAY))
    log = write_log(**together(*parts))
    plain = analyze_experiment(QUESTION, [REVENUE], log, as_of=NOW).metrics[0]
    spec = msgspec.structs.replace(REVENUE, covariate_window=7 * DAY)
    cuped = analyze_experiment(QUESTION, [spec], log, as_of=NOW).metrics[0]
    assert isinstance(plain.absolute, Effect)
    assert isinstance(cuped.absolute, Effect)
    assert cuped.absolute.se < plain.absolute.se / 4
    assert cuped.variance_reduction == pytest.approx(1 - (cuped.absolute.se / plain.absolute.se) ** 2)
    assert cuped.absolute.low < 1.0 < cuped.absolute.high


def test_a_broken_split_asks_to_fix_the_data(write_log: Write) -> None:
    parts = [shown(f"u{i}", "control" if i % 4 else "one_page", at=i) for i in range(2000)]
    parts += [bought(f"u{i}", float(i % 7), 5000.0) for i in range(2000)]
    log = write_log(**together(*parts))
    methods: tuple[Method, ...] = ("fixed", "sequential")
    for method in methods:
        question = msgspec.structs.replace(QUESTION, inference=Inference(method=method))
        report = analyze_experiment(question, [REVENUE], log, as_of=NOW)
        assert not report.quality.srm.ok
        assert report.recommendation.verdict == "fix the data"
    unequal = msgspec.structs.replace(QUESTION, weights={"control": 0.75, "one_page": 0.25})
    assert analyze_experiment(unequal, [REVENUE], log, as_of=NOW).quality.srm.ok


def test_a_clear_winner_ships_and_is_worth_money(write_log: Write) -> None:
    rng = np.random.default_rng(5)
    parts = []
    for i in range(2000):
        new = i // 20 % 2  # each day has as many units of either variant
        parts.append(shown(f"u{i}", ("control", "one_page")[new], at=(i % 20) * DAY))
        parts.append(bought(f"u{i}", rng.gamma(2.0, 5.0) + 3.0 * new, (i % 20) * DAY + HOUR))
    question = msgspec.structs.replace(QUESTION, inference=Inference(), coverage=0.5, min_days=14)
    log = write_log(**together(*parts))
    report = analyze_experiment(question, [REVENUE], log, as_of=NOW)
    assert report.recommendation.verdict == "ship"
    effect = report.metrics[0].absolute
    assert isinstance(effect, Effect)
    money = msgspec.json.decode(report.json())["decision"]["money_per_month"]
    assert money["estimate"] == pytest.approx(effect.estimate * 2000 / 19 * 30 / 0.5)  # the last came on day 19
    assert money["basis"] == "105 a day over 19.0 days at 50% coverage"
    soon = analyze_experiment(question, [REVENUE], log, as_of=datetime.fromtimestamp(START + 5 * DAY, UTC))
    assert soon.recommendation.verdict == "keep running"
    console = Console(width=160, record=True, file=None, quiet=True)
    console.print(render(report))


def test_stores_are_units_and_customers_are_their_members(write_log: Write) -> None:
    rng = np.random.default_rng(8)
    parts, sums, sizes = [], {}, {}
    for store in range(12):
        variant = ("control", "one_page")[store % 2]
        level = rng.normal(20, 4)
        for i in range(int(rng.integers(3, 30))):
            who, spend = f"s{store}c{i}", max(level + rng.normal(0, 3), 0.0)
            parts.append(shown(who, variant, context=f'{{"store": "S{store}"}}'))
            parts.append(bought(who, spend, HOUR))
            sums[store] = sums.get(store, 0.0) + spend
            sizes[store] = sizes.get(store, 0) + 1
    question = msgspec.structs.replace(QUESTION, unit="store")
    report = analyze_experiment(question, [REVENUE], write_log(**together(*parts)), as_of=NOW)
    assert report.units == {"control": 6, "one_page": 6}
    total, size = (np.array([of[s] for s in range(0, 12, 2)]) for of in (sums, sizes))
    assert means(report, "revenue")["control"] == pytest.approx(total.sum() / size.sum())
    residual = total - total.sum() / size.sum() * size
    variances = [np.var(residual, ddof=1) / 6 / size.mean() ** 2]
    total, size = (np.array([of[s] for s in range(1, 12, 2)]) for of in (sums, sizes))
    residual = total - total.sum() / size.sum() * size
    variances.append(np.var(residual, ddof=1) / 6 / size.mean() ** 2)
    effect = report.metrics[0].absolute
    assert isinstance(effect, Effect)
    assert effect.se == pytest.approx(np.sqrt(sum(variances)))


def test_an_experiment_without_data_says_so(write_log: Write, tmp_path: Path) -> None:
    report = analyze_experiment(QUESTION, [REVENUE], write_log(decisions=[], exposures=[]), as_of=NOW)
    assert report.units == {"control": 0, "one_page": 0}
    assert report.metrics[0].absolute == NotEstimable("control has 0 units with a value, a variance needs two")
    assert report.recommendation.verdict == "keep running"
    with pytest.raises(BadInput, match="is not a folder"):
        analyze_experiment(QUESTION, [REVENUE], tmp_path / "nowhere", as_of=NOW)
    with pytest.raises(BadInput, match="'revenue' is not defined"):
        analyze_experiment(QUESTION, [CONVERSION], tmp_path, as_of=NOW)
