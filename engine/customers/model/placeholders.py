"""Removes placeholders from incoming events, and reports them in the status of their item."""

from collections.abc import Sequence

from msgspec.structs import replace

from engine.catalog.spec.identifiers import Placeholders, absence_warning, is_placeholder
from engine.customer import KINDS, IdKind
from engine.customers.model.events import Event, EventStatus, customer_ids
from engine.orders import ORDER_ID_FIELDS


def present_batch(
    batch: Sequence[Event | EventStatus], placeholders: Placeholders = ()
) -> tuple[list[Event | EventStatus], list[list[str]]]:
    """Returns the items of a batch without placeholders, and the warnings of each item.

    An item that names nobody any more is its `rejected` status instead.
    """
    items: list[Event | EventStatus] = []
    warnings: list[list[str]] = []
    for item in batch:
        found, absent = (item, []) if isinstance(item, EventStatus) else _present_event(item, placeholders)
        items.append(found)
        warnings.append(absent)
    return items, warnings


def with_warnings(statuses: Sequence[EventStatus], warnings: Sequence[list[str]]) -> list[EventStatus]:
    """Returns the statuses with their warnings; a rejected one has only its reason."""
    return [
        replace(status, warnings=[*status.warnings, *absent]) if absent and status.status != "rejected" else status
        for status, absent in zip(statuses, warnings, strict=True)
    ]


def _present_event(event: Event, placeholders: Placeholders) -> tuple[Event | EventStatus, list[str]]:
    if is_placeholder(event.message_id) and not event.message_id.isdigit():  # a counter may begin with 0
        reason = (
            f"message_id: {event.message_id!r:.40} is a placeholder, and events with the same id count once; send a "
            "unique id, a UUID say"
        )
        return EventStatus("rejected", event.message_id, reason), []
    fields: dict[str, object] = {}
    warnings: list[str] = []
    for name in (*KINDS, "previous_id"):
        value = getattr(event, name)
        if value is not None and is_placeholder(value, _kind(name), placeholders):
            fields[name] = None
            warnings.append(absence_warning(name, value))
    absent = {
        name: value
        for name in ("email", "phone", "loyalty_card")
        if isinstance(value := event.traits.get(name), str) and is_placeholder(value, _kind(name), placeholders)
    }
    if event.type == "identify" and absent:
        fields["traits"] = {name: value for name, value in event.traits.items() if name not in absent}
        warnings += [absence_warning(f"traits.{name}", value) for name, value in absent.items()]
    absent_orders = {
        name: value
        for name in ORDER_ID_FIELDS
        if isinstance(value := event.properties.get(name), str | int)
        and not isinstance(value, bool)
        and is_placeholder(str(value), None, placeholders)
    }
    if absent_orders:
        fields["properties"] = {name: value for name, value in event.properties.items() if name not in absent_orders}
        warnings += [absence_warning(f"properties.{name}", value) for name, value in absent_orders.items()]
    if not fields:
        return event, warnings
    event = replace(event, **fields)
    ids = customer_ids(event)
    named = sum(getattr(ids, kind) is not None for kind in KINDS)
    needed = 2 if event.type == "alias" else 1
    if named < needed:
        reason = f"an {event.type} needs {needed} identifier{'s'[: needed > 1]}, and {'; '.join(warnings)}"
        return EventStatus("rejected", event.message_id, reason), []
    return event, warnings


def _kind(name: str) -> IdKind:
    return next((kind for kind in KINDS if kind == name), "anonymous_id")
