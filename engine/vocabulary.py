"""Event names and their classes, reserved context names, names of list items, and seconds per unit of time.

The profile, the claims, the learner, the log and the reports all read the meaning of an event here, so an order, a
refund or a complaint means the same to each. A literal event name stands in this module only.
"""

from collections.abc import Mapping
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 3_600.0
DAY: Final = 86_400.0
VISIT_GAP: Final = 1_800.0
"""Seconds without an event after which the next one begins another visit."""

PURCHASE: Final = "purchase"
PURCHASES: Final = frozenset((PURCHASE, "order_completed", "order_placed"))
"""An order was placed: adds revenue and points, ends cart and step."""
REFUNDS: Final = frozenset(("refund", "order_refunded", "order_cancelled", "order_canceled", "return"))
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
"""Whether the event opens a complaint, or resolves one."""
COMPLAINT_ID_FIELDS: Final = ("complaint_id", "case_id", "ticket_id")
"""Properties that name the complaint of such an event; the first that is given counts."""
CONSENT_GIVEN: Final = "consent_given"
CONSENT_WITHDRAWN: Final = "consent_withdrawn"
CONSENTS: Final[Mapping[str, bool]] = {
    "consent": True,
    CONSENT_GIVEN: True,
    "consent_granted": True,
    CONSENT_WITHDRAWN: False,
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

MEANINGFUL: Final = frozenset(
    (
        *(*PURCHASES, *REFUNDS, *COMPLAINTS, *CONSENTS, *QUESTIONS),
        *(POINTS_REDEEMED, CLICK, REDEMPTION, REFUSED, IGNORED, CART_UPDATED, CART_CLEARED, CONVERSATION_CLOSED),
    )
)
"""The events that the engine reads something from; any other name is the shop's own, for metrics and moments."""
MEANT_EVENTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("order", "sale", "transaction"), PURCHASE),
    **dict.fromkeys(("ordercreated", "ordersubmitted"), "order_placed"),
    **dict.fromkeys(("orderpaid", "checkoutcompleted", "purchasecompleted"), "order_completed"),
    **dict.fromkeys(("refunded", "refundissued"), "refund"),
    **dict.fromkeys(("returned", "orderreturned"), "return"),
    "clicked": CLICK,
    "redeemed": REDEMPTION,
}
"""Names of other systems in small letters and digits, with the name that has this meaning here."""

EXPERIMENT_PAUSED: Final = "experiment_paused"
EXPERIMENT_RESUMED: Final = "experiment_resumed"
RAMP_MOVED: Final = "ramp_moved"
STOCK_LEVEL: Final = "stock_level"
POLICY_ROLLED_BACK: Final = "policy_rolled_back"
BREAKER_CLOSED: Final = "breaker_closed"
CUSTOMER_ERASED: Final = "customer_erased"
CUSTOMER_EXPORTED: Final = "customer_exported"
EXPERIMENTS_WRITTEN: Final = "experiments_written"
DASHBOARD_LOGIN: Final = "dashboard_login"
AUDIT_EVENTS: Final = frozenset(
    (
        *(EXPERIMENT_PAUSED, EXPERIMENT_RESUMED, RAMP_MOVED, STOCK_LEVEL, POLICY_ROLLED_BACK, BREAKER_CLOSED),
        *(CUSTOMER_ERASED, CUSTOMER_EXPORTED, EXPERIMENTS_WRITTEN, DASHBOARD_LOGIN),
    )
)
"""The engine's own audit events: somebody changed how it works, or took a customer's data. They have no customer."""

WORTH_EVENTS: Final = (
    PURCHASES
    | REFUNDS
    | {POINTS_REDEEMED, REDEMPTION}
    | {name for name, grants in CONSENTS.items() if grants}
    | {name for name, opens in COMPLAINTS.items() if not opens}
)
"""Events that say what a customer is worth to the shop, or may be sent: a publishable key does not send them."""
WORTH_PROPERTIES: Final = frozenset(("points", "revenue"))
"""Properties that do so in any event."""
WORTH_ATTRIBUTES: Final = frozenset(
    (
        "channels",
        "complaint_open",
        "consent",
        "frequency",
        "loyalty",
        "monetary",
        "orders",
        "recency_days",
        "stage",
        "visits",
    )
)
"""Attributes that the engine computes from such events, and from visits."""

NOT_VISITS: Final = (
    REFUNDS | {"email_sent", IGNORED, "back_in_stock"} | {name for name, opens in COMPLAINTS.items() if not opens}
)
"""Events that the shop causes: they do not show that the customer was there."""

PAGE_CONTEXT: Final = frozenset(
    (
        *(
            "app",
            "app_version",
            "browser",
            "build",
            "campaign",
            "category",
            "city",
            "connection",
            "country",
            "currency",
        ),
        *("device", "device_type", "environment", "intent", "lang", "language", "latitude", "locale", "longitude"),
        *("medium", "model", "network", "os", "os_version", "page", "page_type", "path", "place", "platform", "query"),
        *("referer", "referrer", "region"),
        *("screen", "sdk", "search", "section", "source", "step", "store", "term", "theme", "url", "user_agent"),
        *("utm", "utm_campaign", "utm_content", "utm_medium", "utm_source", "utm_term", "version", "viewport"),
        "weather",
    )
)
"""Names under which the context of a publishable key may say where and how a visitor is, also where audiences read
them. Other names that audiences read are traits of the customer, which the shop's server states."""

CAMPAIGN: Final = "campaign"
CAMPAIGN_CONTEXT: Final = (
    *("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", CAMPAIGN, "ad"),
    *("gclid", "fbclid", "msclkid"),
)
"""Properties of an event that say which campaign or ad brought the visitor; later decisions of the visit read them."""
CAMPAIGN_CHANNEL: Final = "campaigns"
"""The channel of the decisions by which campaigns choose channel and hour: no storefront asks for it."""
HELD_OUT: Final = "held out"
LET_IN: Final = "let in"
"""The two sides of a holdout in its report."""
KEPT_MARK: Final = "~"
"""Separates the key of a kept plan's policy from the holdout that keeps the plan: `home_hero~q4`."""
SILENCE: Final = "silence"
"""The name that is logged in place of an offer where nothing is shown or sent, to learn the value of showing."""

PERIOD: Final = "$period"
"""The name in a logged context of the begin of a switchback's period, in seconds since 1970."""

RESERVED_CONTEXT: Final = frozenset(("id", "channel", "hour", "weekday"))
"""Names that the engine sets in every decision's context; what a request sends under them is overwritten."""


def names_of_same_event(event: str) -> frozenset[str]:
    """The names with the meaning of `event`: purchases have several names, any other event one."""
    return PURCHASES if event in PURCHASES else frozenset((event,))


def item_name(placement: str, position: int) -> str:
    """The name of the list item at a position from 1; the placement's key for position 0, a single offer.

    Exposures, claims and rewards are about one item of a list: `home_row[2]` is the second that `home_row` shows. Keys
    contain no brackets. In the Parquet log the name is two columns, `key` and `position`.
    """
    return f"{placement}[{position}]" if position else placement


def split_item(name: str) -> tuple[str, int]:
    """The placement and position in an item's name; position 0 if it is not a list item."""
    if not name.endswith("]"):
        return name, 0
    placement, _, number = name[:-1].rpartition("[")
    return (placement, int(number)) if placement and number.isdecimal() else (name, 0)
