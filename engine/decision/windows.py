"""Windows of time: when a cap's window began, and how long past outcomes suppress an offer.

A customer's calendar window is that of their time zone. Whoever changes the zone must gain no second day, so counting
also marks the zone (`ZONE_MARK`): a window of a zone in which the customer was counted stays open until it ends there.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from engine.customer import Counts
from engine.vocabulary import DAY

Window = Literal["rolling", "calendar"]
ZONE_MARK = "zone|"
"""The prefix of a counter whose entry is when the customer was last counted in the time zone that follows."""


def window_start(now: float, per: float, window: Window, zone: str = "UTC") -> float:
    """The time (s since 1970) after which events count, for a window of `per` seconds that `now` lies in.

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
        raise ValueError(f"{days:g} days are not a calendar window; use 1d, 7d, 30d, 365d or a rolling window")
    # Events count if they are later than the start, so one at midnight exactly must be later than this.
    return math.nextafter(start.timestamp(), -math.inf)


def calendar_start(now: float, per: float, zone: str, counts: Counts) -> float:
    """`window_start` of a calendar window of the customer, whose time zone is `zone` now and may have been another."""
    start = window_start(now, per, "calendar", zone)
    for counter, times in counts.items():
        former = counter.removeprefix(ZONE_MARK)
        if former not in (counter, zone) and is_zone(former):
            began = window_start(now, per, "calendar", former)
            if max(times, default=began) > began:
                start = min(start, began)
    return start


@lru_cache(maxsize=1024)
def is_zone(name: str) -> bool:
    """Whether the time zone database has `name`."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True


def suppressed_until(outcomes: Sequence[float], after: int, within: float, lasts: float) -> float:
    """Until when (s since 1970) outcomes suppress an offer; 0 if they never did.

    Any `after` outcomes within `within` seconds suppress it for `lasts` seconds from the last of them.
    """
    times = sorted(outcomes)
    runs = (last for first, last in zip(times, times[after - 1 :], strict=False) if last - first <= within)
    return max((last + lasts for last in runs), default=0.0)


def ignored_exposures(
    shown: Sequence[float], answered: Sequence[float], now: float, patience: float = DAY
) -> list[float]:
    """The times of exposures that no answer followed within `patience` seconds.

    An exposure younger than that can still be answered, so it is not among them.
    """
    return [
        at for at in shown if at + patience <= now and not any(at <= answer <= at + patience for answer in answered)
    ]
