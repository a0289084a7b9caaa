"""What must be claimed before a choice may be seen: caps, counters, and shares of stock and budget."""

from collections.abc import Iterable
from typing import NamedTuple

from engine.catalog.plan.limits import Cap as Limit
from engine.catalog.plan.plan import Moment, Offer, Plan
from engine.catalog.spec.fields import seconds
from engine.claims.claims import COUNTER_ENTRIES, CapCheck, Claim, PoolShare
from engine.decision.gates import cap_window_start
from engine.decision.moments import once_window_start
from engine.decision.offers import Choice


class ShowingContext(NamedTuple):
    """On which channel, by which clock, and when (s since 1970)."""

    channel: str
    zone: str
    now: float


def claim_id(decision_id: str, offer: str) -> str:
    """The id of what is claimed for an offer of a decision, which shows no offer twice."""
    return f"{decision_id}:{offer}"


def required_claim(plan: Plan, decision_id: str, placement: str, choice: Choice, where: ShowingContext) -> Claim | None:
    """What a choice needs to be claimed before it may be seen; None if nothing."""
    if choice.is_silent:
        return None
    limits = choice.offer.limits
    caps = [cap_check(cap, where) for cap in limits.caps.get(where.channel, ())]
    counters = list(limits.exposed.get(where.channel, ()))
    if choice.moment is not None:
        moments = plan.moments.get((where.channel, placement), ())
        for moment in moments:
            if moment.key == choice.moment:
                caps += moment_checks(moment, where, choice.moment_start)
    takes = pool_shares(choice.offer)
    if not (caps or counters or takes):
        return None
    return Claim(claim_id(decision_id, choice.offer.key), caps, counters, takes, entries_to_keep(plan, counters))


def entries_to_keep(plan: Plan, counters: Iterable[str]) -> int:
    """How many must be kept of what these count, for every rule that reads them."""
    return max((COUNTER_ENTRIES, *(plan.watched.get(counter, 0) for counter in counters)))


def cap_check(cap: Limit, where: ShowingContext) -> CapCheck:
    """A cap with the moment from which it counts."""
    return CapCheck(cap.counter, cap.count, cap_window_start(cap, where.now, where.zone))


def moment_checks(moment: Moment, where: ShowingContext, began: float) -> list[CapCheck]:
    """What keeps a moment that began then from coming a second time; nothing where it may."""
    return (
        [CapCheck(moment.counter, 1, once_window_start(moment, where.now, where.zone, began))] if moment.counter else []
    )


def pool_shares(offer: Offer) -> list[PoolShare]:
    """What one showing of an offer holds of its stock and its budget."""
    stock, budget = offer.limits.stock, offer.limits.budget
    takes = []
    if stock is not None:
        takes.append(PoolShare("stock", stock.sku, 1.0, stock.at_least, hold=seconds(stock.hold)))
    if budget is not None:
        hold = seconds(budget.hold)
        takes.append(PoolShare("budget", offer.key, budget.cost, budget.cost, limit=budget.amount, hold=hold))
    return takes
