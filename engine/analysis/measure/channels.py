"""Channels: what customers use each for, and the worth of customers with several channels against the holdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.model import (
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportCell,
    ReportTable,
    units_of,
)
from engine.analysis.measure.seen_channels import stated_motives, used_channels
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource
    from engine.analysis.sources.engines import Cell

LEAST_OF_EACH: Final = 30
_LIMITS = [
    "Observational: customers who like the shop use more of its channels. No channel is shown to make them spend.",
    "The holdout's answer is causal, of all that it was kept from together; it is not of one channel.",
    "A customer without an identifier counts as one on each channel.",
]
_PEOPLE = """
WITH used AS (
    SELECT customer, count(*) AS channels FROM {used} WHERE channel IS NOT NULL GROUP BY ALL
), spent AS (SELECT customer, sum(revenue) AS revenue FROM {orders} GROUP BY ALL)
SELECT customer, channels, coalesce(revenue, 0) AS revenue FROM used LEFT JOIN spent USING (customer)
"""
_BY_CHANNEL = """
WITH seen AS (
    SELECT channel, count(*) AS customers, sum(n) AS visits FROM {used} WHERE channel IS NOT NULL GROUP BY ALL
), sold AS (
    SELECT channel, count(*) FILTER (is_order) AS orders, sum(revenue) AS revenue FROM {orders} GROUP BY ALL
)
SELECT channel, customers, visits, coalesce(orders, 0), coalesce(revenue, 0) FROM seen LEFT JOIN sold USING (channel)
ORDER BY 5 DESC, 1
"""
_BY_MOTIVE = """
WITH came AS (SELECT customer, channel, motive, time FROM {stated} WHERE channel IS NOT NULL)
SELECT came.channel, motive, count(DISTINCT came.customer), count(placed.time) FILTER (is_order),
    coalesce(sum(revenue), 0)
FROM came LEFT JOIN {orders} AS placed
    ON placed.customer = came.customer AND placed.time BETWEEN came.time AND came.time + {window}
GROUP BY ALL ORDER BY round(coalesce(sum(revenue), 0), 4) DESC, 3 DESC, 1, 2 LIMIT 60
"""
_BY_COUNT = """
SELECT channels, count(*), avg(revenue), coalesce(var_samp(revenue), 0) FROM people GROUP BY ALL ORDER BY 1
"""
# A customer is in the holdout if any decision states it; who was let into an experiment is the other side.
_HOLDOUT = """
WITH sides AS (
    SELECT customer, bool_or(reason = 'holdout') AS held_out, min(time) AS time FROM {decisions}
    WHERE kind = 'experiment' AND customer <> '' AND reason IN ('holdout', 'assigned', 'sticky') GROUP BY ALL
), spent AS (
    SELECT sides.customer, held_out, coalesce(sum(revenue), 0) AS revenue
    FROM sides LEFT JOIN {orders} AS placed ON placed.customer = sides.customer AND placed.time >= sides.time
    GROUP BY ALL
)
SELECT held_out, count(*), avg(revenue), coalesce(var_samp(revenue), 0) FROM spent GROUP BY ALL
"""


class ChannelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A channel, split by motive if known: its customers, visits, orders and revenue.

    With a motive, orders and revenue are those of the week after it was stated, on any channel.
    """

    channel: str
    motive: str
    customers: int
    visits: int
    orders: int
    revenue: float


class ChannelCount(msgspec.Struct, frozen=True, kw_only=True):
    """Customers with this number of channels, and their mean revenue."""

    channels: int
    customers: int
    revenue: float


class ChannelReport(MeasureReport, frozen=True, kw_only=True):
    """The channels, motives, and customers by number of channels.

    `naive` is the mean revenue of customers of several channels less that of one: observational. `holdout` is that of
    customers who were let into experiments less that of the holdout: causal.
    """

    channels: list[ChannelRow]
    motives: list[ChannelRow]
    counts: list[ChannelCount]
    naive: Effect | NotEstimable
    holdout: Effect | NotEstimable

    def tables(self) -> list[ReportTable]:
        """Several channels against one, beside the holdout; channels; motives."""
        compared: list[list[ReportCell]] = [
            ["several channels less one", "observational", *_cells(self.naive)],
            ["let in less holdout", "causal", *_cells(self.holdout)],
        ]
        by_count: list[list[ReportCell]] = [[row.channels, row.customers, row.revenue] for row in self.counts]
        channels: list[list[ReportCell]] = [
            [row.channel, row.customers, row.visits, row.orders, row.revenue] for row in self.channels
        ]
        motives: list[list[ReportCell]] = [
            [row.channel, row.motive, row.customers, row.orders, row.revenue] for row in self.motives
        ]
        columns = ["revenue per customer", "standing", "difference", "low", "high", "why not"]
        found = [
            ReportTable(
                title="Several channels, and the holdout",
                columns=columns,
                rows=compared,
                units=units_of("money", 2, 3, 4),
            ),
            ReportTable(
                title="Customers by number of channels (observational)",
                columns=["channels", "customers", "revenue per customer"],
                rows=by_count,
                units={2: "money"},
            ),
            ReportTable(
                title="Channels",
                columns=["channel", "customers", "visits", "orders", "revenue"],
                rows=channels,
                units={4: "money"},
            ),
        ]
        if motives:
            names = ["channel", "motive", "customers", "orders in a week", "revenue in a week"]
            found.append(ReportTable(title="Motives", columns=names, rows=motives, units={4: "money"}))
        return found

    def picture(self) -> Picture | None:
        """The revenue of each channel."""
        marks = [PictureMark(name=row.channel, value=row.revenue) for row in self.channels]
        return Picture(shape="bars", title="Revenue by channel", marks=marks, unit="money") if marks else None


