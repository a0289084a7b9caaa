"""Funnels and journeys: counted by hand and by a plain walk, whatever the order of the rows."""

from pathlib import Path

import numpy as np
import pytest

from engine.analysis.measure.journeys.funnel import measure_funnel
from engine.analysis.measure.journeys.journeys import measure_journeys
from engine.analysis.measure.sources import EventSource
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput

HEADER = "customer,time,event,channel,revenue"
STEPS = ["view", "cart", "purchase"]
HOUR = 3600


def write(file: Path, rows: list[str]) -> EventSource:
    file.write_text("\n".join([HEADER, *rows]))
    return EventSource(files=(str(file),))


def numbers(source: EventSource, **options: object) -> list[int]:
    report = measure_funnel(source, STEPS, **options)  # type: ignore[arg-type]
    return [row.customers for row in report.steps if row.channel == "all"]


def test_order_time_and_what_lies_between_count(tmp_path: Path) -> None:
    start = 1_767_225_600
    rows = [
        *(f"a,{start + n * HOUR},{event},web,9" for n, event in enumerate(["view", "help", "cart", "order_placed"])),
        *(f"b,{start + n * HOUR},{event},app,9" for n, event in enumerate(["cart", "view", "purchase"])),
        *(f"c,{start + n * 100 * HOUR},{event},app,9" for n, event in enumerate(["view", "cart", "purchase"])),
        *(f"d,{start + n * HOUR},{event},app,9" for n, event in enumerate(["view", "view", "cart", "purchase"])),
    ]
    source = write(tmp_path / "t.csv", rows)
    assert numbers(source) == [4, 3, 2]
    assert numbers(source, window_days=30.0) == [4, 3, 3]
    assert numbers(source, order="strict", window_days=30.0) == [4, 2, 2]


def walk(events: list[tuple[int, str]], window: float) -> int:
    """The furthest step of one customer, by trying every start."""
    furthest = 0
    for at, (start, event) in enumerate(events):
        if event != STEPS[0]:
            continue
        depth, rest = 1, events[at + 1 :]
        for time, name in rest:
            if depth < len(STEPS) and name == STEPS[depth] and time <= start + window:
                depth += 1
        furthest = max(furthest, depth)
    return furthest


