"""The rules of an event: identifiers, times, amounts, and its maximum size.

Each limit is checked before anything is computed whose cost grows faster than the event.
"""

import math
from collections.abc import Mapping
from datetime import datetime

import msgspec

from engine import json_body
from engine.catalog.spec.identifiers import normalize_identifier
from engine.customer import KINDS
from engine.customers.model.events import EARLIEST, LATEST, MOST, Event, customer_ids, parse_time, seconds_of
from engine.customers.model.traits import flatten_traits
from engine.vocabulary import CONSENTS, REFUNDS

EVENT_BYTES = 64 * 1024
"""Most bytes of one event as JSON."""
EVENT_VALUES = 2000
"""Most values in the properties and traits of one event, at any depth."""
EVENT_TRAITS = 200
"""Most traits, consents included, that one identify states."""
EVENT_INTERESTS = 100
"""Most names in `categories` and in `affinity`."""
NAME_CHARACTERS = 100
"""Most characters in the name of an event or a channel."""
ID_CHARACTERS = 200


def broken_rule(event: Event, commas: int) -> str | None:
    """The first rule that an event breaks, with its remedy; None if it breaks none. `commas` are those in its JSON."""
    return (
        _broken_size(event, commas)
        or _broken_identity(event)
        or _broken_time(event)
        or _broken_amount(event)
        or _broken_consent(event)
        or _broken_number(event)
    )


def _broken_size(event: Event, commas: int) -> str | None:
    if commas >= EVENT_VALUES:  # the commas of its JSON, some of which stand in texts
        count = _count_values((event.properties, event.traits))
        if count > EVENT_VALUES:
            return f"properties, traits: {count:,} values are over the limit of {EVENT_VALUES:,}; send several events"
    traits = len(event.traits)
    if event.traits and commas >= EVENT_TRAITS:
        traits = max(traits, len(flatten_traits(event.traits)))
    if traits > EVENT_TRAITS:
        return f"traits: {traits} traits are over the limit of {EVENT_TRAITS}; send several events"
    for name in ("categories", "affinity"):
        value = event.properties.get(name)
        if isinstance(value, list | dict) and len(value) > EVENT_INTERESTS:
            return f"properties.{name}: {len(value)} names are over the limit of {EVENT_INTERESTS}; send the strongest"
    for name in ("event", "channel"):
        text = getattr(event, name)
        if text and len(text) > NAME_CHARACTERS:
            return f"{name}: has {len(text)} characters, over the limit of {NAME_CHARACTERS}; send its key"
    if event.decision_id and len(event.decision_id) > ID_CHARACTERS:
        return f"decision_id: has {len(event.decision_id)} characters; send the decision_id of an answer as it is"
    return None


def _broken_identity(event: Event) -> str | None:
    if not 0 < len(event.message_id) <= ID_CHARACTERS:
        return "message_id: must have 1 to 200 characters; send a unique id, such as a UUID"
    ids = customer_ids(event)
    given = [name for kind in KINDS if (name := normalize_identifier(kind, getattr(ids, kind) or ""))]
    if not given:
        return f"no identifier; send at least one of {', '.join(KINDS)}, a phone with digits"
    if max(map(len, given)) > ID_CHARACTERS:
        return "an identifier is over 200 characters; send the id itself, not a document"
    if event.type == "track" and not event.event:
        return "event: a track needs its name, such as 'purchase'"
    if event.type == "alias" and len(given) < 2:
        return "alias: needs two identifiers, such as user_id and anonymous_id"
    return None


def _broken_time(event: Event) -> str | None:
    for name in ("timestamp", "sent_at"):
        value = getattr(event, name)
        if isinstance(value, datetime) and value.tzinfo is None:
            return f"{name}: {value.isoformat()} names no time zone; end it with Z or an offset"
        try:
            seconds = seconds_of(value)
        except OverflowError:  # in UTC it is before the year 1 or after 9999
            seconds = math.inf
        if seconds is not None and not EARLIEST <= seconds <= LATEST:
            return f"{name}: {value} is not a time of this century; send RFC 3339 text, or seconds since 1970"
    return None


def _broken_amount(event: Event) -> str | None:
    for name in ("revenue", "amount") if event.event in REFUNDS else ("revenue",):
        amount = event.properties.get(name)
        if amount is None:
            continue
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            return f"properties.{name}: {amount!r:.40} is not a number; send {name} as a JSON number, such as 12.5"
        if not abs(amount) <= MOST:
            return f"properties.{name}: {amount} is beyond {MOST:,.0f}; send it in the shop's currency"
        if amount < 0 and event.event not in REFUNDS:
            return f"properties.{name}: {amount} is below zero; send what was given back as an event 'refund'"
    return None


def _broken_consent(event: Event) -> str | None:
    if event.event not in CONSENTS:
        return None
    expires, days = event.properties.get("expires"), event.properties.get("days")
    if expires is not None and parse_time(expires) is None:
        return f"properties.expires: {expires!r:.40} is not a time; send RFC 3339 text, or seconds since 1970"
    if days is not None and (isinstance(days, bool) or not isinstance(days, int | float) or abs(days) > MOST):
        return f"properties.days: {days!r:.40} is not a number of days; send a JSON number, such as 365"
    return None


def _broken_number(event: Event) -> str | None:
    try:
        msgspec.msgpack.encode((event.properties, event.traits))
    except OverflowError:
        return f"properties: {json_body.TOO_LONG}"
    return None


def _count_values(value: object) -> int:
    """The number of texts, numbers, booleans and nulls in a value, and of its lists and objects."""
    if isinstance(value, Mapping):
        return 1 + sum(map(_count_values, value.values()))
    if isinstance(value, list | tuple):
        return 1 + sum(map(_count_values, value))
    return 1
