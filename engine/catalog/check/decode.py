"""Validates plain YAML data against a spec struct and reports every mistake; msgspec stops at the first."""

import difflib
import types
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from engine.catalog.conditions.compile import condition_problems
from engine.catalog.conditions.dates import RFC3339, suggest_time

FieldProblem = tuple[str, str]
"""The path in the file, and the message: the value, the rule it breaks, and the remedy."""


_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
}
"""The types in msgspec's messages, as a growth team calls them."""


def find_problems(value: object, kind: object, path: str = "") -> Iterator[FieldProblem]:
    """Yield every mistake in `value` as a `kind`: a spec struct, or the type of one of its fields."""
    meta: Meta | None = None
    if get_origin(kind) is Annotated:
        kind, *metas = get_args(kind)
        meta = next((m for m in metas if isinstance(m, Meta)), None)
    if get_origin(kind) in {Union, types.UnionType}:
        yield from _find_union_problems(value, kind, path)
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from _find_struct_problems(value, kind, path)
    elif get_origin(kind) is list and isinstance(value, list):
        (inner,) = get_args(kind)
        for index, item in enumerate(value):
            yield from find_problems(item, inner, f"{path}[{index}]")
        yield from _find_length_problems(value, meta, path)
    elif get_origin(kind) is dict and isinstance(value, dict):
        key_kind, inner = get_args(kind)
        for key, item in value.items():
            where = f"{path}.{key}" if path else str(key)
            yield from find_problems(key, key_kind, where)
            yield from find_problems(item, inner, where)
        yield from _find_length_problems(value, meta, path)
        if ((meta and meta.extra) or {}).get("check") == "condition":
            for where, wrong, rule, remedy in condition_problems(value):
                yield f"{path}.{where}" if where else path, f"{wrong!r} {rule}; {remedy}"
    else:
        yield from _find_leaf_problems(value, kind, meta, path)


def suggest_name(name: object, known: "list[str] | tuple[str, ...]", default: str = "") -> str:
    """The remedy for an unknown name: the nearest known name, else `default`, else all known names."""
    near = difflib.get_close_matches(str(name), known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    if default:
        return default
    return f"known are {', '.join(sorted(known)[:12])}" if known else "none is defined yet"


def _find_struct_problems(value: object, kind: type[msgspec.Struct], path: str) -> Iterator[FieldProblem]:
    """Yield the problems of a mapping: unknown keys, missing keys, and problems of each known key."""
    if not isinstance(value, dict):
        rule = "is empty" if value is None else f"{shorten_value(value)} is not a mapping"
        yield path, f"{rule}; write 'key: value' lines"
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, item in value.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in fields:
            yield where, f"{name!r} is not a known key; {suggest_name(name, list(fields))}"
        else:
            yield from find_problems(item, fields[name].type, where)
    for name, field in fields.items():
        if field.required and name not in value:
            yield f"{path}.{name}" if path else name, f"is missing; {_add_remedy(field.type, 'add it')}"


def _find_union_problems(value: object, kind: object, path: str) -> Iterator[FieldProblem]:
    """Yield the problems by the alternative that has the value's shape, so that they point at its parts."""
    choices = get_args(kind)
    if value is None and type(None) in choices:
        return
    choices = tuple(choice for choice in choices if choice is not type(None))
    for choice in choices:
        bare = get_args(choice)[0] if get_origin(choice) is Annotated else choice
        shape = get_origin(bare) or bare
        if (
            (shape is list and isinstance(value, list))
            or (shape is dict and isinstance(value, dict))
            or (isinstance(shape, type) and issubclass(shape, msgspec.Struct) and isinstance(value, dict))
            or len(choices) == 1
        ):
            yield from find_problems(value, choice, path)
            return
    yield from _find_leaf_problems(value, kind, None, path)


def _find_leaf_problems(value: object, kind: object, meta: Meta | None, path: str) -> Iterator[FieldProblem]:
    """Yield the problem of one value without parts, by msgspec's own rules."""
    if kind is datetime and not (isinstance(value, str) and RFC3339.fullmatch(value)):
        yield path, f"{shorten_value(value)} is not a time with its zone; write {suggest_time(value)}"
        return
    annotated = Annotated[kind, meta] if meta else kind
    try:
        msgspec.convert(value, annotated, strict=kind is not datetime)  # YAML has times as text
    except msgspec.ValidationError as error:
        yield (
            path,
            f"{shorten_value(value)} {_describe_rule(value, kind, meta, error)}; {_describe_remedy(value, kind, meta)}",
        )


def _describe_rule(value: object, kind: object, meta: Meta | None, error: msgspec.ValidationError) -> str:
    """The rule that the value breaks, in the words of the field's type."""
    if get_origin(kind) is Literal:
        return f"is not one of {', '.join(str(choice) for choice in get_args(kind))}"
    if meta and isinstance(value, int | float) and not isinstance(value, bool) and kind in {int, float}:
        low, high = _read_bounds(meta)
        if low is not None and high is not None:
            return f"is not between {low} and {high}"
        if low is not None:
            return f"is not {'above' if meta.gt is not None else 'at least'} {low}"
    if meta and meta.pattern and isinstance(value, str):
        return f"is not {meta.description}" if meta.description else f"does not match {meta.pattern}"
    if kind is datetime:
        return "is not a time with its zone"
    expected = str(error).partition(" - at ")[0].replace("`", "").replace("Expected ", "").partition(", got")[0]
    return f"is not {' or '.join(_TYPE_NAMES.get(word, word) for word in expected.split(' | '))}"


def _describe_remedy(value: object, kind: object, meta: Meta | None) -> str:
    """The remedy for a wrong value: the field's own, or that of its type."""
    if get_origin(kind) is Literal:
        return suggest_name(value, [str(choice) for choice in get_args(kind)], "use one of these")
    if meta and meta.extra and "remedy" in meta.extra:
        return str(meta.extra["remedy"])
    if kind is str and isinstance(value, int | float | bool):
        return f"quote it: '{value}'"
    shapes = {list: "write '[…, …]', or lines that begin with '- '", dict: "write 'key: value' lines"}
    shape = get_origin(kind)
    if shape in shapes:
        return shapes[shape]
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", datetime: "a time"}
    return f"give {names[kind]}" if isinstance(kind, type) and kind in names else "see docs/schema"


def _read_bounds(meta: Meta) -> tuple[float | None, float | None]:
    """The bounds of a number, inclusive or not; None for a missing bound."""
    low = meta.ge if meta.ge is not None else meta.gt
    high = meta.le if meta.le is not None else meta.lt
    return low, high


def _find_length_problems(
    value: "list[object] | dict[str, object]", meta: Meta | None, path: str
) -> Iterator[FieldProblem]:
    """Yield the problem of a list or mapping with too few or too many entries."""
    if meta and meta.min_length is not None and len(value) < meta.min_length:
        yield path, f"has {len(value)} entries, at least {meta.min_length} are needed; add one"
    if meta and meta.max_length is not None and len(value) > meta.max_length:
        yield path, f"has {len(value)} entries, {meta.max_length} at most; remove some"


def _add_remedy(kind: object, advice: str) -> str:
    """`add it`, with the remedy of the field's type if there is one."""
    if get_origin(kind) is Annotated:
        for meta in get_args(kind)[1:]:
            if isinstance(meta, Meta) and meta.extra and "remedy" in meta.extra:
                return f"{advice} ({meta.extra['remedy']})"
    return advice


def shorten_value(value: object) -> str:
    """The value as a message quotes it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
