"""JSON schemas of rules that request types do not express, for the API's document.

They promise 2xx for what a server takes and for nothing else, so a client that is generated from the document, or a
fuzzer that reads it, is refused only where the document says so. What depends on the plan, as the names of its channels
and placements, is a function of `ShopNames`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from engine.catalog.plan.plan import Plan
from engine.catalog.spec.identifiers import (
    COUNTRY_CODE_DIGITS,
    name_characters,
    placeholder_pattern,
    word_characters,
)
from engine.customer import KINDS

Node = dict[str, object]
JSON_VALUE = "#/components/schemas/Json"
LONGEST_NAME = 200
MOST_ATTRIBUTES = 500


@dataclass(frozen=True)
class ShopNames:
    """The names of a plan that requests may have; empty if the document is for no particular plan."""

    placements: Mapping[str, tuple[str, ...]]
    """By channel."""
    outbound: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


NO_NAMES = ShopNames({})
RequestRule = Callable[[ShopNames], Node]


class QueryParameter(NamedTuple):
    """A query parameter: its description, and its schema; omitted if a shop has no schema for it."""

    about: str
    schema: Callable[[ShopNames], Node | None] = lambda _: {"type": "string"}
    required: bool = False


def names_of(plan: Plan) -> ShopNames:
    """Collect the names of a plan."""
    placements: dict[str, list[str]] = {channel: [] for channel in sorted(plan.channels)}
    for channel, placement in sorted(plan.selections):
        if channel in placements:
            placements[channel].append(placement)
    places = () if plan.places is None else tuple(plan.places.by_key)
    return ShopNames({key: tuple(names) for key, names in placements.items()}, tuple(sorted(plan.outbound)), places)


def no_rule(_: ShopNames) -> Node:
    """The rule of an operation whose request type expresses everything."""
    return {}


def decide_rule(shop: ShopNames) -> Node:
    """The rules beyond a decision's request type: which identifiers count, and what each channel shows."""
    return {"allOf": [_NAMES_A_CUSTOMER, channel_rule(shop)]}


def channel_rule(shop: ShopNames) -> Node:
    """A request has a channel of the plan and placements that are on it."""
    channels: list[Node] = []
    for channel, placements in shop.placements.items():
        shown: Node = {"uniqueItems": True, "items": {"enum": list(placements)}} if placements else {"maxItems": 0}
        channels.append({"properties": {"channel": {"const": channel}, "placements": shown}})
    return {"anyOf": channels} if channels else {}


def context_rule(_: ShopNames) -> Node:
    """The limits of OpenFeature's context."""
    return {"properties": {"context": _CONTEXT}}


def target_rule(_: ShopNames) -> Node:
    """The requirement that a context names a customer, for flags that depend on one."""
    number = {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1, "not": {"enum": [0, -1]}}
    some: list[Node] = [{"required": ["targetingKey"], "properties": {"targetingKey": _SOMEBODY}}]
    some += [{"required": [name], "properties": {name: {"anyOf": [_SOMEBODY, number]}}} for name in _TARGETS[1:]]
    return {"required": ["context"], "properties": {"context": {"allOf": [_CONTEXT, {"anyOf": some}]}}}


def whole_number(low: int, high: int) -> Callable[[ShopNames], Node]:
    """The schema of a whole-number parameter."""
    return lambda _: {"type": "integer", "minimum": low, "maximum": high}


def outbound_channel(shop: ShopNames) -> Node:
    """The schema of an outbound channel."""
    return {"type": "string", "enum": list(shop.outbound)} if shop.outbound else {"type": "string"}


def place(shop: ShopNames) -> Node | None:
    """The schema of a place."""
    return {"type": "string", "enum": list(shop.places)} if shop.places else None


def degrees(most: int) -> Callable[[ShopNames], Node | None]:
    """The schema of a latitude or a longitude, for a shop with places."""
    return lambda shop: {"type": "number", "minimum": -most, "maximum": most} if shop.places else None


def any_item(kind: Node) -> Node:
    """The schema of an item with its own status: its kind states what is accepted, other items are rejected."""
    return {"anyOf": [kind, {"description": "anything else is answered too, as rejected with the reason"}]}


_SOMEBODY: Node = {"$ref": "#/components/schemas/Somebody"}
_TARGETS = ("targetingKey", "userId", "anonymousId", "deviceId")
_CONTEXT: Node = {
    "maxProperties": MOST_ATTRIBUTES,
    "propertyNames": {"maxLength": LONGEST_NAME},
    "properties": {
        "targetingKey": {"type": ["string", "null"], "maxLength": LONGEST_NAME},
        **{name: {"maxLength": LONGEST_NAME} for name in _TARGETS[1:]},
    },
}


def _digits(least: int) -> str:
    """The pattern of a text with this many digits, not counting zeros at its ends."""
    return rf"[1-9](?:[^0-9]*[0-9]){{{least - 2},}}[^0-9]*[1-9]"


def _kind_schema(kind: str) -> Node:
    """The schema of an identifier of a kind that names somebody."""
    if kind == "phone":
        return {"allOf": [_SOMEBODY], "pattern": _digits(COUNTRY_CODE_DIGITS + 1)}
    if kind == "email":
        return {"$ref": "#/components/schemas/Mailbox"}
    return _SOMEBODY


_UNDEFINED, _NULL = "[uU][nN][dD][eE][fF][iI][nN][eE][dD]", "[nN][uU][lL][lL]"
_ANY_IDENTIFIER: Node = {
    "anyOf": [{"required": [kind], "properties": {kind: _kind_schema(kind)}} for kind in KINDS],
}
_NAMES_A_CUSTOMER: Node = {
    "anyOf": [
        {"properties": {"customer": _ANY_IDENTIFIER}},
        {
            "required": ["context"],
            "properties": {"context": {"required": ["store"], "properties": {"store": _SOMEBODY}}},
        },
    ]
}


def components() -> Node:
    """The schemas that belong to no type."""
    kinds = ["null", "boolean", "string", "number"]
    lists: Node = {"type": "array", "items": {"$ref": JSON_VALUE}}
    objects: Node = {"type": "object", "additionalProperties": {"$ref": JSON_VALUE}}
    return {
        "Json": {
            "description": "any JSON value; a whole number in it has at most 64 bits",
            "anyOf": [{"type": kinds}, lists, objects],
        },
        "Somebody": {
            "description": "a text that names a customer, no placeholder like 0, null, undefined, n/a or marks alone",
            "type": "string",
            "not": {"pattern": f"^(?:[^{name_characters()}]*|{placeholder_pattern()})$"},
        },
        "Mailbox": {
            "description": "an e-mail address that names a customer, at a domain that is no placeholder",
            "allOf": [
                _SOMEBODY,
                {"not": {"pattern": rf"^(?:[^{word_characters()}]*|\s*(?:{_UNDEFINED}|{_NULL})\s*)@[^@]*$"}},
                {"not": {"pattern": rf"@(?=[^@]*$)(?:[^{name_characters()}.]*|{placeholder_pattern()})(?:\.[^@]*)?$"}},
            ],
        },
    }
