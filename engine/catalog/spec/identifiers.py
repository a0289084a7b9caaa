"""Identifiers: their canonical form, and the placeholders that identify nobody.

A shop's script turns a missing value into text such as `undefined` or `[object Object]`. If that counted as an
identifier, all customers without one would be merged into one. So every identifier and order id passes
`is_placeholder` where it enters, and a placeholder counts as absent. Matching ignores case, punctuation around a word,
characters without width, the width of letters, the script of zeros, and the encoding of a URL or of HTML.
"""

import functools
import html
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable
from urllib.parse import unquote

from msgspec.structs import replace

from engine.customer import KINDS, CustomerIds, IdKind

_MARK = r"(?:[^\w/\ue000-\uf8ff]|_)"  # a slash, or a character for private use, may be somebody's id
_WORD = (
    r"(?:undefined|null|nan|none|nil|void|n ?[/.] ?a|object(?: \w+)?|unknown|anonymous|guest|true|false|infinity"
    r"|not[ _-](?:set|available|applicable|provided|found)|invalid date)"
)
# Words between marks, the UUID of ones, -1, a country code alone, `\N` of MySQL, or the name of a variable that a
# template did not replace; with spaces or quotes around it. Zero may be written as `0e0` or `0x0`.
_PLACEHOLDER = (
    rf"{_MARK}*{_WORD}(?:(?:{_MARK}|/)+{_WORD})*{_MARK}*"
    r"|[ '\"]*(?:[-+]?0+(?:\.0*)?e[-+]?\d+|0[xob]0+"
    r"|f{8}(?:-?f{4}){3}-?f{12}|-1(?:\.0)?"
    r"|\+\d{1,3}|<[a-z_ .]+>|\\n"
    r"|\{\{[\s\S]*\}\}|[$%#@]?\{[^{}]*\}|<%[\s\S]*%>|%[sd@]|\[\[[\s\S]*\]\])[ '\"]*"
)
# Marks and zeros alone: ``, `-`, `+`, `0`, `000000`, the zero UUID.
_NOBODY = re.compile(rf"(?:{_MARK}|0)*|{_PLACEHOLDER}", re.IGNORECASE)
# Most identifiers match this pattern, so no other is tried: they begin with a letter or a digit from 1 to 9, and have
# such a digit and no space. A placeholder with such a digit begins with a mark or zero, or has a space (`object 7`).
_USUAL = re.compile(r"(?![0_.:@-])[0A-Za-z_.:@-]*[1-9][\w.:@-]*", re.ASCII)
_SMALL = re.compile(r"\\u[0-9a-f]{4}|\\.|\[(?:\\u[0-9a-f]{4}|\\.|[^]\\])*\]|[a-z]")
"""A small letter of a pattern, or a class or an escape, whose letters are none."""
_SMALL_IN_CLASS = re.compile(r"(\\u[0-9a-f]{4}|\\.)|[a-z]-[a-z]|[a-z]")
"""A small letter of a class or a range of them; an escape is the group."""
_NO_MAILBOX = re.compile(r"[\W_0]*|undefined|null", re.IGNORECASE)  # Nan and Nil are also names of people
COUNTRY_CODE_DIGITS = 3
"""A phone with at most this many digits, zeros at its ends apart, is only a country code."""

Placeholders = Collection[str]


def placeholder_pattern() -> str:
    """Returns the pattern of placeholders other than marks, for JSON Schema.

    That has no flag for both cases, and its word characters are those of ASCII for some readers.
    """

    def both_cases(found: re.Match[str]) -> str:
        text = found[0]
        if text[0] == "[":
            return f"[{_SMALL_IN_CLASS.sub(lambda one: one[0] if one[1] else one[0] + one[0].upper(), text[1:-1])}]"
        return f"[{text}{text.upper()}]" if text.isalpha() else text

    pattern = _SMALL.sub(both_cases, _PLACEHOLDER)
    return pattern.replace(_MARK, f"[^{name_characters()}0]").replace(r"\w", f"[{word_characters()}0_]")


def name_characters() -> str:
    """Returns the ranges of characters that are no mark and no zero; an identifier has at least one."""
    return word_characters() + "/\ue000-\uf8ff"


