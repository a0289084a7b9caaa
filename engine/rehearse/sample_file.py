"""Reads sample files: customers as JSON, JSON Lines or CSV with equal meaning.

A customer has a `user_id`, and `channel`, `traits` and `context` if any. Any other name is that of a trait. A dotted
name is nested: `loyalty.tier`, `traits.loyalty.tier` and `{"traits": {"loyalty": {"tier": …}}}` are one trait, and
`context.hour` is the hour in the context.

A CSV file has no types, so they follow from the columns: one in which every cell is `true` or `false` is of booleans,
one in which every cell is a number as JSON writes it is of numbers, and any other is of texts. A trait that the shop
compares with texts is text, and so is one of ids, versions or postcodes (`01234` stays `01234`), or of numbers with
more than 15 digits. A cell that is a list in JSON is a list; an empty cell is no value.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from engine.catalog.conditions.check import is_text_trait
from engine.catalog.text_files import read_text_file
from engine.customer import TraitValue
from engine.customers.model.traits import flatten_traits
from engine.errors import BadInput

Fields = dict[str, object]
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_DIGITS = 15
"""The decimal digits that a double keeps."""
_KINDS = "a JSON, JSON Lines or CSV file"
_TRAITS, _CONTEXT = "traits.", "context."


class SampleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A customer of a file: flat traits by dotted name, and the context and channel of their request."""

    user_id: str
    traits: dict[str, TraitValue]
    context: Fields
    channel: str | None


def read_sample_file(path: Path, texts: Collection[str] = ()) -> list[SampleRow]:
    """The customers of a file.

    Args:
        path: the file.
        texts: traits that are text in a CSV, whatever their cells look like.

    Raises:
        BadInput: if the file or one of its customers cannot be read; the line is named.
    """
    text = read_text_file(path, _KINDS)
    if path.suffix.lower() == ".csv":
        return [_sample_row(place, row) for place, row in _read_csv(path, text, texts)]
    if text.lstrip().startswith("["):
        return [_sample_row(place, row) for place, row in _read_array(path, text)]
    return [_sample_row(place, row) for place, row in _read_lines(path, text)]


def _read_array(path: Path, text: str) -> Iterator[tuple[str, Fields]]:
    try:
        rows = msgspec.json.decode(text, type=list[Fields])
    except msgspec.DecodeError as error:
        raise BadInput(f"{path}: {error}; each customer is an object with user_id") from error
    for number, row in enumerate(rows, 1):
        yield f"{path} customer {number}", row


def _read_lines(path: Path, text: str) -> Iterator[tuple[str, Fields]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split at U+2028 within a text
        if line.strip():
            try:
                yield f"{path} line {number}", msgspec.json.decode(line, type=Fields)
            except msgspec.DecodeError as error:
                raise BadInput(f"{path} line {number}: {error}; each line is an object with user_id") from error


def _read_csv(path: Path, text: str, texts: Collection[str]) -> Iterator[tuple[str, Fields]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[str, list[str]]] = []
    try:
        names = next(reader, [])
        rows.extend((f"{path} line {reader.line_num}", cells) for cells in reader if cells)
    except csv.Error as error:
        raise BadInput(f"{path} line {reader.line_num}: {error}; quote a cell that has a comma or a quote") from error
    if "user_id" not in names:
        raise BadInput(
            f"{path}: has no column user_id; give the column of customers this name, and separate columns by commas"
        )
    for at, name in enumerate(names, 1):
        if not name.strip():
            raise BadInput(f"{path}: column {at} has no name; name it, or remove it")
        if names.count(name) > 1:
            raise BadInput(f"{path}: has two columns {name!r}; name each column once")
    for place, cells in rows:
        if len(cells) > len(names):
            raise BadInput(f"{place}: has more cells than there are columns; quote its commas")
        cells.extend([""] * (len(names) - len(cells)))
    columns = [
        _column_values([cells[at] for _, cells in rows], is_text=_is_text(name, texts)) for at, name in enumerate(names)
    ]
    for number, (place, _) in enumerate(rows):
        values = {name: column[number] for name, column in zip(names, columns, strict=True)}
        yield place, {name: value for name, value in values.items() if value is not None}


def _is_text(name: str, texts: Collection[str]) -> bool:
    trait = name.removeprefix(_TRAITS)
    return name in {"user_id", "channel"} or trait in texts or is_text_trait(trait)


def _column_values(cells: Sequence[str], *, is_text: bool) -> list[object]:
    """The values of a column, all of one type but for lists; None for an empty cell."""
    filled = [cell for cell in cells if cell]
    if not is_text and all(cell in {"true", "false"} for cell in filled):
        return [cell == "true" if cell else None for cell in cells]
    if not is_text and all(_is_number(cell) for cell in filled):
        return [msgspec.json.decode(cell) if cell else None for cell in cells]
    return [_list_or_text(cell) if cell else None for cell in cells]


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None and sum(map(str.isdigit, cell)) <= _DIGITS


def _list_or_text(cell: str) -> object:
    if cell.startswith("["):
        try:
            return msgspec.json.decode(cell, type=list[object])
        except msgspec.DecodeError:
            pass  # a text that begins with a bracket
    return cell


def _sample_row(place: str, row: Mapping[str, object]) -> SampleRow:
    user_id, channel = row.get("user_id"), row.get("channel")
    if not isinstance(user_id, str) or not user_id:
        what = "its user_id is empty" if user_id in {None, ""} else f"its user_id {user_id!r} is not text"
        raise BadInput(f"{place}: {what}; each customer is an object with user_id, such as 'u-1'")
    if not isinstance(channel, str | None):
        raise BadInput(f"{place}: its channel {channel!r} is not text; name a channel such as 'web'")
    traits = flatten_traits(_mapping(place, "traits", row))
    context = dict(_mapping(place, "context", row))
    for name, value in row.items():
        if name in {"user_id", "channel", "traits", "context"}:
            continue
        if name.startswith(_CONTEXT):
            _nest(place, context, name.removeprefix(_CONTEXT), value)
            continue
        for trait, scalar in flatten_traits({name.removeprefix(_TRAITS): value}).items():
            if trait in traits:
                raise BadInput(f"{place}: the trait {trait!r} is given twice; give it once")
            traits[trait] = scalar
    return SampleRow(user_id=user_id, traits=traits, context=context, channel=channel or None)


def _mapping(place: str, name: str, row: Mapping[str, object]) -> Mapping[str, object]:
    value = row.get(name) or {}
    if not isinstance(value, Mapping):
        raise BadInput(
            f"{place}: its {name} are {value!r}, not an object; write {{'NAME': VALUE}}, or columns {name}.NAME"
        )
    return value


def _nest(place: str, context: Fields, name: str, value: object) -> None:
    first, _, rest = name.partition(".")
    if rest:
        inner = context.setdefault(first, {})
        if isinstance(inner, dict):
            _nest(place, inner, rest, value)
            return
    elif first not in context:
        context[first] = value
        return
    raise BadInput(f"{place}: {_CONTEXT}{name} is given twice; give it once")
