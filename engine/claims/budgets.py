"""The share of a budget that one showing claims: its period, and the limit of that period so far.

Each day, week or month of a budget is a pool of its own, `OFFER@2026-11-30/week` by the first day of the period in the
shop's time zone. A showing counts in the period in which it was decided, by the time in the decision's id. So every
later event about the decision finds its pool, however late it comes.
"""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from engine.catalog.plan.plan import Offer
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.limits.stock import BudgetPer, BudgetSpec
from engine.claims.claims import PoolShare

_ID_TIME = 12
"""Digits of a decision id that are the milliseconds since 1970 at which it was decided."""


def decided_at(decision_id: str, otherwise: float) -> float:
    """The time of a decision (s since 1970), by its id; `otherwise` for an id that the engine did not make."""
    try:
        return int(decision_id[:_ID_TIME], 16) / 1000 if len(decision_id) > _ID_TIME else otherwise
    except ValueError:
        return otherwise


def budget_share(offer: Offer, budget: BudgetSpec, channel: str, at: float) -> PoolShare:
    """The share of an offer's budget for a showing on a channel that was decided at `at` (s since 1970)."""
    cost = budget.cost_on(channel)
    period, begins, ends = "", offer.start, offer.end
    if budget.per is not None:
        first, begins, ends = period_of(budget.per, at, offer.limits.zone)
        period = f"{first}/{budget.per}"
    return PoolShare(
        pool="budget",
        name=offer.key,
        period=period,
        amount=cost,
        least=cost,
        limit=budget.amount,
        hold=seconds(budget.hold),
        begins=begins,
        ends=ends,
        is_even=budget.pace == "even",
        refunds=0.0 if budget.refunds is None else seconds(budget.refunds),
    )


def period_of(per: BudgetPer, at: float, zone: str) -> tuple[str, float, float]:
    """The first day of the period that contains `at`, its start, and the start of the next (s since 1970)."""
    place = ZoneInfo(zone)
    day = datetime.fromtimestamp(at, place).date()
    if per == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(days=7)
    elif per == "month":
        first = day.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    else:
        first, after = day, day + timedelta(days=1)
    begins, ends = (datetime(one.year, one.month, one.day, tzinfo=place).timestamp() for one in (first, after))
    return first.isoformat(), begins, ends
