"""What a channel tells of a customer: the batch as it comes in, and the clock it should have been told by."""

import math
from datetime import UTC, datetime
from typing import Literal

import msgspec

from engine.customer import KINDS, CustomerIds, IdKind
from engine.customers.redis import keys
from engine.errors import BadInput
from engine.vocabulary import CONSENTS, REFUNDS

EventOutcome = Literal["accepted", "duplicate", "rejected"]
Timestamp = datetime | float
CENTS = 4
MOST = 1e9
"""Sums of money and points up to this stay exact to the cent."""

EARLIEST, LATEST = 946_684_800.0, 4_102_444_800.0  # the years 2000 and 2100; beyond, it is JavaScript's milliseconds
FOREVER = 253_402_300_799.0
"""The end of the year 9999, after which no text tells a time."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of a batch: what a customer did, or who they are. `traits` and `properties` are JSON objects."""

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
    """What became of one item; `reason` says why it was rejected."""

    status: EventOutcome
    message_id: str | None = None
    reason: str | None = None


class Accepted(msgspec.Struct, frozen=True):
    """An event that counts, with the fields of its record in the log. `time` is by the corrected clock.

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


class _EventsBody(msgspec.Struct, frozen=True):
    batch: list[msgspec.Raw]


_batch = msgspec.json.Decoder(_EventsBody)
_event = msgspec.json.Decoder(Event)


def decode_batch(body: bytes, limit: int = 1000) -> list[Event | EventStatus]:
    """The items of an `/v1/events` body; one that breaks a rule is its `rejected` status instead.

    Raises:
        BadInput: if the body is no JSON object with a list `batch` of at most `limit` items.
    """
    try:
        items = _batch.decode(body).batch
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f'body: {error}; send {{"batch": [event, …]}} as JSON') from error
    if len(items) > limit:
        raise BadInput(f"batch: {len(items)} items are over the limit of {limit}; send them in several batches")
    return [_decode(item) for item in items]


def customer_ids(event: Event) -> CustomerIds:
    """Whom an event is about; an identify's e-mail, phone and loyalty card are identifiers too."""
    told = event.traits if event.type == "identify" else {}
    return CustomerIds(
        user_id=event.user_id,
        anonymous_id=event.anonymous_id or event.previous_id,
        email=event.email or _text(told.get("email")),
        phone=event.phone or _text(told.get("phone")),
        loyalty_card=event.loyalty_card or _text(told.get("loyalty_card")),
        device_id=event.device_id,
    )


def event_time(event: Event, received: float) -> float:
    """When the event happened by our clock (s since 1970): the sender's lag, `sent_at - timestamp`, before `received`.

    Without `sent_at` the timestamp is taken as it is; nothing happens after it was received, or before the year 2000.
    """
    at, sent = _seconds(event.timestamp), _seconds(event.sent_at)
    if at is None:
        return received
    return min(received, max(EARLIEST, received - max(0.0, sent - at) if sent is not None else at))


def accepted_event(event: Event, customer: str, time: float, received: float, taken_back: float = 0.0) -> Accepted:
    """The record of a counted event; a refund's revenue is what it has `taken_back` of the customer's, if anything."""
    revenue = round(taken_back, CENTS) if taken_back > 0 else event.properties.get("revenue")
    return Accepted(
        event.message_id,
        time,
        received,
        customer,
        event.event if event.type == "track" and event.event else f"${event.type}",
        event.decision_id,
        event.channel,
        float(revenue) if isinstance(revenue, int | float) and not isinstance(revenue, bool) else None,
        event.properties if event.type == "track" else event.properties | event.traits,
    )


def ids_with_one(kind: IdKind, value: str) -> CustomerIds:
    """The identifiers of a customer of whom one is known."""
    return msgspec.convert({kind: value}, CustomerIds)


def _decode(item: msgspec.Raw) -> Event | EventStatus:
    try:
        event = _event.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return EventStatus("rejected", _message_id(item), f"{error}; /docs says what an item may have")
    return _refused(event) or event


def _refused(event: Event) -> EventStatus | None:
    def no(reason: str) -> EventStatus:
        return EventStatus("rejected", event.message_id, reason)

    if not 0 < len(event.message_id) <= 200:
        return no("message_id: must have 1 to 200 characters; send a unique id, a UUID say")
    ids = customer_ids(event)
    given = [name for kind in KINDS if (name := keys.normalize_identifier(kind, getattr(ids, kind) or ""))]
    if not given:
        return no(f"no identifier; send at least one of {', '.join(KINDS)}, a phone with digits")
    if max(map(len, given)) > 200:
        return no("an identifier is over 200 characters; send the id itself, not a document")
    if event.type == "track" and not event.event:
        return no("event: a track needs its name, 'purchase' say")
    if event.type == "alias" and len(given) < 2:
        return no("alias: needs two identifiers, user_id and anonymous_id say")
    for name in ("timestamp", "sent_at"):
        value = getattr(event, name)
        if isinstance(value, datetime) and value.tzinfo is None:
            return no(f"{name}: {value.isoformat()} names no time zone; end it with Z or an offset")
        try:
            seconds = _seconds(value)
        except OverflowError:  # in UTC it is before the year 1 or after 9999
            seconds = math.inf
        if seconds is not None and not EARLIEST <= seconds <= LATEST:
            return no(f"{name}: {value} is no time of this century; send RFC 3339 text, or seconds since 1970")
    for name in ("revenue", "amount") if event.event in REFUNDS else ("revenue",):
        told = event.properties.get(name)
        if told is None:
            continue
        if isinstance(told, bool) or not isinstance(told, int | float):
            return no(f"properties.{name}: {told!r:.40} is no number; send {name} as a JSON number, 12.5 say")
        if not abs(told) <= MOST:
            return no(f"properties.{name}: {told} is beyond {MOST:,.0f}; send it in the shop's currency")
        if told < 0 and event.event not in REFUNDS:
            return no(f"properties.{name}: {told} is below zero; send what was given back as an event 'refund'")
    if event.event in CONSENTS:
        expires, days = event.properties.get("expires"), event.properties.get("days")
        if expires is not None and parse_time(expires) is None:
            return no(f"properties.expires: {expires!r:.40} is no time; send RFC 3339 text, or seconds since 1970")
        if days is not None and (isinstance(days, bool) or not isinstance(days, int | float) or abs(days) > MOST):
            return no(f"properties.days: {days!r:.40} is no number of days; send a JSON number, 365 say")
    try:
        msgspec.msgpack.encode((event.properties, event.traits))
    except OverflowError:
        return no("properties: a whole number has more than 64 bits; send it as text")
    return None


def parse_time(value: object) -> float | None:
    """The moment (s since 1970) that a property tells as a timestamp does; None where it tells none."""
    try:
        moment = msgspec.convert(value, Timestamp)
        if isinstance(moment, datetime):
            return None if moment.tzinfo is None else moment.timestamp()
    except (msgspec.ValidationError, OverflowError):
        return None
    seconds = _seconds(moment)
    return seconds if seconds is not None and seconds >= EARLIEST else None


def _message_id(item: msgspec.Raw) -> str | None:
    try:
        found = msgspec.json.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _text(found.get("message_id")) if isinstance(found, dict) else None


def _seconds(moment: Timestamp | None) -> float | None:
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).timestamp()
    return moment / 1000 if moment is not None and moment > LATEST else moment


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
