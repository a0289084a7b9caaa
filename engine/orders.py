"""Orders and refunds: one event's statement of an order, and the result of all statements of one order.

An order is what carries one order id, however many messages report it; a purchase without an id is an order of its own.
The profile, the learner and the reports compute with these functions (the reports in SQL, see
`analysis.sources.orders`), so that an order is worth the same to each, in whatever order its messages arrive:

- Of several purchases under one id the one with the greatest (time, revenue) stands, of those with a revenue other
  than 0: a page that reports an order without its revenue takes nothing from what the server stated.
- Refunds of an order add up. A refund without an amount is of the whole order.
- What is left of an order is max(0, revenue - refunded), and nothing after a refund of the whole.
- A refund without an order id lowers the customer's revenue by its amount and undoes no order.
"""

from collections.abc import Mapping
from typing import Final

from engine.customer import Order

ORDER_ID_FIELDS: Final = ("order_id", "order")
"""The properties that may name an order; the first that an event has counts, null apart."""
AMOUNT_FIELDS: Final = ("amount", "revenue")
"""The properties that may state a refund's amount; the first that an event has counts, null apart."""
SPACES: Final = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters stripped from an order id: all that Python takes for space. SQL strips fewer unless given these."""
CENTS: Final = 4
"""Decimals to which sums of money are rounded, so that they do not depend on the order of their terms."""


def order_id(properties: Mapping[str, object]) -> str:
    """The order that a purchase or refund names; empty if it names none."""
    for field in ORDER_ID_FIELDS:
        named = properties.get(field)
        if named is not None:
            is_id = isinstance(named, str | int) and not isinstance(named, bool)
            return str(named).strip(SPACES) if is_id else ""
    return ""


def refund_amount(properties: Mapping[str, object]) -> float | None:
    """The amount of a refund, at least 0; None if it states none, which is a refund of the whole order."""
    for field in AMOUNT_FIELDS:
        stated = properties.get(field)
        if stated is not None:
            if isinstance(stated, bool) or not isinstance(stated, int | float):
                return None
            return abs(float(stated))
    return None


def statement_rank(time: float, revenue: float) -> tuple[bool, float, float]:
    """The sort key of an order's statements: that with the greatest stands."""
    return revenue != 0, time, revenue


def net_revenue(order: Order) -> float:
    """The revenue of an order after refunds."""
    return 0.0 if order.full else max(0.0, round(order.revenue - order.refunded, CENTS))


def is_counted(order: Order) -> bool:
    """Whether the order was placed (a refund may arrive first) and not wholly refunded."""
    return order.time > 0 and not order.full and (order.refunded < order.revenue or order.revenue == 0)
