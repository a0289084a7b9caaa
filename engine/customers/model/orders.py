"""Orders and refunds, matched by order id in whatever order they arrive; totals are net of refunds.

Invariants:
- The totals of a profile (`order_count`, `revenue`, `points`, `earned`, `tier`) equal the sums over all its orders.
- An order id counts once per customer, also after a merge of two profiles that both hold it, within `return_period`:
  these functions see all orders, and `archive` splits off what the profile does not store.
- Amounts are rounded to `CENTS` digits after every step, so a sum does not depend on the order of its parts.

States of an order: *refund only* (a refund arrived first; `time` is below zero) -> *placed* -> *partly refunded* ->
*refunded* (`full`, or `refunded` reaches `revenue`). Only placed and partly refunded orders count.
"""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final, TypedDict

from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Order, Profile, Scalar
from engine.orders import CENTS, is_counted, net_revenue, statement_rank
from engine.traits.rules import facts_order


class OrderTotals(TypedDict, total=False):
    """The fields of a profile that are computed from its orders."""

    orders: dict[str, Order]
    order_count: int
    revenue: float
    points: float
    earned: float
    tier: int
    first_order: float
    last_order: float
    order_facts: dict[str, dict[str, Scalar]]


ORDER_FIELDS: Final = tuple(OrderTotals.__annotations__)


def earned_points(order: Order) -> float:
    """Returns the points that an order earns, in proportion to the revenue that is not refunded."""
    if order.revenue <= 0:
        return 0.0 if order.full else round(order.points, CENTS)
    # Rounding each order keeps sums independent of the order of their parts.
    return round(order.points * net_revenue(order) / order.revenue, CENTS)


def place_order(
    profile: Profile, key: str | None, order: Order, rules: ProfileRules, facts: Mapping[str, Scalar] | None = None
) -> OrderTotals:
    """Adds a purchase and the facts that traits read. A newer one with the same order id replaces it."""
    if key is None:
        change = _totals(profile, None, order, rules)
    else:
        held = profile.orders.get(key)
        if held is None:
            new = order
        else:
            newest = max(held, order, key=lambda o: (*statement_rank(o.time, o.revenue), o.points))
            new = replace(newest, refunded=held.refunded, full=held.full)
        change = _totals(profile, held, new, rules)
        change["orders"] = profile.orders | {key: new}
        stated = profile.order_facts.get(key, {})
        stands = _newer_facts(held, stated, order, dict(facts or {}))
        if stands != stated:
            others = {one: known for one, known in profile.order_facts.items() if one != key}
            change["order_facts"] = others | {key: stands} if stands else others
    change["first_order"] = min(profile.first_order or order.time, order.time)
    change["last_order"] = max(profile.last_order, order.time)
    return change


def refund_order(
    profile: Profile, key: str | None, amount: float | None, time: float, rules: ProfileRules
) -> OrderTotals:
    """Subtracts a refund of `amount`, or of the whole order (None). Without an order id it only lowers the totals."""
    amount = None if amount is None else round(amount, CENTS)
    if key is None:
        return _add(profile, 0, -(amount or 0.0), -round((amount or 0.0) * rules.points_per_unit, CENTS), rules)
    held = profile.orders.get(key)
    before = held or Order(0.0, -time)  # a time below zero marks a refund whose purchase has not arrived
    new = replace(
        before,
        time=min(before.time, -time) if before.time < 0 else before.time,
        refunded=round(before.refunded + (amount or 0.0), CENTS),
        full=before.full or amount is None,
    )
    change = _totals(profile, held, new, rules)
    change["orders"] = profile.orders | {key: new}
    return change


def award_points(profile: Profile, points: float, rules: ProfileRules) -> OrderTotals:
    """Adds points or, below zero, subtracts spent ones; spending points does not lower the tier."""
    points = round(points, CENTS)
    change = _add(profile, 0, 0.0, points, rules)
    if points < 0:
        change["earned"], change["tier"] = profile.earned, profile.tier
    return change


def merge_orders(target: Profile, source: Profile, rules: ProfileRules) -> OrderTotals:
    """Returns the orders and totals of a merged customer; an order that both profiles hold counts once."""
    count = target.order_count + source.order_count
    revenue, points, gained = (
        target.revenue + source.revenue,
        target.points + source.points,
        target.earned + source.earned,
    )
    orders = dict(target.orders)
    facts = dict(target.order_facts)
    for key, theirs in source.orders.items():
        ours = orders.get(key)
        facts[key] = _newer_facts(ours, facts.get(key, {}), theirs, source.order_facts.get(key, {}))
        if ours is None:
            orders[key] = theirs
            continue
        newest = max(ours, theirs, key=lambda o: (*statement_rank(o.time, o.revenue), o.points))
        both = Order(
            revenue=newest.revenue,
            time=newest.time if newest.time > 0 else min(ours.time, theirs.time),
            points=newest.points,
            refunded=round(ours.refunded + theirs.refunded, CENTS),
            full=ours.full or theirs.full,
        )
        orders[key] = both
        count += is_counted(both) - is_counted(ours) - is_counted(theirs)
        revenue += net_revenue(both) - net_revenue(ours) - net_revenue(theirs)
        points += earned_points(both) - earned_points(ours) - earned_points(theirs)
        gained += earned_points(both) - earned_points(ours) - earned_points(theirs)
    firsts = [t for t in (target.first_order, source.first_order) if t]
    return {
        "orders": orders,
        "order_count": count,
        "revenue": round(revenue, CENTS),
        "points": round(points, CENTS),
        "earned": round(gained, CENTS),
        "tier": bisect_right(rules.tiers, round(gained, CENTS)),
        "first_order": min(firsts, default=0.0),
        "last_order": max(target.last_order, source.last_order),
        "order_facts": {key: known for key, known in facts.items() if known},
    }


def _newer_facts(
    held: Order | None, stated: dict[str, Scalar], order: Order, facts: dict[str, Scalar]
) -> dict[str, Scalar]:
    """The facts of the newer statement of an order; `stated` are those of the stored one."""
    if held is None:
        return facts
    new, old = statement_rank(order.time, order.revenue), statement_rank(held.time, held.revenue)
    if new > old:
        return facts
    if new < old:
        return stated
    return max(stated, facts, key=facts_order)


def _totals(profile: Profile, old: Order | None, new: Order, rules: ProfileRules) -> OrderTotals:
    if old is None:
        return _add(profile, int(is_counted(new)), net_revenue(new), earned_points(new), rules)
    return _add(
        profile,
        is_counted(new) - is_counted(old),
        net_revenue(new) - net_revenue(old),
        earned_points(new) - earned_points(old),
        rules,
    )


def _add(profile: Profile, count: int, revenue: float, points: float, rules: ProfileRules) -> OrderTotals:
    gained = round(profile.earned + points, CENTS)
    return {
        "order_count": profile.order_count + count,
        "revenue": round(profile.revenue + revenue, CENTS),
        "points": round(profile.points + points, CENTS),
        "earned": gained,
        "tier": bisect_right(rules.tiers, gained),
    }
