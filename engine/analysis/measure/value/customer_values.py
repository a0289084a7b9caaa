"""Customers' histories of orders, from a log, a table of orders, or a summary with a row per customer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.measure.columns import check_numbers
from engine.analysis.measure.value.bg_nbd import OrderHistory
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.measure.sources import EventSource
    from policies.batches import Floats, Ints

# The first day's orders are the start of a customer; orders of one day are one, as in the model's own data.
_HISTORIES = """
WITH days AS (
    SELECT customer, time // 86400000000 AS day, sum(revenue) AS revenue, arg_min(channel, time) AS channel
    FROM {orders} WHERE is_order GROUP BY ALL
), starts AS (SELECT customer, min(day) AS first, arg_min(channel, day) AS channel FROM days GROUP BY ALL)
SELECT customer, any_value(starts.channel) AS channel, count(*) - 1 AS x, max(day) - any_value(first) AS t,
    {until} // 86400000000 - any_value(first) AS observed,
    coalesce(avg(revenue) FILTER (day > first AND revenue > 0), 0) AS worth,
    sum(revenue) AS spent
FROM days JOIN starts USING (customer) GROUP BY customer ORDER BY customer
"""


@dataclass(frozen=True, kw_only=True)
class CustomerValues:
    """Customers (n,) with order histories, mean worth, first channels, spending, and row number."""

    names: list[str]
    rows: Ints
    channels: list[str]
    history: OrderHistory
    worth: Floats
    spent: Floats


def read_customer_values(source: EventSource, unit: float, *, of_contracts: bool) -> CustomerValues:
    """The customers of a log or of tables, with times in `unit` days; empty for contracts without times.

    Raises:
        BadInput: if a column is missing or no number, or a customer's times contradict each other.
    """
    if _is_summary(source):
        return _read_summary(source)
    if of_contracts and source.column("time") is None:
        return _customer_values([], scale=1.0)
    return _read_orders(source, unit)


def _is_summary(source: EventSource) -> bool:
    return source.log_dir is None and source.column("frequency") is not None and source.column("recency") is not None


def _read_summary(source: EventSource) -> CustomerValues:
    """A table with one row per customer: repeat orders, recency and age in the model's unit, mean repeat worth.

    An empty worth is 0, as of a customer without a repeat order.
    """
    source.require("frequency", "recency", "age")
    check_numbers(source, "frequency", "recency", "age", filled=True)
    check_numbers(source, "monetary")
    numbers = ", ".join(source.number_sql(role) for role in ("frequency", "recency", "age"))
    sql = (
        f"SELECT {source.optional('customer', 'row_number() OVER ()')}, {source.optional('channel')}, "
        f"{numbers}, coalesce({source.number_sql('monetary', '0')}, 0) "
        f"FROM {source.table.sql}"  # nosec B608
    )
    return _customer_values([(*row, 0.0) for row in source.engine.run(sql)], scale=1.0)


def _read_orders(source: EventSource, unit: float) -> CustomerValues:
    until = source.last
    rows = source.rows(_HISTORIES, until=str(until)) if until is not None else []
    return _customer_values(rows, scale=unit)


def _customer_values(rows: Sequence[tuple[object, ...]], scale: float) -> CustomerValues:
    """The customers in number order, so that no figure depends on the order of rows."""
    numbers = np.array([row[2:] for row in rows], dtype=np.float64).reshape(-1, 5)
    order = np.lexsort(numbers.T[::-1])
    rows = [rows[at] for at in order.tolist()]
    x, t, observed, worth, spent = numbers[order].T
    if np.any((x < 0) | (t < 0) | (observed < t)):
        raise BadInput(
            "a customer's repeat orders or times are negative, or its recency is above its age; correct them"
        )
    history = OrderHistory(x=x, t=t / scale, observed=observed / scale, weight=np.ones(len(x)))
    return CustomerValues(
        names=[str(row[0]) for row in rows],
        rows=order,
        channels=["unknown" if row[1] is None else str(row[1]) for row in rows],
        history=history,
        worth=worth,
        spent=spent,
    )
