"""Conditions in MongoDB's query form, compiled once into closures that decisions call.

Operators have GrowthBook's semantics, those of `evalCondition` in its JavaScript SDK. A missing trait is null. A
malformed part never holds, as in GrowthBook; `condition_problems` reports it before a plan runs. Dates have operators
of their own (`dates`), which compare with the attribute `$now` of a decision, or with the present where there is none.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from engine.catalog.conditions.check import ConditionProblem, condition_problems, is_operators
from engine.catalog.conditions.dates import Clock, compile_date
from engine.catalog.conditions.js_coercion import (
    ARRAYS,
    NUMBERS,
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
from engine.catalog.conditions.semver import compile_semver
from engine.catalog.conditions.text_operators import compile_text_operator

__all__ = ["ConditionProblem", "and_terms", "compile_condition", "condition_fields", "condition_problems", "conjuncts"]

SavedGroups = Mapping[str, Collection[object]]
Predicate = Callable[[Mapping[str, object]], bool]
ValueTest = Callable[[object], bool]


class _Scope(NamedTuple):
    """State that the tests of one condition share: the lists of values by name, and the time of the decision."""

    groups: SavedGroups
    clock: Clock


_VERSION_NOISE = re.compile(r"^v|\+.*$")
_VERSION_BORDER = re.compile(r"[-.]")
_COMPARISONS = {"$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_VERSION_COMPARISONS = {"$vlt": "<", "$vlte": "<=", "$vgt": ">", "$vgte": ">="}


def compile_condition(condition: Mapping[str, object], groups: SavedGroups | None = None) -> Predicate:
    """The predicate of `condition` on a customer's traits; all terms must be true, and `{}` matches everyone.

    Args:
        condition: without `$segment`; `expand_segments` replaces those.
        groups: the lists of values that `$inGroup` and `$notInGroup` name, copied here.

    Example:
        >>> matches = compile_condition({"country": {"$in": ["DE", "AT"]}, "loyalty.tier": {"$gte": 2}})
        >>> matches({"country": "DE", "loyalty": {"tier": 3}})
        True
    """
    scope = _Scope(groups or {}, Clock())
    test = _compile_document(condition, scope)
    if not scope.clock.is_read:
        return test

    def test_now(traits: Mapping[str, object]) -> bool:
        scope.clock.read(traits)
        return test(traits)

    return test_now


def condition_fields(condition: Mapping[str, object]) -> frozenset[str]:
    """The traits that a condition reads, as dotted paths."""
    return frozenset(_read_fields(condition))


def and_terms(condition: Mapping[str, object]) -> frozenset[str]:
    """The terms of a condition that must all be true, each as JSON text.

    A condition whose parts are a subset of another's matches every customer that the other matches: removing a part
    never excludes anyone.
    """
    return frozenset(json.dumps(term, sort_keys=True, default=str) for term in conjuncts(condition))


def conjuncts(condition: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield the terms of a condition that must all be true, each as a condition."""
    for key, value in condition.items():
        if key == "$and" and is_array(value):
            for part in _parts(value):
                yield from conjuncts(part)
        elif key == "$nor" and is_array(value):
            # De Morgan: none of them holds where the negation of each holds.
            yield from ({"$not": part} for part in _parts(value))
        elif isinstance(value, Mapping) and is_operators(value) and not key.startswith("$"):
            yield from ({key: {name: operand}} for name, operand in value.items())
        else:
            yield {key: value}


def _read_fields(condition: Mapping[str, object]) -> Iterator[str]:
    """Yield the traits of a condition, at any depth."""
    for key, value in condition.items():
        if key == "$not" and isinstance(value, Mapping):
            yield from _read_fields(value)
        elif key in {"$and", "$or", "$nor"} and is_array(value):
            for part in _parts(value):
                yield from _read_fields(part)
        elif key != "$segment":
            yield key


