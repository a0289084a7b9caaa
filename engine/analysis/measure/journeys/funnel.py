"""Funnels: the customers who pass each step in order and in time, and the worth of the largest loss."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from engine.analysis.design.log_times import DAY
from engine.analysis.measure.columns import describe_missing_event, to_microseconds
from engine.analysis.measure.daily.blocks import DailyTable
from engine.analysis.measure.model import (
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportCell,
    ReportTable,
    units_of,
)
from engine.analysis.measure.shares import ShareEstimate, wilson_share
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput
from engine.vocabulary import names_of_same_event

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

FunnelOrder = Literal["ordered", "strict"]
MOST_CHANNELS: Final = 20
LEAST_ENTERED: Final = 10
LEAST_REACHED: Final = 10
_LIMITS = [
    "Customers who leave at a step differ from those who go on; the worth of a loss assumes they would not.",
    "Whether a changed step keeps these customers is a question for an experiment.",
    "The channel is that of the first step.",
]
# Read and numbered once for all steps. Events that are no step only matter where none may lie between the steps.
_EVENTS = """
WITH funnel_events AS MATERIALIZED (
    SELECT day, customer, time, event, channel, row_number() OVER (PARTITION BY customer ORDER BY time, message_id) AS n
    FROM {rows} WHERE {kept}
)
"""
# DuckDB 1.5 gives a null a match in an ASOF join, so a step that was not reached has a number that none is above.
_NEVER: Final = (1 << 63) - 1
# Every first step is a start; of a customer's starts the one that gets furthest counts, the earliest of these.
_STARTS = "SELECT day, customer, channel, time AS t0, n AS n0 FROM funnel_events WHERE event IN ({names}) {days}"
_ORDERED = """
SELECT so.*, step.time AS t{k}, step.n AS n{k} FROM ({before}) AS so
ASOF LEFT JOIN (SELECT customer, time, n FROM funnel_events WHERE event IN ({names})) AS step
    ON so.customer = step.customer AND coalesce(so.n{j}, {never}) < step.n
"""
_STRICT = """
SELECT so.*, step.time AS t{k}, step.n AS n{k} FROM ({before}) AS so
LEFT JOIN funnel_events AS step ON so.customer = step.customer AND step.n = so.n{j} + 1 AND step.event IN ({names})
"""
_FURTHEST = """
SELECT {by}, unnest(arg_max({{'channel': channel, 'depth': depth, {times}}}, {{'depth': depth, 'early': -t0}}))
FROM ({found}) GROUP BY {by}
"""
_COUNTS = """
SELECT {group} AS channel, {counts}, {times} FROM funnel GROUP BY ALL ORDER BY 2 DESC, 1
"""


class FunnelStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step: its customers, their shares of the previous and first step, and median hours since the first."""

    step: str
    channel: str
    customers: int
    of_previous: ShareEstimate | None
    of_first: ShareEstimate | None
    hours: float | None


class FunnelReport(MeasureReport, frozen=True, kw_only=True):
    """The steps of all customers, with the channel `all`, and of each channel of the first step."""

    order: FunnelOrder
    window: float
    steps: list[FunnelStep]

    def tables(self) -> list[ReportTable]:
        """A row per step, for all customers and for each channel."""
        columns = ["channel", "step", "customers", "of step before", "low", "high", "of first", "median hours"]
        rows: list[list[ReportCell]] = []
        for row in self.steps:
            before = row.of_previous
            ends: list[ReportCell] = [None] * 3 if before is None else [before.estimate, before.low, before.high]
            first = None if row.of_first is None else row.of_first.estimate
            rows.append([row.channel, row.step, row.customers, *ends, first, row.hours])
        return [
            ReportTable(
                title="Steps",
                columns=columns,
                rows=rows,
                note="95% intervals by Wilson.",
                units=units_of("share", 3, 4, 5, 6) | {7: "decimal"},
            )
        ]

    def picture(self) -> Picture | None:
        """The customers at each step."""
        marks = [
            PictureMark(name=f"{at}. {row.step}", value=float(row.customers))
            for at, row in enumerate((row for row in self.steps if row.channel == "all"), 1)
        ]
        return Picture(shape="bars", title="Customers at each step", marks=marks) if marks else None


def measure_funnel(
    source: EventSource, steps: list[str], *, window_days: float = 7.0, order: FunnelOrder = "ordered"
) -> FunnelReport:
    """The funnel of the events `steps`; a step counts within the window of the first.

    `ordered` allows other events between the steps, `strict` none. All names of an order are one step.

    Raises:
        BadInput: if there are fewer than two steps, or the source cannot be read.
    """
    if len(steps) < 2:
        raise BadInput(f"--step: {len(steps)} given, but a funnel needs at least two; repeat --step in their order")
    _create_funnel(source, steps, window_days, order)
    found = [*_read_steps(source, steps, "'all'"), *_read_steps(source, steps, "coalesce(channel, 'unknown')")]
    missing = describe_missing_event(source, *(frozenset(names_of_same_event(step)) | {step} for step in steps))
    entered = found[0].customers if found else 0
    is_enough = entered >= LEAST_ENTERED
    money, worst = _worth(source, found, steps) if is_enough else (NotEstimable(f"{entered} customers began"), "")
    return FunnelReport(
        report="funnel",
        as_of=source.as_of,
        sentence=f"{_sentence(found[: len(steps)], worst)} {missing}".strip(),
        money=money,
        standing="observational",
        limits=_LIMITS,
        currency=source.currency,
        order=order,
        window=window_days,
        steps=found if entered else [],
    )


