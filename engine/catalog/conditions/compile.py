"""A condition in MongoDB's query form, compiled once into closures: who is in an audience, a segment, a prerequisite.

Operators and their meaning are GrowthBook's (its JavaScript SDK's `evalCondition`). A trait that is missing is null.
A malformed part does not hold, as there; `condition_problems` tells of it before.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from engine.catalog.conditions.check import ConditionProblem, condition_problems, is_operators
from engine.catalog.conditions.js_coercion import (
    compile_comparison,
    deep_equal,
    is_array,
    read_member,
    strict_equal,
    to_boolean,
    to_number,
    to_text,
    type_of,
)
from engine.catalog.conditions.js_regexp import PatternError, compile_pattern

__all__ = ["ConditionProblem", "and_terms", "compile_condition", "condition_fields", "condition_problems", "conjuncts"]

SavedGroups = Mapping[str, Collection[object]]
Predicate = Callable[[Mapping[str, object]], bool]
ValueTest = Callable[[object], bool]

_VERSION_NOISE = re.compile(r"^v|\+.*$")
_VERSION_BORDER = re.compile(r"[-.]")
_COMPARISONS = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_VERSION_COMPARISONS = {"$vlt": "<", "$vlte": "<=", "$vgt": ">", "$vgte": ">="}


def compile_condition(condition: Mapping[str, object], groups: SavedGroups | None = None) -> Predicate:
    """The predicate of `condition` over a customer's traits; `groups` are the named lists `$inGroup` looks into.

    All terms must hold; `{}` matches everyone. Groups are read once, here.
    """
    return _document(condition, groups or {})


def condition_fields(condition: Mapping[str, object]) -> frozenset[str]:
    """The traits a condition reads, as dotted paths."""
    return frozenset(_fields(condition))


def and_terms(condition: Mapping[str, object]) -> frozenset[str]:
    """The parts of a condition that must all hold, each as JSON text.

    Where one condition's parts are a subset of another's, it matches whomever the other matches: dropping a part only
    lets people in.
    """
    return frozenset(json.dumps(term, sort_keys=True, default=str) for term in conjuncts(condition))


def conjuncts(condition: Mapping[str, object]) -> "Iterator[Mapping[str, object]]":
    """The parts of a condition that must all hold, each a condition of its own."""
    for key, value in condition.items():
        if key == "$and" and is_array(value):
            for part in _parts(value):
                yield from conjuncts(part)
        elif key == "$nor" and is_array(value):
            yield from ({"$not": part} for part in _parts(value))
        elif isinstance(value, Mapping) and is_operators(value) and not key.startswith("$"):
            yield from ({key: {name: operand}} for name, operand in value.items())
        else:
            yield {key: value}


def _fields(condition: Mapping[str, object]) -> Iterator[str]:
    for key, value in condition.items():
        if key == "$not" and isinstance(value, Mapping):
            yield from _fields(value)
        elif key in {"$and", "$or", "$nor"} and is_array(value):
            for part in _parts(value):
                yield from _fields(part)
        elif key != "$segment":
            yield key


def _parts(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list | tuple):
        yield from (part for part in value if isinstance(part, Mapping))


def _nobody(_: object) -> bool:
    return False


def _everybody(_: object) -> bool:
    return True


def _all(checks: Sequence[ValueTest]) -> ValueTest:
    if not checks:
        return _everybody
    if len(checks) == 1:
        return checks[0]

    def check(value: object) -> bool:
        for part in checks:  # noqa: SIM110  a generator for `all` costs more than most of the parts
            if not part(value):
                return False
        return True

    return check


def _any(checks: Sequence[ValueTest]) -> ValueTest:
    def check(value: object) -> bool:
        for part in checks:  # noqa: SIM110  as above
            if part(value):
                return True
        return False

    return check


def _not(check: ValueTest) -> ValueTest:
    return lambda value: not check(value)


def _document(condition: object, groups: SavedGroups) -> ValueTest:
    if not isinstance(condition, Mapping):
        return _nobody
    return _all([_term(key, value, groups) for key, value in condition.items()])


def _term(key: str, value: object, groups: SavedGroups) -> ValueTest:
    if key == "$not":
        return _not(_document(value, groups)) if isinstance(value, Mapping) else _nobody
    if key in {"$and", "$or", "$nor"}:
        if not isinstance(value, list | tuple):
            return _nobody
        parts = [_document(part, groups) for part in value]
        if key == "$and":
            return _all(parts)
        either = _any(parts) if parts else _everybody
        return _not(either) if key == "$nor" else either
    return _trait(key, _value(value, groups))


def _trait(path: str, check: ValueTest) -> ValueTest:
    first, *rest = path.split(".")
    if not rest:
        return lambda traits: check(traits.get(path) if type(traits) is dict else read_member(traits, path))

    def read(traits: object) -> bool:
        found = traits.get(first) if type(traits) is dict else read_member(traits, first)
        for name in rest:
            if found is None:
                break
            found = found.get(name) if type(found) is dict else read_member(found, name)
        return check(found)

    return read


def _value(expected: object, groups: SavedGroups) -> ValueTest:
    """The check of one trait's value: a plain value coerces as JavaScript's `==` would, operators decide themselves."""
    if expected is None:
        return lambda value: value is None
    if isinstance(expected, str):
        return lambda value: (value if type(value) is str else to_text(value)) == expected
    if isinstance(expected, bool):
        return lambda value: value is not None and to_boolean(value) is expected
    if isinstance(expected, int | float):
        return lambda value: (value if type(value) is int else to_number(value)) == expected
    if isinstance(expected, Mapping) and is_operators(expected):
        return _all([_operator(name, operand, groups) for name, operand in expected.items()])
    return lambda value: deep_equal(value, expected)


def _operator(name: str, operand: object, groups: SavedGroups) -> ValueTest:
    match name:
        case "$eq":
            return _equal(operand)
        case "$ne":
            return _not(_equal(operand))
        case "$lt" | "$lte" | "$gt" | "$gte":
            return compile_comparison(_COMPARISONS[name], operand)
        case "$in" | "$ini":
            return _among(operand, fold=name == "$ini")
        case "$nin" | "$nini":
            return _not(_among(operand, fold=name == "$nini")) if is_array(operand) else _nobody
        case "$inGroup":
            return _among(list(groups.get(str(operand), ())))
        case "$notInGroup":
            return _not(_among(list(groups.get(str(operand), ()))))
        case "$exists":
            wanted = to_boolean(operand)
            return lambda value: (value is not None) is wanted
        case "$type":
            return lambda value: type_of(value) == operand
        case "$not":
            return _not(_value(operand, groups))
        case "$size":
            size = _value(operand, groups)
            return lambda value: isinstance(value, list | tuple) and size(len(value))
        case "$elemMatch":
            return _some_element(operand, groups)
        case "$all" | "$alli":
            return _every(operand, groups, fold=name == "$alli")
        case "$regex" | "$regexi":
            return _pattern(operand, ignore_case=name == "$regexi")
        case "$veq" | "$vne":
            version = pad_version(operand)
            return lambda value: (pad_version(value) == version) is (name == "$veq")
        case "$vlt" | "$vlte" | "$vgt" | "$vgte":
            compare = compile_comparison(_VERSION_COMPARISONS[name], pad_version(operand))
            return lambda value: compare(pad_version(value))
        case _:
            return _nobody


def _equal(expected: object) -> ValueTest:
    if expected is None or isinstance(expected, bool):
        return lambda value: value is expected
    if isinstance(expected, str):
        return lambda value: value == expected
    return lambda value: strict_equal(value, expected)


def _among(options: object, *, fold: bool = False) -> ValueTest:
    if not isinstance(options, list | tuple):
        return _nobody
    texts = frozenset(option.lower() if fold else option for option in options if isinstance(option, str))
    numbers = frozenset(o for o in options if isinstance(o, int | float) and not isinstance(o, bool))
    constants = [option for option in options if option is None or isinstance(option, bool)]

    def holds(value: object) -> bool:
        if isinstance(value, str):
            return (value.lower() if fold else value) in texts
        if value is None or isinstance(value, bool):
            return value in constants
        return isinstance(value, int | float) and value in numbers

    return lambda value: any(map(holds, value)) if isinstance(value, list | tuple) else holds(value)


def _every(options: object, groups: SavedGroups, *, fold: bool) -> ValueTest:
    if not isinstance(options, list | tuple):
        return _nobody
    checks = [_folded(option) if fold and isinstance(option, str) else _value(option, groups) for option in options]
    return lambda value: isinstance(value, list | tuple) and all(any(map(check, value)) for check in checks)


def _folded(expected: str) -> ValueTest:
    lower = expected.lower()
    return lambda value: to_text(value).lower() == lower


def _some_element(expected: object, groups: SavedGroups) -> ValueTest:
    if not isinstance(expected, Mapping):
        return _nobody
    check = _value(expected, groups) if is_operators(expected) else _document(expected, groups)
    return lambda value: isinstance(value, list | tuple) and any(to_boolean(item) and check(item) for item in value)


def _pattern(operand: object, *, ignore_case: bool) -> ValueTest:
    if not isinstance(operand, str):
        return _nobody
    try:
        matches = compile_pattern(operand, ignore_case=ignore_case)
    except PatternError:
        return _nobody
    return lambda value: matches(to_text(value))


def pad_version(value: object) -> str:
    """A version as text that sorts as versions do: build and leading `v` cut, numbers padded.

    A release sorts after its pre-releases. As in GrowthBook, what is no version is "0".
    """
    text = to_text(value) if type_of(value) in {"string", "number"} else ""
    parts = _VERSION_BORDER.split(_VERSION_NOISE.sub("", text or "0"))
    if len(parts) == 3:
        parts.append("~")
    return "-".join(part.rjust(5) if part.isascii() and part.isdigit() else part for part in parts)
