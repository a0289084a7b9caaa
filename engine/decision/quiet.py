"""Quiet hours: when an outbound channel sends nothing, by the customer's clock or one of its own.

They are quiet exactly while the clock on the wall shows a time from `start` up to `end`. So they end where clocks are
put forward past `end`, and begin again where clocks are put back behind it.
"""

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from engine.catalog.spec.offer import QuietSpec

_DAY = timedelta(days=1)


def quiet_until(quiet: QuietSpec, now: float, zone: str) -> float | None:
    """The first moment after `now` that is not quiet (s since 1970); None where `now` is not.

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
    """When the clock shows `end` next, if it is not changed before; a whole second after `now`."""
    clock = datetime.fromtimestamp(now, zone).replace(tzinfo=None)
    waits = (datetime.combine(clock, end) - clock) % _DAY
    return float(round(now + (waits or _DAY).total_seconds()))


def _offset_change(after: float, up_to: float, zone: ZoneInfo) -> float | None:
    """The second at which a zone's clocks change, if they do in this time, which is no longer than a day."""
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
