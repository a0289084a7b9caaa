"""The reference page of the YAML, generated as Markdown from the structs that decode it."""

import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from engine.catalog.spec import assertions, experiment, fields, metrics, offer, traits, units
from engine.catalog.spec.limits import stock

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
    ("`metrics.yaml`", metrics.MetricsFile),
    ("`moments.yaml`", offer.MomentsFile),
    ("`campaigns.yaml`", offer.CampaignsFile),
    ("`places.yaml`", stock.PlacesFile),
    ("`identities.yaml`", experiment.IdentitiesFile),
    ("`tests/<any name>.yaml`, what `counterpoint test` checks", assertions.AssertionsFile),
    ("`units.yaml`, a mapping from the name of each unit", units.UnitSpec),
    ("`traits.yaml`, a mapping from the name of each trait", traits.TraitSpec),
)
HEAD = """# Reference of the YAML in `experiments/`

Look up here which keys a file may have, what each takes, and what applies where it is left out.
`counterpoint check experiments` validates a folder against this page and reports every problem at once. An unknown key
is an error. With the JSON Schemas beside this page an editor completes keys and underlines mistakes.
`counterpoint schema docs/schema` generates the page and the schemas from the structs that decode the YAML.

A *key* has letters, digits, _ and -, 64 at most. A *span* is a length of time: 30s, 15m, 24h, 7d. A *condition* is in
MongoDB query form, such as `{country: {$in: [DE, AT]}, loyalty.tier: {$gte: 2}}`.

A condition has GrowthBook's operators:

- of values: `$eq`, `$ne`, `$lt`, `$lte`, `$gt`, `$gte`, `$in`, `$nin`, `$ini`, `$nini`, `$exists`, `$type`, `$not`
- of texts and versions: `$regex`, `$regexi`, `$veq`, `$vne`, `$vlt`, `$vlte`, `$vgt`, `$vgte`
- of lists: `$all`, `$alli`, `$size`, `$elemMatch`, `$inGroup`, `$notInGroup`
- around conditions: `$and`, `$or`, `$nor`, `$not`; `$segment` names a segment

Beside GrowthBook's there are operators of texts, versions, addresses and remainders:

| operator | takes | matches |
|---|---|---|
| `$startsWith`, `$endsWith`, `$contains` | a text, or a list of which one must fit | a text, or a list that has one |
| `$semver` | `">=1.2.3"`, with `=` `!=` `<` `<=` `>` `>=` `^` or `~`, or a list | a version of which one holds |
| `$ip` | an address or network such as `10.0.0.0/8`, or a list | a text that is an address in one of them |
| `$mod` | `[divisor, remainder]` | a number whose whole part leaves that remainder |

Dates have operators of their own:

| operator | takes | matches a trait that is |
|---|---|---|
| `$before`, `$after` | `2026-11-01T00:00:00Z` or `now` | earlier, later |
| `$within` | `30d`, or `[30d, 2026-11-01T00:00:00Z]` | at most so far from now or from that time, on either side |

A trait's date is text with its offset (`2026-11-01T09:00:00+01:00`), a day (midnight UTC), or a number: seconds since
1970, past the year 2100 milliseconds. Any other value, a date outside the years 1 to 9999 and a missing trait never
match. `{contract_end: {$after: now, $within: 30d}}` matches contracts that end in the next 30 days.
"""
WIDTH = 118
NAMED_TYPES = ((fields.Key, "key"), (fields.Span, "span"), (fields.Condition, "condition"))
BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def render_reference() -> str:
    """The page as Markdown: every kind of file with its keys, their values and defaults."""
    documented: list[StructType] = []
    lines = [HEAD]
    for title, kind in FILES:
        lines += [f"## {title}", ""]
        new = [struct for struct in _list_structs(kind) if struct not in documented]
        documented += new
        for struct in new:
            lines += _render_table(struct, heading=struct is not kind)
    return "\n".join(lines).rstrip() + "\n"


