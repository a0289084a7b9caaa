"""Orders and refunds, matched by their id whichever comes first; money and points are net of both."""

from bisect import bisect_right
from typing import TypedDict

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Order, Profile

CENTS = 4


class OrderTotals(TypedDict, total=False):
    """The fields of a profile that follow from its orders."""

    orders: dict[str, Order]
    order_count: int
    revenue: float
    points: float
    earned: float
    tier: int
    first_order: float
    last_order: float


def net_revenue(order: Order) -> float:
    """What is left of an order's revenue."""
    return 0.0 if order.full else max(0.0, round(order.revenue - order.refunded, CENTS))


def is_counted(order: Order) -> bool:
    """Whether it was placed (a refund may have come first) and not wholly refunded."""
    return order.time > 0 and not order.full and (order.refunded < order.revenue or order.revenue == 0)


def earned_points(order: Order) -> float:
    """The points an order earns: its share of what is not refunded."""
    if order.revenue <= 0:
        return 0.0 if order.full else round(order.points, CENTS)
    return round(
        order.points * net_revenue(order) / order.revenue, CENTS
    )  # rounded here, sums do not hang on their order


def place_order(profile: Profile, key: str | None, told: Order, rules: ProfileRules) -> OrderTotals:
    """A purchase; under an order id that was told before, the newer word stands."""
    if key is None:
        change = _totals(profile, None, told, rules)
    else:
        held = profile.orders.get(key)
        if held is None:
            new = told
        else:
            word = max(held, told, key=lambda o: (o.time, o.revenue, o.points))
            new = Order(word.revenue, word.time, word.points, held.refunded, held.full)
        change = _totals(profile, held, new, rules)
        change["orders"] = _bounded(profile.orders | {key: new}, rules)
    change["first_order"] = min(profile.first_order or told.time, told.time)
    change["last_order"] = max(profile.last_order, told.time)
    return change


def refund_order(
    profile: Profile, key: str | None, amount: float | None, time: float, rules: ProfileRules
) -> OrderTotals:
    """A refund of `amount`, or of the whole order (None). Without an order id it lowers the revenue alone."""
    amount = None if amount is None else round(amount, CENTS)
    if key is None:
        return _add(profile, 0, -(amount or 0.0), -round((amount or 0.0) * rules.points_per_unit, CENTS), rules)
    held = profile.orders.get(key)
    before = held or Order(0.0, -time)  # a time below zero: the purchase is still to come
    new = Order(
        before.revenue,
        min(before.time, -time) if before.time < 0 else before.time,
        before.points,
        round(before.refunded + (amount or 0.0), CENTS),
        before.full or amount is None,
    )
    change = _totals(profile, held, new, rules)
    change["orders"] = _bounded(profile.orders | {key: new}, rules)
    return change


def award_points(profile: Profile, points: float, rules: ProfileRules) -> OrderTotals:
    """Points given or, below zero, spent; spending lowers no tier."""
    points = round(points, CENTS)
    change = _add(profile, 0, 0.0, points, rules)
    if points < 0:
        change["earned"], change["tier"] = profile.earned, profile.tier
    return change


def merge_orders(target: Profile, source: Profile, rules: ProfileRules) -> OrderTotals:
    """The orders of both; one that both hold counts once."""
    count = target.order_count + source.order_count
    revenue, points, gained = (
        target.revenue + source.revenue,
        target.points + source.points,
        target.earned + source.earned,
    )
    orders = dict(target.orders)
    for key, theirs in source.orders.items():
        ours = orders.get(key)
        if ours is None:
            orders[key] = theirs
            continue
        word = max(ours, theirs, key=lambda o: (o.time, o.revenue, o.points))
        both = Order(
            word.revenue,
            word.time if word.time > 0 else min(ours.time, theirs.time),
            word.points,
            round(ours.refunded + theirs.refunded, CENTS),
            full=ours.full or theirs.full,
        )
        orders[key] = both
        count += is_counted(both) - is_counted(ours) - is_counted(theirs)
        revenue += net_revenue(both) - net_revenue(ours) - net_revenue(theirs)
        points += earned_points(both) - earned_points(ours) - earned_points(theirs)
        gained += earned_points(both) - earned_points(ours) - earned_points(theirs)
    firsts = [t for t in (target.first_order, source.first_order) if t]
    return {
        "orders": _bounded(orders, rules),
        "order_count": count,
        "revenue": round(revenue, CENTS),
        "points": round(points, CENTS),
        "earned": round(gained, CENTS),
        "tier": bisect_right(rules.tiers, round(gained, CENTS)),
        "first_order": min(firsts, default=0.0),
        "last_order": max(target.last_order, source.last_order),
    }


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


def _bounded(orders: dict[str, Order], rules: ProfileRules) -> dict[str, Order]:
    if len(orders) <= rules.orders_limit:
        return orders
    oldest = min(orders, key=lambda key: abs(orders[key].time))
    return {key: order for key, order in orders.items() if key != oldest}