def test_a_funnel_is_that_of_a_plain_walk(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    start = 1_767_225_600
    times = rng.permutation(40 * 24)[:600] * HOUR + start
    events = [(f"c{rng.integers(60)}", int(time), str(rng.choice([*STEPS, "help"]))) for time in times]
    rows = [f"{customer},{time},{event},{'web' if time % 2 else 'app'},5" for customer, time, event in events]
    depths = []
    for customer in {customer for customer, _, _ in events}:
        own = sorted((time, event) for who, time, event in events if who == customer)
        depths.append(walk(own, 7 * 86_400))
    expected = [sum(depth > k for depth in depths) for k in range(3)]
    assert numbers(write(tmp_path / "one.csv", rows)) == expected
    rng.shuffle(rows)
    assert numbers(write(tmp_path / "other.csv", rows)) == expected


def test_channels_add_up_and_a_loss_has_its_worth(tmp_path: Path) -> None:
    start = 1_767_225_600
    rows = [
        f"c{n},{start + k * HOUR + n},{step},{'web' if n % 2 else 'app'},{20 if step == 'purchase' else ''}"
        for n in range(40)
        for k, step in enumerate(STEPS[: 1 + (n < 20) + (n < 10)])
    ]
    report = measure_funnel(write(tmp_path / "t.csv", rows), STEPS)
    of = {(row.channel, row.step): row.customers for row in report.steps}
    assert all(of["web", step] + of["app", step] == of["all", step] for step in STEPS)
    assert not isinstance(report.money, NotEstimable)
    assert report.money.estimate == pytest.approx(20 * 0.5 * 20)  # view to cart: 20 leave, half of 20 ordered for 20


def test_journeys_end_with_an_order_or_a_pause(tmp_path: Path) -> None:
    rows = []
    for n in range(30):
        rows += [f"c{n},2026-01-0{1 + n % 7}T10:00:00,view,web,", f"c{n},2026-01-0{1 + n % 7}T11:00:00,help,app,"]
        if n < 10:
            rows += [f"c{n},2026-01-0{1 + n % 7}T12:00:00,purchase,store,30"]
    rows += ["z,2026-03-01,view,web,"]
    report = measure_journeys(write(tmp_path / "t.csv", rows))
    assert report.journeys == 31
    ends = {(row.started, row.finished): (row.journeys, row.orders) for row in report.ends}
    assert ends == {("web", "store"): (10, 10), ("web", "app"): (20, 0), ("web", "web"): (1, 0)}
    assert [(row.event, row.channel, row.stopped) for row in report.stops] == [("help", "app", 20)]
    assert report.stops[0].at_stake == pytest.approx(20 * 300 / 31)
    assert sum(row.moves for row in report.moves) == 40
    assert [(row.channel, row.hour) for row in report.peaks] == [("store", 12)]
    shifted = measure_journeys(write(tmp_path / "t.csv", rows), zone="Asia/Tokyo")
    assert shifted.peaks[0].hour == 21


def test_an_order_of_several_messages_ends_one_journey(tmp_path: Path) -> None:
    header, plain, both = "customer,time,event,channel,amount,order_id,store", [], []
    for n in range(40):
        day = 1 + n % 20
        plain += [
            f"c{n},2026-01-{day:02}T10:00:00,view,web,,,",
            f"c{n},2026-01-{day:02}T11:00:00,order_placed,web,30,o{n},",
        ]
        both.append(f"c{n},2026-01-{day:02}T11:00:09,order_placed,web,30,o{n},")  # it came twice
        both.append(f"c{n},2026-01-{day + 3:02}T11:00:00,order_completed,store,30,o{n},")
        if n % 2:
            plain.append(f"c{n},2026-01-{day + 3:02}T09:00:00,help,app,,,")
    plain += ["z,2026-03-01,view,web,,,", *(f"c{n},2026-02-01,refund,web,{5 + 25 * (n < 3)},o{n}," for n in range(10))]
    found = []
    for name, rows in (("plain.csv", plain), ("both.csv", both + plain)):
        (tmp_path / name).write_text("\n".join([header, *rows]))
        found.append(measure_journeys(EventSource(files=(str(tmp_path / name),))))
    assert found[0].journeys == 61
    assert found[0] == found[1]
    assert sum(row.orders for row in found[1].ends) == sum(row.orders for row in found[1].peaks) == 37
    assert sum(row.revenue for row in found[1].ends) == pytest.approx(37 * 30 - 7 * 5)


def test_a_step_that_never_occurs_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "t.csv", [f"c{n},2026-01-01,{step},web," for n in range(12) for step in STEPS])
    assert "'purchse' never occurs; did you mean 'purchase'?" in measure_funnel(source, ["view", "purchse"]).sentence
    assert "'nosuch' never occurs; known are cart" in measure_funnel(source, ["nosuch", "cart"]).sentence
    assert "never occurs" not in measure_funnel(source, ["view", "order_placed"]).sentence
    for days in (float("nan"), float("inf"), -1.0):
        with pytest.raises(BadInput, match="--window"):
            measure_funnel(source, STEPS, window_days=days)
        with pytest.raises(BadInput, match="--gap"):
            measure_journeys(source, gap_days=days)


def test_nothing_is_invented(tmp_path: Path) -> None:
    empty = measure_funnel(EventSource(log_dir=tmp_path), STEPS)
    assert (empty.steps, empty.picture()) == ([], None)
    assert isinstance(empty.money, NotEstimable)
    journeys = measure_journeys(EventSource(log_dir=tmp_path))
    assert isinstance(journeys.money, NotEstimable)
    assert isinstance(journeys.continued, NotEstimable)
    with pytest.raises(BadInput, match="at least two"):
        measure_funnel(EventSource(log_dir=tmp_path), ["view"])
    with pytest.raises(BadInput, match="not a time zone"):
        measure_journeys(EventSource(log_dir=tmp_path), zone="Moon/Base")