def _list_structs(kind: StructType) -> list[StructType]:
    """The struct and those nested in it at any depth, each once, parents first."""
    found: dict[StructType, None] = {}
    waiting = [kind]
    while waiting:
        struct = waiting.pop(0)
        if struct not in found:
            found[struct] = None
            hints = get_type_hints(struct, include_extras=True).values()
            waiting = [*(inner for hint in hints for inner in _structs_in(hint)), *waiting]
    return list(found)


def _structs_in(hint: object) -> Iterator[StructType]:
    """Yield the structs that a type hint names, such as `Spec` in `list[Spec] | None`."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for inner in get_args(hint):
        yield from _structs_in(inner)


def _fields_of(base: type) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields of a struct's base; empty for a class that is no struct."""
    return msgspec.structs.fields(base) if issubclass(base, msgspec.Struct) and base is not msgspec.Struct else ()


def _render_table(kind: StructType, *, heading: bool) -> list[str]:
    """The lines of one struct: its title, its docstring, and a row for each key."""
    hints = get_type_hints(kind, include_extras=True)
    inherited = {field.name for base in kind.__bases__ for field in _fields_of(base)}
    ordered = sorted(msgspec.structs.fields(kind), key=lambda field: field.name in inherited)
    rows = [
        f"| `{field.encode_name}` | {_describe_type(hints[field.name])} | {_describe_default(field)} |"
        for field in ordered
    ]
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    description = "\n\n".join(
        textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
        for text in paragraphs
    )
    title = [f"### {_name(kind)}", ""] if heading else []
    return [*title, description, "", "| key | takes | left out |", "|---|---|---|", *rows, ""]


def _describe_type(hint: object, meta: Meta | None = None) -> str:
    """The values of a key, in words: its named type, its description, or its plain type with bounds."""
    for named, name in NAMED_TYPES:
        if hint == named:
            return name
    if get_origin(hint) is Annotated:
        inner, *metas = get_args(hint)
        if metas[-1] == fields.RESTRICTS:
            return _describe_type(Annotated[inner, *metas[:-1]] if metas[:-1] else inner, meta)
        meta = next((m for m in metas if isinstance(m, Meta)), meta)
        if meta is not None and meta.description:
            return meta.description
        return _describe_type(inner, meta)
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin is Literal:
            return " · ".join(f"`{value}`" for value in arguments)
        case origin if origin in {Union, types.UnionType}:
            return " or ".join(_describe_type(inner, meta) for inner in arguments if inner is not type(None))
        case origin if origin is list:
            return f"list: {_describe_type(arguments[0])}"
        case origin if origin is tuple:
            return f"list: {'; '.join(_describe_type(inner) for inner in arguments)}"
        case origin if origin is dict:
            return f"{_describe_type(arguments[0])} → {_describe_type(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{_name(hint)}](#{_name(hint).replace(' ', '-')})"
    plain = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", object: "anything"}
    return plain.get(hint, str(hint)) + _describe_bounds(meta) if isinstance(hint, type) else str(hint)


def _describe_bounds(meta: Meta | None) -> str:
    """`, above 0 and at most 1`; empty without bounds."""
    found = [f"{words} {getattr(meta, name):g}" for name, words in BOUNDS if getattr(meta, name, None) is not None]
    return f", {' and '.join(found)}" if found else ""


def _describe_default(field: msgspec.structs.FieldInfo) -> str:
    """The value that applies if a key is left out; empty if there is none."""
    if field.required:
        return "**required**"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(default, msgspec.Struct):
        return "its own defaults"
    if default is None or default in ({}, []):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _name(kind: StructType) -> str:
    """The name of a spec in words: `ContextWeightSpec` becomes `context weight`."""
    bare = kind.__name__.removesuffix("Spec")
    return "".join(f" {c.lower()}" if c.isupper() else c for c in bare).strip()
