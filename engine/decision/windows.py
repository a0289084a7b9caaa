"""When the window of a cap began: rolling with the clock, or with the calendar where the customer is."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Window = Literal["rolling", "calendar"]

DAY = 86_400


def window_start(now: float, per: float, window: Window, zone: str = "UTC") -> float:
    """The moment (s since 1970) after which what happened counts, for a window of `per` seconds at `now`.

    A calendar window is a day, a week from Monday, a month (28 to 31 days) or a year (365 or 366) of `zone`.

    Raises:
        ValueError: if the calendar has no window of that length.
    """
    if window == "rolling":
        return now - per
    local = datetime.fromtimestamp(now, ZoneInfo(zone))
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    days = per / DAY
    if days == 1:
        start = day
    elif days == 7:
        start = day - timedelta(days=day.weekday())
    elif days in (28, 29, 30, 31):
        start = day.replace(day=1)
    elif days in (365, 366):
        start = day.replace(month=1, day=1)
    else:
        raise ValueError(f"{days:g} days are no calendar window; use 1d, 7d, 30d, 365d or a rolling window")
    return math.nextafter(start.timestamp(), -math.inf)


def suppressed_until(seen: Sequence[float], after: int, within: float, lasts: float) -> float:
    """Until when (s since 1970) `after` outcomes `within` so many seconds suppress for `lasts`; 0 if they never did."""
    moments = sorted(seen)
    runs = (last for first, last in zip(moments, moments[after - 1 :], strict=False) if last - first <= within)
    return max((last + lasts for last in runs), default=0.0)


def ignored_exposures(
    shown: Sequence[float], answered: Sequence[float], now: float, patience: float = DAY
) -> list[float]:
    """When it was shown and, within `patience` seconds, not answered; what may still be answered is not in it."""
    return [
        at for at in shown if at + patience <= now and not any(at <= answer <= at + patience for answer in answered)
    ]
