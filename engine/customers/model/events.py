"""Events of the API: their fields, identifiers and records, and the correction of the sender's clock."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal

import msgspec

from engine.customer import CustomerIds, IdKind

EventOutcome = Literal["accepted", "duplicate", "rejected"]
Timestamp = datetime | float
CENTS = 4
MOST = 1e9
"""Sums of money and points up to this stay exact to the cent."""

EARLIEST, LATEST = 946_684_800.0, 4_102_444_800.0  # the years 2000 and 2100; beyond, it is JavaScript's milliseconds
FOREVER = 253_402_300_799.0
"""The end of the year 9999, the latest time that RFC 3339 can write."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of a batch: an action or the identity of a customer. `traits` and `properties` are JSON objects."""

    type: Literal["track", "identify", "alias"]
    message_id: str
    user_id: str | None = None
    anonymous_id: str | None = None
    previous_id: str | None = None
    email: str | None = None
    phone: str | None = None
    loyalty_card: str | None = None
    device_id: str | None = None
    event: str | None = None
    decision_id: str | None = None
    properties: dict[str, object] = {}
    traits: dict[str, object] = {}
    timestamp: Timestamp | None = None
    sent_at: Timestamp | None = None
    channel: str | None = None


class EventStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one item.

    `reason` gives the rule by which it was rejected, `warnings` what of it was left out although it was accepted.
    """

    status: EventOutcome
    message_id: str | None = None
    reason: str | None = None
    warnings: list[str] = []


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted event, with the fields of its record in the log. `time` is by the corrected clock.

    A merge of two profiles is one too: its event is `$merge`, its properties `{"from": id, "into": id}`.
    """

    message_id: str
    time: float
    received: float
    customer: str
    event: str
    decision_id: str | None = None
    channel: str | None = None
    revenue: float | None = None
    properties: dict[str, object] = {}


EventJournal = Callable[[list[Accepted]], Awaitable[None]]
"""Writes accepted events to the log; it returns once they are durable."""


def customer_ids(event: Event) -> CustomerIds:
    """Returns the identifiers of an event; the traits email, phone and loyalty_card of an identify are identifiers."""
    traits = event.traits if event.type == "identify" else {}
    return CustomerIds(
        user_id=event.user_id,
        anonymous_id=event.anonymous_id or event.previous_id,
        email=event.email or _text(traits.get("email")),
        phone=event.phone or _text(traits.get("phone")),
        loyalty_card=event.loyalty_card or _text(traits.get("loyalty_card")),
        device_id=event.device_id,
    )


def event_time(event: Event, received: float) -> float:
    """Returns the time of an event by the server's clock (s since 1970): `received - (sent_at - timestamp)`.

    Without `sent_at` the timestamp counts as it is. The result is never after `received` or before the year 2000.
    """
    at, sent = seconds_of(event.timestamp), seconds_of(event.sent_at)
    if at is None:
        return received
    return min(received, max(EARLIEST, received - max(0.0, sent - at) if sent is not None else at))


def accepted_event(event: Event, customer: str, time: float, received: float, taken_back: float = 0.0) -> Accepted:
    """Returns the log record of an event; a refund's revenue is the amount `taken_back` from the customer's total."""
    revenue = round(taken_back, CENTS) if taken_back > 0 else event.properties.get("revenue")
    return Accepted(
        message_id=event.message_id,
        time=time,
        received=received,
        customer=customer,
        event=event.event if event.type == "track" and event.event else f"${event.type}",
        decision_id=event.decision_id,
        channel=event.channel,
        revenue=float(revenue) if isinstance(revenue, int | float) and not isinstance(revenue, bool) else None,
        properties=event.properties if event.type == "track" else event.properties | event.traits,
    )


def ids_with_one(kind: IdKind, value: str) -> CustomerIds:
    """Returns identifiers with a single value."""
    return msgspec.convert({kind: value}, CustomerIds)


def parse_time(value: object) -> float | None:
    """Returns the time (s since 1970) of a property written as a timestamp; None for any other value."""
    try:
        moment = msgspec.convert(value, Timestamp)
        if isinstance(moment, datetime):
            return None if moment.tzinfo is None else moment.timestamp()
    except (msgspec.ValidationError, OverflowError):
        return None
    seconds = seconds_of(moment)
    return seconds if seconds is not None and seconds >= EARLIEST else None


def seconds_of(moment: Timestamp | None) -> float | None:
    """Returns a timestamp in seconds since 1970; a number beyond the year 2100 is read as milliseconds."""
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).timestamp()
    return moment / 1000 if moment is not None and moment > LATEST else moment


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
