"""Decodes the items of an event batch one by one, so that a broken item is rejected alone."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from engine import json_body
from engine.customers.model.event_rules import EVENT_BYTES, broken_rule
from engine.customers.model.event_warnings import FIELDS, unknown_field_warnings
from engine.customers.model.events import Event, EventStatus
from engine.json_body import BATCH_ITEMS


class _EventsBody(msgspec.Struct, frozen=True):
    batch: list[msgspec.Raw]


class _ItemName(msgspec.Struct, frozen=True):
    message_id: str = ""


_batch = msgspec.json.Decoder(_EventsBody)
_item_name = msgspec.json.Decoder(_ItemName)
_event = msgspec.json.Decoder(Event)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BatchItem(NamedTuple):
    """An event or its `rejected` status, with the warnings about its dropped parts."""

    item: Event | EventStatus
    warnings: Sequence[str] = ()


def decode_batch(body: bytes, limit: int = BATCH_ITEMS) -> Iterator[BatchItem]:
    """Yields the items of an `/v1/events` body; an item that breaks a rule becomes its `rejected` status.

    Raises:
        BadInput: if the body is no JSON object with a list `batch` of at most `limit` items.
    """
    return map(_decode, json_body.split_batch(body, "batch", lambda text: _batch.decode(text).batch, limit))


def _decode(item: bytes | msgspec.Raw) -> BatchItem:
    text = bytes(item)
    event = _decode_event(text)
    if isinstance(event, EventStatus):
        return BatchItem(event)
    try:
        unknown = [name for name in _fields.decode(text) if name not in FIELDS]
    except json_body.UNREADABLE_JSON as error:  # the name of a field that is skipped above need not be UTF-8
        return BatchItem(EventStatus("rejected", event.message_id, json_body.describe(error, text)[1]))
    return BatchItem(event, unknown_field_warnings(unknown) if unknown else ())


def _decode_event(text: bytes) -> Event | EventStatus:
    if len(text) > EVENT_BYTES:
        reason = f"the event has {len(text):,} bytes, over the limit of {EVENT_BYTES:,}; send several events"
        return EventStatus("rejected", _message_id(text), reason)
    if json_body.is_too_deep(text):
        return EventStatus("rejected", _message_id(text), f"{json_body.TOO_DEEP}; see /docs for the fields of an item")
    try:
        event = _event.decode(text)
    except msgspec.ValidationError as error:
        return EventStatus("rejected", _message_id(text), f"{error}; see /docs for the fields of an item")
    except json_body.UNREADABLE_JSON as error:
        _, detail = json_body.describe(error, text)
        return EventStatus("rejected", _message_id(text), detail)
    broken = broken_rule(event, text.count(b","))
    return event if broken is None else EventStatus("rejected", event.message_id, broken)


def _message_id(item: bytes) -> str | None:
    """The message id of a rejected item, if it can be read."""
    try:
        return _item_name.decode(json_body.replace_half_surrogates(item)).message_id or None
    except json_body.UNREADABLE_JSON:
        return None
