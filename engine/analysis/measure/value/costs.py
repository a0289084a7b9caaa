"""Cost to serve: customers' costs, from events that state a `cost`, and the value that remains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from engine.analysis.measure.columns import check_numbers
from engine.analysis.measure.model import MoneyFigure
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.measure.sources import EventSource
    from policies.batches import Floats

LEAST_CUSTOMERS: Final = 30
_OF_LOG = "SELECT customer, sum(cost) FROM {responses} WHERE cost IS NOT NULL GROUP BY customer"


class CostToServe(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of customers until now: per customer with its interval, per order, and as a share of their revenue.

    `net` is the value in the horizon less the cost of the orders expected in it, at today's cost per order. Its
    interval is that of the value, moved.
    """

    customers: int
    total: float
    per_customer: Effect
    per_order: float
    share: float | None
    net: MoneyFigure | NotEstimable


def read_costs(source: EventSource) -> dict[str, float]:
    """The cost of each customer: the property `cost` of a log's events, or the column `cost` of a table.

    Raises:
        BadInput: if a cost is no number.
    """
    if source.log_dir is not None:
        rows = source.rows(_OF_LOG)
    elif source.column("cost") is None or source.column("customer") is None:
        return {}
    else:
        check_numbers(source, "cost")
        customer = source.require("customer")["customer"]
        rows = source.engine.run(
            f"SELECT CAST({customer} AS VARCHAR), sum({source.number_sql('cost')}) FROM {source.table.sql} GROUP BY 1"  # nosec B608
        )
    return {str(name): float(cost) for name, cost in rows if cost is not None}


def measure_costs(
    costs: dict[str, float],
    names: Sequence[str],
    orders: Floats,
    spent: Floats,
    *,
    ahead: tuple[MoneyFigure | NotEstimable, MoneyFigure | NotEstimable],
) -> CostToServe | NotEstimable:
    """The cost to serve of the customers `names` (n,) with their orders and revenue until now (n,).

    `ahead` are the value and the orders expected in the horizon.
    """
    own = np.array([costs.get(name, 0.0) for name in names]) if costs else np.zeros(0)
    if not own.any():
        return NotEstimable("no event of these customers states a `cost`")
    if len(own) < LEAST_CUSTOMERS:
        return NotEstimable(f"{len(own)} customers; a cost per customer needs {LEAST_CUSTOMERS}")
    total, revenue, count = float(own.sum()), float(spent.sum()), float(orders.sum())
    mean, se = float(own.mean()), float(own.std(ddof=1) / len(own) ** 0.5)
    reach = critical_t(0.05, len(own) - 1) * se
    value, expected = ahead
    net: MoneyFigure | NotEstimable
    if isinstance(value, NotEstimable):
        net = value
    elif isinstance(expected, NotEstimable):
        net = expected
    else:
        cost = expected.estimate * total / count
        ends = [None if one is None else one - cost for one in (value.low, value.high)]
        net = MoneyFigure(
            what=f"{value.what}, less the cost to serve", estimate=value.estimate - cost, low=ends[0], high=ends[1]
        )
    return CostToServe(
        customers=len(own),
        total=total,
        per_customer=Effect(estimate=mean, low=mean - reach, high=mean + reach, se=se),
        per_order=total / count,
        share=total / revenue if revenue > 0 else None,
        net=net,
    )
