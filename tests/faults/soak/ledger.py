"""What a shop was answered, and whether the log has exactly that."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb


@dataclass
class Ledger:
    """The outcomes of all requests; latencies in seconds, those of decisions that came during a fault apart."""

    decisions: list[str] = field(default_factory=list)
    degraded: int = 0
    sent: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    calm: list[float] = field(default_factory=list)
    stormy: list[float] = field(default_factory=list)

    def compare(self, log: Path) -> dict[str, int]:
        """Lost, doubled and invented decisions and events.

        A request whose connection broke may have been decided and logged: only more of them than broke are invented.
        """
        rows = duckdb.read_parquet(f"{log}/decisions/*/*.parquet").aggregate("decision_id, key, count(*) as n")
        decisions: dict[str, int] = dict(rows.aggregate("decision_id, max(n)").fetchall())
        found = duckdb.read_parquet(f"{log}/events/*/*.parquet").filter("message_id like 'soak-%'")
        events: dict[str, int] = dict(found.aggregate("message_id, count(*)").fetchall())
        unknown = len(decisions.keys() - set(self.decisions))
        return {
            "decisions lost": len(set(self.decisions) - decisions.keys()),
            "decisions doubled": sum(times > 1 for times in decisions.values()),
            "decisions invented": max(0, unknown - self.unanswered),
            "events lost": len(self.accepted - events.keys()),
            "events doubled": sum(times > 1 for times in events.values()),
            "events invented": len(events.keys() - self.sent),
            "answers of 5xx to decisions": sum(count for status, count in self.statuses.items() if status >= 500),
        }


def describe_latencies(values: Sequence[float]) -> str:
    """The median and the 99th percentile in milliseconds."""
    if len(values) < 100:
        return f"{len(values)} decisions"
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms of {len(values):,}"
