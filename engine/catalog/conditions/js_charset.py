"""Sets of UTF-16 code units: the character classes of JavaScript's regular expressions without the `u` flag."""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

Intervals = tuple[tuple[int, int], ...]
"""Sorted, disjoint, inclusive ranges of code units."""

LAST_UNIT = 0xFFFF

ANY: Intervals = ((0, LAST_UNIT),)
NEVER: Intervals = ()


def normalize(ranges: Iterable[tuple[int, int]]) -> Intervals:
    """The union of ranges, sorted and disjoint."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(units: Intervals) -> Intervals:
    """The code units that are not in `units`."""
    found, start = [], 0
    for low, high in units:
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    return (*found, (start, LAST_UNIT)) if start <= LAST_UNIT else tuple(found)


DIGITS: Intervals = ((0x30, 0x39),)
WORD: Intervals = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES = (32, 0xA0, 0x1680, 0x202F, 0x205F, 0x3000, 0xFEFF)
SPACE: Intervals = normalize([(9, 13), (0x2000, 0x200A), (0x2028, 0x2029), *((space, space) for space in _SPACES)])
LINE_ENDS: Intervals = ((10, 10), (13, 13), (0x2028, 0x2029))
CLASSES: dict[str, Intervals] = {
    "d": DIGITS,
    "D": complement(DIGITS),
    "w": WORD,
    "W": complement(WORD),
    "s": SPACE,
    "S": complement(SPACE),
}
"""ECMAScript 2024, 22.2.2.9 CompileToCharSet: ASCII digits and word characters, Unicode white space."""


@lru_cache(256)
def ignore_case(units: Intervals) -> Intervals:
    """The code units whose canonical form equals that of a member (22.2.2.7.3 Canonicalize, without `u`)."""
    if units == ANY or not units:
        return units
    canonical, members = _case_tables()
    forms = {canonical.get(unit, unit) for low, high in units for unit in range(low, high + 1)}
    return normalize([*units, *((unit, unit) for form in forms for unit in members.get(form, (form,)))])


@cache
def _case_tables() -> tuple[dict[int, int], dict[int, list[int]]]:
    """Code unit -> canonical form where they differ, and canonical form -> all code units that have it.

    The form is the upper-case letter, if that is one code unit and a non-ASCII unit does not become ASCII.
    """
    canonical: dict[int, int] = {}
    for unit in range(LAST_UNIT + 1):
        upper = chr(unit).upper()
        if len(upper) == 1 and ord(upper) != unit and ord(upper) <= LAST_UNIT and not (unit > 127 >= ord(upper)):
            canonical[unit] = ord(upper)
    members: dict[int, list[int]] = {}
    for unit, form in canonical.items():
        members.setdefault(form, [form]).append(unit)
    return canonical, members


class Alphabet(NamedTuple):
    r"""One byte for each set of code units that no class of a pattern distinguishes.

    A pattern then runs on bytes, a few instructions per class, whatever script its text is in. `of_latin` and
    `of_unit` map code units to bytes; `members` has the bytes of each class. Word characters become word characters,
    so that `\b` keeps its meaning.
    """

    of_latin: bytes
    of_unit: bytes
    members: list[bytes]

    def encode(self, text: str) -> bytes:
        """The text in this alphabet, one byte per UTF-16 code unit."""
        try:
            return text.encode("latin-1").translate(self.of_latin)
        except UnicodeEncodeError:
            units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2")
            table = np.frombuffer(self.of_unit, dtype=np.uint8)
            return bytes(table[units].tobytes())


def make_alphabet(classes: Sequence[Intervals]) -> Alphabet | None:
    """The smallest alphabet that distinguishes `classes`; None if a byte cannot hold it."""
    known = (*classes, WORD)
    starts = sorted({0, *(edge for units in known for low, high in units for edge in (low, high + 1))})
    starts = [start for start in starts if start <= LAST_UNIT]
    # Between two edges no class begins or ends, so the first code unit stands for all.
    signatures = list(zip(*(_contains(units, starts) for units in known), strict=True))
    letters: dict[tuple[bool, ...], int] = {}
    word, other = iter(_WORD_BYTES), iter(_OTHER_BYTES)
    for signature in signatures:
        if signature not in letters:
            letter = next(word if signature[-1] else other, None)
            if letter is None:
                return None
            letters[signature] = letter
    ends = [*starts[1:], LAST_UNIT + 1]
    runs = zip(starts, ends, signatures, strict=True)
    of_unit = b"".join(letters[signature].to_bytes() * (end - start) for start, end, signature in runs)
    members = [bytes(sorted(letters[s] for s in letters if s[index])) for index in range(len(classes))]
    return Alphabet(of_unit[:256], of_unit, members)


def _contains(units: Intervals, points: Sequence[int]) -> list[bool]:
    """Tests for each of the sorted `points` whether it is in `units`."""
    found, at = [], 0
    for point in points:
        while at < len(units) and units[at][1] < point:
            at += 1
        found.append(at < len(units) and units[at][0] <= point)
    return found


_WORD_BYTES = bytes(byte for low, high in WORD for byte in range(low, high + 1))
_OTHER_BYTES = bytes(sorted(set(range(256)) - set(_WORD_BYTES)))
