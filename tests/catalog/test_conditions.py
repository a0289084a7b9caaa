import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine.catalog.conditions.compile import and_terms, compile_condition, condition_fields, condition_problems

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "conditions_growthbook.json").read_text())

scalars = st.sampled_from([None, True, False, 0, 1, 2, -1, 0.5, 10, "", "a", "b", "A", "1", "10", "é", "😀"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)
traits = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
paths = st.sampled_from(["a", "b", "c", "a.a", "b.a", "a.0", "c.length"])
lists = st.lists(scalars, max_size=3)
operators = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), values),
    st.tuples(st.sampled_from(["$lt", "$lte", "$gt", "$gte"]), st.sampled_from([0, 1, 2.5, "a", "10", "é"])),
    st.tuples(st.sampled_from(["$in", "$nin", "$all"]), lists),
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(st.just("$size"), st.integers(0, 3)),
    st.tuples(st.just("$type"), st.sampled_from(["string", "number", "boolean", "object", "array", "null"])),
    st.tuples(st.just("$regex"), st.sampled_from(["^a", "1", "b$"])),
)
operator_maps = st.lists(operators, min_size=1, max_size=2).map(dict)
checks = values | operator_maps | operator_maps.map(lambda inner: {"$not": inner})
checks |= operator_maps.map(lambda inner: {"$elemMatch": inner})
conditions = st.recursive(
    st.dictionaries(paths, checks, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, max_size=3)).map(lambda pair: dict([pair])),
        inner.map(lambda part: {"$not": part}),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
    ),
    max_leaves=4,
)


def is_operators(value: Any) -> bool:
    return isinstance(value, dict) and value != {} and all(key.startswith("$") for key in value)


def text(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return ",".join("" if item is None else text(item) for item in value)
        case dict():
            return "[object Object]"
        case _:
            return str(value)


def number(value: Any) -> float:
    if isinstance(value, int | float):
        return value
    if value is None or text(value) == "":
        return 0
    return float(text(value)) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text(value)) else math.nan


def truthy(value: Any) -> bool:
    return bool(value) or isinstance(value, list | dict)


def typed(value: Any) -> Any:
    """The value with its types written out, so that true and 1 differ."""
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return (isinstance(value, bool), value)


def strictly(left: Any, right: Any) -> bool:
    return not isinstance(left, list | dict) and typed(left) == typed(right)


def in_order(left: Any, right: Any) -> tuple[Any, Any]:
    if isinstance(left, str | list | dict) and isinstance(right, str):
        return text(left).encode("utf-16-be"), right.encode("utf-16-be")
    return number(left), number(right)


def reference(condition: Mapping[str, Any], found: Any) -> bool:
    """`evalCondition`, evaluated operator by operator, nothing compiled."""
    for key, expected in condition.items():
        if key == "$and":
            holds = all(reference(part, found) for part in expected)
        elif key in {"$or", "$nor"}:
            holds = (not expected or any(reference(part, found) for part in expected)) is (key == "$or")
        elif key == "$not":
            holds = not reference(expected, found)
        else:
            holds = reference_value(expected, at(found, key))
        if not holds:
            return False
    return True


def at(value: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name == "length":
            value = len(value)
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def reference_value(expected: Any, value: Any) -> bool:
    match expected:
        case None:
            return value is None
        case bool():
            return value is not None and truthy(value) is expected
        case int() | float():
            return number(value) == expected
        case str():
            return text(value) == expected
        case dict() if is_operators(expected):
            return all(reference_operator(name, operand, value) for name, operand in expected.items())
        case _:
            return typed(value) == typed(expected)


def reference_operator(name: str, operand: Any, value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    left, right = in_order(value, operand)
    return {
        "$eq": lambda: strictly(value, operand),
        "$ne": lambda: not strictly(value, operand),
        "$lt": lambda: left < right,
        "$lte": lambda: left <= right,
        "$gt": lambda: left > right,
        "$gte": lambda: left >= right,
        "$in": lambda: any(strictly(item, option) for item in items for option in operand),
        "$nin": lambda: not any(strictly(item, option) for item in items for option in operand),
        "$all": lambda: (
            isinstance(value, list) and all(any(reference_value(o, item) for item in value) for o in operand)
        ),
        "$exists": lambda: (value is not None) is operand,
        "$size": lambda: isinstance(value, list) and len(value) == operand,
        "$type": lambda: (
            {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}.get(
                type(value), "null"
            )
            == operand
        ),
        "$regex": lambda: re.search(operand, text(value)) is not None,
        "$not": lambda: not reference_value(operand, value),
        "$elemMatch": lambda: (
            isinstance(value, list) and any(truthy(item) and reference_value(operand, item) for item in value)
        ),
    }[name]()


@settings(deadline=None, max_examples=500)
@given(conditions, traits)
def test_compiled_equals_the_slow_reference(condition: dict[str, Any], found: dict[str, Any]) -> None:
    assert compile_condition(condition)(found) is reference(condition, found)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: json.dumps(case[:2], ensure_ascii=False))
def test_it_evaluates_as_the_javascript_sdk(case: list[Any]) -> None:
    condition, found, expected = case
    assert compile_condition(condition, VECTORS["groups"])(found) is expected


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])  # random traits rarely satisfy both parts
@given(conditions, conditions, traits)
def test_removing_a_part_excludes_nobody(one: dict[str, Any], other: dict[str, Any], found: dict[str, Any]) -> None:
    both = {"$and": [one, other]}
    assert and_terms(one) <= and_terms(both)
    assume(compile_condition(both)(found))
    assert compile_condition(one)(found)


