"""Quiet hours: when an outbound channel sends nothing, by the customer's clock or one of its own."""

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from engine.catalog.spec.offer import QuietSpec


def quiet_until(quiet: QuietSpec, now: float, zone: str) -> float | None:
    """When the quiet hours end that `now` lies in (s since 1970); None outside of them. `zone` is the customer's."""
    local = datetime.fromtimestamp(now, ZoneInfo(zone if quiet.zone == "customer" else quiet.zone))
    start, end = time.fromisoformat(quiet.start), time.fromisoformat(quiet.end)
    clock = local.time().replace(tzinfo=None)
    # Hours that end before they start go past midnight.
    within = start <= clock < end if start <= end else clock >= start or clock < end
    if not within:
        return None
    day = local.date() + timedelta(days=int(clock >= end))
    return datetime.combine(day, end, local.tzinfo).timestamp()
