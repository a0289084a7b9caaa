"""Horizontal bars as rows of a table, with an interval on a bar that is estimated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from markupsafe import Markup

from engine.dashboard.charts.svg import SIZE, Scale, tag


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar: its name, its value as number and as text, its interval, and the series that it belongs to."""

    name: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    series: str = ""


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Bars with the drawing of each, and the legend of their series as (class, name)."""

    caption: str
    rows: list[tuple[Bar, Markup]]
    legend: list[tuple[str, str]]


def bar_chart(caption: str, bars: Sequence[Bar]) -> BarChart | None:
    """The chart of bars on one scale that includes zero; None without bars."""
    if not bars:
        return None
    series = list(dict.fromkeys(bar.series for bar in bars))
    tones = {name: f"tone-{at % 6}" for at, name in enumerate(series)}
    scale = Scale.around([end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None], pad=0.0)
    rows = [(bar, _draw_bar(bar, scale, tones[bar.series])) for bar in bars]
    legend = [(tones[name], name) for name in series] if len(series) > 1 else []
    return BarChart(caption=caption, rows=rows, legend=legend)


def bars_of(values: Sequence[tuple[str, float]], text: Callable[[float], str]) -> list[Bar]:
    """Bars of names and values."""
    return [Bar(name=name, value=value, text=text(value)) for name, value in values]


def _draw_bar(bar: Bar, scale: Scale, tone: str) -> Markup:
    zero, end = scale.place(0.0) * SIZE, scale.place(bar.value) * SIZE
    parts = [
        tag("rect", class_=f"fill {tone}", x=min(zero, end), y=10, width=max(abs(end - zero), 1.0), height=80),
    ]
    if bar.low is not None and bar.high is not None:
        low, high = scale.place(bar.low) * SIZE, scale.place(bar.high) * SIZE
        parts.append(tag("line", class_="whisker", x1=low, x2=high, y1=50, y2=50))
    return tag(
        "svg",
        *parts,
        class_="bar-drawing",
        viewBox=f"0 0 {SIZE:g} 100",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )
