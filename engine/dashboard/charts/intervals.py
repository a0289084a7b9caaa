"""Intervals as rows of a table: a forest plot whose texts are text, and whose lines stretch with the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from markupsafe import Markup

from engine.analysis.checks.lights import Tone
from engine.dashboard.charts.svg import SIZE, Scale, percent, tag


class IntervalRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row: its names, its estimate with interval as numbers and as text, and notes beside it.

    A row that cannot be estimated has a `reason` in place of its numbers.
    """

    name: str
    detail: str = ""
    estimate: float | None = None
    low: float = 0.0
    high: float = 0.0
    label: str = ""
    span: str = ""
    side: str = ""
    tone: Tone = ""
    reason: str = ""
    badge: str = ""
    margin: float | None = None
    """The effect past which a guardrail is harmed; drawn as a dotted line."""


@dataclass(frozen=True, kw_only=True)
class IntervalChart:
    """A forest plot: its rows with the drawing of each, and the axis below."""

    caption: str
    rows: list[tuple[IntervalRow, Markup]]
    axis: Markup
    heads: tuple[str, str, str, str]


def interval_chart(
    caption: str,
    rows: Sequence[IntervalRow],
    *,
    heads: tuple[str, str, str, str],
    tick: "TickFormat",
    zero: bool = True,
) -> IntervalChart:
    """The chart of rows on one scale.

    Args:
        caption: what the rows are.
        rows: from top to bottom.
        heads: the titles of the columns: the name, the picture, the estimate, the side note.
        tick: formats a label of the axis.
        zero: whether the scale includes zero, with a line there.
    """
    known = [row for row in rows if row.estimate is not None]
    ends = [end for row in known for end in (row.low, row.high, row.estimate or 0.0)]
    if zero or not ends:
        scale = Scale.around(ends, ticks=4)
    else:
        room = (max(ends) - min(ends)) * 0.08
        scale = Scale(min(ends) - room, max(ends) + room, ticks=6)
    drawn = [(row, _draw(row, scale, zero=zero)) for row in rows]
    return IntervalChart(caption=caption, rows=drawn, axis=_axis(scale, tick) if known else Markup(), heads=heads)


class TickFormat:
    """Formats the labels of an axis."""

    def __init__(self, kind: str = "share") -> None:
        self._kind = kind

    def __call__(self, value: float) -> str:
        """The label of a value."""
        if self._kind == "share":
            return f"{value:+z.2%}".replace(".00%", "%") if value else "0%"
        return f"{value:z.3g}"


def _draw(row: IntervalRow, scale: Scale, *, zero: bool) -> Markup:
    """One interval; lines keep their thickness while the drawing is stretched, and a short round one is a dot."""
    parts = []
    if zero:
        at = scale.place(0.0) * SIZE
        parts.append(tag("line", class_="zero", x1=at, x2=at, y1=0, y2=100))
    if row.margin is not None and scale.low <= row.margin <= scale.high:
        at = scale.place(row.margin) * SIZE
        parts.append(tag("line", class_="margin", x1=at, x2=at, y1=0, y2=100))
    if row.estimate is not None:
        low, high, mid = (scale.place(value) * SIZE for value in (row.low, row.high, row.estimate))
        parts.append(tag("line", class_="span", x1=low, x2=high, y1=50, y2=50))
        parts.append(tag("line", class_="dot", x1=mid, x2=mid + 0.01, y1=50, y2=50))
    return tag(
        "svg",
        *parts,
        class_=f"interval {row.tone or 'open'}",
        viewBox=f"0 0 {SIZE:g} 100",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )


def _axis(scale: Scale, tick: TickFormat) -> Markup:
    labels = []
    for value in scale.ticks:
        place = scale.place(value)
        anchor = "start" if place < 0.06 else "end" if place > 0.94 else "middle"
        labels.append(tag("text", tick(value), x=percent(place), y=12, text_anchor=anchor))
    return tag("svg", *labels, class_="interval-axis", aria_hidden="true", focusable="false")
