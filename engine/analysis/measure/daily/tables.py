"""The tables of daily partial statistics from which reports are computed.

Every table is SQL over rows `day, message_id, time, customer, event, decision_id, channel, revenue, properties`. So a
day of the log, a whole log up to a moment, and anyone's table give the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.analysis.measure.daily.blocks import ITEM_TABLES, DailyTable
from engine.analysis.sources.duckdb_expressions import OFFER_PROPENSITY, text_literal
from engine.analysis.sources.orders import with_orders
from engine.analysis.values.json_fields import json_number_sql
from engine.vocabulary import MERGED, NOT_VISITS, PURCHASES, QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_GAP: Final = str(1 << 62)
_NOT_VISITS = ", ".join(text_literal(name) for name in sorted(NOT_VISITS))
_PLACED = ", ".join(text_literal(name) for name in sorted(PURCHASES))
_VISITS = """
SELECT day, customer, channel, event, count(*) AS n, min(time) AS first, max(time) AS time FROM {rows} GROUP BY ALL
"""
_MOTIVES = """
SELECT day, customer, channel, properties ->> '$.intent' AS motive, min(time) AS time, count(*) AS n
FROM {rows} WHERE contains(properties, '"intent"') GROUP BY ALL
"""
_ANSWERS = f"""
SELECT day, customer, time, channel, event, properties FROM {{rows}}
WHERE {" OR ".join(f"contains(properties, '{name}') OR starts_with(event, '{name}')" for name in QUESTIONS)}
"""  # nosec B608
_COST = json_number_sql("properties", "'/cost'")
_RESPONSES = f"""
SELECT day, customer, time, decision_id, event, channel,
    CASE WHEN contains(properties, '"cost"') THEN {_COST} END AS cost,
    CASE WHEN contains(properties, '"category"') THEN properties ->> '$.category' END AS category
FROM {{rows}} WHERE decision_id IS NOT NULL OR contains(properties, '"cost"') OR contains(properties, '"category"')
"""  # nosec B608
# A stretch is a customer's events of a day up to an order or the day's end; readers join those of several days.
# Each message of an order ends one, with the order's identity and the event before: which message was the first takes
# the days before.
# Events at one moment have the order of a hash, so that every reading of them gives the same stretches.
_SEEN = f"""
WITH seen AS (
    SELECT day, customer, time, event, coalesce(channel, 'unknown') AS channel, event IN ({_PLACED}) AS orders,
        coalesce(TRY_CAST(revenue AS DOUBLE), 0) AS revenue,
        CAST(time AS HUGEINT) * 1048576 + hash(event, channel) % 1048576 AS place
    FROM {{rows}} WHERE event NOT IN ({_NOT_VISITS}) AND NOT starts_with(event, '$')
)
"""  # nosec B608
# Orders are read apart, so that the properties of other events are not.
_SEEN_WITH_ORDERS = f"""
WITH seen AS (
    SELECT day, customer, time, event, coalesce(channel, 'unknown') AS channel, false AS orders,
        CAST(0 AS DOUBLE) AS revenue, CAST(NULL AS VARCHAR) AS order_row,
        CAST(time AS HUGEINT) * 1048576 + hash(event, channel) % 1048576 AS place
    FROM {{rows}} WHERE event NOT IN ({_NOT_VISITS}, {_PLACED}) AND NOT starts_with(event, '$')
    UNION ALL SELECT day, customer, time, event, coalesce(channel, 'unknown'), true,
        coalesce(TRY_CAST(revenue AS DOUBLE), 0), "row",
        CAST(time AS HUGEINT) * 1048576 + hash(event, channel) % 1048576
    FROM {with_orders(f"(FROM {{rows}} WHERE event IN ({_PLACED}))")}
)
"""  # nosec B608
_ENDS = """
    min(time) AS first, max(time) AS time, arg_min(channel, place) AS started, arg_max(channel, place) AS finished,
    arg_max(event, place) AS event
"""
_NUMBERED = """
, begun AS (
    SELECT *, coalesce(lag(orders) OVER moves OR time - lag(time) OVER moves > {gap}, true) AS begins
    FROM {found} WINDOW moves AS (PARTITION BY day, customer ORDER BY place)
), numbered AS (
    SELECT *, sum(CASE WHEN begins THEN 1 ELSE 0 END) OVER moves AS part
    FROM begun WINDOW moves AS (PARTITION BY day, customer ORDER BY place)
)
"""
_OF_PARTS = f"""
SELECT day, customer, {_ENDS}, bool_or(orders) AS orders, coalesce(sum(revenue) FILTER (orders), 0) AS revenue,
    max(order_row) AS order_row, arg_max(event, place) FILTER (NOT orders) AS event_before,
    arg_max(channel, place) FILTER (NOT orders) AS channel_before, max(time) FILTER (NOT orders) AS time_before