def _parts(value: object) -> Iterator[Mapping[str, object]]:
    """Yield the conditions in the list of a `$and`, `$or` or `$nor`."""
    if isinstance(value, ARRAYS):
        yield from (part for part in value if isinstance(part, Mapping))


def _never(_: object) -> bool:
    return False


def _always(_: object) -> bool:
    return True


def _all(tests: Sequence[ValueTest]) -> ValueTest:
    """The test that all tests are true; without tests it is always true."""
    if not tests:
        return _always
    if len(tests) == 1:
        return tests[0]

    def test(value: object) -> bool:
        for part in tests:  # noqa: SIM110  a generator for `all` costs more than most of the parts
            if not part(value):
                return False
        return True

    return test


def _any(tests: Sequence[ValueTest]) -> ValueTest:
    """The test that one of the tests is true."""

    def test(value: object) -> bool:
        for part in tests:  # noqa: SIM110  as above
            if part(value):
                return True
        return False

    return test


def _not(test: ValueTest) -> ValueTest:
    return lambda value: not test(value)


def _compile_document(condition: object, scope: _Scope) -> ValueTest:
    """The test of a whole condition; a value that is not a mapping is never true."""
    if not isinstance(condition, Mapping):
        return _never
    return _all([_compile_term(key, value, scope) for key, value in condition.items()])


def _compile_term(key: str, value: object, scope: _Scope) -> ValueTest:
    """The test of one key of a condition: a logical operator, or a trait with its required value."""
    if key == "$not":
        return _not(_compile_document(value, scope)) if isinstance(value, Mapping) else _never
    if key in {"$and", "$or", "$nor"}:
        if not isinstance(value, ARRAYS):
            return _never
        parts = [_compile_document(part, scope) for part in value]
        if key == "$and":
            return _all(parts)
        either = _any(parts) if parts else _always
        return _not(either) if key == "$nor" else either
    return _compile_trait(key, _compile_value(value, scope))


def _compile_trait(path: str, test: ValueTest) -> ValueTest:
    """The test of the value at a dotted path; the exact check for `dict` saves a call for most traits."""
    first, *rest = path.split(".")
    if not rest:
        return lambda traits: test(traits.get(path) if type(traits) is dict else read_member(traits, path))

    def read(traits: object) -> bool:
        value = traits.get(first) if type(traits) is dict else read_member(traits, first)
        for name in rest:
            if value is None:
                break
            value = value.get(name) if type(value) is dict else read_member(value, name)
        return test(value)

    return read


def _compile_value(expected: object, scope: _Scope) -> ValueTest:
    """The test of one trait's value: plain values compare like JavaScript's `==`, operators by their own rules."""
    if expected is None:
        return lambda value: value is None
    if isinstance(expected, str):
        return lambda value: (value if type(value) is str else to_text(value)) == expected
    if isinstance(expected, bool):
        return lambda value: value is not None and to_boolean(value) is expected
    if isinstance(expected, NUMBERS):
        return lambda value: (value if type(value) is int else to_number(value)) == expected
    if isinstance(expected, Mapping) and is_operators(expected):
        return _all([_compile_operator(name, operand, scope) for name, operand in expected.items()])
    return lambda value: deep_equal(value, expected)


