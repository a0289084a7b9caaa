"""Reports every mistake in a condition before a plan runs, since in GrowthBook a malformed one matches nobody."""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from engine.catalog.conditions.dates import DATE_OPERATORS, read_date, read_span, suggest_time
from engine.catalog.conditions.js_coercion import is_array
from engine.catalog.conditions.js_regexp import PatternError, compile_pattern
from engine.catalog.conditions.semver import is_semver_operand
from engine.catalog.conditions.text_operators import OPERATORS_OF_VALUES, TEXT_OPERATORS, is_operand

LOGICAL = ("$and", "$or", "$nor", "$not")
_LISTS = ("$in", "$nin", "$ini", "$nini", "$all", "$alli")
_ORDERED = ("$gt", "$gte", "$lt", "$lte")
_VERSIONS = ("$veq", "$vne", "$vgt", "$vgte", "$vlt", "$vlte")
_GROUPS = ("$inGroup", "$notInGroup")
_PATTERNS = ("$regex", "$regexi")
_TYPES = ("string", "number", "boolean", "object", "array", "null")
_BARE = frozenset(
    name[1:] for name in (*_LISTS, *_ORDERED, *_GROUPS, *DATE_OPERATORS, *OPERATORS_OF_VALUES, "$eq", "$ne", "$regex")
)
OPERATORS = (
    *("$eq", "$ne", "$exists", "$type", "$size", "$elemMatch", "$not"),
    *(_LISTS + _ORDERED + _VERSIONS + _GROUPS + _PATTERNS + DATE_OPERATORS + OPERATORS_OF_VALUES),
    "$semver",
)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_bound(value: object) -> bool:
    """Whether a date may be compared with this bound: a time with an offset, or `now`.

    A day has no offset, and a number may be meant as a day: 20261231 is a second of 1970.
    """
    return value == "now" or (isinstance(value, str) and read_date(value) is not None and "T" in value.upper())


def _is_period(value: object) -> bool:
    if isinstance(value, list | tuple):
        return len(value) == 2 and read_span(value[0]) is not None and _is_bound(value[1])
    return read_span(value) is not None


_OPERANDS: tuple[tuple[tuple[str, ...], Callable[[object], bool], str, str], ...] = (
    (_LISTS, is_array, "is not a list", "write 'NAME: [a, b]'"),
    (_ORDERED, lambda v: _is_number(v) or _is_text(v), "has no order", "give NAME a number or a text"),
    (_VERSIONS, _is_text, "is not a version in quotes", "write 'NAME: \"1.10.0\"'"),
    (_GROUPS, _is_text, "is not a group's name", "name one group"),
    (
        ("$before", "$after"),
        _is_bound,
        "is not a time with its zone",
        "write 'NAME: TIME' or 'NAME: now'",
    ),
    (("$within",), _is_period, "is not a length of time", "write 'NAME: 30d' or 'NAME: [30d, TIME]'"),
    (
        TEXT_OPERATORS,
        lambda v: is_operand("$contains", v),
        "is neither a text nor a list of texts",
        "write 'NAME: abc' or 'NAME: [abc, def]'",
    ),
    (("$ip",), lambda v: is_operand("$ip", v), "is not an address or network", "write 'NAME: [10.0.0.0/8, \"::1\"]'"),
    (("$semver",), is_semver_operand, "is not a version with its comparison", "write 'NAME: \">=1.2.0\"'"),
    (("$mod",), lambda v: is_operand("$mod", v), "is not a divisor and a remainder", "write 'NAME: [10, 3]'"),
    (("$exists",), lambda v: isinstance(v, bool), "is neither true nor false", "write 'NAME: true' or 'NAME: false'"),
    (("$type",), lambda v: v in _TYPES, "is not a type", f"known are {', '.join(_TYPES)}"),
)


class ConditionProblem(NamedTuple):
    """One mistake in a condition: its path in the condition, the value there, the rule it breaks, and the remedy."""

    path: str
    value: object
    rule: str
    remedy: str


_TEXT_TRAITS = re.compile(
    r"(^|[._])(id|version|zip|postcode|postal_code|phone|sku|ean|gtin|loyalty_card)$", re.IGNORECASE
)
"""Traits whose values are text though they may look like numbers: 1001 is not '1001', and 1.10 is 1.1."""
_FLAG_TRAITS = re.compile(r"^(consent\.\w+|complaint_open)$")
"""Traits that the engine keeps as true or false."""
_NO = ("no", "n", "off", "false", "0", "denied", "refused", "")
_COMPARING = ("$eq", "$ne", "$in", "$nin", "$ini", "$nini", "$all", "$alli", *_ORDERED)


def is_text_trait(name: str) -> bool:
    """Whether a trait of this name has text values even if they look like numbers."""
    return _TEXT_TRAITS.search(name) is not None


def condition_problems(condition: object) -> list[ConditionProblem]:
    """Every mistake in `condition`."""
    return list(_check_document(condition, ""))


def is_operators(value: object) -> bool:
    """Whether a value is a mapping of operators only, and not a value to compare with."""
    return isinstance(value, Mapping) and bool(value) and all(str(key).startswith("$") for key in value)


