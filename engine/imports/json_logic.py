"""JsonLogic as conditions: https://jsonlogic.com/operations.html, with flagd's operators of texts and versions.

Comparisons are JavaScript's, as the conditions' own are. What computes with attributes, or walks through lists of
mappings, has no counterpart.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

from engine.catalog.conditions.check import is_text_trait
from engine.catalog.conditions.js_coercion import compile_comparison, to_boolean, to_text
from engine.catalog.conditions.semver import is_semver_operand
from engine.imports.model import Unsupported
from engine.imports.predicates import ALWAYS, NEVER, During, Tree, all_of, any_of, negate, trait
from engine.imports.source_values import read_number

_ORDER: Mapping[str, str] = {"<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
_MIRRORED: Mapping[str, str] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_TEXTS: Mapping[str, tuple[str, Callable[[str, str], bool]]] = {
    "starts_with": ("$startsWith", str.startswith),
    "ends_with": ("$endsWith", str.endswith),
}
TIMESTAMP = "$flagd.timestamp"


class Literal(NamedTuple):
    """A constant."""

    value: object


class Variable(NamedTuple):
    """An attribute, with the constant that stands for it where it is missing."""

    name: str
    default: object = None


def operator_of(node: Mapping[str, object]) -> tuple[str, list[object]]:
    """The operator of a node and its arguments, of which a single one need not be in a list.

    Raises:
        Unsupported: if the node has not exactly one operator.
    """
    if len(node) != 1:
        raise Unsupported("has a node of JsonLogic with other than one operator")
    [(name, arguments)] = node.items()
    return name, arguments if isinstance(arguments, list) else [arguments]


def operand_of(node: object, flag: str) -> Literal | Variable:
    """A constant or an attribute.

    Raises:
        Unsupported: for anything that is computed.
    """
    if not isinstance(node, Mapping):
        return Literal(node)
    name, arguments = operator_of(node)
    if name == "cat":
        parts = [operand_of(one, flag) for one in arguments]
        if all(isinstance(part, Literal) for part in parts):
            return Literal("".join(to_text(part.value) for part in parts if isinstance(part, Literal)))
    if name != "var" or not arguments or not isinstance(arguments[0], str) or not arguments[0]:
        raise Unsupported(f"computes a value with {name!r}, which conditions cannot express")
    if arguments[0] == "$flagd.flagKey":
        return Literal(flag)
    key = "id" if arguments[0] == "targetingKey" else arguments[0]
    return Variable(key, arguments[1] if len(arguments) > 1 else None)


def resolve_references(node: object, evaluators: Mapping[str, object], depth: int = 0) -> object:
    """The expression with every `{"$ref": name}` replaced by the evaluator of that name.

    Raises:
        Unsupported: for one that is not defined, or that refers to itself.
    """
    if isinstance(node, list):
        return [resolve_references(one, evaluators, depth) for one in node]
    if not isinstance(node, Mapping):
        return node
    name = node.get("$ref")
    if isinstance(name, str):
        if name not in evaluators or depth > 20:
            raise Unsupported(f"refers to the evaluator {name!r}, which is not defined or refers to itself")
        return resolve_references(evaluators[name], evaluators, depth + 1)
    return {key: resolve_references(value, evaluators, depth) for key, value in node.items()}


def compile_truth(node: object, flag: str) -> Tree:
    """The condition under which an expression is true, by JsonLogic's rules of truth.

    Raises:
        Unsupported: for what no condition expresses.
    """
    if not isinstance(node, Mapping):
        return _constant(bool(node) if isinstance(node, list) else to_boolean(node))
    name, arguments = operator_of(node)
    if name in {"and", "or"}:
        parts = [compile_truth(one, flag) for one in arguments]
        return all_of(parts) if name == "and" else any_of(parts)
    if name in {"!", "!!"}:
        inner = compile_truth(arguments[0] if arguments else None, flag)
        return inner if name == "!!" else negate(inner)
    if name in {"if", "?:"}:
        return _branches(arguments, flag)
    if name == "missing":
        return any_of([trait("id" if one == "targetingKey" else str(one), {"$exists": False}) for one in arguments])
    if name in {"==", "===", "!=", "!=="}:
        found = _equal(*_pair(name, arguments, flag), is_strict=len(name) == 3)
        return negate(found) if name.startswith("!") else found
    if name in _ORDER:
        operands = [operand_of(one, flag) for one in arguments]
        return all_of([_ordered(name, *pair) for pair in pairwise(operands)])
    if name in _TEXTS:
        return _text(name, *_pair(name, arguments, flag))
    if name == "in":
        return _contained(*_pair(name, arguments, flag))
    if name == "sem_ver":
        return _version(arguments, flag)
    operand = operand_of(node, flag)
    return compile_truth(operand.value, flag) if isinstance(operand, Literal) else _is_true(operand)


def _constant(value: object) -> Tree:
    return ALWAYS if value else NEVER


def _branches(arguments: list[object], flag: str) -> Tree:
    """The condition under which the result of an `if` is true."""
    found: list[Tree] = []
    before: list[Tree] = []
    for index in range(len(arguments) // 2):
        truth = compile_truth(arguments[2 * index], flag)
        found.append(all_of([*before, truth, compile_truth(arguments[2 * index + 1], flag)]))
        before.append(negate(truth))
    rest = compile_truth(arguments[-1], flag) if len(arguments) % 2 else NEVER
    return any_of([*found, all_of([*before, rest])])


def _pair(name: str, arguments: list[object], flag: str) -> tuple[Literal | Variable, Literal | Variable]:
    if len(arguments) != 2:
        raise Unsupported(f"has {name!r} with {len(arguments)} arguments")
    return operand_of(arguments[0], flag), operand_of(arguments[1], flag)


def _with_default(variable: Variable, tree: Tree, of_default: Tree) -> Tree:
    """The test of an attribute, or where it is missing that of its default."""
    if variable.default is None:
        return tree
    is_there = trait(variable.name, {"$exists": True})
    return any_of([all_of([is_there, tree]), all_of([negate(is_there), of_default])])


def _is_true(variable: Variable) -> Tree:
    tree = trait(variable.name, {"$exists": True, "$nin": [False, 0, ""]})
    return _with_default(variable, tree, _constant(to_boolean(variable.default)))


def _equal(one: Literal | Variable, other: Literal | Variable, *, is_strict: bool) -> Tree:
    if isinstance(one, Literal) and isinstance(other, Variable):
        one, other = other, one
    if isinstance(one, Literal) and isinstance(other, Literal):
        return _constant(one.value in _forms("", other.value, is_strict=is_strict))
    if isinstance(other, Variable) or isinstance(one, Literal):
        raise Unsupported("compares two attributes with each other")
    if other.value is None:
        return trait(one.name, {"$exists": False})
    if isinstance(other.value, dict | list):
        raise Unsupported("compares an attribute with a list or a mapping")
    forms = _forms(one.name, other.value, is_strict=is_strict)
    tree = trait(one.name, forms[0] if len(forms) == 1 and isinstance(forms[0], str) else {"$in": forms})
    return _with_default(one, tree, _constant(any(_same(one.default, form) for form in forms)))


def _forms(name: str, value: object, *, is_strict: bool) -> list[object]:
    """The values that are equal to a constant by JavaScript's `==`, or by `===`."""
    if is_text_trait(name):
        return [to_text(value)]
    if is_strict:
        return [value]
    if isinstance(value, bool):
        return [True, 1, "1"] if value else [False, 0, "0", ""]
    number = read_number(value)
    if isinstance(value, str):
        return [value] if number is None else [value, number]
    return [value, to_text(value), *([bool(value)] if value in (0, 1) else [])]


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def _ordered(name: str, one: Literal | Variable, other: Literal | Variable) -> Tree:
    if isinstance(one, Literal) and isinstance(other, Variable):
        return _ordered(_MIRRORED[name], other, one)
    if isinstance(other, Variable):
        raise Unsupported("compares two attributes with each other")
    if not isinstance(other.value, int | float | str):
        raise Unsupported(f"compares by {name!r} with what is neither number nor text")
    holds = compile_comparison(name, other.value)
    if isinstance(one, Literal):
        return _constant(holds(one.value))
    if one.name == TIMESTAMP:
        seconds = read_number(other.value)
        if seconds is None or not isfinite(seconds):
            raise Unsupported(f"compares the time with {other.value!r}, which is not a number of seconds")
        return During(start=seconds) if name.startswith(">") else During(end=seconds)
    tree = trait(one.name, {_ORDER[name]: str(other.value) if is_text_trait(one.name) else other.value})
    return _with_default(one, tree, _constant(holds(one.default)))


