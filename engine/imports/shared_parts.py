"""The folder that an import fills: keys of flags, segments, and which flags can be imported."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from engine.catalog.spec.folder import SINGLE
from engine.imports.draft import Draft, flag_key, safe_name
from engine.imports.model import Criteria, Json, Note, Unsupported

ReadFlag = Callable[[], Draft]
FlagReader = Callable[[Json, "SharedParts"], Iterable[tuple[str, ReadFlag]]]
"""Yields each flag of a document: its key there, and the function that reads it."""


class SharedParts:
    """The parts that the flags of one document share: their keys here, and the segments they name."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.segments: dict[str, Json] = {}
        self.notes: list[Note] = []
        self._files: set[str] = set(SINGLE)  # what a file of these names has is no flag
        self._reading: list[str] = []

    def name_flags(self, names: Iterable[str]) -> None:
        """Give each flag of the document its key here: its own, as far as a key and a file may have it."""
        for name in names:
            key, number = flag_key(name), 2
            wanted = key
            is_reserved = file_of(key).lower() in SINGLE
            while file_of(key).lower() in self._files:
                key, number = f"{wanted[:60]}-{number}", number + 1
            self._files.add(file_of(key).lower())
            self.keys[name] = key
            if key != name:
                why = f"its key here is {key}: letters, digits, _ - . / and :, 64 at most, each file name once"
                if is_reserved:
                    why = f"its key here is {key}, as {file_of(wanted).lower()} is not a flag's file; use {key} in code"
                self.notes.append(Note(name, "key", "changed", why))

    @contextmanager
    def reading(self, flag: str) -> Iterator[None]:
        """Read what a flag needs of another.

        Raises:
            Unsupported: if the other needs this one.
        """
        if flag in self._reading:
            raise Unsupported("needs itself through its prerequisites")
        self._reading.append(flag)
        try:
            yield
        finally:
            self._reading.pop()

    def add_segment(self, name: str, content: Mapping[str, object]) -> str:
        """The key of a segment with this content, which has a `condition` or `values`."""
        wanted = key = safe_name(name)
        number = 2
        while key in self.segments and self.segments[key] != {"key": key, **content}:
            key, number = f"{wanted}-{number}", number + 1
        self.segments[key] = {"key": key, **content}
        return key

    def in_segment(self, name: str, condition: Criteria) -> Criteria:
        """The condition that a customer is in a segment with this condition."""
        return {"$segment": self.add_segment(name, {"condition": condition})} if condition else {}


def file_of(key: str) -> str:
    """The name of a flag's file."""
    return re.sub(r"[/:.]+", "_", key) + ".yaml"
