"""Unleash's constraints as conditions: https://docs.getunleash.io/reference/activation-strategies#constraint-operators.

An attribute there is a text; a negated constraint also holds where the attribute is missing.
"""

from collections.abc import Mapping

import msgspec

from engine.imports.model import Unsupported
from engine.imports.predicates import During, Tree, any_of, negate, trait
from engine.imports.source_values import escape_pattern, read_number, read_time, text_forms

_NUMBERS: Mapping[str, str] = {"NUM_GT": "$gt", "NUM_GTE": "$gte", "NUM_LT": "$lt", "NUM_LTE": "$lte"}
_VERSIONS: Mapping[str, str] = {
    "SEMVER_EQ": "=",
    "SEMVER_GT": ">",
    "SEMVER_LT": "<",
    "SEMVER_GTE": ">=",
    "SEMVER_LTE": "<=",
}
_TEXTS: Mapping[str, tuple[str, str]] = {
    "STR_STARTS_WITH": ("$startsWith", "^{}"),
    "STR_ENDS_WITH": ("$endsWith", "{}$"),
    "STR_CONTAINS": ("$contains", "{}"),
}


class UnleashConstraint(msgspec.Struct, frozen=True, rename="camel"):
    """A constraint on one attribute."""

    context_name: str
    operator: str
    values: list[str] | None = None
    value: str | None = None
    inverted: bool = False
    case_insensitive: bool = False


def read_constraint(one: UnleashConstraint) -> Tree:
    """The condition under which a constraint is true.

    Raises:
        Unsupported: for an operator that is not documented, or a value that it does not take.
    """
    found = _read(one)
    return negate(found) if one.inverted else found


def attribute_of(name: str) -> str:
    """The trait of an attribute of Unleash's context; `userId` is the customer's id."""
    return "id" if name == "userId" else name.removeprefix("properties.")


def _read(one: UnleashConstraint) -> Tree:
    name, values, value = attribute_of(one.context_name), one.values or [], one.value or ""
    operator = one.operator
    if operator in {"IN", "NOT_IN"}:
        among = trait(name, {"$in": text_forms(values, name)})
        return among if operator == "IN" else negate(among)
    if operator in _TEXTS:
        plain, pattern = _TEXTS[operator]
        if one.case_insensitive:
            patterns = [pattern.format(escape_pattern(text)) for text in values]
            return any_of([trait(name, {"$type": "string", "$regexi": each}) for each in patterns])
        return trait(name, {plain: values}) if values else any_of([])
    if operator == "REGEX":
        return trait(name, {"$type": "string", "$regexi" if one.case_insensitive else "$regex": value})
    if operator == "NUM_EQ" or operator in _NUMBERS:
        number = read_number(value)
        if number is None:
            raise Unsupported(f"{operator} compares with {value!r}, which is not a number")
        if operator == "NUM_EQ":
            return trait(name, {"$exists": True, "$gte": number, "$lte": number})
        return trait(name, {"$exists": True, _NUMBERS[operator]: number})
    if operator in _VERSIONS:
        # Unleash takes a version without all three numbers for none.
        return trait(name, {"$semver": f"{_VERSIONS[operator]}{value}", "$regex": "^v?[0-9]+[.][0-9]+[.][0-9]+"})
    if operator in {"DATE_AFTER", "DATE_BEFORE"}:
        return _date(name, operator, value)
    raise Unsupported(f"{operator!r} is not an operator that Unleash documents")


def _date(name: str, operator: str, value: str) -> Tree:
    """A date compared with the present, which `currentTime` is, or with another attribute."""
    moment = read_time(value)
    if moment is None:
        raise Unsupported(f"{operator} compares with {value!r}, which is not a date")
    is_after = operator == "DATE_AFTER"
    if name == "currentTime":
        return During(start=moment) if is_after else During(end=moment)
    return trait(name, {"$after" if is_after else "$before": value})
