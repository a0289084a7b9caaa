"""YAML text -> plain values, by the rules a growth team expects, or problems with line and remedy.

Stricter than YAML on purpose: `no` stays text, `012` and `1:30` never turn into other numbers, a key given twice, an
alias that would expand and a file that is no text are refused before anything is built from them.
"""

import math
import re
from collections.abc import Iterator

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


class _Stop(Exception):
    """What follows in the file is not worth reading."""


def decode_yaml(data: bytes, file: str) -> tuple[object, list[Problem]]:
    """The value `data` holds, made of dict (keys are text), list, str, int, float, bool and None, and its problems.

    Where there are problems the value is None. Dates stay text. An empty file is None. At most `MAX_PROBLEMS` are
    collected; what breaks the syntax ends the reading.
    """
    problems: list[Problem] = []
    text = _text(data, file, problems)
    if text is None:
        return None, problems
    reading = _YamlReader(file, problems)
    value: object = None
    try:
        value = reading.document(yaml.parse(text, Loader=_LOADER))
    except _Stop:
        pass
    except yaml.MarkedYAMLError as error:
        problems.append(Problem(file, "", _syntax(error, text)))
    except yaml.YAMLError as error:
        problems.append(Problem(file, "", f"cannot be read as YAML: {' '.join(str(error).split())}"))
    return (None if problems else value), problems


def _text(data: bytes, file: str, problems: list[Problem]) -> str | None:
    if len(data) > MAX_BYTES:
        message = f"is {len(data):,} bytes long; a file may have {MAX_BYTES:,}; split it"
        problems.append(Problem(file, "", message))
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        problems.append(Problem(file, "", message))
        return None
    control = _NOT_TEXT.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        message = f"line {line}: control character U+{ord(control[0]):04X} is not text; is this a YAML file? Remove it"
        problems.append(Problem(file, "", message))
        return None
    return text


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
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
    return event.start_mark.line + 1 if event.start_mark else 1


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


class _YamlReader:
    """One file's events turned into values; problems pile up beside them."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems

    def refuse(self, event: Event, path: str, message: str) -> None:
        self.problems.append(Problem(self.file, _short(path, 200), f"line {_line(event)}: {message}"))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Stop

    def document(self, events: Iterator[Event]) -> object:
        value: object = None
        documents = 0
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse(event, "", "a second document starts at '---'; a file holds one; move it to its own")
                    raise _Stop
            elif isinstance(event, NodeEvent):
                value = self.node(event, events, "", 1)
        return value

    def node(self, event: Event, events: Iterator[Event], path: str, depth: int) -> object:
        self.decorations(event, path)
        if isinstance(event, ScalarEvent):
            return self.scalar(event, path)
        if isinstance(event, CollectionStartEvent) and depth > MAX_DEPTH:
            self.refuse(event, path, f"nested more than {MAX_DEPTH} deep; flatten it")
            raise _Stop
        if isinstance(event, SequenceStartEvent):
            items: list[object] = []
            while not isinstance(item := next(events), SequenceEndEvent):
                items.append(self.node(item, events, f"{path}[{len(items)}]", depth + 1))
            return items
        if isinstance(event, MappingStartEvent):
            return self.mapping(events, path, depth)
        return None

    def mapping(self, events: Iterator[Event], path: str, depth: int) -> dict[str, object]:
        values: dict[str, object] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                if not isinstance(event, AliasEvent):
                    self.refuse(event, path, "a key is a list or mapping; a key is text")
                self.node(event, events, path, depth + 1)
                self.node(next(events), events, path, depth + 1)
                continue
            key = event.value
            inner = f"{path}.{key}" if path else key
            self.decorations(event, inner)
            if key == "<<" and not event.style:
                self.refuse(event, inner, "'<<' merges another mapping; write its keys out")
            elif key in lines:
                self.refuse(
                    event, inner, f"key {_short(key)!r} was already given on line {lines[key]}; keep one of them"
                )
            lines[key] = _line(event)
            values[key] = self.node(next(events), events, inner, depth + 1)
        return values

    def decorations(self, event: Event, path: str) -> None:
        if isinstance(event, AliasEvent):
            self.refuse(event, path, f"alias '*{_short(event.anchor or '')}' is not allowed; write the value out")
            return
        if isinstance(event, NodeEvent) and event.anchor is not None:
            self.refuse(event, path, f"anchor '&{_short(event.anchor)}' is not allowed; remove it and write values out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.refuse(event, path, f"tag {_short(tag)!r} is not allowed; remove it, and put text into quotes")

    def scalar(self, event: ScalarEvent, path: str) -> object:
        text = event.value
        if event.style:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        number = _NUMBER.fullmatch(text)
        return self.number(event, path, number) if number else text

    def number(self, event: ScalarEvent, path: str, number: re.Match[str]) -> float | None:
        text = number[0]
        if _LEADING_ZERO.match(text):
            rule = "starts with a zero; quote it if it is text, drop the zero if it is a number"
        elif number["whole"] is None:
            value = float(text)
            if math.isfinite(value):
                return value
            rule = "is too large for a number; write a finite one"
        elif len(number["whole"]) > MAX_DIGITS:
            rule = f"has more than {MAX_DIGITS} digits; quote it if it is text"
        else:
            return int(text)
        self.refuse(event, path, f"{_short(text)} {rule}")
        return None
