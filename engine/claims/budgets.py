"""The share of a budget that one showing claims: its period, and the limit of that period so far.

Each day, week or month of a budget is a pool of its own, `OFFER@2026-11-30/week` by the first day of the period in the
shop's time zone; a budget that several offers share has its own key in the place of the offer's. A showing counts in
the period in which it was decided, by the time in the decision's id. So every later event about the decision finds its
pool, however late it comes.
"""

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from engine.catalog.plan.limits import Budget
from engine.catalog.spec.limits.stock import BudgetPer
from engine.claims.claims import PoolShare
from engine.vocabulary import DAY

_ID_TIME = re.compile(r"([0-9a-f]{12})[0-9a-fprv]")
"""The milliseconds since 1970 at which a decision was made, then a digit or a mark: see `service/ids.py`."""
_POOL_LIFE = 400 * DAY
"""The seconds for which a pool is stored. A decision further from now than this was not made by this engine."""


def decided_at(decision_id: str, now: float) -> float:
    """The time of a decision (s since 1970), by its id; `now` for an id that the engine did not make.

    Such an id may come with any event. What looks like a time in it must not name a period of another century, whose
    budget nobody has spent.
    """
    at = id_time(decision_id)
    return now if at is None or abs(at - now) > _POOL_LIFE else at


def id_time(decision_id: str) -> float | None:
    """The time (s since 1970) that an id begins with, if it begins as the ids of this engine do."""
    found = _ID_TIME.match(decision_id)
    return int(found[1], 16) / 1000 if found else None


def budget_share(budget: Budget, zone: str, channel: str, at: float) -> PoolShare:
    """The share of a budget for a showing on a channel that was decided at `at` (s since 1970).

    Its periods begin in the time zone `zone`.
    """
    cost = budget.cost_on(channel)
    period, begins, ends = "", budget.begins, budget.ends
    if budget.per is not None:
        first, begins, ends = period_of(budget.per, at, zone)
        period = f"{first}/{budget.per}"
    return PoolShare(
        pool="budget",
        name=budget.pool,
        period=period,
        amount=cost,
        least=cost,
        limit=budget.amount,
        hold=budget.hold,
        begins=begins,
        ends=ends,
        is_even=budget.pace == "even",
        refunds=budget.refunds,
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
