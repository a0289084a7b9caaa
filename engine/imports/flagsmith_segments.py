"""Flagsmith's segments as conditions: https://docs.flagsmith.com/basic-features/segments.

The text of a condition is read as the type of the customer's trait: a number is compared with numbers, a text with
texts. A condition on a missing trait never holds, except `IS_NOT_SET`.
"""

import json
from collections.abc import Mapping

import msgspec

from engine.catalog.conditions.check import is_text_trait
from engine.catalog.plan.peer_hashing import FLAGSMITH_PLACES
from engine.imports.draft import Draft
from engine.imports.model import Unsupported
from engine.imports.predicates import (
    ALWAYS,
    NEVER,
    Hash,
    InRange,
    TraitTest,
    Tree,
    all_of,
    any_of,
    has_shares,
    negate,
    to_condition,
    trait,
)
from engine.imports.shared_parts import SharedParts
from engine.imports.source_values import read_number, text_forms

_ORDER: Mapping[str, str] = {
    "GREATER_THAN": "$gt",
    "GREATER_THAN_INCLUSIVE": "$gte",
    "LESS_THAN": "$lt",
    "LESS_THAN_INCLUSIVE": "$lte",
}
_SIGNS: Mapping[str, str] = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_SEMVER = ":semver"
_PATHS: Mapping[str, str] = {"$.identity.identifier": "id", "$.identity.key": "id"}


class FlagsmithCondition(msgspec.Struct, frozen=True):
    """A condition on one trait."""

    operator: str
    of: str | None = msgspec.field(name="property", default=None)
    of_trait: str | None = msgspec.field(name="property_", default=None)
    value: str | list[str] | int | float | bool | None = None

    @property
    def name(self) -> str:
        """The trait."""
        return self.of or self.of_trait or ""


class FlagsmithRule(msgspec.Struct, frozen=True):
    """All, any or none of the conditions hold, and of the rules within."""

    type: str
    conditions: list[FlagsmithCondition] = []
    rules: "list[FlagsmithRule]" = []


class FlagsmithSegment(msgspec.Struct, frozen=True):
    """A segment: all of its rules hold."""

    key: str
    name: str = ""
    rules: list[FlagsmithRule] = []


