"""Warnings about ignored parts of an accepted event: unknown fields, properties of a wrong kind, large values.

Such an event counts, since most of it is right, and its status says what does not. A shop reads the statuses of its
first events and sees its mistakes while they are cheap.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple

import msgspec

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile
from engine.customers.model.consent_sums import MOST_PURPOSES
from engine.customers.model.events import MOST, Event
from engine.customers.model.identity import ResolvedIdentity
from engine.customers.model.reducers import JOURNEY_BYTES, NAMES
from engine.customers.model.traits import CONSENT, ITEMS, TEXT, flatten_traits
from engine.json_body import similar_name
from engine.metric_kinds import MOST_VALUE
from engine.orders import AMOUNT_FIELDS, ORDER_ID_FIELDS, order_id
from engine.vocabulary import (
    CART_UPDATED,
    COMPLAINT_ID_FIELDS,
    COMPLAINTS,
    CONSENTS,
    DAY,
    MEANINGFUL,
    MEANT_EVENTS,
    PURCHASES,
    QUESTIONS,
    REFUNDS,
)

FIELDS = Event.__struct_fields__
JOURNEY = ("cart", "step", "conversation")
MEANT = {
    "props": "properties",
    "attributes": "properties",
    "params": "properties",
    "id": "message_id",
    "name": "event",
    "time": "timestamp",
    "ts": "timestamp",
    "at": "timestamp",
    "decision": "decision_id",
    "customer": "user_id",
    "user": "user_id",
}
"""Names of other systems, and the field that has the same meaning here."""

SIMILAR = 0.88
"""The least similarity, from 0 to 1, of an event's name with one that has a meaning, for a warning."""
USUAL = ProfileRules()

_DECISION_ID = re.compile(r"[0-9a-f]{12}[0-9a-fpr][0-9a-f]{19}([0-9a-f]{8})?")
"""A decision id, alone or with the tag of its customer; `engine.service.ids` makes both."""


class PropertyRule(NamedTuple):
    """The type that a property must have, and the events that read it (None: all)."""

    fits: Callable[[object], bool]
    kind: str
    events: Collection[str] | None = None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


PROPERTIES: Mapping[str, PropertyRule] = {
    **dict.fromkeys(ORDER_ID_FIELDS, PropertyRule(_is_id, "text", PURCHASES | REFUNDS)),
    **dict.fromkeys(COMPLAINT_ID_FIELDS, PropertyRule(_is_id, "text", COMPLAINTS)),
    "points": PropertyRule(_is_number, "a number"),
    "category": PropertyRule(_is_text, "text"),
    "categories": PropertyRule(lambda v: isinstance(v, list) and all(map(_is_text, v)), "a list of texts"),
    "affinity": PropertyRule(
        lambda v: isinstance(v, dict) and all(map(_is_number, v.values())), "an object of numbers by name"
    ),
    "purpose": PropertyRule(lambda v: _is_id(v) and len(str(v)) <= NAMES, "a text of at most 100 characters", CONSENTS),
    "granted": PropertyRule(lambda v: isinstance(v, bool), "true or false", CONSENTS),
    "offer": PropertyRule(_is_text, "the key of an offer"),
    **dict.fromkeys(QUESTIONS, PropertyRule(_is_number, "a number")),
    "score": PropertyRule(_is_number, "a number", QUESTIONS),
}
"""The properties that have a meaning; `revenue`, `amount`, `expires` and `days` are rejected where they are wrong."""


def unknown_field_warnings(names: Iterable[str]) -> list[str]:
    """The warnings about an event's unknown fields."""
    return [f"{name:.40}: is not a field of an event and was left out{_suggest(name)}" for name in names]


def is_decision_id(text: str) -> bool:
    """Whether a text has the form of a decision id."""
    return _DECISION_ID.fullmatch(text) is not None


