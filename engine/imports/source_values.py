"""Values of other systems: decoding their structs, and texts that stand for numbers and truth values."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from engine.catalog.conditions.check import is_text_trait
from engine.catalog.conditions.js_coercion import to_text
from engine.imports.model import Criteria, Unsupported

Struct = TypeVar("Struct", bound=msgspec.Struct)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,15})?")
_MARKS = re.compile(r"[.*+?^${}()|\[\]\\/]")


def read_source(value: object, kind: type[Struct]) -> Struct:
    """The struct of a part of the document.

    Raises:
        Unsupported: if it is malformed.
    """
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Unsupported(f"is malformed: {error}") from None


def text_forms(values: Iterable[object], name: str = "") -> list[object]:
    """The values whose text is one of `values`: `"5"` is also the number 5, `"true"` the truth value.

    A trait that holds texts has the texts alone.
    """
    found: list[object] = []
    for value in values:
        text = to_text(value)
        forms: list[object] = [text]
        if not is_text_trait(name):
            forms += [number] if (number := read_number(text)) is not None and to_text(number) == text else []
            forms += [text == "true"] if text in {"true", "false"} else []
        found += [form for form in forms if not any(form is one or _is(form, one) for one in found)]
    return found


def read_number(value: object) -> int | float | None:
    """The number that a value is or that its text spells; None if there is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return None
    return float(value) if "." in value else int(value)


def read_time(value: object) -> float | None:
    """Seconds since 1970 of RFC 3339 text, or of a number of milliseconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def write_time(seconds: float) -> str:
    """A moment (s since 1970) as RFC 3339 text.

    Raises:
        Unsupported: if no year from 1 to 9999 has it.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        raise Unsupported(f"has the time {seconds:.17g} s since 1970, which is in no year from 1 to 9999") from None


def escape_pattern(text: str) -> str:
    """A pattern of JavaScript that matches the text itself."""
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", text)


def quote_numbers(condition: Criteria) -> Criteria:
    """The condition with numbers as texts where a trait holds texts, as `check` asks."""
    return {name: _quote(value, is_text=is_text_trait(name)) for name, value in condition.items()}


def _quote(value: object, *, is_text: bool) -> object:
    if isinstance(value, Mapping):
        return {
            key: _quote(inner, is_text=is_text if key.startswith("$") else is_text_trait(key))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_quote(one, is_text=is_text) for one in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return to_text(value) if is_text and is_number else value


def _is(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other
