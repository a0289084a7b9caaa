"""A tree of metrics: rows of nodes, the business on top, and links between them by their state."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from engine.analysis.measure.model import PictureLink, PictureMark
from engine.dashboard.charts.svg import percent, tag

ROW = 110
"""Pixels from row to row."""
_STATES = {"validated": "good", "correlational": "warn"}
"""The class of a link's state; any other is open."""


@dataclass(frozen=True, kw_only=True)
class TreeChart:
    """A drawn tree, its text alternative, its legend as (class, name), and whether it needs a wide page."""

    drawing: Markup
    label: str
    legend: list[tuple[str, str]]
    is_wide: bool


def tree_chart(label: str, marks: Sequence[PictureMark], links: Sequence[PictureLink]) -> TreeChart:
    """The chart of nodes, whose `value` is the row from the bottom and `at` the place in it from 0 to 1."""
    rows = sorted({mark.value for mark in marks}, reverse=True)
    places = {mark.name: (mark.at, 40 + ROW * rows.index(mark.value)) for mark in marks}
    states = list(dict.fromkeys(link.state for link in links))
    drawn = [_link(link, places) for link in links if link.start in places and link.end in places]
    drawn += [_node(mark.name, *places[mark.name]) for mark in marks]
    most = max((sum(mark.value == row for mark in marks) for row in rows), default=0)
    height = 80 + ROW * max(0, len(rows) - 1)
    drawing = tag("svg", *drawn, class_="tree", role="img", aria_label=label, width="100%", height=height)
    legend = [(f"link {_STATES.get(state, 'open')}", state) for state in states]
    return TreeChart(drawing=drawing, label=label, legend=legend, is_wide=most > 2)


def _node(name: str, at: float, y: int) -> Markup:
    width = 28 + 9 * len(name)
    box = tag("rect", x=-width // 2, y=-18, width=width, height=36, rx=8)
    text = tag("text", name, text_anchor="middle", y=5)
    return tag("svg", box, text, class_="node", x=percent(at), y=y, overflow="visible")


def _link(link: PictureLink, places: dict[str, tuple[float, int]]) -> Markup:
    (x1, y1), (x2, y2) = places[link.start], places[link.end]
    line = tag(
        "line",
        class_=f"link {_STATES.get(link.state, 'open')}",
        x1=percent(x1),
        y1=y1,
        x2=percent(x2),
        y2=y2,
    )
    label = tag("text", link.label, class_="tick", x=percent((x1 + x2) / 2), y=(y1 + y2) // 2, dx=8)
    return tag("g", line, label)