def _suggest_name(name: object, known: Collection[str]) -> str:
    """The remedy for an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _check_document(condition: object, path: str) -> Iterator[ConditionProblem]:
    """Yield the mistakes of a condition or of a part of one."""
    if not isinstance(condition, Mapping):
        yield ConditionProblem(path, condition, "is not a condition", "write 'trait: value' or 'trait: {$gte: 2}'")
        return
    for key, value in condition.items():
        inner = _join(path, key)
        if key == "$not":
            yield from _check_document(value, inner)
        elif key in LOGICAL:
            yield from _check_alternatives(key, value, inner)
        elif key == "$segment":
            names = value if isinstance(value, list | tuple) else (value,)
            if not all(isinstance(name, str) for name in names):
                yield ConditionProblem(inner, value, "is not a segment's name", "name one segment, or a list of them")
        elif key in OPERATORS:
            yield ConditionProblem(inner, key, "has no trait", f"write 'trait: {{{key}: …}}'")
        elif str(key).startswith("$"):
            yield ConditionProblem(
                inner, key, "is not an operator", _suggest_name(key, (*LOGICAL, "$segment", *OPERATORS))
            )
        else:
            yield from _check_value(value, inner)
            if is_text_trait(str(key)):
                yield from _check_text_trait(value, inner)
            if _FLAG_TRAITS.match(str(key)):
                yield from _check_flag_trait(value, inner)


def _check_text_trait(value: object, path: str) -> Iterator[ConditionProblem]:
    """Report numbers compared with a text trait: the comparison would match no customer, or the wrong ones."""
    if isinstance(value, Mapping) and is_operators(value):
        for name, operand in value.items():
            if name in _COMPARING or name == "$not":
                yield from _check_text_trait(operand, _join(path, name))
        return
    values = value if isinstance(value, list | tuple) else (value,)
    for index, number in enumerate(values):
        if _is_number(number):
            place = f"{path}[{index}]" if values is value else path
            rule = "is a number, and this trait is text"
            yield ConditionProblem(place, number, rule, f"quote it: '{number}'")


def _check_flag_trait(value: object, path: str) -> Iterator[ConditionProblem]:
    """Report values that a consent or complaint flag never has; it is null only if it is missing."""
    if isinstance(value, Mapping) and is_operators(value):
        for name, operand in value.items():
            if name in _COMPARING or name == "$not":
                yield from _check_flag_trait(operand, _join(path, name))
        return
    values = value if isinstance(value, list | tuple) else (value,)
    for index, one in enumerate(values):
        if one is not None and not isinstance(one, bool):
            meant = "false" if str(one).lower() in _NO else "true"
            place = f"{path}[{index}]" if values is value else path
            yield ConditionProblem(place, one, "is neither true nor false, which this trait is", f"write {meant}")


def _check_alternatives(key: str, value: object, path: str) -> Iterator[ConditionProblem]:
    """Yield the mistakes in the list of a `$and`, `$or` or `$nor`."""
    if not isinstance(value, list | tuple):
        yield ConditionProblem(path, value, "is not a list of conditions", f"write '{key}: [{{…}}, {{…}}]'")
        return
    if not value and key != "$and":
        matches = "everyone" if key == "$or" else "nobody"
        yield ConditionProblem(path, value, f"is an empty list, which matches {matches}", f"fill or remove {key}")
    for index, part in enumerate(value):
        yield from _check_document(part, f"{path}[{index}]")


def _check_value(value: object, path: str) -> Iterator[ConditionProblem]:
    """Yield the mistakes in a trait's required value; a plain value has none."""
    if not isinstance(value, Mapping):
        return
    if is_operators(value):
        for name, operand in value.items():
            yield from _check_operand(str(name), operand, _join(path, name))
    elif not value:
        yield ConditionProblem(path, value, "is empty and matches only an empty mapping", "name a value or an operator")
    elif any(str(key).startswith("$") for key in value):
        plain = next(key for key in value if not str(key).startswith("$"))
        yield ConditionProblem(
            _join(path, plain),
            plain,
            "is a key beside operators",
            "give it a dotted path of its own, or make it an operator",
        )
    elif value.keys() <= _BARE:
        for name in value:
            rule = f"is a key of a value to match, not the operator '${name}'"
            yield ConditionProblem(_join(path, name), name, rule, f"write '${name}'")


def _check_operand(name: str, operand: object, path: str) -> Iterator[ConditionProblem]:
    """Yield the mistakes of one operator and its operand."""
    if name not in OPERATORS:
        yield ConditionProblem(path, name, "is not an operator", _suggest_name(name, OPERATORS))
    elif name in {"$not", "$size"}:
        yield from _check_value(operand, path)
        if name == "$size" and not is_operators(operand) and not _is_number(operand):
            yield ConditionProblem(path, operand, "is not a number", "write how many items, or '{$gte: 2}'")
    elif name == "$elemMatch":
        yield from (_check_value(operand, path) if is_operators(operand) else _check_document(operand, path))
    elif name in _PATTERNS:
        yield from _check_pattern(operand, path)
    else:
        for names, accepts, rule, remedy in _OPERANDS:
            if name in names and not accepts(operand):
                meant = suggest_time(operand[-1] if isinstance(operand, list | tuple) and operand else operand)
                yield ConditionProblem(path, operand, rule, remedy.replace("NAME", name).replace("TIME", meant))


def _check_pattern(operand: object, path: str) -> Iterator[ConditionProblem]:
    """Yield the mistake of a pattern that does not compile."""
    if not isinstance(operand, str):
        yield ConditionProblem(path, operand, "is not a text", "put the pattern into quotes")
        return
    try:
        compile_pattern(operand)
    except PatternError as error:
        yield ConditionProblem(path, operand, error.rule, error.remedy)
