"""Leaves exposures out of a placement's rates while their reward may still arrive.

The learner logs a reward when it comes, and a zero once the reward's window is over. Counted as zeros before, exposures
of the last days pull every rate down; leaving out only those without a reward yet would push it up. So all exposures
younger than the window are left out, the rewarded ones too. The window is that of the logged zeros. A placement that is
younger than its window has none yet: then it is the window of the plan, or else the delay of the latest rewards. If
these came late in the log's own time, nothing tells the window, and no exposure counts.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from engine.analysis.design.log_times import SECOND

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from engine.analysis.sources.engines import Cell, DuckDB

MOST_WITHIN = 0.99  # of logged zeros that come by the end of the window; a clock may be off
MOST_OF_AGE = 0.5  # of a log's time, up to which the delay of its rewards is their window
KnownBy = Literal["zeros", "plan", "delays"]


class Unsettled(msgspec.Struct, frozen=True, kw_only=True):
    """The exposures whose reward may still arrive, and their share of all; `counted` if they count as zero.

    They have settled by `until` (ISO 8601), `hours` after they were seen; both None where nothing tells the window.
    `known_by` says how it is known: by the zeros of the log, by the plan, or by the delays of its rewards.
    """

    exposures: int
    share: float
    counted: bool
    hours: float | None = None
    until: str | None = None
    known_by: KnownBy | None = None

    @property
    def text(self) -> str:
        """A sentence for the report, empty if all have settled."""
        if not self.exposures:
            return ""
        who = f"{self.exposures:,} exposures ({self.share:.1%})"
        if self.counted:
            return f"{who} have neither a reward nor a zero in the log yet, and count as zero."
        if self.hours is None or self.until is None:
            return (
                f"{who} are not counted: the log has no zero that shows a reward's window, and rewards still arrive. "
                "Give the window of a reward (`window`), or count them as they are (`ripe` false)."
            )
        when = self.until[:16].replace("T", " ")
        span = _span_text(self.hours)
        verb = "is" if span.startswith("1 ") else "are"
        text = f"{who} are not counted yet: their {span} for a reward {verb} over by {when} UTC."
        return (
            f"{text} The log has no zero, so the window is the longest delay of its rewards."
            if self.known_by == "delays"
            else text
        )


def _span_text(hours: float) -> str:
    if hours >= 1:
        text = f"{hours:.3g} hours"
    else:
        text = f"{60 * hours:.0f} minutes" if hours >= 1 / 30 else f"{max(1.0, 3600 * hours):.0f} seconds"
    return text.removesuffix("s") if text.startswith("1 ") else text


def leave_out_unsettled(
    source: DuckDB, rows: ir.Table, earned: ir.Table, window: float | None = None
) -> tuple[ir.Table, Unsettled]:
    """The rows whose window is over at the log's last record, and a summary of the others.

    Args:
        source: the engine of the log.
        rows: `decision_id, position, exposed, reward` (null: none yet) and more, one row per exposed decision or item.
        earned: `decision_id, position, reward, time`, the placement's rewards until the report's date.
        window: seconds in which a reward may come, where the log has no zero yet.
    """
    per_decision = earned.group_by("decision_id", "position").aggregate(
        most=earned["reward"].abs().max(), first=earned["time"].min()
    )
    delays = rows.select("decision_id", "position", "exposed").join(per_decision, ["decision_id", "position"])
    delays = delays.mutate(delay=delays["first"] - delays["exposed"])
    is_zero = delays["most"] == 0.0  # a refund makes a zero of a reward, whenever it comes
    zeros, others, last = source.rows(
        delays.aggregate(
            zeros=delays["delay"].quantile(MOST_WITHIN, where=is_zero),
            others=delays["delay"].quantile(MOST_WITHIN, where=~is_zero),
            last=delays["first"].max(),
        )
    )[0]
    total, seen, begun = source.rows(
        rows.aggregate(n=rows.count(), seen=rows["exposed"].max(), begun=rows["exposed"].min())
    )[0]
    count = int(total or 0)
    end = max(int(seen or 0), int(last or 0))
    span, known_by = _find_window(zeros, others, window, end - int(begun or 0))
    if known_by is None or not count:
        return count_unsettled(source, rows)
    if span is None:
        return rows.limit(0), Unsettled(exposures=count, share=1.0, counted=False)
    kept = rows.filter(rows["exposed"] <= end - span)
    left = count - int(source.rows(kept.aggregate(n=kept.count()))[0][0] or 0)
    until = datetime.fromtimestamp((int(seen or 0) + span) / SECOND, UTC).isoformat(timespec="seconds")
    hours = span / SECOND / 3600
    return kept, Unsettled(
        exposures=left, share=left / count, counted=False, hours=hours, until=until, known_by=known_by
    )


def count_unsettled(source: DuckDB, rows: ir.Table) -> tuple[ir.Table, Unsettled]:
    """All rows, and the number of those without a reward yet, which count as zero."""
    total, missing = source.rows(rows.aggregate(n=rows.count(), missing=rows["reward"].isnull().sum()))[0]
    waiting = int(missing or 0)
    return rows, Unsettled(exposures=waiting, share=waiting / max(int(total or 0), 1), counted=True)


def _find_window(zeros: Cell, others: Cell, window: float | None, age: int) -> tuple[int | None, KnownBy | None]:
    """The window of a reward in microseconds, and its source.

    Args:
        zeros: the delay until which nearly all zeros came.
        others: the delay until which nearly all rewards came.
        window: that of the plan in seconds.
        age: that of the log.
    """
    if zeros is not None:
        return max(0, round(float(zeros))), "zeros"
    if window is not None:
        return round(window * SECOND), "plan"
    if others is None:
        return None, None
    span = max(0, round(float(others)))
    return (span if span <= MOST_OF_AGE * age else None), "delays"
