"""Finds customers who passed all steps of a funnel, in order and in time, over the log's events.

Each event of a step is given the latest first step from which it can be reached in order. A customer has passed if an
event of the last step has such a start, not longer ago than the metric says. So of a customer's starts the best
counts, and one pass over the events finds it, however many there are.

Events of the same moment, as a batch without times has them, count in the order of the steps. Two steps with the same
event need two events, the second later. An order that was wholly refunded within the window is no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.orders import EventSum
from engine.vocabulary import PURCHASES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import ibis.expr.types as ir


@dataclass(frozen=True, kw_only=True)
class FunnelValue:
    """One funnel: its name, the events of each of its `steps`, and each step's names of `events`.

    All steps lie `within` so many seconds, if it is given. `refunds` are the events that take orders back, None where
    no step is an order.
    """

    name: str
    steps: Sequence[ir.BooleanValue]
    events: Sequence[Collection[str]]
    within: float | None
    refunds: ir.BooleanValue | None


def passed_members(events: ir.Table, funnel: FunnelValue) -> ir.Table:
    """The members that passed all steps: `unit, customer`, and 1.0 under the funnel's name.

    `events` has `unit, customer, row, event, at` (microseconds) and what `EventSum` reads.
    """
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    flags = {f"is_{at}": taken.fill_null(False) for at, taken in enumerate(funnel.steps)}
    rows = events.mutate(**flags)
    if funnel.refunds is not None:
        rows = rows.anti_join(_refunded_orders(events, funnel), ["unit", "customer", "row"])
    taken = rows["is_0"]
    for at in range(1, len(funnel.steps)):
        taken = taken | rows[f"is_{at}"]
    rows = rows.filter(taken).select("unit", "customer", "at", *flags)
    rows = rows.mutate(start_0=rows["is_0"].ifelse(rows["at"], None))
    seen: set[str] = set()
    for at, (before, own) in enumerate(pairwise(funnel.events), 1):
        seen |= set(before)
        last = ibis.preceding(1) if seen & set(own) else ibis.preceding(0)  # no event is two steps
        earlier = ibis.window(group_by=["unit", "customer"], order_by="at", range=(None, last))
        start = rows[f"start_{at - 1}"].max().over(earlier)
        rows = rows.mutate(**{f"start_{at}": rows[f"is_{at}"].ifelse(start, None)})
    start = rows[f"start_{len(funnel.steps) - 1}"]
    passed = start.notnull()
    if funnel.within is not None:
        passed = passed & (rows["at"] - start <= int(funnel.within * SECOND))
    return rows.filter(passed).select("unit", "customer", **{funnel.name: ibis.literal(1.0)}).distinct()


def _refunded_orders(events: ir.Table, funnel: FunnelValue) -> ir.Table:
    """The `unit, customer, row` of orders that were placed and wholly refunded within the window."""
    taken = funnel.steps[0]
    for step in funnel.steps[1:]:
        taken = taken | step
    is_order = taken & events["event"].isin(sorted(PURCHASES))
    order = EventSum(name="order", adds="one", value=None, taken=is_order, refunds=funnel.refunds)
    rows = events.group_by("unit", "customer", "row").aggregate(**order.per_order(events))
    return rows.filter(rows["order_v"].notnull() & ~order.is_counted(rows)).select("unit", "customer", "row")