def measure_channels(source: EventSource, *, alpha: float = 0.05) -> ChannelReport:
    """The report on the channels of all customers.

    Raises:
        BadInput: if the source cannot be read.
    """
    used = used_channels(source)
    source.create("people", _PEOPLE, used=used)
    counted = [(int(str(n)), int(str(m)), float(mean or 0), float(v or 0)) for n, m, mean, v in source.rows(_BY_COUNT)]
    one = [row[1:] for row in counted if row[0] == 1]
    several = source.rows(
        "SELECT count(*), avg(revenue), coalesce(var_samp(revenue), 0) FROM people WHERE channels > 1"
    )
    naive = _difference(
        _side(several[0]), one[0] if one else (0, 0.0, 0.0), alpha, ("customers of several channels", "of one")
    )
    channels = [
        _row(str(name), "", [float(str(cell)) for cell in cells])
        for name, *cells in source.rows(_BY_CHANNEL, used=used)
    ]
    week = str(7 * 86_400_000_000)
    motives = [
        _row(str(name), str(motive), [float(str(n)), 0.0, float(str(orders)), float(str(revenue))])
        for name, motive, n, orders, revenue in source.rows(_BY_MOTIVE, stated=stated_motives(source), window=week)
    ]
    holdout = holdout_difference(source, alpha)
    return ChannelReport(
        report="channels",
        as_of=source.as_of,
        sentence=_sentence(counted, naive, holdout, source.currency),
        money=_money(naive, holdout),
        standing="observational",
        limits=_LIMITS,
        currency=source.currency,
        channels=channels,
        motives=motives,
        counts=[ChannelCount(channels=n, customers=m, revenue=mean) for n, m, mean, _ in counted],
        naive=naive,
        holdout=holdout,
    )


Side = tuple[int, float, float]
"""Customers, their mean revenue and its variance."""


def holdout_difference(source: EventSource, alpha: float) -> Effect | NotEstimable:
    """The mean revenue of admitted customers minus that of the holdout."""
    if source.log_dir is None:
        return NotEstimable("a table has no holdout")
    rows = source.once("holdout", lambda: source.rows(_HOLDOUT, decisions=source.log_rows("decisions")))
    sides = {bool(held_out): _side(cells) for held_out, *cells in rows}
    empty = (0, 0.0, 0.0)
    return _difference(sides.get(False, empty), sides.get(True, empty), alpha, ("customers let in", "of the holdout"))


def _side(cells: Sequence[Cell]) -> Side:
    count, mean, variance = cells
    return int(count or 0), float(mean or 0), float(variance or 0)


def _difference(one: Side, other: Side, alpha: float, who: tuple[str, str]) -> Effect | NotEstimable:
    """The difference of mean revenues with Welch's interval; degrees of freedom of the smaller side."""
    (n, mean, spread), (m, against, between) = one, other
    if min(n, m) < LEAST_OF_EACH:
        return NotEstimable(f"{n:,} {who[0]} and {m:,} {who[1]}; a difference needs {LEAST_OF_EACH} on each side")
    se = (spread / n + between / m) ** 0.5
    if se == 0:
        return NotEstimable("all of them have the same revenue")
    reach = critical_t(alpha, min(n, m) - 1) * se
    difference = mean - against
    return Effect(estimate=difference, low=difference - reach, high=difference + reach, se=se)


def _row(channel: str, motive: str, cells: list[float]) -> ChannelRow:
    customers, visits, orders, revenue = cells
    return ChannelRow(
        channel=channel,
        motive=motive,
        customers=int(customers),
        visits=int(visits),
        orders=int(orders),
        revenue=revenue,
    )


def _cells(effect: Effect | NotEstimable) -> list[ReportCell]:
    if isinstance(effect, NotEstimable):
        return [None, None, None, effect.not_estimable]
    return [effect.estimate, effect.low, effect.high, ""]


def _sentence(
    counted: list[tuple[int, int, float, float]],
    naive: Effect | NotEstimable,
    holdout: Effect | NotEstimable,
    currency: str,
) -> str:
    unit = f" {currency}" if currency else ""
    customers = sum(row[1] for row in counted)
    several = sum(row[1] for row in counted if row[0] > 1)
    if not customers:
        return "No customer was seen on a channel."
    text = f"{several:,} of {customers:,} customers used several channels"
    if isinstance(naive, Effect):
        text += f"; they spent {naive.estimate:+,.2f}{unit} each against those of one, which is not an effect"
    if isinstance(holdout, Effect):
        ends = f"{holdout.estimate:+,.2f}{unit} each ({holdout.low:+,.2f} to {holdout.high:+,.2f})"
        doubt = ", so whether they gain is open" if holdout.low <= 0 <= holdout.high else ""
        text += f"; customers let into experiments spent {ends} against the holdout{doubt}"
    return f"{text}."


def _money(naive: Effect | NotEstimable, holdout: Effect | NotEstimable) -> MoneyFigure | NotEstimable:
    if isinstance(holdout, Effect):
        what = "revenue per customer let into experiments, less the holdout's (causal)"
        return MoneyFigure(what=what, estimate=holdout.estimate, low=holdout.low, high=holdout.high)
    if isinstance(naive, NotEstimable):
        return naive
    what = "revenue per customer of several channels, less that of one (observational)"
    return MoneyFigure(what=what, estimate=naive.estimate, low=naive.low, high=naive.high)
