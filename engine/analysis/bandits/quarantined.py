"""Counts rewards that the learner could not use: a placement's report shows their number, and no rate includes them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.journal.records import EventRecord, decode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

_LEARNER = "learner"


def count_quarantined_rewards(folder: Path, placement: str, as_of: datetime | None) -> dict[str, int]:
    """The number of quarantined rewards by reason, of the placement's decisions and of unknown ones.

    Raises:
        BadInput: if the folder is not a log's.
    """
    with lock_log_for_reading(folder):
        source = DuckDB()
        rows = read_log_table(source, folder, "quarantine")
        rows = rows.filter(rows["source"] == _LEARNER)
        if as_of is not None:
            rows = rows.filter(rows["time"] <= int(as_of.timestamp() * SECOND))
        reasons: list[tuple[str, str]] = []
        for reason, body in source.rows(rows.select("reason", "body")):
            decision = _decision_of(bytes.fromhex(str(body)))
            if decision is not None:
                reasons.append((decision, str(reason).partition(":")[0]))
        if not reasons:
            return {}
        asked = read_log_table(source, folder, "decisions")
        asked = asked.filter(asked["decision_id"].isin(sorted({decision for decision, _ in reasons})))
        keys = {(str(decision), str(key)) for decision, key in source.rows(asked.select("decision_id", "key"))}
    known = {decision for decision, _ in keys}
    return dict(
        Counter(
            reason
            for decision, reason in reasons
            if (decision, placement) in keys or (decision not in known and reason == "unknown decision")
        )
    )


def describe_quarantined_rewards(found: Mapping[str, int]) -> str:
    """A sentence for the report; empty if there are no such rewards."""
    if not found:
        return ""
    parts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.items()))
    return f"{sum(found.values()):,} rewards are not counted: {parts}. The log's quarantine has each with its reason."


def _decision_of(body: bytes) -> str | None:
    """The decision that a quarantined event names; None for another or unreadable record."""
    try:
        record = decode(body)
    except (msgspec.MsgspecError, ValueError):
        return None
    return record.decision_id if isinstance(record, EventRecord) else None