def _compile_operator(name: str, operand: object, scope: _Scope) -> ValueTest:
    """The test of one operator; it is never true for an unknown one or an operand of the wrong type."""
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
            return _not(_among(operand, fold=name == "$nini")) if is_array(operand) else _never
        case "$inGroup":
            return _among(list(scope.groups.get(str(operand), ())))
        case "$notInGroup":
            return _not(_among(list(scope.groups.get(str(operand), ()))))
        case "$exists":
            must_exist = to_boolean(operand)
            return lambda value: (value is not None) is must_exist
        case "$type":
            return lambda value: type_of(value) == operand
        case "$not":
            return _not(_compile_value(operand, scope))
        case "$size":
            size = _compile_value(operand, scope)
            return lambda value: isinstance(value, ARRAYS) and size(len(value))
        case "$elemMatch":
            return _some_element(operand, scope)
        case "$all" | "$alli":
            return _every(operand, scope, fold=name == "$alli")
        case "$regex" | "$regexi":
            return _pattern(operand, ignore_case=name == "$regexi")
        case "$veq" | "$vne":
            version = pad_version(operand)
            return lambda value: (pad_version(value) == version) is (name == "$veq")
        case "$vlt" | "$vlte" | "$vgt" | "$vgte":
            compare = compile_comparison(_VERSION_COMPARISONS[name], pad_version(operand))
            return lambda value: compare(pad_version(value))
        case "$before" | "$after" | "$within":
            return compile_date(name, operand, scope.clock)
        case "$startsWith" | "$endsWith" | "$contains" | "$ip" | "$mod":
            return compile_text_operator(name, operand)
        case "$semver":
            return compile_semver(operand)
        case _:
            return _never


def _equal(expected: object) -> ValueTest:
    """The test of `$eq`: equal without coercion."""
    if expected is None or isinstance(expected, bool):
        return lambda value: value is expected
    if isinstance(expected, str):
        return lambda value: value == expected
    return lambda value: strict_equal(value, expected)


def _among(options: object, *, fold: bool = False) -> ValueTest:
    """Whether a value, or an item of a list, is one of the options; without coercion; `fold` ignores case."""
    if not isinstance(options, ARRAYS):
        return _never
    texts = frozenset(option.lower() if fold else option for option in options if isinstance(option, str))
    numbers = frozenset(o for o in options if isinstance(o, NUMBERS) and not isinstance(o, bool))
    constants = [option for option in options if option is None or isinstance(option, bool)]

    def holds(value: object) -> bool:
        if isinstance(value, str):
            return (value.lower() if fold else value) in texts
        if value is None or isinstance(value, bool):
            return value in constants
        return isinstance(value, NUMBERS) and value in numbers

    return lambda value: any(map(holds, value)) if isinstance(value, ARRAYS) else holds(value)


def _every(options: object, scope: _Scope, *, fold: bool) -> ValueTest:
    """Whether a list has an item for each of the options."""
    if not isinstance(options, ARRAYS):
        return _never
    tests = [
        _folded(option) if fold and isinstance(option, str) else _compile_value(option, scope) for option in options
    ]
    return lambda value: isinstance(value, ARRAYS) and all(any(map(test, value)) for test in tests)


def _folded(expected: str) -> ValueTest:
    """The test that a value as text equals the expected one, ignoring case."""
    lower = expected.lower()
    return lambda value: to_text(value).lower() == lower


def _some_element(expected: object, scope: _Scope) -> ValueTest:
    """Whether an item of a list meets the operand; as in GrowthBook a falsy item never does."""
    if not isinstance(expected, Mapping):
        return _never
    test = _compile_value(expected, scope) if is_operators(expected) else _compile_document(expected, scope)
    return lambda value: isinstance(value, ARRAYS) and any(to_boolean(item) and test(item) for item in value)


def _pattern(operand: object, *, ignore_case: bool) -> ValueTest:
    """The test that the value as text matches a pattern; a malformed pattern never matches."""
    if not isinstance(operand, str):
        return _never
    try:
        matches = compile_pattern(operand, ignore_case=ignore_case)
    except PatternError:
        return _never
    return lambda value: matches(to_text(value))


def pad_version(value: object) -> str:
    """A version as text that sorts in version order: build and leading `v` removed, numbers padded.

    A release sorts after its pre-releases. As in GrowthBook, a value that is not a version counts as "0".
    """
    text = to_text(value) if type_of(value) in {"string", "number"} else ""
    parts = _VERSION_BORDER.split(_VERSION_NOISE.sub("", text or "0"))
    if len(parts) == 3:
        parts.append("~")  # sorts after any letter: a release follows its pre-releases
    return "-".join(part.rjust(5) if part.isascii() and part.isdigit() else part for part in parts)
