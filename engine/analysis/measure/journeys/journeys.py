"""Journeys: moves between channels, points where journeys stop without an order, and times of peak demand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from engine.analysis.measure.columns import to_microseconds
from engine.analysis.measure.daily.customer_rows import CustomerTable, load_customer_rows
from engine.analysis.measure.daily.tables import short_gap_tables
from engine.analysis.measure.model import MeasureReport, MoneyFigure, Picture, PictureMark, ReportCell, ReportTable
from engine.analysis.measure.shares import ShareEstimate, wilson_share
from engine.analysis.stats.estimate import NotEstimable
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

LEAST_JOURNEYS: Final = 20
MOST_POINTS: Final = 30
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LIMITS = [
    "A journey is a customer's events until an order, or until a pause longer than the gap.",
    "A place where journeys stop need not be why: the money is what is at stake there, not what a change would bring.",
    "A customer without an identifier counts as a new one on each channel, so continuity is at least as shown.",
]
# A stretch ends with an order or the day; a journey is the stretches up to an order or a longer pause than the gap.
# An order may have several messages, `order_placed` and `order_completed` days later: only the first of them counts.
# The others are no events of the customer, so that their stretch ends with the event before, if there is one.
_JOURNEYS = """
WITH repeated AS (
    SELECT customer, order_row FROM {stretches} WHERE orders GROUP BY ALL HAVING count(*) > 1
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY customer, order_row ORDER BY time, first, event, finished) AS message
    FROM {stretches} SEMI JOIN repeated USING (customer, order_row)
), counted AS (
    SELECT * FROM {stretches} ANTI JOIN repeated USING (customer, order_row)
    UNION ALL BY NAME SELECT * EXCLUDE (message) FROM ranked WHERE message = 1
    UNION ALL BY NAME SELECT * EXCLUDE (message) REPLACE (
        false AS orders, 0.0 AS revenue, NULL AS order_row, event_before AS event, channel_before AS finished,
        time_before AS time
    ) FROM ranked WHERE message > 1 AND time_before IS NOT NULL
), begun AS (
    SELECT *, coalesce(lag(orders) OVER moves OR first - lag(time) OVER moves > {gap}, true) AS begins,
        coalesce(orders OR lead(first) OVER moves - time > {gap}, true) AS ends, lead(started) OVER moves AS later
    FROM counted WINDOW moves AS (PARTITION BY customer ORDER BY first, time)
)
SELECT customer, sum(CASE WHEN begins THEN 1 ELSE 0 END) OVER moves AS journey, first, time, event, started, finished,
    orders, revenue, order_row, channel_before, begins, CASE WHEN NOT ends THEN later END AS following, ends
