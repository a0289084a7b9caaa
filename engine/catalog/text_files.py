"""Reads text files written by people: UTF-8, with or without the byte order mark that Excel adds."""

import codecs
from collections.abc import Iterable
from pathlib import Path

from engine.errors import BadInput

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks; that of UTF-32 begins with that of UTF-16."""
_REMEDY = "save it as UTF-8 (in Excel: CSV UTF-8)"


def read_text_file(path: Path, kinds: str) -> str:
    """The text of a file, without a byte order mark.

    Args:
        path: the file.
        kinds: the kinds of files to give instead, for an error: "a CSV file".

    Raises:
        BadInput: if the file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{path}: cannot be read ({why}); give {kinds}") from error
    if problem := encoding_problem(content.splitlines(keepends=True)):
        raise BadInput(f"{path}: {problem}")
    return content.decode("utf-8-sig")


def encoding_problem(lines: Iterable[bytes]) -> str | None:
    """The first line that is not UTF-8, with the rule and the remedy; None if all lines are."""
    for number, line in enumerate(lines, 1):
        if number == 1:
            for mark, name in _MARKS.items():
                if line.startswith(mark):
                    return f"is {name}, not UTF-8; {_REMEDY}"
            if b"\0" in line:
                return f"has NUL bytes, as UTF-16 has, and is not UTF-8; {_REMEDY}"
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            return f"line {number} has the byte 0x{byte:02X}, which is not UTF-8 but may be Latin-1; {_REMEDY}"
    return None