def test_parts_that_must_all_hold_are_listed() -> None:
    condition = {"$and": [{"a": 1}, {"b": {"$gt": 1, "$lt": 3}}], "$nor": [{"c": 1}], "$not": {"d": 1}}
    assert and_terms(condition) == {
        '{"a": 1}',
        '{"b": {"$gt": 1}}',
        '{"b": {"$lt": 3}}',
        '{"$not": {"c": 1}}',
        '{"$not": {"d": 1}}',
    }


def test_the_traits_a_condition_reads() -> None:
    condition = {
        "$and": [{"loyalty.tier": {"$gte": 1}}, {"$not": {"$or": [{"country": "DE"}]}}],
        "$segment": "regulars",
    }
    assert condition_fields(condition | {"orders": {"$elemMatch": {"total": 3}}}) == {
        "loyalty.tier",
        "country",
        "orders",
    }


@pytest.mark.parametrize(
    ("condition", "path", "rule"),
    [
        (["a"], "", "is not a condition"),
        ({"$gt": 5}, "$gt", "has no trait"),
        ({"$xor": []}, "$xor", "is not an operator"),
        ({"age": {"$gtt": 5}}, "age.$gtt", "is not an operator"),
        ({"age": {"$gt": 5, "max": 7}}, "age.max", "is a key beside operators"),
        ({"age": {}}, "age", "is empty and matches only an empty mapping"),
        ({"country": {"$in": "DE"}}, "country.$in", "is not a list"),
        ({"age": {"$gte": None}}, "age.$gte", "has no order"),
        ({"app": {"$vgte": 1.1}}, "app.$vgte", "is not a version in quotes"),
        ({"app": {"$exists": "yes"}}, "app.$exists", "is neither true nor false"),
        ({"app": {"$type": "int"}}, "app.$type", "is not a type"),
        ({"tags": {"$size": "3"}}, "tags.$size", "is not a number"),
        ({"tags": {"$elemMatch": 3}}, "tags.$elemMatch", "is not a condition"),
        ({"tags": {"$elemMatch": {"name": {"$foo": 1}}}}, "tags.$elemMatch.name.$foo", "is not an operator"),
        ({"id": {"$inGroup": 7}}, "id.$inGroup", "is not a group's name"),
        ({"agent": {"$regex": 7}}, "agent.$regex", "is not a text"),
        (
            {"agent": {"$not": {"$regexi": "(?=a)"}}},
            "agent.$not.$regexi",
            "has a lookaround, which cannot be matched in linear time",
        ),
        ({"$or": []}, "$or", "is an empty list, which matches everyone"),
        ({"$and": {"a": 1}}, "$and", "is not a list of conditions"),
        ({"$nor": [{"a": 1}, 3]}, "$nor[1]", "is not a condition"),
        ({"$segment": 3}, "$segment", "is not a segment's name"),
    ],
)
def test_every_mistake_has_its_place_and_rule(condition: Any, path: str, rule: str) -> None:
    (problem,) = condition_problems(condition)
    assert (problem.path, problem.rule) == (path, rule)
    assert problem.remedy


def test_a_misspelt_operator_is_suggested() -> None:
    (problem,) = condition_problems({"age": {"$gtr": 5}})
    assert problem.remedy in {"did you mean '$gt'?", "did you mean '$gte'?"}


@pytest.mark.parametrize(
    "condition", [7, None, {"$and": 3}, {"$not": 3}, {"a": {"$in": 3}}, {"a": {"$regex": "(a+)+$"}}]
)
def test_a_malformed_condition_matches_nobody(condition: Any) -> None:
    assert compile_condition(condition)({"a": "a" * 40 + "!"}) is False


@pytest.mark.parametrize(
    "condition",
    [
        {"country": {"$in": ["DE", "AT"]}, "loyalty.tier": {"$gte": 2}},
        {
            "$segment": ["regulars", "newcomers"],
            "$or": [{"age": {"$not": {"$gt": 5}}}, {"tags": {"$size": {"$gt": 1}}}],
        },
        {
            "app": {"$vgte": "1.10.0"},
            "address": {"city": "Wien"},
            "id": {"$inGroup": "staff"},
            "agent": {"$regex": "^Moz"},
        },
    ],
)
def test_a_good_condition_has_no_problem(condition: dict[str, Any]) -> None:
    assert condition_problems(condition) == []
