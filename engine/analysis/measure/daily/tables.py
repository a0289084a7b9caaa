"""The tables of partial statistics that reports are computed from: what each day of a log comes to.

Every table is SQL over rows `day, message_id, time, customer, event, decision_id, channel, revenue, properties`. So a
day of the log, a whole log up to a moment, and anyone's table give the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.analysis.measure.daily.blocks import ITEM_TABLES, DailyTable
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.sources.log import OFFER_PROPENSITY
from engine.vocabulary import MERGED, NOT_VISITS, PURCHASES, QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_RESPONSES = """
SELECT day, customer, time, decision_id, event, channel,
    CASE WHEN contains(properties, '"cost"') THEN TRY_CAST(properties ->> '$.cost' AS DOUBLE) END AS cost,
    CASE WHEN contains(properties, '"category"') THEN properties ->> '$.category' END AS category
FROM {rows} WHERE decision_id IS NOT NULL OR contains(properties, '"cost"') OR contains(properties, '"category"')
"""
# A stretch is a customer's events of a day up to an order or the day's end; readers join those of several days.
STRETCHES: Final = f"""
WITH seen AS (
    SELECT day, customer, time, event, coalesce(channel, 'unknown') AS channel, event IN ({_PLACED}) AS orders,
        coalesce(TRY_CAST(revenue AS DOUBLE), 0) AS revenue, message_id
    FROM {{rows}} WHERE event NOT IN ({_NOT_VISITS}) AND NOT starts_with(event, '$')
), begun AS (
    SELECT *, coalesce(lag(orders) OVER moves OR time - lag(time) OVER moves > {{gap}}, true) AS begins
    FROM seen WINDOW moves AS (PARTITION BY day, customer ORDER BY time, message_id)
), numbered AS (
    SELECT *, sum(CASE WHEN begins THEN 1 ELSE 0 END) OVER moves AS part
    FROM begun WINDOW moves AS (PARTITION BY day, customer ORDER BY time, message_id)
)
"""  # nosec B608
_STRETCHES = """
SELECT day, customer, min(time) AS first, max(time) AS time, arg_min(channel, (time, message_id)) AS started,
    arg_max(channel, (time, message_id)) AS finished, arg_max(event, (time, message_id)) AS event,
    bool_or(orders) AS orders, coalesce(sum(revenue) FILTER (orders), 0) AS revenue
FROM numbered GROUP BY day, customer, part
"""
_MOVES = """
SELECT day, channel, following, count(*) AS n FROM (
    SELECT day, channel, lead(channel) OVER steps AS following
    FROM numbered WINDOW steps AS (PARTITION BY day, customer, part ORDER BY time, message_id)
) WHERE following IS NOT NULL GROUP BY ALL
"""
_DEMAND = f"""
SELECT day, coalesce(channel, 'unknown') AS channel, coalesce(properties ->> '$.store', '') AS place,
    time // 3600000000 AS hour, count(*) AS n
FROM {{rows}} WHERE event IN ({_PLACED}) GROUP BY ALL
"""  # nosec B608
_MERGES = f"""
SELECT day, properties ->> '$.from' AS old, properties ->> '$.into' AS target, received FROM {{rows}}
WHERE event = {text_literal(MERGED)}
"""  # nosec B608
_DECISIONS = f"""
SELECT day, decision_id, time, customer, channel, kind, key, variant, reason, {OFFER_PROPENSITY} AS propensity,
    candidates, context, plan, policy, version, coalesce(position, 0) AS position
FROM {{rows}}
"""  # nosec B608
_EXPOSURES = "SELECT day, decision_id, time, key, customer, coalesce(position, 0) AS position FROM {rows}"
NO_GAP: Final = str(1 << 62)
EVENT_TABLES: Final[Mapping[str, str]] = {
    "visits": _VISITS,
    "motives": _MOTIVES,
    "feedback": _ANSWERS,
    "responses": _RESPONSES,
    "stretches": STRETCHES.replace("{gap}", NO_GAP) + _STRETCHES,
    "moves": STRETCHES.replace("{gap}", NO_GAP) + _MOVES,
    "demand": _DEMAND,
}
"""Tables of events: SQL with `{rows}`."""
WITHOUT_CUSTOMERS: Final = frozenset(("moves", "demand"))
"""Counts that name no customer, so a merge of two customers does not change them."""


def short_gap_tables(gap: str) -> Mapping[str, str]:
    """Stretches and moves for a gap of less than a day, which splits the events of a day too."""
    return {name: STRETCHES.replace("{gap}", gap) + sql for name, sql in (("stretches", _STRETCHES), ("moves", _MOVES))}


def daily_table(name: str, order_sql: str = "") -> DailyTable:
    """The partial statistics of this name; `order_sql` is that of orders over the rows of events."""
    if name in ITEM_TABLES:
        sql = _DECISIONS if name == "decisions" else _EXPOSURES
        return DailyTable(name=name, reads=(name,), sql=lambda sources: sql.replace("{rows}", sources[name]))
    if name == "merges":
        return DailyTable(
            name=name, reads=("events",), sql=lambda sources: _MERGES.replace("{rows}", sources["events"])
        )
    sql = order_sql if name == "order_rows" else EVENT_TABLES[name]
    rows = "(SELECT * FROM {rows} WHERE customer IS NOT NULL AND customer <> '')"
    sql = sql.replace("{rows}", rows)
    return DailyTable(name=name, reads=("events",), sql=lambda sources: sql.replace("{rows}", sources["events"]))
