"""Formats numbers, times and spans for people, with units and significant digits."""

import math
import time
from datetime import UTC, datetime

from engine.analysis.stats.estimate import format_percents

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
NONE = "\u2013"
"""Shown where there is no number."""


def format_figure(value: float | None) -> str:
    """A number: whole from 1,000 on, otherwise with three significant digits."""
    if value is None or not math.isfinite(value):
        return NONE
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:z,.0f}"
    return f"{value:z.1f}" if abs(value) >= 100 else f"{value:z.3g}"


def format_share(value: float | None) -> str:
    """A share without a sign: 0.04 becomes `4.0%`, and a share above zero never reads as zero."""
    if value is None or not math.isfinite(value):
        return NONE
    if 0 < abs(value) < 0.00001:
        return "< 0.001%"
    digits = 1 if abs(value) >= 0.001 or value == 0 else 3
    return f"{value:z.{digits}%}"


def format_change(value: float) -> str:
    """A relative effect with its sign."""
    if value == 0:
        return "0%"
    return format_percents([value])[0]


def format_span_of(low: float, high: float) -> str:
    """An interval of relative effects."""
    first, last = format_percents([low, high])
    return f"{first} to {last}"


def format_money(value: float | None, currency: str, *, signed: bool = False) -> str:
    """An amount; without cents from 100 on."""
    if value is None or not math.isfinite(value):
        return NONE
    digits = 0 if abs(value) >= 100 else 2
    amount = f"{value:+z,.{digits}f}" if signed else f"{value:z,.{digits}f}"
    return f"{amount} {currency}".strip()


def format_short(value: float) -> str:
    """A label of an axis: 12k, 3.4M."""
    for size, mark in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:z.3g}{mark}"
    return f"{value:z.3g}"


def format_span(seconds: float | None) -> str:
    """A span of time in its largest sensible unit."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    for unit, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if seconds >= unit:
            number = round(seconds / unit)
            return f"{number:,} {name}{'' if number == 1 else 's'}"
    number = max(0, round(seconds))
    return f"{number} second{'' if number == 1 else 's'}"


def format_latency(seconds: float | None) -> str:
    """Milliseconds."""
    return NONE if seconds is None or not math.isfinite(seconds) else f"{seconds * 1000:.3g} ms"


def format_moment(moment: float | str | None) -> str:
    """A time, seconds since 1970 or ISO 8601, as `29 Nov 2026, 19:40 UTC`."""
    if moment is None or moment == "":
        return NONE
    try:
        at = datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else datetime.fromisoformat(moment)
    except ValueError:
        return str(moment)
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def format_day(moment: float | str | None) -> str:
    """A day as `29 Nov 2026`."""
    return format_moment(moment).partition(",")[0]


def format_age(moment: float | None, now: float | None = None) -> str:
    """Formats the time since a moment (s since 1970)."""
    if moment is None:
        return "never"
    age = (time.time() if now is None else now) - moment
    return "just now" if age < 1 else f"{format_span(age)} ago"
