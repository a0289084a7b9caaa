"""Recent decisions by experiment, flag, rule and placement: their number, exposures and fallbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.log_times import SECOND
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.decision.offers import FALLBACK_REASONS
from engine.vocabulary import DAY

if TYPE_CHECKING:
    from pathlib import Path

TRAFFIC_DAYS = 7
"""Days of traffic that are averaged."""


class KeyTraffic(msgspec.Struct, frozen=True, kw_only=True):
    """One key in the last `TRAFFIC_DAYS` days: decisions, those that showed something, exposures, and fallbacks.

    `days` is the part of these days in which the log has decisions of the key, at least one.
    """

    decisions: int
    shown: int = 0
    exposed: int = 0
    fallbacks: int = 0
    days: float = 1.0

    @property
    def daily(self) -> float:
        """Decisions per day."""
        return self.decisions / self.days


def read_traffic(log_dir: Path, now: float) -> dict[str, KeyTraffic]:
    """The traffic of each key in the log until `now` (s since 1970); a flag's rule has its own key.

    Raises:
        BadInput: if the folder is no log.
    """
    since = int((now - TRAFFIC_DAYS * DAY) * SECOND)
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        decided = read_log_table(source, log_dir, "decisions", since)
        decided = decided.filter((decided["time"] >= since) & (decided["time"] <= int(now * SECOND)))
        exposures = read_log_table(source, log_dir, "exposures", since)
        seen = exposures.select("decision_id", "key").distinct().mutate(is_seen=True)
        joined = decided.left_join(seen, ["decision_id", "key"])
        counted = joined.group_by("key").aggregate(
            n=joined.count(),
            shown=joined["variant"].count(),
            exposed=joined["is_seen"].count(),
            fallbacks=joined["reason"].isin(FALLBACK_REASONS).sum(),
            first=joined["time"].min(),
        )
        rows = source.rows(counted)
    return {
        str(key): KeyTraffic(
            decisions=int(n or 0),
            shown=int(shown or 0),
            exposed=int(exposed or 0),
            fallbacks=int(fallbacks or 0),
            days=max(1.0, min(TRAFFIC_DAYS, (now - int(first or 0) / SECOND) / DAY)),
        )
        for key, n, shown, exposed, fallbacks, first in rows
    }