def _create_funnel(source: EventSource, steps: list[str], window_days: float, order: FunnelOrder) -> None:
    """Creates the table `funnel` of each customer's furthest start.

    A start reaches no further than its window. So a log stores each day's furthest start of each customer, which reads
    that day and those of the window after it.
    """
    window, times = to_microseconds("window", window_days), ", ".join(f"'t{k}': t{k}" for k in range(len(steps)))
    sql = _day_sql(steps, window, order)
    if source.daily is None:
        rows = source.fill("(SELECT '' AS day, * FROM {events})")
        found = sql.replace("{rows}", rows).replace("{days}", "")
        source.engine.run(f"CREATE OR REPLACE TEMP TABLE funnel_days AS {found}")
    else:
        name = hashlib.sha256(msgspec.json.encode((steps, window, order))).hexdigest()[:12]
        kept = sql.replace("{days}", "AND CAST(day AS BIGINT) IN (SELECT happened FROM {days})")
        table = DailyTable(
            name=f"funnel_{name}",
            reads=("events",),
            sql=lambda found: kept.replace("{rows}", found["events"]).replace("{days}", found["days"]),
            ahead=math.ceil(window / DAY),
        )
        source.load_ordered(table, "funnel_days")
    best = _FURTHEST.format(found="FROM funnel_days", times=times, by="customer")
    source.engine.run(f"CREATE OR REPLACE TEMP TABLE funnel AS {best}")


def _day_sql(steps: list[str], window: int, order: FunnelOrder) -> str:
    """SQL of each day's furthest start of each customer, over `{rows}` and with the starts' condition at `{days}`."""
    names = [", ".join(text_literal(name) for name in sorted(names_of_same_event(step))) for step in steps]
    walked = _STARTS.replace("{names}", names[0])
    for k in range(1, len(steps)):
        template = _ORDERED if order == "ordered" else _STRICT
        parts = {"before": walked, "names": names[k], "k": str(k), "j": str(k - 1), "never": str(_NEVER)}
        for part, text in parts.items():
            template = template.replace(f"{{{part}}}", text)
        walked = template
    depth = " + ".join(["1", *(f"CASE WHEN t{k} <= t0 + {window} THEN 1 ELSE 0 END" for k in range(1, len(steps)))])
    kept = "true" if order == "strict" else f"event IN ({', '.join(names)})"
    times = ", ".join(f"'t{k}': t{k}" for k in range(len(steps)))
    found = f"SELECT *, {depth} AS depth FROM ({walked})"  # nosec B608
    return _EVENTS.replace("{kept}", kept) + _FURTHEST.format(found=found, times=times, by="day, customer")


def _read_steps(source: EventSource, steps: list[str], group: str) -> list[FunnelStep]:
    counts = ", ".join(f"count(*) FILTER (depth > {k})" for k in range(len(steps)))
    times = ", ".join(f"median((t{k} - t0) / 3600e6) FILTER (depth > {k})" for k in range(len(steps)))
    found = []
    for row in source.rows(_COUNTS, group=group, counts=counts, times=times)[:MOST_CHANNELS]:
        numbers = [int(str(cell)) for cell in row[1 : len(steps) + 1]]
        hours = row[len(steps) + 1 :]
        for k, step in enumerate(steps):
            found.append(
                FunnelStep(
                    step=step,
                    channel=str(row[0]),
                    customers=numbers[k],
                    of_previous=wilson_share(numbers[k], numbers[k - 1]) if k else None,
                    of_first=wilson_share(numbers[k], numbers[0]),
                    hours=None if hours[k] is None else float(str(hours[k])),
                )
            )
    return found


def _worth(source: EventSource, found: list[FunnelStep], steps: list[str]) -> tuple[MoneyFigure | NotEstimable, str]:
    """The revenue that the step with the largest loss would bring if its customers went on like the others."""
    numbers = [row.customers for row in found[: len(steps)]]
    last = len(steps) - 1
    losses = {
        at: (before - after) * (numbers[-1] / after) for at, (before, after) in enumerate(pairwise(numbers)) if after
    }
    if not losses or not numbers[-1]:
        return NotEstimable("nobody reached the last step"), ""
    if numbers[-1] < LEAST_REACHED:
        return NotEstimable(f"{numbers[-1]} reached the last step; what a loss is worth needs {LEAST_REACHED}"), ""
    worst = max(losses, key=lambda at: losses[at])
    mean = source.rows(
        f"SELECT avg(revenue) FROM funnel JOIN {{orders}} AS placed USING (customer) "
        f"WHERE depth > {last} AND is_order AND placed.time BETWEEN t0 AND t{last}"  # nosec B608
    )[0][0]
    text = f"{steps[worst]} to {steps[worst + 1]}"
    if mean is None:
        return NotEstimable("the customers at the last step have no order with revenue"), text
    what = f"revenue that was lost from {text}, had those who left gone on like the others"
    return MoneyFigure(what=what, estimate=losses[worst] * float(mean)), text


def _sentence(rows: list[FunnelStep], worst: str) -> str:
    if not rows or not rows[0].customers:
        return "Nobody took the first step."
    first, last = rows[0], rows[-1]
    share = "" if last.of_first is None else f" ({last.of_first.estimate:.1%})"
    text = f"Of {first.customers:,} customers at {first.step}, {last.customers:,}{share} reached {last.step}"
    return f"{text}; the most is lost from {worst}." if worst else f"{text}."
