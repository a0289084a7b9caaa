"""RFM: scores customers 1 to 5 by recency, frequency and value of their orders, in named segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.model import (
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportTable,
    count_of,
    units_of,
)
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.measure.sources import EventSource
    from engine.catalog.spec.traits import RfmSpec

LEAST_SCORED: Final = 5
_LIMITS = [
    "The scores rank this shop's customers among each other at this moment; they do not compare it with another shop.",
    "The segments describe the past. That an offer to a segment pays is a question for an experiment.",
]
# Ties share the lowest score that any of them has, so that a customer's score does not depend on the order of rows.
_SCORES = """
WITH customers AS (
    SELECT customer, max(time) FILTER (is_order) AS last, count(*) FILTER (is_order) AS orders,
        sum(revenue) AS revenue
    FROM {orders} GROUP BY customer HAVING count(*) FILTER (is_order) > 0
), scored AS (
    SELECT *, least(5, 1 + floor(5 * percent_rank() OVER (ORDER BY last // 86400000000)))::INT AS r,
        least(5, 1 + floor(5 * percent_rank() OVER (ORDER BY orders)))::INT AS f,
        least(5, 1 + floor(5 * percent_rank() OVER (ORDER BY revenue)))::INT AS m
    FROM customers
)
SELECT *, {segment} AS segment FROM scored
"""
_SEGMENTS = """
SELECT segment, count(*), avg(r), avg(f), avg(m), avg(orders), sum(revenue),
    sum(revenue) / nullif(sum(sum(revenue)) OVER (), 0), avg(({until} - last) / 86400e6)
FROM rfm GROUP BY segment ORDER BY sum(revenue) DESC, segment
"""


class RfmSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment: its customers, their mean scores, orders and days since the last, and their revenue until now."""

    name: str
    customers: int
    recency: float
    frequency: float
    monetary: float
    orders: float
    revenue: float
    share: float | None
    days: float


class RfmReport(MeasureReport, frozen=True, kw_only=True):
    """The segments, by revenue in descending order."""

    customers: int
    segments: list[RfmSegment]

    def tables(self) -> list[ReportTable]:
        """A row per segment."""
        columns = ["segment", "customers", "R", "F", "M", "orders each", "revenue", "share of revenue", "days since"]
        return [
            ReportTable(
                title="Segments",
                columns=columns,
                rows=[list(msgspec.structs.astuple(segment)) for segment in self.segments],
                note="R, F and M are mean scores from 1 to 5; days since the last order.",
                units=units_of("decimal", 2, 3, 4, 5) | {6: "money", 7: "share", 8: "count"},
            )
        ]

    def picture(self) -> Picture | None:
        """The revenue of each segment."""
        marks = [PictureMark(name=segment.name, value=segment.revenue) for segment in self.segments]
        return Picture(shape="bars", title="Revenue by segment", marks=marks, unit="money") if marks else None


def measure_rfm(source: EventSource) -> tuple[RfmReport, dict[str, dict[str, str]]]:
    """The report, and the trait `rfm` of each customer.

    Raises:
        BadInput: if the source cannot be read.
    """
    source.create("rfm", _SCORES, segment=_segment_sql(source.rfm))
    until = source.last or 0
    segments = [
        RfmSegment(
            name=str(name),
            customers=int(str(customers)),
            recency=float(r or 0),
            frequency=float(f or 0),
            monetary=float(m or 0),
            orders=float(orders or 0),
            revenue=float(revenue or 0),
            share=None if share is None else float(share),
            days=float(days or 0),
        )
        for name, customers, r, f, m, orders, revenue, share, days in source.rows(_SEGMENTS, until=str(until))
    ]
    customers = sum(segment.customers for segment in segments)
    is_enough = customers >= LEAST_SCORED
    segments = segments if is_enough else []
    traits = source.rows("SELECT customer, segment FROM rfm ORDER BY customer") if is_enough else []
    report = RfmReport(
        report="rfm",
        as_of=source.as_of,
        sentence=_sentence(customers, segments),
        money=_money(customers, segments, [rule.name for rule in source.rfm if rule.slipping]),
        standing="descriptive",
        limits=_LIMITS,
        currency=source.currency,
        customers=customers,
        segments=segments,
    )
    return report, {str(customer): {"rfm": str(segment)} for customer, segment in traits}


def _segment_sql(rules: Sequence[RfmSpec]) -> str:
    """SQL of the first segment that contains a row's scores."""
    cases = []
    for rule in rules:
        bounds = {"r": rule.recency, "f": rule.frequency, "m": rule.monetary}
        terms = [f"{name} BETWEEN {int(of[0])} AND {int(of[1])}" for name, of in bounds.items() if of is not None]
        cases.append(f"WHEN {' AND '.join(terms or ['true'])} THEN {text_literal(rule.name)}")
    return f"CASE {' '.join(cases)} END"


def _sentence(customers: int, segments: list[RfmSegment]) -> str:
    if not segments:
        return f"{count_of(customers, 'customer')} with an order; scores need {LEAST_SCORED}."
    best = segments[0]
    share = "" if best.share is None else f" and {best.share:.0%} of the revenue"
    return f"Of {customers:,} customers, the segment '{best.name}' is {best.customers / customers:.0%}{share}."


def _money(customers: int, segments: list[RfmSegment], slipping: list[str]) -> MoneyFigure | NotEstimable:
    if not segments:
        return NotEstimable(f"there are {count_of(customers, 'customer')} with an order; scores need {LEAST_SCORED}")
    if not slipping:
        return NotEstimable("no segment of segments.yaml is 'slipping: true'")
    revenue = sum(segment.revenue for segment in segments if segment.name in slipping)
    names = " and ".join(repr(name) for name in slipping)
    return MoneyFigure(what=f"past revenue of the segments {names}", estimate=revenue)