FROM numbered GROUP BY day, customer, part
"""  # nosec B608
# Moves to an order are those of its stretch, as it may be a later message.
_MOVES_OF_PARTS = """
SELECT day, channel, following, count(*) AS n FROM (
    SELECT day, channel, CASE WHEN NOT lead(orders) OVER steps THEN lead(channel) OVER steps END AS following
    FROM numbered WINDOW steps AS (PARTITION BY day, customer, part ORDER BY place)
) WHERE following IS NOT NULL GROUP BY ALL
"""
# Most customers order nothing on most days: such a day is one stretch, which needs no sorting of its events.
_STRETCHES = (
    _SEEN_WITH_ORDERS
    + ", ordered AS (SELECT DISTINCT day, customer FROM seen WHERE orders)"  # nosec B608 (statements consist of constants)
    + _NUMBERED.format(gap=_NO_GAP, found="seen SEMI JOIN ordered USING (day, customer)")
    + f"""
SELECT day, customer, {_ENDS}, false AS orders, CAST(0 AS DOUBLE) AS revenue, NULL AS order_row,
    NULL AS event_before, NULL AS channel_before, NULL AS time_before
FROM seen GROUP BY day, customer HAVING NOT bool_or(orders)
UNION ALL {_OF_PARTS}
"""  # nosec B608
)
# A day without an order on a single channel has moves from that channel to itself only.
_MOVES = (
    _SEEN  # nosec B608 (statements consist of constants)
    + """
, days AS (
    SELECT day, customer, min(channel) AS channel, count(*) AS n,
        bool_or(orders) OR min(channel) <> max(channel) AS is_mixed
    FROM seen GROUP BY ALL
), steps AS (
    SELECT day, channel,
        CASE WHEN NOT orders AND NOT lag(orders) OVER moves THEN lag(channel) OVER moves END AS before
    FROM seen SEMI JOIN (SELECT day, customer FROM days WHERE is_mixed) USING (day, customer)
    WINDOW moves AS (PARTITION BY day, customer ORDER BY place)
)
SELECT day, channel, following, CAST(sum(n) AS BIGINT) AS n FROM (
    SELECT day, channel, channel AS following, n - 1 AS n FROM days WHERE NOT is_mixed AND n > 1
    UNION ALL SELECT day, before, channel, 1 FROM steps WHERE before IS NOT NULL
) GROUP BY ALL
"""
)
_MERGES = f"""
SELECT day, properties ->> '$.from' AS old, properties ->> '$.into' AS target, received FROM {{rows}}
WHERE event = {text_literal(MERGED)}
"""  # nosec B608
_DECISIONS = f"""
SELECT day, decision_id, time, customer, device, channel, kind, key, variant, reason, {OFFER_PROPENSITY} AS propensity,
    candidates, context, plan, policy, crossover, version, coalesce(position, 0) AS position
FROM {{rows}}
"""  # nosec B608
_EXPOSURES = "SELECT day, decision_id, time, key, customer, coalesce(position, 0) AS position FROM {rows}"
EVENT_TABLES: Final[Mapping[str, str]] = {
    "visits": _VISITS,
    "motives": _MOTIVES,
    "feedback": _ANSWERS,
    "responses": _RESPONSES,
    "stretches": _STRETCHES,
    "moves": _MOVES,
}
"""Tables of events: SQL with `{rows}`."""
ORDERED: Final = frozenset(("visits", "motives", "stretches", "moves"))
"""Tables of days on which events happened, of one person together (see `daily.ordered`)."""


def short_gap_tables(gap: str) -> Mapping[str, str]:
    """The stretches and moves for a gap of less than a day, which also splits events within a day."""
    parts = _SEEN_WITH_ORDERS + _NUMBERED.format(gap=gap, found="seen")
    return {"stretches": parts + _OF_PARTS, "moves": parts + _MOVES_OF_PARTS}


def daily_table(name: str, order_sql: str = "") -> DailyTable:
    """The partial statistics with this name; `order_sql` is the SQL of orders over event rows."""
    if name in ITEM_TABLES:
        sql = _DECISIONS if name == "decisions" else _EXPOSURES
        return DailyTable(name=name, reads=(name,), sql=lambda sources: sql.replace("{rows}", sources[name]))
    if name == "merges":
        return DailyTable(
            name=name, reads=("events",), sql=lambda sources: _MERGES.replace("{rows}", sources["events"])
        )
    sql = EVENT_TABLES.get(name, order_sql)
    rows = "(SELECT * FROM {rows} WHERE customer IS NOT NULL AND customer <> '')"
    sql = sql.replace("{rows}", rows)
    return DailyTable(name=name, reads=("events",), sql=lambda sources: sql.replace("{rows}", sources["events"]))
