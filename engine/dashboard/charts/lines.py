"""Lines over time, with a band if they have intervals, and areas that add up to one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from markupsafe import Markup

from engine.dashboard.charts.svg import SIZE, Scale, path_of, percent, tag
from engine.dashboard.figures import format_short

DAY = 86_400.0
AxisLabels = list[tuple[float, str, str]]
"""Labels of an axis: the place from 0 to 1, the text, and the end of the text that lies there."""
TONES = 6
"""Colours of lines in the style sheet; the seventh line has the first colour again, dashed."""


class LinePoint(msgspec.Struct, frozen=True):
    """One point: seconds since 1970, the value, and its interval where it has one."""

    at: float
    value: float
    low: float | None = None
    high: float | None = None


class Line(msgspec.Struct, frozen=True):
    """One line with its name in the legend."""

    name: str
    points: list[LinePoint]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A drawn chart, its text alternative, and its legend as (class, name)."""

    drawing: Markup
    label: str
    legend: list[tuple[str, str]]


def line_chart(
    label: str, lines: Sequence[Line], *, tick: Callable[[float], str], zero: bool = True, floor: float | None = None
) -> LineChart | None:
    """The chart of lines over time; None unless points are of two times.

    Args:
        label: a sentence for those who cannot see it.
        lines: with points in the order of time.
        tick: formats a label of the vertical axis.
        zero: whether the vertical scale includes zero, with a line there.
        floor: a level drawn as a dotted line.
    """
    points = [point for line in lines for point in line.points]
    if len({point.at for point in points}) < 2:
        return None
    ends = [end for p in points for end in (p.value, p.low, p.high) if end is not None]
    y = Scale.around(_trimmed(points, ends), ticks=4) if zero else Scale(min(ends), max(ends), ticks=4)
    x = Scale(min(p.at for p in points), max(p.at for p in points))
    inside = [_band(line, x, y, at) for at, line in enumerate(lines)]
    inside += [_line(line, x, y, at) for at, line in enumerate(lines)]
    if floor is not None:
        place = (1 - y.place(floor)) * SIZE
        inside.append(tag("line", class_="margin", x1=0, x2=SIZE, y1=place, y2=place))
    legend = [(_tone(at), line.name) for at, line in enumerate(lines)]
    return LineChart(drawing=_frame(label, inside, _time_labels(x), y, tick), label=label, legend=legend)


def number_chart(
    label: str, lines: Sequence[Line], *, tick: Callable[[float], str], axis: str = ""
) -> LineChart | None:
    """The chart of lines over a number instead of time; None unless points have two places."""
    points = [point for line in lines for point in line.points]
    if len({point.at for point in points}) < 2:
        return None
    x = Scale(min(p.at for p in points), max(p.at for p in points))
    y = Scale.around([end for p in points for end in (p.value, p.low, p.high) if end is not None], ticks=4)
    inside = [_band(line, x, y, at) for at, line in enumerate(lines)]
    inside += [_line(line, x, y, at) for at, line in enumerate(lines)]
    ends = ((0.0, x.low, "start"), (0.5, (x.low + x.high) / 2, "middle"), (1.0, x.high, "end"))
    labels = [
        (place, f"{format_short(value)} {axis if place == 1.0 else ''}".strip(), anchor)
        for place, value, anchor in ends
    ]
    legend = [(_tone(at), line.name) for at, line in enumerate(lines) if line.name]
    return LineChart(drawing=_frame(label, inside, labels, y, tick), label=label, legend=legend)


def area_chart(label: str, times: Sequence[float], parts: Sequence[tuple[str, Sequence[float]]]) -> LineChart | None:
    """Areas on top of each other; the shares of all parts at a time add up to at most 1. None with one time only."""
    if len(times) < 2 or not parts:
        return None
    x, y = Scale(times[0], times[-1]), Scale(0.0, 1.0, ticks=4)
    below = [0.0] * len(times)
    drawn, legend = [], []
    for at, (name, shares) in enumerate(parts):
        above = [base + share for base, share in zip(below, shares, strict=True)]
        top = [(x.place(time), y.place(value)) for time, value in zip(times, above, strict=True)]
        bottom = [(x.place(time), y.place(value)) for time, value in zip(times, below, strict=True)]
        drawn.append(tag("path", class_=f"area {_tone(at)}", d=f"{path_of([*top, *reversed(bottom)])}Z"))
        legend.append((_tone(at), name))
        below = above
    return LineChart(
        drawing=_frame(label, drawn, _time_labels(x), y, lambda value: f"{value:.0%}"), label=label, legend=legend
    )


def _trimmed(points: Sequence[LinePoint], ends: Sequence[float]) -> list[float]:
    """The ends of all intervals except the widest early ones, which would flatten later ones."""
    if len(points) < 4:
        return list(ends)
    last = max(points, key=lambda point: point.at)
    width = (last.high - last.low) if last.high is not None and last.low is not None else 0.0
    reach = max((abs(point.value) for point in points), default=0.0) + 3 * width
    return [min(max(end, -reach), reach) for end in ends] if width else list(ends)


def _tone(at: int) -> str:
    return f"tone-{at % TONES}{' again' if at >= TONES else ''}"


def _band(line: Line, x: Scale, y: Scale, at: int) -> Markup:
    known = [(p.at, p.low, p.high) for p in line.points if p.low is not None and p.high is not None]
    if len(known) < 2:
        return Markup()
    top = [(x.place(time), y.place(high)) for time, _, high in known]
    bottom = [(x.place(time), y.place(low)) for time, low, _ in known]
    return tag("path", class_=f"band {_tone(at)}", d=f"{path_of([*top, *reversed(bottom)])}Z")


def _line(line: Line, x: Scale, y: Scale, at: int) -> Markup:
    places = [(x.place(p.at), y.place(p.value)) for p in line.points]
    return tag("path", class_=f"line {_tone(at)}", d=path_of(places))


def _frame(label: str, inside: Sequence[Markup], labels: AxisLabels, y: Scale, tick: Callable[[float], str]) -> Markup:
    """Grid, axes and the stretched inside; `labels` are those of the horizontal axis."""
    grid: list[Markup] = []
    for value in y.ticks:
        place = percent(1 - y.place(value))
        kind = "zero" if value == 0 else "grid"
        grid.append(tag("line", class_=kind, x1="0", x2="100%", y1=place, y2=place))
        grid.append(tag("text", tick(value), class_="tick", x="-8", y=place, dy="4", text_anchor="end"))
    for at, text, anchor in labels:
        grid.append(tag("text", text, class_="tick", x=percent(at), y="100%", dy="20", text_anchor=anchor))
    stretched = tag(
        "svg",
        *inside,
        viewBox=f"0 0 {SIZE:g} {SIZE:g}",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
        overflow="hidden",
    )
    # The labels lie outside, where the style sheet leaves room for them.
    return tag(
        "svg",
        *grid,
        stretched,
        class_="chart",
        role="img",
        aria_label=label,
        height="200",
        width="100%",
        overflow="visible",
    )


def _time_labels(x: Scale) -> AxisLabels:
    """The first and the last time, and the middle one."""
    span = x.high - x.low
    form = "%-d %b" if span > 2 * DAY else "%-d %b %H:%M" if span > DAY / 2 else "%H:%M" if span > 600 else "%H:%M:%S"
    places = ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    return [
        (place, datetime.fromtimestamp(x.low + place * span, UTC).strftime(form), anchor) for place, anchor in places
    ]