FROM begun WINDOW moves AS (PARTITION BY customer ORDER BY first, time)
"""
_TRANSITIONS = """
SELECT channel, following, sum(n) FROM (
    SELECT channel, following, n FROM {found}
    UNION ALL SELECT finished, following, 1 FROM joined WHERE following IS NOT NULL
    UNION ALL SELECT channel_before, finished, 1 FROM joined WHERE orders AND channel_before IS NOT NULL
) GROUP BY ALL ORDER BY 3 DESC, 1, 2
"""
_ENDS = """
WITH journeys AS (
    SELECT customer, journey, arg_min(started, first) FILTER (begins) AS started,
        max(finished) FILTER (ends) AS finished, max(order_row) AS "row"
    FROM joined GROUP BY ALL
)
SELECT started, finished, count(*), count(*) FILTER (is_order), coalesce(sum(revenue) FILTER (is_order), 0)
FROM journeys LEFT JOIN {orders} USING (customer, "row") GROUP BY ALL ORDER BY 4 DESC, 3 DESC, 1, 2
"""
# A journey that is still open, whose gap is not over, has not stopped.
_STOPS = """
WITH stopped AS (
    SELECT event, finished AS channel, count(*) AS stopped FROM joined
    WHERE ends AND NOT orders AND time < {until} - {gap} GROUP BY ALL
), seen AS (SELECT event, coalesce(channel, 'unknown') AS channel, sum(n) AS n FROM {visits} GROUP BY ALL)
SELECT event, channel, stopped, n FROM stopped JOIN seen USING (event, channel) ORDER BY 3 DESC, 1, 2
"""
_DEMAND = """
SELECT coalesce(channel, 'unknown'), coalesce(place, ''), time // 3600000000, count(*)
FROM {orders} WHERE is_order GROUP BY ALL
"""
_DAY = 86_400_000_000


class ChannelMove(msgspec.Struct, frozen=True, kw_only=True):
    """Moves from one event to the next within a journey, by both channels."""

    channel: str
    following: str
    moves: int
    share: float


class ChannelEnds(msgspec.Struct, frozen=True, kw_only=True):
    """Journeys by first and last channel, with the orders that ended them."""

    started: str
    finished: str
    journeys: int
    orders: int
    revenue: float


class PainPoint(msgspec.Struct, frozen=True, kw_only=True):
    """An event on a channel after which journeys stopped without an order.

    `at_stake` is their number times the mean revenue of a journey that goes on.
    """

    event: str
    channel: str
    stopped: int
    share: ShareEstimate | None
    at_stake: float


class PeakTime(msgspec.Struct, frozen=True, kw_only=True):
    """The hour of the week with the most orders of a channel and place, and its share of them."""

    channel: str
    place: str
    orders: int
    weekday: str
    hour: int
    share: float


class JourneyReport(MeasureReport, frozen=True, kw_only=True):
    """The number of journeys, those that changed the channel, moves, ends, stops and peaks."""

    journeys: int
    continued: ShareEstimate | NotEstimable
    moves: list[ChannelMove]
    ends: list[ChannelEnds]
    stops: list[PainPoint]
    peaks: list[PeakTime]
    zone: str

    def tables(self) -> list[ReportTable]:
        """Pain points, where journeys began and ended, moves, and peak times."""
        stops: list[list[ReportCell]] = [
            [row.event, row.channel, row.stopped, None if row.share is None else row.share.estimate, row.at_stake]
            for row in self.stops
        ]
        ends: list[list[ReportCell]] = [list(msgspec.structs.astuple(row)) for row in self.ends]
        moves: list[list[ReportCell]] = [list(msgspec.structs.astuple(row)) for row in self.moves]
        peaks: list[list[ReportCell]] = [list(msgspec.structs.astuple(row)) for row in self.peaks]
        return [
            ReportTable(
                title="Where journeys stop, by money at stake",
                columns=["event", "channel", "stopped", "share of its events", "money at stake"],
                rows=stops,
                units={3: "share", 4: "money"},
            ),
            ReportTable(
                title="Began here, ended there",
                columns=["began on", "ended on", "journeys", "orders", "revenue"],
                rows=ends,
                units={4: "money"},
            ),
            ReportTable(
                title="Moves", columns=["from", "to", "moves", "share of moves from"], rows=moves, units={3: "share"}
            ),
            ReportTable(
                title="Peak times of orders",
                columns=["channel", "place", "orders", "weekday", "hour", "share of orders"],
                rows=peaks,
                units={5: "share"},
                note=f"Hours of {self.zone}.",
            ),
        ]

    def picture(self) -> Picture | None:
        """The money at stake where journeys stop."""
        marks = [PictureMark(name=f"{row.event} on {row.channel}", value=row.at_stake) for row in self.stops[:12]]
        title = "Money at stake where journeys stop"
        return Picture(shape="bars", title=title, marks=marks, unit="money") if marks else None


def measure_journeys(source: EventSource, *, gap_days: float = 7.0, zone: str = "UTC") -> JourneyReport:
    """The journeys of all customers.

    Raises:
        BadInput: if the source cannot be read, or there is no such time zone.
    """
    try:
        clock = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise BadInput(f"--zone {zone}: is not a time zone; give one such as Europe/Berlin") from None
    gap = to_microseconds("gap", gap_days)
    moves = _create_journeys(source, gap)
    ends = [
        ChannelEnds(
            started=str(row[0]),
            finished=str(row[1]),
            journeys=int(str(row[2])),
            orders=int(str(row[3])),
            revenue=float(row[4] or 0),
        )
        for row in source.rows(_ENDS)
    ]
    journeys, revenue = sum(row.journeys for row in ends), sum(row.revenue for row in ends)
    is_enough = journeys >= LEAST_JOURNEYS
    stops = _read_stops(source, str(gap), revenue / journeys) if is_enough else []
    orders = sum(row.orders for row in ends)
    crossed = wilson_share(sum(row.orders for row in ends if row.started != row.finished), orders)
    return JourneyReport(
        report="journeys",
        as_of=source.as_of,
        sentence=_sentence(journeys, crossed, stops),
        money=_money(stops, journeys),
        standing="observational",
        limits=_LIMITS,
        currency=source.currency,
        journeys=journeys,
        continued=NotEstimable("no journey ended with an order") if crossed is None or not is_enough else crossed,
        moves=_read_moves(source, moves),
        ends=ends,
        stops=stops,
        peaks=_read_peaks(source, clock),
        zone=zone,
    )


def _create_journeys(source: EventSource, gap: int) -> str:
    """Makes the table `joined`; the name of the table of moves within stretches.

    A gap of less than a day makes stretches and moves of its own.
    """
    sql = _JOURNEYS.replace("{gap}", str(gap))
    if gap >= _DAY:
        load_customer_rows(source, CustomerTable(label="journeys", reads=("stretches",), sql=sql), "joined")
        return source.fill("{moves}")
    rows = source.fill("(SELECT '' AS day, * FROM {events})")
    for name, short in short_gap_tables(str(gap)).items():
        source.engine.run(f"CREATE OR REPLACE TEMP TABLE short_{name} AS {short.replace('{rows}', rows)}")
    source.create("joined", sql.replace("{stretches}", "short_stretches"))
    return "short_moves"


def _read_moves(source: EventSource, found: str) -> list[ChannelMove]:
    rows = [(str(a), str(b), int(str(n))) for a, b, n in source.rows(_TRANSITIONS, found=found)]
    totals: dict[str, int] = {}
    for one, _, count in rows:
        totals[one] = totals.get(one, 0) + count
    return [ChannelMove(channel=a, following=b, moves=n, share=n / totals[a]) for a, b, n in rows]


def _read_stops(source: EventSource, gap: str, worth: float) -> list[PainPoint]:
    until = source.last
    rows = source.rows(_STOPS, until=str(until), gap=gap)
    found = [
        PainPoint(
            event=str(event),
            channel=str(channel),
            stopped=int(str(stopped)),
            share=wilson_share(float(stopped or 0), int(str(events))),
            at_stake=float(stopped or 0) * worth,
        )
        for event, channel, stopped, events in rows
    ]
    return found[:MOST_POINTS]


def _read_peaks(source: EventSource, zone: ZoneInfo) -> list[PeakTime]:
    """The busiest hour of the week of each channel and place; SQL counts UTC hours, and zones are applied here."""
    counts: dict[tuple[str, str], dict[tuple[int, int], int]] = {}
    for channel, place, hour, count in source.rows(_DEMAND):
        local = datetime.fromtimestamp(int(str(hour)) * 3600, UTC).astimezone(zone)
        hours = counts.setdefault((str(channel), str(place)), {})
        key = (local.weekday(), local.hour)
        hours[key] = hours.get(key, 0) + int(str(count))
    found = []
    for (channel, place), hours in counts.items():
        total = sum(hours.values())
        (day, hour), most = min(hours.items(), key=lambda item: (-item[1], item[0]))
        found.append(
            PeakTime(channel=channel, place=place, orders=total, weekday=DAYS[day], hour=hour, share=most / total)
        )
    return sorted(found, key=lambda row: (-row.orders, row.channel, row.place))[:MOST_POINTS]


def _sentence(journeys: int, crossed: ShareEstimate | None, stops: list[PainPoint]) -> str:
    if journeys < LEAST_JOURNEYS:
        return f"There are {journeys:,} journeys; a report needs {LEAST_JOURNEYS}."
    text = f"{journeys:,} journeys"
    if crossed is not None:
        text += f"; {crossed.estimate:.1%} of those that ended with an order ended on another channel than they began"
    if stops:
        text += f"; the most stop after {stops[0].event} on {stops[0].channel}"
    return f"{text}."


def _money(stops: list[PainPoint], journeys: int) -> MoneyFigure | NotEstimable:
    if not stops:
        return NotEstimable(f"of {journeys:,} journeys none stopped, or there are too few")
    what = f"revenue at stake where journeys stop after {stops[0].event} on {stops[0].channel}"
    return MoneyFigure(what=what, estimate=stops[0].at_stake)
