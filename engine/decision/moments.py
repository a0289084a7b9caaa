"""Moments of truth: tests whether a moment holds for a customer now.

A moment holds while its window is open: from its trigger (an event, a date or a condition) for as long as its file
gives it. A moment with `once` ends as soon as its counter has counted within that period.
"""

import math
from calendar import isleap
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from engine.catalog.plan.plan import Moment
from engine.catalog.spec.offer import TriggerSpec
from engine.decision.gating.facts import Facts
from engine.decision.windows import FormerZones, calendar_start, is_zone, wall_time
from engine.vocabulary import DAY

PERIODS = {"day": 1, "week": 7, "month": 30, "year": 365}


def moment_start(moment: Moment, facts: Facts) -> float | None:
    """The time (s since 1970) at which the current moment began for this customer; None if it does not hold."""
    if moment.matches is not None and not moment.matches(facts.attributes):
        return None
    start = _triggered_at(moment, facts)
    if start is None:
        return None
    if moment.counter is not None:
        times = facts.counts.get(moment.counter, ())
        counts_from = once_window_start(moment, facts.now, facts.zone, facts.former, start)
        if any(time > counts_from for time in times):
            return None
    return start


def once_window_start(moment: Moment, now: float, zone: str, former: FormerZones, start: float) -> float:
    """The time after which a count ends the moment; `start` is when the moment itself began (s since 1970)."""
    once = moment.spec.once
    if once is None or once.per == "occurrence":
        # An exposure in the very second in which the moment begins counts, too.
        return math.nextafter(start, -math.inf)
    return calendar_start(now, PERIODS[once.per] * DAY, zone, former)


def customer_zone(attributes: Mapping[str, object], default: str) -> str:
    """The customer's time zone from the trait `timezone`; `default` if the trait names no known zone."""
    zone = attributes.get("timezone")
    return zone if isinstance(zone, str) and is_zone(zone) else default


class TimeSpan(NamedTuple):
    """The time in which a moment lasts for a customer (s since 1970): from `start` up to `end`."""

    start: float
    end: float


def next_window(moment: Moment, facts: Facts) -> TimeSpan | None:
    """The window of an event or a date that is open now, else the next one; None if no window is known."""
    trigger = moment.spec.trigger
    if trigger.event is not None:
        window = _event_window(moment, facts)
        return window if window is not None and facts.now < window.end else None
    value = _value_at(facts.attributes, trigger.date) if trigger.date is not None else None
    if not isinstance(value, str):
        return None
    today = local_day(facts.now, facts.zone)
    for year in (today.year - 1, today.year, today.year + 1):
        window = _date_window(moment, trigger, value, year, facts.zone)
        if window is not None and facts.now < window.end:
            return window
    return None


def midnight(day: date, zone: str) -> float:
    """The time (s since 1970) at which a day begins in a zone."""
    return wall_time(day, time(), zone)


def local_day(time: float, zone: str) -> date:
    """The calendar day of a time in a zone."""
    return datetime.fromtimestamp(time, ZoneInfo(zone)).date()


def _triggered_at(moment: Moment, facts: Facts) -> float | None:
    """The start of the open window, whether or not something ended it since; None if no window is open."""
    trigger = moment.spec.trigger
    if trigger.event is not None:
        return _event_window_start(moment, facts)
    if trigger.date is not None:
        value = _value_at(facts.attributes, trigger.date)
        return _date_window_start(moment, trigger, value, facts) if isinstance(value, str) else None
    if moment.trigger is None or not moment.trigger(facts.attributes):
        return None
    return midnight(local_day(facts.now, facts.zone), facts.zone)  # a condition has no time: it holds from today on


def _event_window_start(moment: Moment, facts: Facts) -> float | None:
    """The start of the window after the customer's last event of the trigger, if it is open now."""
    window = _event_window(moment, facts)
    return window.start if window is not None and window.start <= facts.now < window.end else None


def _event_window(moment: Moment, facts: Facts) -> TimeSpan | None:
    """The window after the customer's last event of the trigger, unless a later one cancels it."""
    recent = facts.profile.recent
    if moment.occurred is None:
        at = max((recent[name] for name in moment.begun_by if name in recent), default=None)
    else:
        at = moment.occurred.newest(facts.profile)
    if at is None or any(recent.get(name, 0.0) > at for name in moment.cancelled_by):
        return None
    start = at + moment.after
    end = start + moment.window
    if moment.days:
        end = midnight(local_day(start, facts.zone) + timedelta(days=moment.days), facts.zone)
    return TimeSpan(start, end)


def _date_window_start(moment: Moment, trigger: TriggerSpec, text: str, facts: Facts) -> float | None:
    """The start of the window around a date; a yearly one of last December may still be open in January."""
    today = local_day(facts.now, facts.zone)
    for year in (today.year, today.year - 1):
        window = _date_window(moment, trigger, text, year, facts.zone)
        if window is None:
            return None
        if window.start <= facts.now < window.end:
            return window.start
    return None


def _date_window(moment: Moment, trigger: TriggerSpec, text: str, year: int, zone: str) -> TimeSpan | None:
    """The window around a date, in this year if it is yearly; None where the text is no date.

    A date whose window reaches past the years 1 to 9999 has none.
    """
    day = _day_in_year(text, year, trigger) if trigger.yearly else _parse_date(text)
    if day is None:
        return None
    try:
        begin = midnight(day, zone)
        start = begin + moment.after
        end = start + moment.window
        if moment.days:
            day = local_day(begin, zone)  # the next day, where the date line took the day itself away
            end = midnight(day + timedelta(days=moment.days), zone)
    except OverflowError:  # within a window of the first or the last day that a calendar has
        return None
    return TimeSpan(start, end)


def _day_in_year(text: str, year: int, trigger: TriggerSpec) -> date | None:
    """The date `1990-02-28` or `02-28` in another year; None if the text is not a date."""
    text = text[:10]
    month, _, day = (text[5:] if len(text) == 10 else text.lstrip("-")).partition("-")
    if not (month.isdecimal() and day.isdecimal()):
        return None
    if (int(month), int(day)) == (2, 29) and not isleap(year):
        return date(year, 2, 28) if trigger.leap_day == "28 February" else date(year, 3, 1)
    try:
        return date(year, int(month), int(day))
    except ValueError:
        return None


def _parse_date(text: str) -> date | None:
    """The date at the start of an ISO date or time."""
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


def _value_at(attributes: Mapping[str, object], path: str) -> object:
    """The value at a dotted path; None if the path does not exist."""
    value: object = attributes
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
