"""Units whose window of a metric is still open: their number, and the date on which they count.

A unit exposed yesterday has had one of its seven days. Counted as it is, it pulls the mean down, and where customers of
one variant act later than those of another, it looks like an effect. So a metric with a window counts a unit once the
window is over, and the report says how many wait, and until when. `ripe: false` counts them as they are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from engine.analysis.design.log_times import DAY, SECOND
from engine.analysis.stats.estimate import NotEstimable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import ibis.expr.types as ir

    from engine.analysis.design.question import MeasuredMetric
    from engine.analysis.sources.engines import DuckDB

LEAST_CLOSED = 2  # customers of a variant, below which there is no variance


class OpenWindows(msgspec.Struct, frozen=True, kw_only=True):
    """The customers of each variant whose window is open, and their share of all.

    They are `counted` as they are with `ripe: false`, else not yet. The window of the first of them is over at `next`,
    that of the last at `until`, in ISO 8601. `closed` has the customers of each variant that count by now.
    """

    days: float
    customers: dict[str, int]
    closed: dict[str, int]
    share: float
    counted: bool
    next: str
    until: str


def count_open_windows(
    source: DuckDB, members: ir.Table, specs: Sequence[MeasuredMetric], as_of: int
) -> dict[str, OpenWindows]:
    """The open windows by metric; empty for a metric without a window, or once all windows are over.

    Args:
        source: the engine of the log.
        members: `variant, crossed, first`, one row per unit and customer; crossed units are left out.
        specs: the metrics.
        as_of: the date of the report in microseconds.
    """
    spans = {spec.name: int(spec.span * SECOND) for spec in specs if spec.span}
    if not spans:
        return {}
    kept = members.filter(~members["crossed"])
    sums = {"n": kept.count(), "last": kept["first"].max()}
    for at, span in enumerate(sorted(set(spans.values()))):
        is_open = kept["first"] > as_of - span
        sums |= {f"open{at}": is_open.sum(), f"first{at}": kept["first"].min(where=is_open)}
    rows = {
        str(name): [None if cell is None else int(cell) for cell in cells]
        for name, *cells in source.rows(kept.group_by("variant").aggregate(**sums))
    }
    found: dict[str, OpenWindows] = {}
    for spec in specs:
        if spec.name not in spans:
            continue
        span = spans[spec.name]
        at = sorted(set(spans.values())).index(span)
        waiting = {name: row[2 + 2 * at] or 0 for name, row in rows.items()}
        if not any(waiting.values()):
            continue
        total = sum(row[0] or 0 for row in rows.values())
        firsts = [first for row in rows.values() if (first := row[3 + 2 * at]) is not None]
        lasts = [last for name, row in rows.items() if waiting[name] and (last := row[1]) is not None]
        found[spec.name] = OpenWindows(
            days=span / DAY,
            customers=waiting,
            closed={name: (row[0] or 0) - waiting[name] for name, row in rows.items()},
            share=sum(waiting.values()) / total,
            counted=not spec.needs_closed_window,
            next=_iso_date(min(firsts) + span),
            until=_iso_date(max(lasts) + span),
        )
    return found


def refuse_open_windows(found: Mapping[str, OpenWindows], control: str) -> dict[str, NotEstimable]:
    """The metrics with fewer than two closed windows in control or in every variant, with the first date."""
    return {
        name: NotEstimable(
            f"the {_format_days(part.days)} of nearly all customers are not over yet, the first on {part.next[:10]}",
            remedy=f"Waiting would change this: windows are over from {part.next[:16].replace('T', ' ')} UTC on.",
        )
        for name, part in found.items()
        if not part.counted
        and (
            part.closed.get(control, 0) < LEAST_CLOSED
            or all(closed < LEAST_CLOSED for variant, closed in part.closed.items() if variant != control)
        )
    }


def describe_open_windows(found: Mapping[str, OpenWindows]) -> list[str]:
    """A sentence, for metrics that share a window, about the units that do not count yet."""
    texts: dict[str, list[str]] = {}
    for name, part in found.items():
        waiting = sum(part.customers.values())
        total = waiting + sum(part.closed.values())
        span = _format_days(part.days)
        who = f"{waiting:,} of {total:,} customers ({part.share:.1%})"
        if part.counted:
            text = f"{who} are counted although their {span} are not over, until {part.until[:10]} (ripe: false)."
        else:
            text = f"{who} are not counted yet: their {span} are over from {part.next[:10]} to {part.until[:10]}."
        texts.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in texts.items()]


def _iso_date(moment: int) -> str:
    return datetime.fromtimestamp(moment / SECOND, UTC).isoformat(timespec="seconds")


def _format_days(days: float) -> str:
    """A span as text, in days, or in hours below one day."""
    return f"{days:g} days" if days >= 1 else f"{days * 24:.3g} hours"
