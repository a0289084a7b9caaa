"""Choices: drawn and exposed decisions, each with its propensity and the customer's later orders.

A policy drew them, or a hold-out did between a moment's offer and silence.

The table `choices` has a row per choice, of a list one per item: `decision_id, key, position, channel, customer, offer,
propensity, candidates, time, context, fold, stage, orders, revenue`. Orders and revenue are those of the window after
it, on any channel; choices whose window is not over are left out. `stage` is the journey stage before the choice, as
far as orders say it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.analysis.measure.columns import to_microseconds
from engine.analysis.measure.daily.customer_rows import CustomerTable, load_customer_rows
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.vocabulary import SILENCE

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource
    from engine.traits.stages import StageRules

PLACED: Final = """
SELECT customer, time, sum(CASE WHEN is_order THEN 1 ELSE 0 END) OVER upto AS orders,
    sum(revenue) OVER upto AS revenue, max(CASE WHEN is_order THEN time END) OVER upto AS last_order
FROM {orders} WINDOW upto AS (PARTITION BY customer ORDER BY time RANGE UNBOUNDED PRECEDING)
"""
"""The orders of each customer up to each order."""
# What came before and after is found by number: sorting candidates and contexts with it would take twice as long.
_CHOICES = """
WITH seen AS (SELECT decision_id, key, position, min(time) AS time FROM {exposures} GROUP BY ALL),
shown AS MATERIALIZED (
    SELECT row_number() OVER () AS number, decided.decision_id, decided.key, decided.position,
        coalesce(channel, 'unknown') AS channel, customer, variant AS offer, propensity,
        list_sort(list_distinct(list_append(candidates, variant))) AS candidates, context, seen.time
    FROM {decisions} AS decided JOIN seen USING (decision_id, key, position)
    WHERE kind = 'offer' AND (policy IS NOT NULL OR list_contains(candidates, {silence})) AND variant IS NOT NULL
        AND customer <> '' AND propensity > 0
), placed AS MATERIALIZED ({placed}), before AS (
    SELECT number, shown.customer, shown.time, coalesce(placed.orders, 0) AS orders_before,
        coalesce(placed.revenue, 0) AS revenue_before, last_order
    FROM (SELECT number, customer, time FROM shown) AS shown
    ASOF LEFT JOIN placed ON shown.customer = placed.customer AND shown.time >= placed.time
), after AS (
    SELECT number, {stage} AS stage, coalesce(placed.orders, 0) - orders_before AS orders,
        coalesce(placed.revenue, 0) - revenue_before AS revenue
    FROM before ASOF LEFT JOIN placed
        ON before.customer = placed.customer AND before.time + {window} >= placed.time
)
SELECT shown.* EXCLUDE (number), after.* EXCLUDE (number)
FROM shown JOIN after USING (number) WHERE len(candidates) > 1
"""
_RIPE = "SELECT *, hash(customer) % 2 AS fold FROM {rows} WHERE time <= "


def stage_sql(stages: StageRules) -> str:
    """SQL of the stage of a row `before`, from `time`, `orders_before` and `last_order`, as `customer.derive_stage`."""
    return (
        "CASE WHEN before.orders_before <= 0 THEN 'new' "
        f"WHEN before.time - before.last_order > {int(stages.lapsed_after * 1_000_000)} THEN 'lapsed' "
        f"WHEN before.orders_before >= {int(stages.loyal_orders)} THEN 'loyal' ELSE 'customer' END"
    )


def create_choices(source: EventSource, window_days: float) -> bool:
    """Creates the table `choices` from a log; returns whether the log has any event.

    Raises:
        BadInput: if the window is no number of days.
    """
    until = source.last
    if until is None:
        return False
    window = str(to_microseconds("outcome-window", window_days))
    if source.engine.made.get("choices") == window:
        return True
    sql = _CHOICES
    values = {"placed": PLACED, "window": window, "silence": text_literal(SILENCE), "stage": stage_sql(source.stages)}
    for name, value in values.items():
        sql = sql.replace(f"{{{name}}}", value)
    table = CustomerTable(label="choices", reads=("decisions", "exposures", "orders"), sql=sql)
    load_customer_rows(source, table, "choices", f"{_RIPE}{until} - {window}")
    source.engine.made["choices"] = window
    return True