@functools.cache
def word_characters() -> str:
    """Returns the ranges of letters and digits of all scripts, without zero."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))))
    runs = re.finditer(r"[^\W_0]+", every)
    return "".join(found[0] if len(found[0]) < 3 else f"{found[0][0]}-{found[0][-1]}" for found in runs)


def normalize_identifier(kind: IdKind, value: str) -> str:
    """Returns the canonical form of an identifier: e-mail addresses in lower case, phone numbers as ASCII digits."""
    if kind == "email":
        return value.strip().lower()
    if kind == "phone":
        value = value if value.isascii() else _plain(value)
        return "".join(c for c in value if c in "+0123456789")
    return value


def compile_placeholders(values: Iterable[str]) -> frozenset[str]:
    """Returns a shop's own placeholders in the forms that `is_placeholder` compares."""
    texts = {value.strip().casefold() for value in values}
    phones = {normalize_identifier("phone", text) for text in texts if not any(map(str.isalpha, text))}
    return frozenset((texts | phones) - {""})


def is_placeholder(value: str, kind: IdKind | None = None, placeholders: Placeholders = ()) -> bool:
    """Whether a value of a kind of identifier (None: an order id) identifies nobody.

    >>> [is_placeholder(value) for value in ("undefined", "00000000-0000-0000-0000-000000000000", "u-1")]
    [True, True, False]
    >>> is_placeholder("+49", "phone"), is_placeholder("+49 30 1234567", "phone")
    (True, False)
    """
    if not _USUAL.fullmatch(value):
        if not value.isascii() or "%" in value or "&" in value:
            value = _plain(value)
        if _NOBODY.fullmatch(value):
            return True
    if placeholders and value.strip().casefold() in placeholders:
        return True
    if kind == "phone":
        digits = normalize_identifier("phone", value)
        return len(digits.strip("+0")) <= COUNTRY_CODE_DIGITS or digits in placeholders
    if kind == "email":
        local, at, domain = value.rpartition("@")
        return bool(at and (_NO_MAILBOX.fullmatch(local.strip()) or _NOBODY.fullmatch(domain.partition(".")[0])))
    return False


def _plain(value: str) -> str:
    """The value without URL and HTML encodings and format marks, with letters of one width and ASCII digits."""
    if "%" in value:
        value = unquote(value)
    if "&" in value:
        value = html.unescape(value)
    plain = unicodedata.normalize("NFKC", value)
    digits = (str(unicodedata.decimal(c, c)) for c in plain if unicodedata.category(c) not in ("Cf", "Cc"))
    return "".join(digits)


def present_ids(ids: CustomerIds, placeholders: Placeholders = ()) -> CustomerIds:
    """Returns the identifiers without placeholders."""
    absent: dict[str, None] = {}
    # Each field is named, as in `keyed_ids`: a loop over the kinds took twice as long, in every decision.
    if ids.user_id is not None and is_placeholder(ids.user_id, "user_id", placeholders):
        absent["user_id"] = None
    if ids.loyalty_card is not None and is_placeholder(ids.loyalty_card, "loyalty_card", placeholders):
        absent["loyalty_card"] = None
    if ids.email is not None and is_placeholder(ids.email, "email", placeholders):
        absent["email"] = None
    if ids.phone is not None and is_placeholder(ids.phone, "phone", placeholders):
        absent["phone"] = None
    if ids.anonymous_id is not None and is_placeholder(ids.anonymous_id, "anonymous_id", placeholders):
        absent["anonymous_id"] = None
    if ids.device_id is not None and is_placeholder(ids.device_id, "device_id", placeholders):
        absent["device_id"] = None
    return replace(ids, **absent) if absent else ids


def describe_absent(ids: CustomerIds, present: CustomerIds) -> list[str]:
    """Returns a warning for each identifier of `ids` that `present` lacks."""
    return [
        absence_warning(kind, value)
        for kind in KINDS
        if (value := getattr(ids, kind)) is not None and not getattr(present, kind)
    ]


def absence_warning(name: str, value: object) -> str:
    """Returns the warning about a field whose value is a placeholder."""
    return f"{name}: {value!r:.40} is a placeholder that names nobody; it counts as absent, so send a real id or none"
