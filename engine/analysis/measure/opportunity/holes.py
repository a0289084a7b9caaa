"""Coverage holes by value: decisions without an offer, and the customers' later revenue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.columns import to_microseconds
from engine.analysis.measure.journeys.choices import PLACED, stage_sql
from engine.analysis.measure.opportunity.cells import MONTH
from engine.analysis.measure.shares import ShareEstimate, wilson_share

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

MOST_HOLES: Final = 40
# A limit that closed a decision (`deferred`, `dropped`, `shown`) or an open breaker is no gap in the offers.
_HOLES = """
WITH placed AS ({placed}), decided AS (
    SELECT customer, time, key, coalesce(channel, 'unknown') AS channel, {segment} AS segment,
        reason = 'fallback' OR (variant IS NULL AND reason IN ('policy', 'moment')) AS is_empty
    FROM {decisions}
    WHERE kind = 'offer' AND customer <> '' AND reason IN ('policy', 'moment', 'fallback') AND time <= {until}
), before AS (
    SELECT decided.*, coalesce(placed.orders, 0) AS orders_before, coalesce(placed.revenue, 0) AS revenue_before,
        last_order
    FROM decided ASOF LEFT JOIN placed ON decided.customer = placed.customer AND decided.time >= placed.time
), after AS (
    SELECT before.*, {stage} AS stage,
        before.time <= {until} - {window} AS is_ripe, coalesce(placed.revenue, 0) - revenue_before AS spent
    FROM before ASOF LEFT JOIN placed
        ON before.customer = placed.customer AND before.time + {window} >= placed.time
)
SELECT segment, stage, channel, key, count(*), count(*) FILTER (is_empty),
    count(DISTINCT customer) FILTER (is_empty), avg(spent) FILTER (is_empty AND is_ripe)
FROM after GROUP BY ALL HAVING count(*) FILTER (is_empty) > 0 ORDER BY 1, 2, 3, 4
"""


class CoverageHole(msgspec.Struct, frozen=True, kw_only=True):
    """A segment in a journey stage, on a channel's placement, whose decisions found only the fallback or nothing.

    `empty` is the share of its decisions that showed the fallback or nothing. `spent` is the mean revenue in the window
    after such a decision, None where no window is over; `at_stake` is that times the empty decisions of a month.
    """

    segment: str
    stage: str
    channel: str
    placement: str
    decisions: int
    customers: int
    empty: ShareEstimate
    spent: float | None
    at_stake: float | None


def find_holes(source: EventSource, *, segment: str, days: float, window_days: float) -> list[CoverageHole]:
    """The holes of a log, by revenue at stake in descending order.

    Args:
        source: of a log.
        segment: SQL of the segment of a decision.
        days: the span of the decisions.
        window_days: days after a decision whose revenue counts.
    """
    until = source.last
    if until is None:
        return []
    rows = source.rows(
        _HOLES,
        decisions=source.log_rows("decisions"),
        placed=source.fill(PLACED),
        segment=segment,
        stage=stage_sql(source.stages),
        window=str(to_microseconds("outcome-window", window_days)),
        until=str(until),
    )
    found = []
    for name, stage, channel, key, decisions, empty, customers, spent in rows:
        share = wilson_share(float(empty or 0), int(str(decisions)))
        if share is None:
            continue
        found.append(
            CoverageHole(
                segment=str(name),
                stage=str(stage),
                channel=str(channel),
                placement=str(key),
                decisions=int(str(decisions)),
                customers=int(str(customers)),
                empty=share,
                spent=None if spent is None else float(spent),
                at_stake=None if spent is None or days < 1 else float(spent) * float(empty or 0) / days * MONTH,
            )
        )
    return sorted(found, key=lambda one: -(one.at_stake or 0.0))[:MOST_HOLES]