def _text(name: str, one: Literal | Variable, other: Literal | Variable) -> Tree:
    operator, holds = _TEXTS[name]
    if isinstance(other, Variable):
        raise Unsupported(f"compares by {name!r} with another attribute; only a constant text is kept")
    if not isinstance(other.value, str):
        return NEVER
    if isinstance(one, Literal):
        return _constant(isinstance(one.value, str) and holds(one.value, other.value))
    tree = trait(one.name, {"$type": "string", operator: other.value})
    return _with_default(one, tree, _constant(isinstance(one.default, str) and holds(one.default, other.value)))


def _contained(one: Literal | Variable, other: Literal | Variable) -> Tree:
    """`in`: an attribute in a list of constants, or a constant in a text or a list that an attribute is."""
    if isinstance(one, Variable) and isinstance(other, Literal):
        if not isinstance(other.value, list):
            raise Unsupported("asks whether an attribute is a part of a constant text")
        listed = [to_text(value) if is_text_trait(one.name) else value for value in other.value]
        tree = trait(one.name, {"$in": listed})
        return _with_default(one, tree, _constant(_holds(other.value, one.default)))
    if isinstance(one, Literal) and isinstance(other, Variable):
        listed_in = trait(other.name, {"$type": "array", "$in": [one.value]})
        if not isinstance(one.value, str):
            return _with_default(other, listed_in, _constant(_holds(other.default, one.value)))
        either = any_of([trait(other.name, {"$type": "string", "$contains": one.value}), listed_in])
        return _with_default(other, either, _constant(_holds(other.default, one.value)))
    if isinstance(one, Literal) and isinstance(other, Literal):
        return _constant(_holds(other.value, one.value))
    raise Unsupported("compares two attributes with each other")


def _holds(container: object, item: object) -> bool:
    """Whether a constant text or list holds an item."""
    if isinstance(container, str):
        return isinstance(item, str) and item in container
    return isinstance(container, list) and any(_same(one, item) for one in container)


def _version(arguments: list[object], flag: str) -> Tree:
    if len(arguments) != 3 or not isinstance(arguments[1], str):
        return NEVER
    one, bound = operand_of(arguments[0], flag), operand_of(arguments[2], flag)
    if isinstance(one, Literal) or isinstance(bound, Variable):
        raise Unsupported("compares versions other than an attribute with a constant")
    operand = f"{arguments[1]}{bound.value}"
    return trait(one.name, {"$semver": operand}) if is_semver_operand(operand) else NEVER
