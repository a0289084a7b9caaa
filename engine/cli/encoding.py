"""Output to a terminal that is not UTF-8: missing characters are replaced, and never cause an error."""

import codecs
import sys
import unicodedata

_SPELLINGS = {
    "→": "->",
    "←": "<-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "·": "-",
    "“": '"',
    "”": '"',
    "\u2013": "-",
    "\u2014": "-",
    "\u2212": "-",
    "\u00d7": "x",
    "\u2018": "'",
    "\u2019": "'",  # dashes, times, quotes
}


def adapt_streams() -> None:
    """Make standard output and standard error write every character, whatever their encoding."""
    codecs.register_error("spell_out", _spell_out)
    for stream in (sys.stdout, sys.stderr):
        if not _is_utf8(stream.encoding) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spell_out")


def json_for_output(document: bytes) -> str:
    r"""A JSON document for standard output: unless that is UTF-8, non-ASCII characters become `\uXXXX`."""
    text = document.decode()
    if _is_utf8(sys.stdout.encoding) or text.isascii():
        return text
    return "".join(char if char.isascii() else _escape(char) for char in text)  # they stand in JSON's texts only


def _escape(char: str) -> str:
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _is_utf8(encoding: str | None) -> bool:
    return encoding is not None and codecs.lookup(encoding).name == "utf-8"


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """The error handler: an arrow as `->`, an accented letter without its accent, anything else as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_spell(char) for char in text), error.end


def _spell(char: str) -> str:
    plain = _SPELLINGS.get(char) or unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return plain or "?"
