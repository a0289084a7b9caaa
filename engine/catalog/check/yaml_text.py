"""Decodes YAML text to plain values, or reports its problems with line and remedy.

Stricter than YAML on purpose: `no` stays text, `012` and `1:30` never become other numbers. A key given twice, a
file that is not text, and an alias, which could expand without bound, are rejected before any value is built from them.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from engine.errors import Problem

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_PROBLEMS = 50
MAX_DIGITS = 18

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_CONSTANTS = {"": None, "~": None} | {
    spelling: value
    for word, value in {"null": None, "true": True, "false": False}.items()
    for spelling in (word, word.capitalize(), word.upper())
}
_NUMBER = re.compile(r"[-+]?(?:(?P<whole>[0-9]+)|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


class _StopReading(Exception):
    """Ends the reading of a file whose further problems would only repeat or obscure the first."""


class _NotTextError(ValueError):
    """The error that a file is not YAML text; the message has the line and the remedy."""


class DecodedYaml(NamedTuple):
    """The value of a YAML text; None if it has problems.

    `spellings` has, by path, the numbers that the file writes in another way than `str` does.
    """

    value: object
    problems: list[Problem]
    spellings: Mapping[str, str]


def decode_yaml(data: bytes, file: str) -> DecodedYaml:
    """The value of a YAML text and its problems; the value is None if there are any.

    A value consists of dict (with text as keys), list, str, int, float, bool and None; dates stay text, and an empty
    file is None. At most `MAX_PROBLEMS` are reported; an error of syntax ends the reading.

    Args:
        data: the bytes of the file.
        file: its name, as the problems quote it.
    """
    try:
        text = _decode_text(data)
    except _NotTextError as error:
        return DecodedYaml(None, [Problem(file, "", str(error))], {})
    reader = _YamlReader(file)
    value: object = None
    try:
        value = reader.read_document(yaml.parse(text, Loader=_LOADER))
    except _StopReading:
        pass
    except yaml.MarkedYAMLError as error:
        reader.problems.append(Problem(file, "", _describe_syntax_error(error, text)))
    except yaml.YAMLError as error:
        reader.problems.append(Problem(file, "", f"cannot be read as YAML: {' '.join(str(error).split())}"))
    return DecodedYaml(None if reader.problems else value, reader.problems, reader.spellings)


def _decode_text(data: bytes) -> str:
    """The text of a file.

    Raises:
        _NotTextError: if it is too long, not UTF-8, or has control characters.
    """
    if len(data) > MAX_BYTES:
        raise _NotTextError(f"is {len(data):,} bytes long; a file may have {MAX_BYTES:,}; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        raise _NotTextError(message) from error
    control = _NOT_TEXT.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        message = f"line {line}: control character U+{ord(control[0]):04X} is not text; is this a YAML file? Remove it"
        raise _NotTextError(message)
    return text


def _describe_syntax_error(error: yaml.MarkedYAMLError, text: str) -> str:
    """The syntax error and its line; a tab in the indent, the most frequent cause, has its own message."""
    mark = error.problem_mark or error.context_mark
    what = " ".join(f"{error.problem or 'cannot be read'}".split())
    if mark is None:
        return f"{what}; check the YAML syntax"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in what:
        return f"line {mark.line + 1}: a tab is used to indent; YAML indents with spaces"
    begun = f" on line {error.context_mark.line + 1}" if error.context_mark else ""
    context = f" ({error.context}{begun})" if error.context else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}{context}; check indentation, colons and quotes"


def _line(event: Event) -> int:
    """The line of an event, counted from 1."""
    return event.start_mark.line + 1 if event.start_mark else 1


def _shorten_text(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


class _YamlReader:
    """Builds the value of one file from PyYAML's events and collects its problems.

    Events, not PyYAML's nodes, because they still have the style of a scalar, its line, and keys that are given twice.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.spellings: dict[str, str] = {}

    def report(self, event: Event, path: str, message: str) -> None:
        """Add a problem at the line of an event.

        Raises:
            _StopReading: when there are `MAX_PROBLEMS`.
        """
        self.problems.append(Problem(self.file, _shorten_text(path, 200), f"line {_line(event)}: {message}"))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _StopReading

    def read_document(self, events: Iterator[Event]) -> object:
        """The value of the one document that a file may have."""
        value: object = None
        documents = 0
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.report(event, "", "a second document starts at '---'; a file holds one; move it to its own")
                    raise _StopReading
            elif isinstance(event, NodeEvent):
                value = self.read_node(event, events, "", 1)
        return value

    def read_node(self, event: Event, events: Iterator[Event], path: str, depth: int) -> object:
        """The value that begins with `event`; consumes the events to its end."""
        self.check_decorations(event, path)
        if isinstance(event, ScalarEvent):
            return self.read_scalar(event, path)
        if isinstance(event, CollectionStartEvent) and depth > MAX_DEPTH:
            self.report(event, path, f"nested more than {MAX_DEPTH} deep; flatten it")
            raise _StopReading
        if isinstance(event, SequenceStartEvent):
            items: list[object] = []
            while not isinstance(item := next(events), SequenceEndEvent):
                items.append(self.read_node(item, events, f"{path}[{len(items)}]", depth + 1))
            return items
        if isinstance(event, MappingStartEvent):
            return self.read_mapping(events, path, depth)
        return None

    def read_mapping(self, events: Iterator[Event], path: str, depth: int) -> dict[str, object]:
        """The value of a mapping whose start was consumed; repeated keys are reported, and the last one counts."""
        values: dict[str, object] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                if not isinstance(event, AliasEvent):
                    self.report(event, path, "a key is a list or mapping; write the key as text")
                self.read_node(event, events, path, depth + 1)
                self.read_node(next(events), events, path, depth + 1)
                continue
            key = event.value
            inner = f"{path}.{key}" if path else key
            self.check_decorations(event, inner)
            if key == "<<" and not event.style:
                self.report(event, inner, "'<<' merges another mapping; write its keys out")
            elif key in lines:
                self.report(
                    event, inner, f"key {_shorten_text(key)!r} was already given on line {lines[key]}; keep one of them"
                )
            lines[key] = _line(event)
            values[key] = self.read_node(next(events), events, inner, depth + 1)
        return values

    def check_decorations(self, event: Event, path: str) -> None:
        """Report an alias, an anchor or a tag, which would give a value another meaning than its text."""
        if isinstance(event, AliasEvent):
            self.report(
                event, path, f"alias '*{_shorten_text(event.anchor or '')}' is not allowed; write out the value"
            )
            return
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self.report(
                event,
                path,
                f"anchor '&{_shorten_text(event.anchor)}' is not allowed; remove it and write out the values",
            )
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.report(event, path, f"tag {_shorten_text(tag)!r} is not allowed; remove it, and put text into quotes")

    def read_scalar(self, event: ScalarEvent, path: str) -> object:
        """The value of a scalar: quoted or block text unchanged, plain text by its form."""
        text = event.value
        if event.style:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        number = _NUMBER.fullmatch(text)
        return self.read_number(event, path, number) if number else text

    def read_number(self, event: ScalarEvent, path: str, number: re.Match[str]) -> float | None:
        """The number of a scalar that looks like one; None after reporting it as ambiguous or too large."""
        text = number[0]
        if _LEADING_ZERO.match(text):
            rule = "starts with a zero; quote it if it is text, drop the zero if it is a number"
        elif number["whole"] is None:
            value = float(text)
            if math.isfinite(value):
                if str(value) != text:  # 1.10 is a version to its author and 1.1 to everyone else
                    self.spellings[path] = text
                return value
            rule = "is too large for a number; write a finite one"
        elif len(number["whole"]) > MAX_DIGITS:
            rule = f"has more than {MAX_DIGITS} digits; quote it if it is text"
        else:
            return int(text)
        self.report(event, path, f"{_shorten_text(text)} {rule}")
        return None