class SegmentReader:
    """Reads segments for the flag of a draft; `prefix` stands before an identity's key in what is hashed.

    `constants` are the names of Flagsmith's context that the document answers, such as its environment's.
    """

    def __init__(self, draft: Draft, shop: SharedParts, prefix: str, constants: Mapping[str, str]) -> None:
        self.draft, self.shop, self.prefix, self.constants = draft, shop, prefix, constants

    def read(self, segment: FlagsmithSegment) -> Tree:
        """The condition that a customer is in the segment, which `segments.yaml` has unless it needs a hash."""
        tree = all_of([self._rule(rule, segment) for rule in segment.rules]) if segment.rules else NEVER
        if has_shares(tree) or tree in (ALWAYS, NEVER):
            return tree
        return TraitTest(self.shop.in_segment(segment.name or segment.key, to_condition(tree)))

    def _rule(self, rule: FlagsmithRule, segment: FlagsmithSegment) -> Tree:
        conditions = [self._condition(one, segment) for one in rule.conditions]
        rules = [self._rule(one, segment) for one in rule.rules]
        return all_of([_by_type(rule.type, parts) for parts in (conditions, rules) if parts])

    def _condition(self, one: FlagsmithCondition, segment: FlagsmithSegment) -> Tree:
        name, value = one.name, one.value
        if name in self.constants:
            return self._constant(one, self.constants[name])
        if name.startswith("$."):
            if name not in _PATHS:
                raise Unsupported(f"reads {name!r} of Flagsmith's context, which requests here do not have")
            name = _PATHS[name]
        if one.operator == "PERCENTAGE_SPLIT":
            return self._share(one, name, segment)
        if one.operator in {"IS_SET", "IS_NOT_SET"}:
            return trait(name, {"$exists": one.operator == "IS_SET"})
        if one.operator == "IN":
            return trait(name, {"$in": text_forms(_listed(value), name)})
        return self._compare(one.operator, name, "" if value is None or isinstance(value, list) else str(value))

    def _constant(self, one: FlagsmithCondition, known: str) -> Tree:
        """A condition on what the document says: it always holds, or never."""
        value = "" if one.value is None or isinstance(one.value, list) else str(one.value)
        holds = {
            "EQUAL": known == value,
            "NOT_EQUAL": known != value,
            "CONTAINS": value in known,
            "NOT_CONTAINS": value not in known,
            "IN": known in _listed(one.value),
            "IS_SET": True,
            "IS_NOT_SET": False,
        }
        if one.operator not in holds:
            raise Unsupported(f"compares {one.name!r} of Flagsmith's context by {one.operator}")
        return ALWAYS if holds[one.operator] else NEVER

    def _share(self, one: FlagsmithCondition, name: str, segment: FlagsmithSegment) -> Tree:
        """A share of the customers: those whose percentage is at most the value."""
        percent = read_number(one.value)
        if percent is None:
            return NEVER
        prefix = "" if name and name != "id" else self.prefix
        by = Hash(f"{segment.key},{prefix}", "flagsmith", unit=name or "id")
        places = sum(place / FLAGSMITH_PLACES * 100 <= percent for place in range(FLAGSMITH_PLACES))
        high = 1.0 if places == FLAGSMITH_PLACES else round((places - 0.5) / FLAGSMITH_PLACES, 7)
        return InRange(by, 0.0, high) if places else NEVER

    def _compare(self, operator: str, name: str, value: str) -> Tree:
        """A comparison of the trait with a text that is read as the trait's type."""
        if value.endswith(_SEMVER) and (operator in _ORDER or operator in {"EQUAL", "NOT_EQUAL"}):
            signs = {"EQUAL": "=", "NOT_EQUAL": "!="}
            return trait(
                name, {"$semver": f"{signs.get(operator) or _SIGNS[_ORDER[operator]]}{value[: -len(_SEMVER)]}"}
            )
        number = None if is_text_trait(name) else read_number(value)
        match operator:
            case "EQUAL":
                return trait(name, {"$in": text_forms([value], name)})
            case "NOT_EQUAL":
                return trait(name, {"$exists": True, "$nin": text_forms([value], name)})
            case "CONTAINS":
                return trait(name, {"$type": "string", "$contains": value})
            case "NOT_CONTAINS":
                return all_of([trait(name, {"$type": "string"}), negate(trait(name, {"$contains": value}))])
            case "REGEX":
                self.draft.note("segments", "changed", "Python's regular expressions are read as JavaScript's")
                return trait(name, {"$exists": True, "$regex": f"^(?:{value})"})
            case "MODULO":
                return self._modulo(name, value)
            case _ if operator in _ORDER:
                sign = _ORDER[operator]
                numbers = [trait(name, {"$type": "number", sign: number})] if number is not None else []
                return any_of([trait(name, {"$type": "string", sign: value}), *numbers])
        raise Unsupported(f"{operator!r} is not an operator that Flagsmith documents")

    def _modulo(self, name: str, value: str) -> Tree:
        """`divisor|remainder`; Python's remainder has the divisor's sign, MongoDB's that of the number."""
        parts = [read_number(part) for part in value.split("|")]
        if len(parts) == 2 and any(part is not None and part != int(part) for part in parts):
            why = f"MODULO {value} is of numbers that are not whole, which no condition divides by; it never holds"
            self.draft.note("segments", "not kept", why)
        if len(parts) != 2 or any(part is None or part != int(part) for part in parts) or not parts[0]:
            return NEVER
        divisor, remainder = (int(part or 0) for part in parts)
        negative = [trait(name, {"$mod": [divisor, remainder - divisor]})] if remainder else []
        return any_of([trait(name, {"$mod": [divisor, remainder]}), *negative])


def _by_type(kind: str, parts: list[Tree]) -> Tree:
    if kind == "ALL":
        return all_of(parts)
    return any_of(parts) if kind == "ANY" else negate(any_of(parts))


def _listed(value: object) -> list[object]:
    """The values of an `IN`: a list, JSON of one, or a text with commas."""
    if isinstance(value, list):
        return list(value)
    text = "" if value is None else str(value)
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            return list(text.split(","))
        return list(found)
    return list(text.split(","))
