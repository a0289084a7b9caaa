"""Cohorts and satisfaction: known answers, sums that agree, and nothing from nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.measure.satisfaction import SatisfactionOptions, measure_satisfaction
from engine.analysis.measure.shares import ShareEstimate, net_promoter, wilson_share
from engine.analysis.measure.sources import EventSource
from engine.analysis.measure.value.cohorts import measure_cohorts
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput

CDNOW = Path(__file__).parents[3] / ".cache/cdnow/lifetimes/datasets"


def write(file: Path, header: str, rows: list[str]) -> EventSource:
    file.write_text("\n".join([header, *rows]))
    return EventSource(files=(str(file),))


@pytest.mark.skipif(not CDNOW.is_dir(), reason="`make cdnow` fetches the orders")
def test_the_first_cohort_of_cdnow() -> None:
    report = measure_cohorts(EventSource(files=(str(CDNOW / "CDNOW_master.txt"),)))
    first = [row.active for row in report.periods if row.cohort == "1997-01"]
    assert first[:4] == [7846, 1157, 964, 810]


def test_a_period_that_is_not_over_counts_for_nobody(tmp_path: Path) -> None:
    rows = ["a,2026-01-31,5", "a,2026-03-15,5", "b,2026-02-01,5"]
    report = measure_cohorts(write(tmp_path / "t.csv", "customer,time,revenue", rows))
    assert [(r.cohort, r.later, r.customers, r.active) for r in report.periods] == [
        ("2026-01", 0, 1, 1),
        ("2026-01", 1, 1, 0),
        ("2026-02", 0, 1, 1),
    ]


@pytest.mark.parametrize("by", ["month", "channel", "offer"])
def test_every_customer_is_in_one_cohort(tmp_path: Path, by: Any) -> None:
    rng = np.random.default_rng(2)
    rows = [
        f"c{rng.integers(50)},2026-{1 + n % 6:02}-{1 + n % 28:02},{n % 5},{('web', 'app')[n % 2]},o{rng.integers(4)}"
        for n in range(400)
    ]
    source = write(tmp_path / "t.csv", "customer,time,revenue,channel,offer", [*rows, "z,2026-07-31,1,web,o1"])
    report = measure_cohorts(source, by=by)
    assert sum(row.customers for row in report.periods if row.later == 0) == 51
    assert all(row.active <= row.customers for row in report.periods)
    assert sum(row.revenue for row in report.periods) == pytest.approx(sum(n % 5 for n in range(400)) + 1)
    assert [row.active for row in report.periods if row.later == 0] == [
        row.customers for row in report.periods if row.later == 0
    ]


def test_scores_have_the_published_intervals(tmp_path: Path) -> None:
    """Sauro and Lewis 2016: 15 promoters, 9 passives, 12 detractors; Wilson of 9 in 10."""
    rows = [str(score) for score in [10] * 15 + [8] * 9 + [3] * 12]
    report = measure_satisfaction(write(tmp_path / "t.csv", "nps", rows))
    whole = report.scores[0]
    assert isinstance(whole.score, ShareEstimate)
    assert [round(x, 1) for x in (whole.score.estimate, whole.score.low, whole.score.high)] == [7.7, -19.0, 34.4]
    assert whole.raw == pytest.approx(100 * 3 / 36)
    wilson = wilson_share(9, 10)
    assert wilson is not None
    assert (wilson.low, wilson.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)


@pytest.mark.parametrize(
    ("pleased", "answers", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
@pytest.mark.parametrize(("question", "best", "other"), [("csat", (4, 5), 3), ("ces", (5, 7), 4)])
def test_top_boxes_have_the_published_intervals(
    tmp_path: Path,
    question: str,
    best: tuple[int, int],
    other: int,
    pleased: int,
    answers: int,
    low: float,
    high: float,
) -> None:
    """Newcombe 1998, table I, method 3: Wilson's intervals of the share of the best answers."""
    rows = [str(best[n % 2] if n < pleased else other - n % 2) for n in range(answers)]
    row = measure_satisfaction(write(tmp_path / "t.csv", question, rows)).scores[0]
    assert isinstance(row.score, ShareEstimate)
    assert (row.score.low, row.score.high) == pytest.approx((low, high), abs=6e-5)
    assert row.score.estimate == pytest.approx(pleased / answers)


@pytest.mark.parametrize(("answer", "shown"), [("10", 100.0), ("0", -100.0), ("7", 0.0)])
@pytest.mark.parametrize("count", [5, 50, 500])
def test_equal_answers_have_their_score_and_no_interval_of_the_mean(
    tmp_path: Path, answer: str, shown: float, count: int
) -> None:
    report = measure_satisfaction(write(tmp_path / "t.csv", "nps", [answer] * count))
    row = report.scores[0]
    assert isinstance(row.score, ShareEstimate)
    assert row.score.low <= shown <= row.score.high
    assert f"NPS is {shown:.1f} (" in report.sentence
    assert report.tables()[0].rows[0][4] == shown
    assert isinstance(row.mean, NotEstimable)


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_a_share_of_none_or_all_ends_exactly_there(n: int) -> None:
    none, every = wilson_share(0, n), wilson_share(n, n)
    assert none is not None
    assert every is not None
    assert (none.low, every.high) == (0.0, 1.0)


def test_the_interval_of_a_score_covers_the_truth() -> None:
    rng, truth, covered, runs = np.random.default_rng(5), 100 * (0.4 - 0.25), 0, 2000
    for promoters, passives, detractors in rng.multinomial(60, [0.4, 0.35, 0.25], size=runs).tolist():
        found = net_promoter(promoters, passives, detractors)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert abs(covered / runs - 0.95) < 0.015 + 3 * (0.95 * 0.05 / runs) ** 0.5


def test_the_newest_answer_counts_and_groups_add_up(tmp_path: Path) -> None:
    rows = [f"c{n},2026-01-{1 + n % 28:02},{1 + n % 5},{'web' if n % 2 else 'app'},v{n % 3}" for n in range(60)]
    rows += ["c0,2026-02-01,5,web,v0"]
    source = write(tmp_path / "t.csv", "customer,time,csat,channel,variant", rows)
    report = measure_satisfaction(source, SatisfactionOptions(by=("variant",)))
    for by in ("all", "channel", "variant"):
        assert sum(row.answers for row in report.scores if row.by == by) == 60
    best = [1 + n % 5 for n in range(1, 60)] + [5]
    whole = report.scores[0]
    assert isinstance(whole.score, ShareEstimate)
    assert isinstance(whole.mean, ShareEstimate)
    assert whole.score.estimate == pytest.approx(np.mean([score >= 4 for score in best]))
    assert whole.mean.estimate == pytest.approx(np.mean(best))


def test_an_answer_off_the_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="off its scale"):
        measure_satisfaction(write(tmp_path / "t.csv", "nps", ["3", "11"]))
    with pytest.raises(BadInput, match="--score COL"):
        measure_satisfaction(write(tmp_path / "u.csv", "stars", ["3", "1"]))


def test_nothing_is_invented(tmp_path: Path) -> None:
    source = EventSource(log_dir=tmp_path)
    assert isinstance(measure_cohorts(source).money, NotEstimable)
    report = measure_satisfaction(source)
    assert (report.scores, report.picture()) == ([], None)
    assert isinstance(report.response, NotEstimable)
