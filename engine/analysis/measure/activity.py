"""The activity of recent days: the shop's records in the log, and people's actions on the engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.log_times import DAY, SECOND
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.vocabulary import AUDIT_EVENTS, PURCHASES

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

DAYS = 30
"""Days of activity."""
MOST_AUDITED = 1000
"""Audit records that are read, the newest."""


class DailyActivity(msgspec.Struct, frozen=True, kw_only=True):
    """One day (s since 1970, UTC): decisions, exposures, orders and their revenue."""

    day: float
    decisions: int = 0
    exposures: int = 0
    events: int = 0
    orders: int = 0
    revenue: float = 0.0


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A change of how the engine works: its time (s since 1970), kind, and details as JSON."""

    time: float
    event: str
    properties: str


class ShownOffer(msgspec.Struct, frozen=True, kw_only=True):
    """The number of decisions of the last `DAYS` days that chose an offer at a placement for a reason."""

    placement: str
    offer: str
    reason: str
    decisions: int


class ActivityReport(msgspec.Struct, frozen=True, kw_only=True):
    """The activity by day, oldest first, the offers of these days, and the audit records, newest first."""

    days: list[DailyActivity]
    shown: list[ShownOffer]
    audit: list[AuditRecord]


def read_activity(log_dir: Path) -> ActivityReport:
    """The activity of the last `DAYS` days and the audit records of the log.

    Raises:
        BadInput: if the folder is no log.
    """
    since = int((time.time() - DAYS * 86_400) * SECOND)
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        found: dict[int, dict[str, float]] = {}
        for name in ("decisions", "exposures"):
            table = read_log_table(source, log_dir, name, since)
            table = table.select("decision_id", day=(table["time"] // DAY).cast("int64"))
            for day, number in source.rows(table.group_by("day").aggregate(n=table["decision_id"].nunique())):
                found.setdefault(int(day or 0), {})[name] = float(number or 0)
        events = read_log_table(source, log_dir, "events", since)
        is_order = events["event"].isin(sorted(PURCHASES))
        sums = events.group_by(day=(events["time"] // DAY).cast("int64")).aggregate(
            n=events.count(), orders=is_order.sum(), revenue=events["revenue"].sum(where=is_order)
        )
        for day, number, orders, revenue in source.rows(sums):
            known = found.setdefault(int(day or 0), {})
            known |= {"events": float(number or 0), "orders": float(orders or 0), "revenue": float(revenue or 0.0)}
        shown = _read_shown(source, log_dir, since)
        audit = _read_audit(source, log_dir)
    days = [
        DailyActivity(
            day=day * 86_400.0,
            decisions=int(one.get("decisions", 0)),
            exposures=int(one.get("exposures", 0)),
            events=int(one.get("events", 0)),
            orders=int(one.get("orders", 0)),
            revenue=one.get("revenue", 0.0),
        )
        for day, one in sorted(found.items())
        if day * DAY >= since - DAY
    ]
    return ActivityReport(days=days, shown=shown, audit=audit)


def _read_shown(source: DuckDB, log_dir: Path, since: int) -> list[ShownOffer]:
    """The offers chosen since a time in microseconds, the most frequent first."""
    decisions = read_log_table(source, log_dir, "decisions", since)
    chosen = decisions.filter((decisions["kind"] == "offer") & decisions["variant"].notnull())
    counted = chosen.group_by("key", "variant", "reason").aggregate(n=chosen.count())
    rows = source.rows(counted.order_by(counted["n"].desc()))
    return [
        ShownOffer(placement=str(key), offer=str(offer), reason=str(reason), decisions=int(n or 0))
        for key, offer, reason, n in rows
    ]


def _read_audit(source: DuckDB, log_dir: Path) -> list[AuditRecord]:
    """The audit records of the whole log, newest first."""
    events = read_log_table(source, log_dir, "events")
    found = events.filter(events["event"].isin(sorted(AUDIT_EVENTS)) & (events["customer"] == ""))
    found = found.select("time", "event", "properties").order_by(found["time"].desc()).limit(MOST_AUDITED)
    return [
        AuditRecord(time=int(at or 0) / SECOND, event=str(event), properties=str(properties))
        for at, event, properties in source.rows(found)
    ]


def read_audit_events(log_dir: Path, names: Collection[str]) -> list[AuditRecord]:
    """The audit events of these names in the whole log, in the order of time.

    Raises:
        BadInput: if the folder is no log.
    """
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        events = read_log_table(source, log_dir, "events")
        found = events.filter(events["event"].isin(sorted(names)) & (events["customer"] == ""))
        rows = source.rows(found.select("time", "event", "properties").order_by("time"))
    return [
        AuditRecord(time=int(at or 0) / SECOND, event=str(event), properties=str(properties))
        for at, event, properties in rows
    ]
