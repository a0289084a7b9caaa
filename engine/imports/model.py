"""The result of an import: the files of the new folder, and a note for everything that is not as it was."""

from collections.abc import Mapping
from typing import Literal

import msgspec

Criteria = dict[str, object]
"""A condition in MongoDB query form."""
Json = dict[str, object]
Kept = Literal["kept", "changed", "not kept"]


class Unsupported(Exception):
    """A construct of the other system has no counterpart here; the text says what it is and why."""


class Note(msgspec.Struct, frozen=True):
    """One construct that was not kept as it was: the flag and the place in it, what it is, and why."""

    flag: str
    place: str
    kept: Kept
    why: str

    def __str__(self) -> str:
        place = f"{self.flag} {self.place}".strip()
        return f"{place}: {self.kept}; {self.why}"


class ImportResult(msgspec.Struct, frozen=True):
    """The flags by the keys of the other system, the files, and the notes.

    `flags` has the key that each flag has here, None where it was not imported.
    """

    system: str
    flags: Mapping[str, str | None]
    files: Mapping[str, Json]
    notes: list[Note]
