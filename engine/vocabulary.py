"""Event names and their classes, names reserved in a context, and seconds per unit of time.

The profile, the claims, the learner, the log and the reports all read the meaning of an event here, so an order, a
refund or a complaint means the same to each. A literal event name stands in this module only.
"""

from collections.abc import Mapping
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 3_600.0
DAY: Final = 86_400.0

PURCHASE: Final = "purchase"
PURCHASES: Final = frozenset((PURCHASE, "order_completed", "order_placed"))
"""An order was placed: adds revenue and points, ends cart and step."""
REFUNDS: Final = frozenset(("refund", "order_refunded", "return"))
"""An order, or a part of it, was taken back: subtracts revenue, points and reward."""
POINTS_REDEEMED: Final = "points_redeemed"

CLICK: Final = "click"
EXPOSURE: Final = "exposure"
"""An event that only counters use: exposures come from decisions and `/v1/exposures`, never from `/v1/events`."""
REDEMPTION: Final = "redemption"
REFUSED: Final = "refused"
IGNORED: Final = "ignored"
ANSWERED: Final = "answered"
"""An event that only counters use; it stands for any of `ANSWERS`."""
ANSWERS: Final = PURCHASES | {CLICK, REDEMPTION}
"""The customer reacted to an offer: it was not ignored."""
CONFIRMS: Final = PURCHASES | {REDEMPTION}
"""The stock and budget held for a decision are spent."""
RELEASES: Final = frozenset((REFUSED, IGNORED))
"""The stock and budget held for a decision are released."""

COMPLAINTS: Final[Mapping[str, bool]] = {
    "complaint": True,
    "complaint_opened": True,
    "complaint_closed": False,
    "complaint_resolved": False,
}
"""Whether a complaint is open after the event."""
CONSENTS: Final[Mapping[str, bool]] = {
    "consent": True,
    "consent_given": True,
    "consent_granted": True,
    "consent_withdrawn": False,
    "consent_denied": False,
    "consent_revoked": False,
}
"""Whether the event grants the consent that it names."""
QUESTIONS: Final = ("nps", "csat", "ces")
"""Satisfaction questions: names of events, of properties and of values of `survey`."""

CART_UPDATED: Final = "cart_updated"
CART_CLEARED: Final = "cart_cleared"
CONVERSATION_CLOSED: Final = "conversation_closed"
MERGED: Final = "$merge"
"""The engine's own event in the log: two profiles were merged into one customer."""

EXPERIMENT_PAUSED: Final = "experiment_paused"
EXPERIMENT_RESUMED: Final = "experiment_resumed"
STOCK_LEVEL: Final = "stock_level"
"""The engine's own audit events: somebody used the kill switch, or set a stock. They belong to no customer."""

NOT_VISITS: Final = (
    REFUNDS | {"email_sent", IGNORED, "back_in_stock"} | {name for name, opens in COMPLAINTS.items() if not opens}
)
"""Events that the shop causes: they do not show that the customer was there."""

RESERVED_CONTEXT: Final = frozenset(("id", "channel", "hour", "weekday"))
"""Names that the engine sets in every decision's context; what a request sends under them is overwritten."""
