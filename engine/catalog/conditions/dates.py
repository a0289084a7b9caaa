"""The date operators `$before`, `$after` and `$within`, which GrowthBook's conditions do not have.

A date is RFC 3339 text with its offset, a day (midnight UTC), or a number: seconds since 1970, past the year 2100
milliseconds, as in events. What is no date, or outside the years 1 to 9999, never matches; nor does a missing trait.

| operator | operand | matches |
|---|---|---|
| `$before`, `$after` | a date, or `now` | what is earlier, later |
| `$within` | `30d`, or `[30d, DATE]` | what is at most so far from now, or from the date, on either side |
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from engine.catalog.spec.fields import SECONDS

DATE_OPERATORS = ("$before", "$after", "$within")
NOW = "$now"
"""The attribute with the time of a decision (s since 1970). No condition can name it, as no trait begins with `$`."""
EARLIEST_SECONDS = 946_684_800.0
"""The year 2000; a smaller number is hardly meant as seconds since 1970."""
LATEST_SECONDS = 4_102_444_800.0
"""The year 2100; a larger number is JavaScript's milliseconds."""
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
"""A time as text (RFC 3339, 5.6)."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_WRITTEN = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d))?)?")
"""A day, or a time without its zone."""
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_800.0
"""The years 1 to 9999 in seconds since 1970."""


class Clock(threading.local):
    """The time of the decision whose condition this thread evaluates; `is_read` if a test read it."""

    is_read = False
    now = 0.0

    def read(self, traits: object) -> None:
        """Take the time from a decision's attributes, or else the present."""
        found = traits.get(NOW) if isinstance(traits, Mapping) else None
        self.now = float(found) if isinstance(found, int | float) else time.time()


def read_date(value: object) -> float | None:
    """The date in seconds since 1970; None if it is not a date, or outside the years 1 to 9999.

    >>> read_date("2026-11-01T01:00:00+01:00") == read_date("2026-11-01") == read_date(1793491200000)
    True
    """
    if isinstance(value, str):
        return _read_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    seconds = value / 1000 if value > LATEST_SECONDS else float(value)
    return seconds if _FIRST <= seconds < _LAST else None


def read_span(value: object) -> float | None:
    """The length of a span, such as `30d`, in seconds."""
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    return float(int(found[1]) * SECONDS[found[2]]) if found else None


def suggest_time(value: object) -> str:
    """The time that the author may have meant, in valid form; an example if the value gives no hint.

    >>> suggest_time(20261231), suggest_time("2026-12-31 23:59"), suggest_time(1767225600)
    ('2026-12-31T00:00:00Z', '2026-12-31T23:59:00Z', '2026-01-01T00:00:00Z')
    """
    written = _WRITTEN.fullmatch(str(value).strip())
    try:
        if written:
            parts = [part or "00" for part in written.groups()]
            text = f"{'-'.join(parts[:3])}T{':'.join(parts[3:])}Z"
            return text if _read_text(text) is not None else "2026-11-01T00:00:00Z"
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= EARLIEST_SECONDS:
            moment = datetime.fromtimestamp(read_date(value) or 0.0, UTC)
            return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        pass
    return "2026-11-01T00:00:00Z"


def looks_like_date(value: object) -> bool:
    """Whether a text has the form of a date, with or without a time."""
    return isinstance(value, str) and bool(_DAY.match(value)) and len(value) <= 40


def reads_now(condition: object) -> bool:
    """Whether a condition compares a date with the present."""
    return any(_operand_reads_now(name, operand) for name, operand in _list_operators(condition))


def compile_date(name: str, operand: object, clock: Clock) -> Callable[[object], bool]:
    """The test of `$before`, `$after` or `$within`; it is never true for a malformed operand."""
    clock.is_read |= _operand_reads_now(name, operand)
    if name == "$within":
        span, center = operand if isinstance(operand, list | tuple) and len(operand) == 2 else (operand, "now")
        length, middle = read_span(span), _date_or_now(center, clock)
        if length is None or middle is None:
            return lambda _: False
        return lambda value: (at := read_date(value)) is not None and abs(at - middle()) <= length
    bound = _date_or_now(operand, clock)
    if bound is None:
        return lambda _: False
    if name == "$before":
        return lambda value: (at := read_date(value)) is not None and at < bound()
    return lambda value: (at := read_date(value)) is not None and at > bound()


def _date_or_now(operand: object, clock: Clock) -> Callable[[], float] | None:
    if operand == "now":
        return lambda: clock.now
    fixed = read_date(operand)
    return None if fixed is None else lambda: fixed


def _operand_reads_now(name: str, operand: object) -> bool:
    if name == "$within":
        return isinstance(operand, str) or (isinstance(operand, list | tuple) and "now" in operand)
    return name in DATE_OPERATORS and operand == "now"


def _list_operators(condition: object) -> Iterator[tuple[str, object]]:
    """Yield every key of a condition with its value, at any depth."""
    if isinstance(condition, Mapping):
        for name, value in condition.items():
            yield str(name), value
            yield from _list_operators(value)
    elif isinstance(condition, list | tuple):
        for part in condition:
            yield from _list_operators(part)


def _read_text(text: str) -> float | None:
    if not RFC3339.fullmatch(text):
        if not _DAY.fullmatch(text):
            return None
        text += "T00:00:00Z"
    leap = text[17:19] == "60"  # RFC 3339 writes a leap second; it is the next minute's first
    try:
        moment = datetime.fromisoformat((text[:17] + "59" + text[19:] if leap else text).upper())
        seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() + leap
    except (ValueError, OverflowError):
        return None
    return seconds if _FIRST <= seconds < _LAST else None
