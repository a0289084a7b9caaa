"""The growth team's reference, one Markdown page made from the structs that read the YAML."""

import types
from collections.abc import Iterator
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from engine.catalog.spec import experiment, fields, offer

StructType = type[msgspec.Struct]
FILES: tuple[tuple[str, StructType], ...] = (
    ("`<key>.yaml`, an experiment or a flag", experiment.ExperimentSpec),
    (
        "`<key>.yaml` with a `placement`, `offers` and a `policy`: how a placement's offers are chosen",
        offer.SelectionSpec,
    ),
    ("`offers/<key>.yaml`, an offer", offer.OfferSpec),
    ("`channels.yaml`", offer.ChannelsFile),
    ("`layers.yaml`", experiment.LayersFile),
    ("`segments.yaml`", experiment.SegmentsFile),
    ("`metrics.yaml`", experiment.MetricsFile),
    ("`moments.yaml`", offer.MomentsFile),
    ("`identities.yaml`", experiment.IdentitiesFile),
)
HEAD = """# What the YAML of `experiments/` may say

Made by `counterpoint schema docs/schema` from the structs that read it. `counterpoint check experiments` holds a folder
to it and tells every problem at once; an unknown key is refused. The schemas beside this page let an editor complete.

A *key* has letters, digits, _ and -, 64 at most. A *span* is a length of time: 30s, 15m, 24h, 7d. A *condition* is in
MongoDB query form, such as `{country: {$in: [DE, AT]}, loyalty.tier: {$gte: 2}}`.
"""
WORDS = ((fields.Key, "key"), (fields.Span, "span"), (fields.Condition, "condition"))
BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def render_reference() -> str:
    """The page: every kind of file with its keys, what each takes, and what holds where it is left out."""
    told: set[StructType] = set()
    lines = [HEAD]
    for title, kind in FILES:
        lines += [f"## {title}", ""]
        for struct in _within(kind, told):
            lines += _table(struct, heading=struct is not kind)
    return "\n".join(lines).rstrip() + "\n"


def _within(kind: StructType, told: set[StructType]) -> Iterator[StructType]:
    """The struct and those its keys hold, each told once in the page."""
    if kind in told:
        return
    told.add(kind)
    yield kind
    for hint in get_type_hints(kind, include_extras=True).values():
        for inner in _structs(hint):
            yield from _within(inner, told)


def _structs(hint: object) -> Iterator[StructType]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for inner in get_args(hint):
        yield from _structs(inner)


def _table(kind: StructType, *, heading: bool) -> list[str]:
    hints = get_type_hints(kind, include_extras=True)
    rows = [
        f"| `{field.encode_name}` | {_takes(hints[field.name])} | {_otherwise(field)} |"
        for field in msgspec.structs.fields(kind)
    ]
    said = " ".join((kind.__doc__ or "").split())
    title = [f"### {_name(kind)}", ""] if heading else []
    return [*title, said, "", "| key | takes | left out |", "|---|---|---|", *rows, ""]


def _takes(hint: object, meta: Meta | None = None) -> str:
    for known, word in WORDS:
        if hint == known:
            return word
    if get_origin(hint) is Annotated:
        inner, *metas = get_args(hint)
        meta = next((m for m in metas if isinstance(m, Meta)), meta)
        if meta is not None and meta.description:
            return meta.description
        return _takes(inner, meta)
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin is Literal:
            return " · ".join(f"`{value}`" for value in arguments)
        case origin if origin in {Union, types.UnionType}:
            return " or ".join(_takes(inner, meta) for inner in arguments if inner is not type(None))
        case origin if origin is list:
            return f"list: {_takes(arguments[0])}"
        case origin if origin is tuple:
            return f"list: {'; '.join(_takes(inner) for inner in arguments)}"
        case origin if origin is dict:
            return f"{_takes(arguments[0])} → {_takes(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{_name(hint)}](#{_name(hint).replace(' ', '-')})"
    plain = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", object: "anything"}
    return plain.get(hint, str(hint)) + _bounds(meta) if isinstance(hint, type) else str(hint)


def _bounds(meta: Meta | None) -> str:
    found = [f"{words} {getattr(meta, name):g}" for name, words in BOUNDS if getattr(meta, name, None) is not None]
    return f", {' and '.join(found)}" if found else ""


def _otherwise(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "**must be said**"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(default, msgspec.Struct):
        return "its own defaults"
    if default is None or default in ({}, []):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _name(kind: StructType) -> str:
    """`ContextWeightSpec` -> `context weight`."""
    bare = kind.__name__.removesuffix("Spec")
    return "".join(f" {c.lower()}" if c.isupper() else c for c in bare).strip()