def event_warnings(event: Event, channels: Collection[str], rules: ProfileRules = USUAL) -> list[str]:
    """The warnings about an event's parts that are ignored; `channels` are those of the plan."""
    warnings = _name_warnings(event, rules)
    if event.channel and event.channel not in channels:
        near = get_close_matches(event.channel, channels, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the plan has {', '.join(sorted(channels))}"
        warnings.append(f"channel: {event.channel!r} is not a channel, so no cap or offer of one counts it{hint}")
    if event.decision_id and not is_decision_id(event.decision_id):
        warnings.append(
            f"decision_id: {event.decision_id!r:.40} is not the id of a decision, so the event rewards none; "
            "send the decision_id of an answer as it is"
        )
    if event.type == "identify":
        return warnings + _trait_warnings(event.traits)
    if event.traits:
        warnings.append("traits: only an identify has traits, so they were left out; send an identify beside it")
    return warnings + _property_warnings(event) + _measure_warnings(event, rules.measured)


def limit_warnings(found: ResolvedIdentity) -> list[str]:
    """The warnings about identifiers that a limit of `identities.yaml` kept from joining the event's customer."""
    blocked = [
        f"{ident.kind}: {ident.value!r:.40} would name more customers than binds allows in identities.yaml; it names "
        "nobody from now on; send it with one customer, or raise binds"
        for ident in found.blocked
    ]
    full = [
        f"{ident.kind}: {ident.value!r:.40} stays a customer of its own, since this one has as many as holds and binds "
        "allow in identities.yaml; send a user_id with both, or raise the limit"
        for ident in found.apart
        if ident not in found.blocked
    ]
    return blocked + full


def full_profile_warnings(event: Event, after: Profile, rules: ProfileRules) -> list[str]:
    """The warnings about parts that are not stored, or count later, because of the profile's content."""
    warnings = []
    order = after.orders.get(order_id(event.properties)) if event.event in REFUNDS else None
    if order is not None and order.time < 0:
        days = rules.return_period / DAY
        warnings.append(
            f"properties.order_id: the customer has no such order of the last {days:g} days, so the refund counts once "
            "it arrives; send the purchase, or raise return_period in identities.yaml"
        )
    if event.type == "identify" and len(after.traits) >= rules.traits_limit:
        names = [name for name in flatten_traits(event.traits) if not name.startswith(CONSENT)]
        if lost := [name for name in names if len(name) <= NAMES and name not in after.traits]:
            some, limit = ", ".join(lost[:3]), rules.traits_limit
            warnings.append(f"traits: {some:.80} not stored, as the customer has {limit} traits already; send fewer")
    if len(after.consents) >= MOST_PURPOSES:
        purposes = [name.removeprefix(CONSENT) for name in flatten_traits(event.traits) if name.startswith(CONSENT)]
        if event.event in CONSENTS:
            purposes.append(str(event.properties.get("purpose")))
        if lost := [name for name in purposes if len(name) <= NAMES and name not in after.consents]:
            warnings.append(
                f"consents: {lost[0]:.80} not stored, as the customer has {MOST_PURPOSES} already; use fewer"
            )
    return warnings


def _is_read(rule: PropertyRule, event: str) -> bool:
    return rule.events is None or event in rule.events or event.split("_", maxsplit=1)[0] in rule.events


def _property_warnings(event: Event) -> list[str]:
    name, properties = event.event or "", event.properties
    warnings = []
    for key, value in properties.items():
        rule = PROPERTIES.get(key)
        if rule is not None and value is not None and _is_read(rule, name) and not rule.fits(value):
            warnings.append(f"properties.{key}: {value!r:.40} is not {rule.kind}, so it was not read; send {rule.kind}")
    if name in CONSENTS and properties.get("purpose") is None:
        warnings.append("properties.purpose: is missing, so the consent counts for nothing; send the purpose it is for")
    if name in PURCHASES and "revenue" not in properties:
        amounts = [key for key in properties if key in AMOUNT_FIELDS or key in {"value", "total", "price"}]
        near = amounts or [key for key in properties if get_close_matches("revenue", [key.lower()], 1, 0.7)]
        if near:
            missing = f"is missing, so the order counts with 0, and {near[0]!r:.40} was not read"
            warnings.append(f"properties.revenue: {missing}; did you mean 'revenue'?")
    parts = {part: properties[part] for part in JOURNEY if part in properties}
    if name == CART_UPDATED and "cart" not in parts:
        parts["properties"] = properties
    for part, value in parts.items():
        size = len(msgspec.msgpack.encode(value))
        if size > JOURNEY_BYTES:
            warnings.append(
                f"{part}: {size:,} bytes are over the {JOURNEY_BYTES:,} that a customer resumes with, so 'too_large' "
                "stands in its place; send what another channel needs of it"
            )
    return warnings


def _name_warnings(event: Event, rules: ProfileRules) -> list[str]:
    """The warning about a name that nothing reads, and that resembles one with a meaning."""
    name = event.event or ""
    meant = None if event.type == "identify" or name in MEANINGFUL else _meant_event(name)
    if meant is None or any(
        name in read for read in (rules.named_events, rules.watched_events, rules.computed.by_event)
    ):
        return []
    return [f"event: {name!r:.60} has no meaning of its own and no metric counts it; did you mean {meant!r}?"]


@lru_cache(maxsize=1024)
def _meant_event(name: str) -> str | None:
    """The event with a meaning that a name resembles. A shop has few names, and each takes a comparison with all."""
    plain = _plain(name)
    [*near] = get_close_matches(plain, _PLAIN_EVENTS, 1, SIMILAR)
    return MEANT_EVENTS.get(plain) or (_PLAIN_EVENTS[near[0]] if near else None)


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


_PLAIN_EVENTS = {_plain(name): name for name in sorted(MEANINGFUL)}


def _measure_warnings(event: Event, measured: Mapping[str, Collection[str]]) -> list[str]:
    return [
        f"properties.{name}: {value!r:.40} is not a number up to {MOST_VALUE:.0e}; no metric counts it; send a number"
        for name in sorted(measured.get(event.event or "", ()))
        if (value := event.properties.get(name)) is not None
        if name not in PROPERTIES or not _is_read(PROPERTIES[name], event.event or "")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_VALUE
    ]


def _trait_warnings(traits: Mapping[str, object], prefix: str = "") -> list[str]:
    warnings = []
    for key, value in traits.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            warnings += _trait_warnings(value, f"{name}.")
            continue
        lost = None
        if len(name) > NAMES:
            lost = f"its name has more than {NAMES} characters"
        elif isinstance(value, str) and len(value) > TEXT:
            lost = f"its text has more than {TEXT} characters"
        elif name.startswith(CONSENT) and not isinstance(value, bool):
            lost = f"{value!r:.40} is not true or false, so it is not a consent"
        elif isinstance(value, list):
            wrong = sum(isinstance(item, dict | list) or (isinstance(item, str) and len(item) > TEXT) for item in value)
            if wrong:
                lost = f"{wrong} items are not texts of {TEXT} characters, numbers, true or false"
            elif len(value) > ITEMS:
                lost = f"{len(value)} items are over the limit of {ITEMS}"
        if lost:
            warnings.append(f"traits.{name:.60}: {lost}; what does not fit was left out")
    return warnings


def _suggest(name: str) -> str:
    """The known field or property that a name may mean, as the end of a warning."""
    meant = MEANT.get(name.lower())
    if meant is None and (name in PROPERTIES or name in (*AMOUNT_FIELDS, *JOURNEY, "expires", "days", "survey")):
        meant = f"properties.{name}"
    meant = meant or similar_name(name, FIELDS)
    return f"; did you mean {meant!r}?" if meant else f"; an event has {', '.join(FIELDS)}"
