"""Windows of time: the start of a cap's window, and how long past outcomes suppress an offer.

A customer's calendar window is that of their time zone. Whoever changes the zone must gain no second day, so counting
also marks the zone (`ZONE_MARK`): a window of a zone in which the customer was counted stays open until it ends there.

Quiet hours, when an outbound channel sends nothing, go by the customer's clock or one of their own. They are quiet
exactly while the clock on the wall shows a time from `start` up to `end`. So they end where clocks are put forward past
`end`, and begin again where clocks are put back behind it.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from engine.catalog.plan.limits import Cap, Suppression
from engine.catalog.spec.offer import QuietSpec
from engine.customer import Counts
from engine.vocabulary import DAY

_DAY = timedelta(days=1)
Window = Literal["rolling", "calendar"]
ZONE_MARK = "zone|"
"""The prefix of a counter whose entry is when the customer was last counted in the time zone that follows."""
FormerZones = Mapping[str, float]
"""When the customer was last counted (s since 1970) in each time zone that is not theirs any more."""
NO_ZONES: FormerZones = {}


def window_start(now: float, per: float, window: Window, zone: str = "UTC") -> float:
    """The time (s since 1970) after which events count, for a window of `per` seconds that `now` lies in.

    A calendar window is a day, a week from Monday, a month (28 to 31 days) or a year (365 or 366) of `zone`.

    Raises:
        ValueError: if the calendar has no window of that length.
    """
    return now - per if window == "rolling" else _calendar_window_start(now, per, zone)


@lru_cache(maxsize=64)
def _calendar_window_start(now: float, per: float, zone: str) -> float:
    """`window_start` of a calendar window; remembered, since a request asks it for each offer with such a cap."""
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


def wall_time(day: date, at: time, zone: str) -> float:
    """The first moment of a day (s since 1970) at which a zone's clocks show `at`, or skip it."""
    place = ZoneInfo(zone)
    clock = datetime.combine(day, at, place)
    found = clock.timestamp()
    if datetime.fromtimestamp(found, place).replace(tzinfo=None) == clock.replace(tzinfo=None):
        return found
    # The clocks skip `at`: with the offset of before it lies behind the change, with that of afterwards before it.
    return _offset_change(clock.replace(fold=1).timestamp(), found, place) or found


def former_zones(zone: str, counts: Counts) -> FormerZones:
    """The zones that a customer's counters mark beside `zone`, their own now.

    It walks through all counters of the customer, so it is asked once per request and not once per cap.
    """
    return {
        former: max(times)
        for counter, times in counts.items()
        if (former := counter.removeprefix(ZONE_MARK)) not in (counter, zone) and times and is_zone(former)
    }


def calendar_start(now: float, per: float, zone: str, former: FormerZones) -> float:
    """`window_start` of a calendar window of the customer, whose time zone is `zone` now and may have been another."""
    start = window_start(now, per, "calendar", zone)
    for name, counted in former.items():
        began = window_start(now, per, "calendar", name)
        if counted > began:
            start = min(start, began)
    return start


def cap_window_start(cap: Cap, now: float, zone: str, former: FormerZones) -> float:
    """When the window of a cap began that `now` lies in (s since 1970); `zone` and `former` are the customer's."""
    if cap.calendar and cap.zone is None:
        return calendar_start(now, cap.per, zone, former)
    return window_start(now, cap.per, "calendar" if cap.calendar else "rolling", cap.zone or zone)


def is_cap_reached(cap: Cap, now: float, zone: str, counts: Counts, former: FormerZones) -> bool:
    """Whether the cap's counter has reached its limit within its window; the other arguments are the customer's."""
    times = counts.get(cap.counter)
    if not times or len(times) < cap.count:
        return False
    start = cap_window_start(cap, now, zone, former)
    return sum(time > start for time in times) >= cap.count


def is_suppressed(rule: Suppression, counts: Counts, now: float) -> bool:
    """Whether the outcomes that the rule counts, with exposures nobody answered, suppress an offer now."""
    outcomes = counts.get(rule.outcome, ())
    if rule.shown is not None and rule.answered is not None:
        ignored = ignored_exposures(counts.get(rule.shown, ()), counts.get(rule.answered, ()), now)
        outcomes = [*outcomes, *ignored]
    return suppressed_until(outcomes, rule.after, rule.within, rule.lasts) > now


@lru_cache(maxsize=1024)
def is_zone(name: str) -> bool:
    """Whether the time zone database contains `name`."""
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


def quiet_until(quiet: QuietSpec, now: float, zone: str) -> float | None:
    """The end of the quiet hours that contain `now` (s since 1970); None if `now` is not in quiet hours.

    `zone` is the customer's.
    """
    place = ZoneInfo(zone if quiet.zone == "customer" else quiet.zone)
    start, end = time.fromisoformat(quiet.start), time.fromisoformat(quiet.end)
    if not _is_quiet(datetime.fromtimestamp(now, place), start, end):
        return None
    until = _next_end(now, place, end)
    changed = _offset_change(now, until, place)
    if changed is None:
        return until
    # Clocks change before `end`: either they skip it, or what is left is counted from the change.
    return _next_end(changed, place, end) if _is_quiet(datetime.fromtimestamp(changed, place), start, end) else changed


def _is_quiet(local: datetime, start: time, end: time) -> bool:
    clock = local.time().replace(tzinfo=None)
    # Hours that end before they start go past midnight.
    return start <= clock < end if start <= end else clock >= start or clock < end


def _next_end(now: float, zone: ZoneInfo, end: time) -> float:
    """The next time after `now` at which the clock shows `end`, before any clock change; a whole second."""
    clock = datetime.fromtimestamp(now, zone).replace(tzinfo=None)
    waits = (datetime.combine(clock, end) - clock) % _DAY
    return float(round(now + (waits or _DAY).total_seconds()))


def _offset_change(after: float, up_to: float, zone: ZoneInfo) -> float | None:
    """The second at which a zone's clocks change within this span of at most a day; None if they do not."""
    low, high = int(after), int(up_to)
    before = datetime.fromtimestamp(after, zone).utcoffset()
    if datetime.fromtimestamp(high, zone).utcoffset() == before:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return float(high)
