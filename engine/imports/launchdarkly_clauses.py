"""LaunchDarkly's clauses as conditions: https://docs.launchdarkly.com/home/flags/targeting-rules.

A clause about an attribute that is missing never holds, also where it is negated. A list holds where one item does.
"""

from collections.abc import Callable, Mapping

import msgspec

from engine.catalog.conditions.check import is_text_trait
from engine.catalog.conditions.semver import read_version
from engine.imports.model import Unsupported
from engine.imports.predicates import NEVER, Tree, all_of, any_of, negate, trait
from engine.imports.source_values import read_number, read_time, write_time

_ORDER: Mapping[str, tuple[str, Callable[[list[float]], float]]] = {
    "lessThan": ("$lt", max),
    "lessThanOrEqual": ("$lte", max),
    "greaterThan": ("$gt", min),
    "greaterThanOrEqual": ("$gte", min),
}
_VERSIONS: Mapping[str, str] = {"semVerEqual": "=", "semVerLessThan": "<", "semVerGreaterThan": ">"}
_TEXTS: Mapping[str, str] = {"startsWith": "$startsWith", "endsWith": "$endsWith", "contains": "$contains"}


class LaunchDarklyClause(msgspec.Struct, frozen=True, rename="camel"):
    """A clause: the attribute of one kind of context has, by the operator, one of the values."""

    attribute: str = ""
    op: str = ""
    values: list[object] = []
    negate: bool = False
    context_kind: str | None = None


def read_clause(clause: LaunchDarklyClause) -> Tree:
    """The condition under which a clause is true.

    Raises:
        Unsupported: for a clause about the kind of the context.
    """
    if clause.attribute == "kind":
        raise Unsupported("asks for the kind of the context; a request here has all that the caller sends")
    name = trait_path(clause.attribute, clause.context_kind)
    found = _match(name, clause.op, clause.values)
    return all_of([trait(name, {"$exists": True}), negate(found)]) if clause.negate else found


def trait_path(attribute: str, kind: str | None) -> str:
    """The trait of an attribute; with a kind of context a name that begins with a slash has steps between slashes."""
    if attribute.startswith("/") and kind is not None:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in attribute[1:].split("/")]
    else:
        steps = [attribute]
    if kind in {None, "user"}:
        return "id" if steps == ["key"] else ".".join(steps)
    return ".".join((str(kind), *steps))


def _match(name: str, op: str, values: list[object]) -> Tree:
    """The condition that a value, or an item of a list, meets the operator; never true for an unknown one."""
    if op == "in":
        return trait(name, {"$in": _comparable(name, values)})
    texts = [value for value in values if isinstance(value, str)]
    if op in _TEXTS:
        return trait(name, {_TEXTS[op]: texts}) if texts else NEVER
    if op == "matches":
        return any_of([_value_or_item(name, {"$type": "string", "$regex": text}) for text in texts])
    if op in _ORDER:
        operator, furthest = _ORDER[op]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        return _value_or_item(name, {"$type": "number", operator: furthest(numbers)}) if numbers else NEVER
    if op in {"before", "after"}:
        times = [time for value in values if (time := _time(value)) is not None]
        return any_of([_value_or_item(name, {f"${op}": time}) for time in times])
    if op in _VERSIONS:
        bounds = [f"{_VERSIONS[op]}{text}" for text in texts if read_version(text) is not None]
        return _value_or_item(name, {"$semver": bounds}) if bounds else NEVER
    return NEVER


def _value_or_item(name: str, test: Mapping[str, object]) -> Tree:
    """The trait, or an item of it if it is a list, meets a test that does not look into lists itself."""
    return any_of([trait(name, test), trait(name, {"$elemMatch": test})])


def _comparable(name: str, values: list[object]) -> list[object]:
    """The values; as texts where the trait holds texts."""
    if not is_text_trait(name):
        return values
    return [str(value) if read_number(value) is not None else value for value in values]


def _time(value: object) -> str | None:
    """A bound of `$before` and `$after`: RFC 3339 text, of milliseconds too."""
    seconds = read_time(value)
    return None if seconds is None else write_time(seconds)
