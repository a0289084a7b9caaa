"""Cohorts: returning customers by the month, channel or offer of their first order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from engine.analysis.measure.model import (
    CellUnit,
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
from engine.vocabulary import SILENCE

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

CohortKind = Literal["month", "channel", "offer"]
MOST_COHORTS: Final = 12
"""Cohorts of channels or offers, the largest; those of months are all shown, the picture the latest."""
_LIMITS = [
    "Customers of one cohort differ from those of another in more than their first month, channel or offer.",
    "A period that is not over yet is left out, for each customer apart.",
    "A customer is kept in a period by an order in it that was not wholly refunded.",
]
_PERIODS = {
    "month": "datediff('month', DATE '1970-01-01', CAST(make_timestamp({time}) AS DATE))",
    "week": "(({time} // 86400000000) + 3) // 7",
}
_LABELS = {
    "month": "strftime(DATE '1970-01-01' + to_months(CAST(first AS INTEGER)), '%Y-%m')",
    "week": "strftime(DATE '1970-01-01' + CAST(first * 7 - 3 AS INTEGER), '%Y-%m-%d')",
}
_GROUPS = """
WITH placed AS (SELECT *, {period} AS period FROM {orders} WHERE is_order),
firsts AS (
    SELECT customer, min(period) AS first, arg_min(channel, time) AS channel FROM placed GROUP BY ALL
)
SELECT customer, first, coalesce({name}, 'unknown') AS cohort FROM firsts {offers}
"""
_LOG_OFFERS = """
LEFT JOIN (
    SELECT begun.customer, arg_max(decided.variant, seen.time) AS offer
    FROM (SELECT customer, min(time) AS started FROM {orders} WHERE is_order GROUP BY ALL) AS begun
    JOIN {exposures} AS seen ON seen.customer = begun.customer AND seen.time <= begun.started
    JOIN {decisions} AS decided
        ON decided.decision_id = seen.decision_id AND decided.key = seen.key AND decided.position = seen.position
    WHERE decided.kind = 'offer' AND decided.variant <> {silence} GROUP BY ALL
) AS shown USING (customer)
"""
# Offset k of a customer is over if the period first + k is; those whose period is not over count in no share of k.
_RETENTION = """
WITH placed AS (
    SELECT customer, {period} AS period, sum(revenue) AS revenue FROM {orders} WHERE is_order GROUP BY ALL
), active AS (
    SELECT cohort, period - first AS later, count(*) AS active, sum(revenue) AS revenue
    FROM placed JOIN cohorts USING (customer) WHERE period <= {last} GROUP BY ALL
), sizes AS (
    SELECT cohort, later, count(*) AS customers FROM cohorts, range(0, {most}) AS offsets(later)
    WHERE first + later <= {last} GROUP BY ALL
)
SELECT cohort, later, customers, coalesce(active, 0), coalesce(revenue, 0)
FROM sizes LEFT JOIN active USING (cohort, later) ORDER BY cohort, later
"""


class CohortPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """One cohort `later` periods after the first order: customers, those who ordered, their share, revenue."""

    cohort: str
    later: int
    customers: int
    active: int
    retained: ShareEstimate | None
    revenue: float


class CohortReport(MeasureReport, frozen=True, kw_only=True):
    """Retention by cohort. Offset 0 is the period of the first order."""

    by: CohortKind
    period: Literal["month", "week"]
    periods: list[CohortPeriod]

    def tables(self) -> list[ReportTable]:
        """Ordering customers, a row per cohort and a column per offset, and then revenue per customer."""
        offsets = sorted({row.later for row in self.periods})
        cells = {(row.cohort, row.later): row for row in self.periods}
        cohorts = list(dict.fromkeys(row.cohort for row in self.periods))

        def grid(title: str, value: str, note: str) -> ReportTable:
            rows: list[list[ReportCell]] = []
            for cohort in cohorts:
                found = [cells.get((cohort, later)) for later in offsets]
                rows.append([cohort, *(None if one is None else _cell(one, value) for one in found)])
            columns = [self.by, *(f"+{later}" for later in offsets)]
            unit: CellUnit = {"share": "share", "revenue": "money"}.get(value, "")  # type: ignore[assignment]
            units = units_of(unit, *range(1, len(columns)))
            return ReportTable(title=title, columns=columns, rows=rows, note=note, units=units)

        return [
            grid("Customers who ordered", "active", f"By {self.period}s after the {self.period} of the first order."),
            grid("Share who ordered", "share", "Of the customers whose period is over."),
            grid("Revenue per customer", "revenue", "Net of refunds, of the customers whose period is over."),
        ]

    def picture(self) -> Picture | None:
        """The share that ordered, a line per cohort; for months the latest ones."""
        cohorts = list(dict.fromkeys(row.cohort for row in self.periods if row.later > 0))
        shown = set(cohorts[-MOST_COHORTS:] if self.by == "month" else cohorts[:MOST_COHORTS])
        marks = [
            PictureMark(name=row.cohort, series=row.cohort, at=float(row.later), value=row.retained.estimate)
            for row in self.periods
            if row.cohort in shown and row.later > 0 and row.retained is not None
        ]
        title, axis = "Share of customers who ordered again", f"{self.period}s after the first order"
        return Picture(shape="lines", title=title, marks=marks, unit="share", axis=axis) if marks else None


def measure_cohorts(
    source: EventSource, *, by: CohortKind = "month", period: Literal["month", "week"] = "month"
) -> CohortReport:
    """Customers' retention by the `by` of their first order.

    Raises:
        BadInput: if the source cannot be read, or has no offers.
    """
    _create_cohorts(source, by, period)
    rows = _read_periods(source, period) if source.rows("SELECT 1 FROM cohorts LIMIT 1") else []
    if by != "month":
        largest = sorted({(-row.customers, row.cohort) for row in rows if row.later == 0})
        order = {cohort: at for at, (_, cohort) in enumerate(largest[:MOST_COHORTS])}
        rows = sorted((row for row in rows if row.cohort in order), key=lambda row: (order[row.cohort], row.later))
    return CohortReport(
        report="cohorts",
        as_of=source.as_of,
        sentence=_sentence(rows, period),
        money=_money(rows, period),
        standing="observational",
        limits=_LIMITS,
        currency=source.currency,
        by=by,
        period=period,
        periods=rows,
    )


def _create_cohorts(source: EventSource, by: CohortKind, period: str) -> None:
    number = _PERIODS[period].format(time="time")
    name, offers = {"month": _LABELS[period], "channel": "channel", "offer": "offer"}[by], ""
    if by == "offer" and source.log_dir is not None:
        offers = source.fill(
            _LOG_OFFERS,
            exposures=source.log_rows("exposures"),
            decisions=source.log_rows("decisions"),
            silence=text_literal(SILENCE),
        )
    elif by == "offer":
        named = source.require("offer", "customer")
        offers = (
            f"LEFT JOIN (SELECT CAST({named['customer']} AS VARCHAR) AS customer, "
            f"arg_min(CAST({named['offer']} AS VARCHAR), {source.time_sql()}) AS offer FROM {source.table.sql} "
            "GROUP BY 1) AS shown USING (customer)"  # nosec B608
        )
    source.create("cohorts", _GROUPS, period=number, name=name, offers=offers)


def _read_periods(source: EventSource, period: str) -> list[CohortPeriod]:
    """The cohorts' periods up to the last complete one; the last day counts as complete."""
    until = source.last
    tomorrow = _PERIODS[period].format(time=f"CAST({until} + 86400000000 AS BIGINT)")
    last, first = source.rows(f"SELECT {tomorrow} - 1, (SELECT min(first) FROM cohorts)")[0]  # nosec B608
    most = max(1, int(str(last)) - int(str(first)) + 1)
    number = _PERIODS[period].format(time="time")
    found = source.rows(_RETENTION, period=number, last=str(last), most=str(most))
    return [
        CohortPeriod(
            cohort=str(cohort),
            later=int(str(later)),
            customers=int(str(customers)),
            active=int(str(active)),
            retained=wilson_share(float(active or 0), int(str(customers))),
            revenue=float(revenue or 0),
        )
        for cohort, later, customers, active, revenue in found
    ]


def _again(rows: list[CohortPeriod]) -> tuple[int, int]:
    """The customers whose next period is over, and the number of those who ordered in it."""
    after = [row for row in rows if row.later == 1]
    return sum(row.customers for row in after), sum(row.active for row in after)


def _sentence(rows: list[CohortPeriod], period: str) -> str:
    customers, active = _again(rows)
    found = wilson_share(active, customers)
    if found is None:
        return f"No customer's second {period} is over yet."
    return f"Of {customers:,} customers, {found.estimate:.1%} ordered again in the {period} after their first order."


def _money(rows: list[CohortPeriod], period: str) -> MoneyFigure | NotEstimable:
    customers, _ = _again(rows)
    if not customers:
        return NotEstimable(f"no customer's second {period} is over yet")
    revenue = sum(row.revenue for row in rows if row.later == 1)
    return MoneyFigure(what=f"revenue per customer in the {period} after the first order", estimate=revenue / customers)


def _cell(row: CohortPeriod, value: str) -> ReportCell:
    if value == "active":
        return row.active
    if value == "share":
        return None if row.retained is None else row.retained.estimate
    return row.revenue / row.customers if row.customers else None
