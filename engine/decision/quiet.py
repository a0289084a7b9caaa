"""The hours in which an outbound channel is silent, by the customer's clock or one of its own."""

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from engine.catalog.spec.offer import QuietSpec


def quiet_until(quiet: QuietSpec, now: float, zone: str) -> float | None:
    """When the quiet hours end in which `now` (s since 1970) lies; None outside of them."""
    local = datetime.fromtimestamp(now, ZoneInfo(zone if quiet.zone == "customer" else quiet.zone))
    start, end = time.fromisoformat(quiet.start), time.fromisoformat(quiet.end)
    clock = local.time().replace(tzinfo=None)
    within = start <= clock < end if start <= end else clock >= start or clock < end
    if not within:
        return None
    day = local.date() + timedelta(days=int(clock >= end))
    return datetime.combine(day, end, local.tzinfo).timestamp()
