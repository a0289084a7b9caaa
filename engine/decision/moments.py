"""Whether a moment of truth holds for a customer now: its trigger, its window, and once."""

import math
from calendar import isleap
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from engine.catalog.plan.plan import Moment
from engine.catalog.spec.offer import TriggerSpec
from engine.decision.gates import Facts
from engine.decision.windows import DAY, window_start

PERIODS = {"day": 1, "week": 7, "month": 30, "year": 365}


def moment_start(moment: Moment, facts: Facts) -> float | None:
    """When the moment that holds now began for this customer (s since 1970); None where it does not hold."""
    if moment.matches is not None and not moment.matches(facts.attributes):
        return None
    start = _triggered(moment, facts)
    if start is None:
        return None
    if moment.counter is not None:
        times = facts.counts.get(moment.counter, ())
        first = once_window_start(moment, facts.now, facts.zone, start)
        if any(time > first for time in times):
            return None
    return start


def once_window_start(moment: Moment, now: float, zone: str, start: float) -> float:
    """After when what is counted ends the moment, for one that began at `start`."""
    once = moment.spec.once
    if once is None or once.per == "occurrence":
        return math.nextafter(start, -math.inf)
    return window_start(now, PERIODS[once.per] * DAY, "calendar", zone)


def customer_zone(attributes: Mapping[str, object], otherwise: str) -> str:
    """The customer's time zone by their trait `timezone`; the shop's where they have none that is known."""
    told = attributes.get("timezone")
    return told if isinstance(told, str) and is_zone(told) else otherwise


@lru_cache(maxsize=1024)
def is_zone(name: str) -> bool:
    """Whether the time zone database knows `name`."""
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True


def _triggered(moment: Moment, facts: Facts) -> float | None:
    trigger = moment.spec.trigger
    if trigger.event is not None:
        return _by_event(moment, trigger, facts)
    if trigger.date is not None:
        told = _at(facts.attributes, trigger.date)
        return _by_date(moment, trigger, told, facts) if isinstance(told, str) else None
    holds = moment.trigger is not None and moment.trigger(facts.attributes)
    return _midnight(datetime.fromtimestamp(facts.now, ZoneInfo(facts.zone)).date(), facts.zone) if holds else None


def _by_event(moment: Moment, trigger: TriggerSpec, facts: Facts) -> float | None:
    recent = facts.profile.recent
    at = recent.get(trigger.event or "")
    if at is None or any(recent.get(name, 0.0) > at for name in trigger.unless):
        return None
    start = at + moment.after
    end = start + moment.window
    if moment.days:
        zone = ZoneInfo(facts.zone)
        end = _midnight(datetime.fromtimestamp(start, zone).date() + timedelta(days=moment.days), facts.zone)
    return start if start <= facts.now < end else None


def _by_date(moment: Moment, trigger: TriggerSpec, told: str, facts: Facts) -> float | None:
    today = datetime.fromtimestamp(facts.now, ZoneInfo(facts.zone)).date()
    for year in (today.year, today.year - 1):
        day = _in_year(told, year, trigger) if trigger.yearly else _date(told)
        if day is None:
            return None
        start = _midnight(day, facts.zone) + moment.after
        end = _midnight(day + timedelta(days=moment.days), facts.zone) if moment.days else start + moment.window
        if start <= facts.now < end:
            return start
    return None


def _in_year(told: str, year: int, trigger: TriggerSpec) -> date | None:
    """The day of a date, `1990-02-28` or `02-28`, in another year."""
    text = told[:10]
    month, _, day = (text[5:] if len(text) == 10 else text.lstrip("-")).partition("-")
    if not (month.isdecimal() and day.isdecimal()):
        return None
    if (int(month), int(day)) == (2, 29) and not isleap(year):
        return date(year, 2, 28) if trigger.leap_day == "28 February" else date(year, 3, 1)
    try:
        return date(year, int(month), int(day))
    except ValueError:
        return None


def _date(told: str) -> date | None:
    try:
        return date.fromisoformat(told[:10])
    except ValueError:
        return None


def _midnight(day: date, zone: str) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp()


def _at(attributes: Mapping[str, object], path: str) -> object:
    found: object = attributes
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
